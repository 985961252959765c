//! `outputs`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use deploy_engine::{
    cloudformation::CloudFormation,
    outputs::{Format, Outputs, render, withhold},
};

use crate::{cli::Common, engine::Engine};

/// Prints the outputs of the deployed stacks, or of those named.
///
/// # Errors
///
/// When a stack is unknown or nothing is deployed, and what CloudFormation says.
pub(crate) async fn run(engine: &Engine, stacks: &[String], format: Format) -> Result<ExitCode> {
    let Engine { manifest, clients, common: Common { json, .. }, .. } = engine;
    manifest.check_named(stacks)?;
    let mut all: Vec<Outputs> = Vec::new();
    for entry in manifest.stacks.iter().filter(|entry| stacks.is_empty() || stacks.contains(&entry.id)) {
        if let Some(deployed) = clients.stacks.describe(&entry.name).await? {
            all.push((entry.id.clone(), deployed.outputs));
        }
    }
    if all.is_empty() {
        let what = if stacks.is_empty() { "nothing" } else { "none of these stacks" };
        let environment = &manifest.environment;
        bail!("{what} of {environment} is deployed; `cargo xtask deploy --env {environment}` does it");
    }
    for name in withhold(&mut all) {
        eprintln!("withheld: {name} looks like a secret; nothing that must not be seen should be an output");
    }
    print!("{}", render(&all, if *json { Format::Json } else { format })?);
    Ok(ExitCode::SUCCESS)
}
