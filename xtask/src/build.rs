//! `cargo xtask build`.

use std::{path::Path, process::ExitCode};

use anyhow::{Result, bail};

use crate::programs::{WORKERS, build};

/// Build the workers' binaries.
///
/// A local environment runs debug builds, which are there soonest; AWS gets release builds.
///
/// Example: cargo xtask build trade-consumer --release
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct BuildArgs {
    /// The workers; all when none is named.
    apps: Vec<String>,
    /// Optimised, as for AWS.
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(arguments: &BuildArgs, root: &Path) -> Result<ExitCode> {
    if let Some(unknown) = arguments.apps.iter().find(|app| !WORKERS.contains(&app.as_str())) {
        bail!("there is no worker `{unknown}`; there are: {}", WORKERS.join(", "));
    }
    let apps: Vec<&str> = if arguments.apps.is_empty() {
        WORKERS.to_vec()
    } else {
        arguments.apps.iter().map(String::as_str).collect()
    };
    let binaries = build(root, arguments.release)?;
    for app in apps {
        let path = binaries.join(app);
        let bytes = std::fs::read(&path)?;
        println!(
            "{app:<16} {:>6.1} MB  sha256:{}  {}",
            bytes.len() as f64 / 1e6,
            cfn::assembly::sha256_hex(&bytes),
            path.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}
