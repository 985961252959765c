//! `outputs`.

use std::process::ExitCode;

use anyhow::Result;
use deploy_engine::cloudformation::CloudFormation;

use crate::{cli::Common, engine::Engine};

/// Prints the outputs of the deployed stacks.
///
/// # Errors
///
/// What CloudFormation says.
pub(crate) async fn run(engine: &Engine) -> Result<ExitCode> {
    let Engine { manifest, clients, common: Common { json, .. }, .. } = engine;
    let mut all = serde_json::Map::new();
    for entry in &manifest.stacks {
        let outputs =
            clients.stacks.describe(&entry.name).await?.map(|deployed| deployed.outputs).unwrap_or_default();
        if *json {
            all.insert(entry.id.clone(), serde_json::to_value(&outputs)?);
        } else {
            for (name, value) in outputs {
                println!("{:<10} {name:<44} {value}", entry.id);
            }
        }
    }
    if *json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(ExitCode::SUCCESS)
}
