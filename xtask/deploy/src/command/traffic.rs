//! `traffic`.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Result, bail};
use deploy_engine::{
    cloudformation::CloudFormation,
    lookup::look_up,
    wiring::{Known, resolve_all},
};

use crate::engine::Engine;

/// Prints, as JSON, which program makes a system's traffic, and its environment variables.
///
/// # Errors
///
/// When nothing makes traffic for the system, or what its variables come from is not deployed.
pub(crate) async fn run(engine: &Engine, system: &str) -> Result<ExitCode> {
    let Engine { manifest, clients, reporter, .. } = engine;
    let Some(load) = manifest.loads.get(system) else {
        let known: Vec<&str> = manifest.loads.keys().map(String::as_str).collect();
        bail!("nothing makes traffic for `{system}`; there is something for: {}", known.join(", "));
    };
    let mut known = Known::default();
    for entry in &manifest.stacks {
        if let Some(deployed) = clients.stacks.describe(&entry.name).await? {
            known.outputs.insert(entry.id.clone(), deployed.outputs);
        }
    }
    look_up(&clients.kafka, &load.variables, &mut known, reporter).await?;
    let variables: BTreeMap<String, String> = resolve_all(&load.variables, &known)?;
    println!("{}", serde_json::json!({ "package": load.package, "variables": variables }));
    Ok(ExitCode::SUCCESS)
}
