//! `cargo xtask history`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use crate::{deploy, programs};

/// What was deployed to an environment: when, by whom, which release, from where.
///
/// Every deployment that succeeds and changes anything writes a record into the environment's bucket. The release that
/// runs is marked; `rollback --to` takes any that was deployed as a whole.
///
/// Example: cargo xtask history --env staging
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct HistoryArgs {
    /// The environment: a file in environments/.
    #[arg(long)]
    env: String,
    /// At most so many, the newest first.
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &HistoryArgs, root: &Path) -> Result<ExitCode> {
    let mut command = deploy::reading(root, &arguments.env, arguments.json)?;
    programs::run_to_end(command.args(["releases", "history", "--limit", &arguments.limit.to_string()]))
}
