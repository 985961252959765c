//! The command line of Floodgate. What needs the AWS SDK or the local environment is a program of its own,
//! built when first needed; see `programs`.

mod bench;
mod bench_cdk;
mod bench_deploy;
mod bench_emulator;
mod bootstrap;
mod build;
mod capacity;
mod check;
mod codegen;
mod consent;
mod cost;
mod cross;
mod demo;
mod deploy;
mod diff;
mod doctor;
mod explain;
mod gc;
mod history;
mod hotswap;
mod init;
mod list;
mod live;
mod living;
mod load;
mod logs;
mod observer;
mod outputs;
mod pipeline;
mod plot;
mod programs;
mod promote;
mod promtool;
mod redrive;
mod release;
mod running;
mod simulate;
mod synth;
mod tally;
mod test;
mod tidy;
mod watch;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Floodgate: a streaming platform on AWS in Rust, the infrastructure and the applications.
///
/// Begin with `cargo xtask deploy --env local`: it sets up a real Kafka broker and an AWS API emulator on this
/// machine, deploys the stacks and starts the workers. No account, no root, no Docker. `cargo xtask doctor` tells what
/// the machine lacks for it; `cargo xtask COMMAND --help` teaches each command with an example.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::ListArgs),
    Synth(synth::SynthArgs),
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    Capacity(capacity::CapacityArgs),
    Cost(cost::CostArgs),
    Build(build::BuildArgs),
    Diff(diff::DiffArgs),
    Deploy(deploy::DeployArgs),
    Release(release::ReleaseArgs),
    Promote(promote::PromoteArgs),
    History(history::HistoryArgs),
    Rollback(deploy::RollbackArgs),
    Pipeline(pipeline::PipelineArgs),
    Unlock(deploy::UnlockArgs),
    Teardown(deploy::TeardownArgs),
    Bootstrap(bootstrap::BootstrapArgs),
    Gc(gc::GcArgs),
    Watch(watch::WatchArgs),
    Outputs(outputs::OutputsArgs),
    /// What is deployed and how it does.
    #[command(verbatim_doc_comment, after_help = "Example: cargo xtask status --env local --json")]
    Status(deploy::ShowArgs),
    Logs(logs::LogsArgs),
    Drift(living::DriftArgs),
    Import(living::ImportArgs),
    Orphan(living::OrphanArgs),
    Move(living::MoveArgs),
    Doctor(doctor::DoctorArgs),
    Load(load::LoadArgs),
    Redrive(redrive::RedriveArgs),
    Demo(demo::DemoArgs),
    Simulate(simulate::SimulateArgs),
    Init(init::InitArgs),
    Codegen(codegen::CodegenArgs),
    Test(test::TestArgs),
    Bench(bench::BenchArgs),
    /// Check the house: layout, dependencies, lints, documentation.
    #[command(verbatim_doc_comment, after_help = "Example: cargo xtask tidy")]
    Tidy,
}

fn main() -> ExitCode {
    // A reader that has seen enough (`| head`) ends the program, quietly, as other tools do.
    let closed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    if let Err(error) =
        signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGPIPE, 141, closed)
    {
        eprintln!("cannot listen to signals: {error}");
    }
    let root = workspace::root();
    let outcome = match Cli::parse().command {
        Command::List(arguments) => list::run(&arguments, &root),
        Command::Synth(arguments) => synth::run(&arguments, &root),
        Command::Check(arguments) => check::run(&arguments, &root),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Capacity(arguments) => capacity::run(&arguments, &root),
        Command::Cost(arguments) => cost::run(&arguments, &root),
        Command::Build(arguments) => build::run(&arguments, &root),
        Command::Diff(arguments) => diff::run(&arguments, &root),
        Command::Deploy(arguments) => deploy::deploy(&arguments, &root),
        Command::Release(arguments) => release::run(&arguments, &root),
        Command::Promote(arguments) => promote::run(&arguments, &root),
        Command::History(arguments) => history::run(&arguments, &root),
        Command::Pipeline(arguments) => pipeline::run(&arguments, &root),
        Command::Rollback(arguments) => deploy::rollback(&arguments, &root),
        Command::Unlock(arguments) => deploy::unlock(&arguments, &root),
        Command::Teardown(arguments) => deploy::teardown(&arguments, &root),
        Command::Bootstrap(arguments) => bootstrap::run(&arguments, &root),
        Command::Gc(arguments) => gc::run(&arguments, &root),
        Command::Watch(arguments) => watch::run(&arguments, &root),
        Command::Outputs(arguments) => outputs::run(&arguments, &root),
        Command::Status(arguments) => deploy::status(&arguments, &root),
        Command::Logs(arguments) => logs::run(&arguments, &root),
        Command::Drift(arguments) => living::drift(&arguments, &root),
        Command::Import(arguments) => living::import(&arguments, &root),
        Command::Orphan(arguments) => living::orphan(&arguments, &root),
        Command::Move(arguments) => living::move_(&arguments, &root),
        Command::Doctor(arguments) => doctor::run(&arguments, &root),
        Command::Load(arguments) => load::run(&arguments, &root),
        Command::Redrive(arguments) => redrive::run(&arguments, &root),
        Command::Demo(arguments) => demo::run(&arguments, &root),
        Command::Simulate(arguments) => simulate::run(&arguments, &root),
        Command::Init(arguments) => init::run(&arguments, &root),
        Command::Codegen(arguments) => codegen::run(&arguments, &root).map(|()| ExitCode::SUCCESS),
        Command::Test(arguments) => test::run(&arguments, &root),
        Command::Bench(arguments) => bench::run(&arguments, &root),
        Command::Tidy => tidy::run(&root),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches() {
        for command in Cli::command().get_subcommands() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(about.len() > 15 && !about.contains('\n'), "{}: {about}", command.get_name());
            let help = command.clone().render_long_help().to_string();
            // Not the line of usage, which every help has.
            let example = help.split("Example").nth(1).unwrap_or_default();
            let wanted = format!("cargo xtask {}", command.get_name());
            assert!(example.contains(&wanted), "{} shows no example:\n{help}", command.get_name());
        }
    }

    #[test]
    fn the_help_reads_well() {
        let mut help = Cli::command().render_long_help().to_string();
        for name in ["deploy", "diff", "load"] {
            let mut cli = Cli::command();
            cli.build();
            if let Some(command) = cli.find_subcommand_mut(name) {
                help += &format!("\n=== {name}\n{}", command.render_long_help());
            }
        }
        insta::assert_snapshot!(help);
    }

    /// The names of all commands, for the documentation's check.
    pub(crate) fn command_names() -> Vec<String> {
        Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
    }

    #[test]
    fn the_readme_names_every_command() {
        let readme = std::fs::read_to_string(workspace::root().join("README.md")).unwrap();
        for name in command_names() {
            assert!(readme.contains(&format!("`{name}")), "README.md does not name the command `{name}`");
        }
    }
}
