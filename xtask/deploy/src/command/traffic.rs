//! `traffic`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use deploy_engine::traffic;

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
    let variables = traffic::variables(manifest, &clients.stacks, &clients.kafka, reporter, load).await?;
    println!("{}", serde_json::json!({ "package": load.package, "variables": variables }));
    Ok(ExitCode::SUCCESS)
}
