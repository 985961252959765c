//! The deploy engine's command line; `cargo xtask` calls it.

mod cli;
mod command;
mod engine;

use std::{process::ExitCode, sync::atomic::AtomicBool};

use anyhow::Result;
use clap::Parser;
use cli::{Cli, Command};
use deploy_engine::{approval::NotApproved, assets::Assets, deployed, hotswap, status};
use engine::Engine;

/// The exit code where changes want a yes and nobody gave it.
const NOT_APPROVED: u8 = 4;

#[tokio::main]
async fn main() -> ExitCode {
    // A reader that has seen enough (`| head`) ends the program, quietly, as other tools do.
    let closed = std::sync::Arc::new(AtomicBool::new(true));
    if let Err(error) =
        signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGPIPE, 141, closed)
    {
        eprintln!("cannot listen to signals: {error}");
    }
    match run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<NotApproved>() { ExitCode::from(NOT_APPROVED) } else { ExitCode::FAILURE }
        }
    }
}

async fn run(Cli { common, command }: Cli) -> Result<ExitCode> {
    if let Command::KubernetesToken { cluster, region } = &command {
        return command::token::run(cluster, region).await;
    }
    match &command {
        Command::Bundle(arguments) => return command::bundle::make(&common, arguments).await,
        Command::Unpack(arguments) => return command::bundle::unpack(&common, arguments),
        _ => {}
    }
    let engine = Engine::new(common).await?;
    let Engine { manifest, reporter, clients, common, .. } = &engine;
    match command {
        Command::Deploy(arguments) => command::deploy::run(&engine, arguments).await,
        Command::Rollback { consent, stack, skip } => {
            command::rollback::run(&engine, &consent, &stack, &skip).await
        }
        Command::Unlock { consent } => {
            engine.agree(&consent, "free")?;
            match clients.locks.unlock().await? {
                Some(holder) => {
                    reporter.say(&format!("{} is free; it was held by {holder}", manifest.environment));
                }
                None => reporter.say(&format!("{} was free already", manifest.environment)),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Teardown { consent, purge, stacks_only } => {
            command::teardown::run(&engine, &consent, purge, stacks_only).await
        }
        Command::Gc { consent, older_than, dry_run } => {
            command::gc::run(&engine, &consent, older_than, dry_run).await
        }
        Command::Pack { binaries, names } => {
            let all = Assets::new(manifest, engine.places(binaries), reporter, Vec::new())?;
            for packed in all.packed(&names).await? {
                reporter.result(&packed.to_string(), &serde_json::to_value(&packed)?);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Outputs { stacks, format } => command::outputs::run(&engine, &stacks, format).await,
        Command::Status => {
            let mut status =
                status::gather(manifest, &clients.stacks, engine.local.as_ref(), &clients.signals()).await?;
            if hotswap::allowed(manifest).is_ok() {
                status.hotswapped = clients.swapped.read().await?;
            }
            if common.json {
                println!("{}", serde_json::to_string(&status)?);
            } else {
                println!("{}", status::table(&status));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Templates { to } => {
            deployed::write(manifest, &clients.stacks, &to).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Living { consent, command } => {
            let scene = engine.scene();
            let Some(what) = command.changes() else { return scene.run(&command).await };
            engine.agree(&consent, what)?;
            let left = async || {
                "interrupted; CloudFormation goes on with what was begun. Run it again once that has ended"
                    .to_owned()
            };
            engine.under_lock(what, scene.run(&command), left).await
        }
        Command::Whoami => command::whoami::run(&engine).await,
        Command::Observe { system, every_ms } => {
            command::observe::run(&engine, &system, std::time::Duration::from_millis(every_ms)).await
        }
        Command::Traffic { system } => command::traffic::run(&engine, &system).await,
        Command::Releases { command } => command::releases::run(&engine, command).await,
        // Answered above: they know no assembly of an environment.
        Command::KubernetesToken { .. } | Command::Bundle(_) | Command::Unpack(_) => Ok(ExitCode::SUCCESS),
        Command::Logs { system, follow, since, filter } => {
            command::logs::run(&engine, command::logs::Asked { name: &system, follow, since, filter }).await
        }
    }
}
