//! The command line of Floodgate. What needs the AWS SDK or the local environment is a program of its own,
//! built when first needed; see `programs`.

mod bench;
mod build;
mod capacity;
mod check;
mod codegen;
mod cost;
mod deploy;
mod diff;
mod list;
mod load;
mod programs;
mod synth;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Floodgate: a streaming platform on AWS in Rust, the infrastructure and the applications.
///
/// Begin with `cargo xtask deploy --env local`: it sets up a real Kafka broker and an AWS API emulator on this
/// machine, deploys the stacks and starts the workers. No account, no root, no Docker.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The stacks of an environment, in the order of deploying
    List(list::ListArgs),
    /// Render an environment to target/assembly/ENV
    Synth(synth::SynthArgs),
    /// Check what an environment renders, offline
    Check(check::CheckArgs),
    /// The derived sizes of an environment, each with its formula
    Capacity(capacity::CapacityArgs),
    /// What an environment would cost a month, idle and under load, and what moves that most
    Cost(cost::CostArgs),
    /// Build the workers' binaries
    Build(build::BuildArgs),
    /// What sets an environment apart from what is deployed, an assembly or another environment
    Diff(diff::DiffArgs),
    /// Build, render, check and deploy an environment, and wait until it works
    Deploy(deploy::DeployArgs),
    /// Take an environment down: workloads first, then stacks in reverse
    Teardown(deploy::TeardownArgs),
    /// The outputs of the deployed stacks
    Outputs(deploy::ShowArgs),
    /// What is deployed and how it does
    Status(deploy::ShowArgs),
    /// The logs of a system's workloads
    Logs(deploy::LogsArgs),
    /// Traffic into a system
    Load(load::LoadArgs),
    /// Generate the typed CloudFormation vocabulary from the resource schemas
    Codegen(codegen::CodegenArgs),
    /// Everything that must pass before a change lands
    Test(test::TestArgs),
    /// Measure, and compare
    Bench(bench::BenchArgs),
    /// Check the house: layout, dependencies, lints, documentation
    Tidy,
}

fn main() -> ExitCode {
    let root = workspace::root();
    let outcome = match Cli::parse().command {
        Command::List(arguments) => list::run(&arguments, &root),
        Command::Synth(arguments) => synth::run(&arguments, &root),
        Command::Check(arguments) => check::run(&arguments, &root),
        Command::Capacity(arguments) => capacity::run(&arguments, &root),
        Command::Cost(arguments) => cost::run(&arguments, &root),
        Command::Build(arguments) => build::run(&arguments, &root),
        Command::Diff(arguments) => diff::run(&arguments, &root),
        Command::Deploy(arguments) => deploy::deploy(&arguments, &root),
        Command::Teardown(arguments) => deploy::teardown(&arguments, &root),
        Command::Outputs(arguments) => deploy::outputs(&arguments, &root),
        Command::Status(arguments) => deploy::status(&arguments, &root),
        Command::Logs(arguments) => deploy::logs(&arguments, &root),
        Command::Load(arguments) => load::run(&arguments, &root),
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
            assert!(about.len() > 15, "{} has no help", command.get_name());
        }
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
