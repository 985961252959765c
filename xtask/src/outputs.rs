//! `cargo xtask outputs`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use crate::{deploy::reading, programs::run_to_end};

/// The outputs of the deployed stacks, for people, scripts and shells.
///
/// As variables an output is named by stack and output: `ProxyEndpoint` of
/// `ledger-database` is LEDGER_DATABASE_PROXY_ENDPOINT. Values are quoted
/// whatever they hold. What looks like a secret is withheld, and told.
///
/// Examples:
///   cargo xtask outputs --env local --json
///   eval "$(cargo xtask outputs --env dev --format env)"
///   cargo xtask outputs --env dev --stack kafka --format dotenv > .env
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct OutputsArgs {
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// These stacks alone, by id.
    #[arg(long = "stack", value_name = "STACK")]
    stacks: Vec<String>,
    /// How they are printed.
    #[arg(long, default_value = "text", value_parser = ["text", "json", "env", "dotenv"])]
    format: String,
    /// The same as `--format json`.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

pub(crate) fn run(arguments: &OutputsArgs, root: &Path) -> Result<ExitCode> {
    let mut command = reading(root, &arguments.env, arguments.json)?;
    command.args(["outputs", "--format", &arguments.format]);
    for stack in &arguments.stacks {
        command.args(["--stack", stack]);
    }
    run_to_end(&mut command)
}
