//! `cargo xtask logs`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use crate::{deploy::reading_remains, programs::run_to_end};

/// The logs of a system, a workload or a function.
///
/// Functions log to CloudWatch Logs, here as on AWS: their lines have the
/// function's name before them, and those of ten minutes are shown unless
/// `--since` says otherwise. Workloads are read from their processes' files
/// here, and from their pods in a cluster.
///
/// Examples:
///   cargo xtask logs trades --follow
///   cargo xtask logs ledger --env dev --since 1h --filter ERROR
///   cargo xtask logs lessons-enricher --follow
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct LogsArgs {
    /// The system, or one of its workloads or functions.
    system: String,
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// Go on as they grow, until Ctrl-C.
    #[arg(long)]
    follow: bool,
    /// How far back: 90s, 10m, 2h, 1d.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Lines with this text alone.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

pub(crate) fn run(arguments: &LogsArgs, root: &Path) -> Result<ExitCode> {
    let mut command = reading_remains(root, &arguments.env)?;
    command.args(["logs", &arguments.system]);
    if arguments.follow {
        command.arg("--follow");
    }
    for (option, value) in [("--since", &arguments.since), ("--filter", &arguments.filter)] {
        if let Some(value) = value {
            command.arg(format!("{option}={value}"));
        }
    }
    run_to_end(&mut command)
}
