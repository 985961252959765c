//! The command line of Floodgate.

mod codegen;
mod workspace;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Codegen(codegen::CodegenArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Codegen(arguments) => codegen::run(&arguments, &workspace::root()),
    }
}
