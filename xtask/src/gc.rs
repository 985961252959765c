//! `cargo xtask gc`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use crate::{consent::Consent, deploy};

/// List published and packed files that nobody needs any more, and delete them.
///
/// What goes is what no deployed stack and no kept release names, and what was written longer ago than the window
/// (at least a day on AWS, so that a deployment that is under way finds what it found). While a stack is changing,
/// nothing goes: its way back may need it. The bucket keeps versions: what was deleted can be brought back for 90
/// days. Old files in target/assets go as well; they are packed again when needed.
///
/// Examples:
///   cargo xtask gc --env dev --dry-run
///   cargo xtask gc --env dev --older-than 30d
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct GcArgs {
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// How long ago it must have been written: 7d, 36h.
    #[arg(long, default_value = "7d")]
    older_than: String,
    /// List, and delete nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
    /// JSON lines instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &GcArgs, root: &Path) -> Result<ExitCode> {
    let mut command = deploy::reading(root, &arguments.env, arguments.json)?;
    command.args(["gc", "--older-than", &arguments.older_than]);
    if arguments.dry_run {
        command.arg("--dry-run");
    }
    arguments.consent.pass(&mut command);
    crate::programs::run_to_end(&mut command)
}
