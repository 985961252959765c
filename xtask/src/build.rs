//! `cargo xtask build`.

use std::{collections::BTreeSet, path::Path, process::ExitCode};

use anyhow::{Result, bail};
use cfn::Assembly;

use crate::{cross, deploy, programs, synth};

/// Build and pack the workers and functions of an environment.
///
/// Functions become zips for Lambda, the same bytes for the same binary, without debug information, named by
/// their content and kept in target/assets. What an environment on AWS runs is built optimised for the processor
/// that it runs on there, and refused when it asks for a newer glibc than there is; a local environment runs
/// debug builds of this machine, which are there soonest.
///
/// Examples:
///   cargo xtask build
///   cargo xtask build ledger-writer --env dev
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct BuildArgs {
    /// Workers and functions; all of the environment when none is named.
    apps: Vec<String>,
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// Optimised, also for a local environment.
    #[arg(long)]
    release: bool,
    /// JSON lines instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &BuildArgs, root: &Path) -> Result<ExitCode> {
    let assembly = synth::synth(root, &arguments.env, 1)?;
    let packages = packages(&assembly, &arguments.apps)?;
    let binaries = if assembly.manifest.provider == "local" {
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        programs::build_with(root, arguments.release, &packages)?
    } else {
        programs::build(root, false)?;
        cross::build(root, &assembly, &packages)?
    };
    deploy::pack(root, &arguments.env, &binaries, &arguments.apps, arguments.json)
}

/// The packages of the assets named, or of all.
fn packages(assembly: &Assembly, names: &[String]) -> Result<BTreeSet<String>> {
    let assets = &assembly.manifest.assets;
    if let Some(unknown) = names.iter().find(|name| !assets.iter().any(|asset| asset.name == **name)) {
        let known: Vec<&str> = assets.iter().map(|asset| asset.name.as_str()).collect();
        bail!(
            "{} has no worker or function `{unknown}`; it has: {}",
            assembly.manifest.environment,
            known.join(", ")
        );
    }
    let named = assets.iter().filter(|asset| names.is_empty() || names.contains(&asset.name));
    Ok(named.map(|asset| asset.package.clone()).collect())
}
