//! What a program that makes a system's traffic is told: its environment variables, of what is deployed.

use std::collections::BTreeMap;

use anyhow::Result;
use cfn::assembly::{LoadEntry, Manifest};

use crate::{
    cloudformation::CloudFormation,
    lookup::look_up,
    report::Reporter,
    wiring::{Known, resolve_all},
};

/// The program's environment variables.
///
/// # Errors
///
/// When what they come from is not deployed, or AWS does not tell.
pub async fn variables(
    manifest: &Manifest,
    stacks: &impl CloudFormation,
    kafka: &aws_sdk_msk::Client,
    reporter: &Reporter,
    load: &LoadEntry,
) -> Result<BTreeMap<String, String>> {
    let mut known = Known::default();
    for entry in &manifest.stacks {
        if let Some(deployed) = stacks.describe(&entry.name).await? {
            known.outputs.insert(entry.id.clone(), deployed.outputs);
        }
    }
    look_up(kafka, &load.variables, &mut known, reporter).await?;
    Ok(resolve_all(&load.variables, &known)?)
}
