//! Taking an environment down: workloads first, then stacks in reverse.

use std::{fs, path::Path};

use anyhow::Result;
use cfn::{Json, assembly::Manifest};

use crate::{
    cloudformation::CloudFormation, deploy::sources, local::LocalEnvironment, operation::Operations,
    report::Reporter, stacks::Stacks,
};

/// Takes it down. What is gone already is no error, so that it can be run again after any failure.
///
/// # Errors
///
/// The first resource that does not go, with its construct and reason.
pub async fn run(
    assembly: &Path,
    manifest: &Manifest,
    stacks: Option<&Stacks>,
    local: Option<&LocalEnvironment>,
    reporter: &Reporter,
) -> Result<()> {
    // Without a supervisor no workload runs; `down` removes what the emulator has kept of the stacks.
    let runs = match local {
        Some(local) => local.ask(&["status"]).await.is_ok(),
        None => true,
    };
    if let Some(local) = local.filter(|_| runs) {
        let nothing = assembly.join("nothing");
        fs::create_dir_all(&nothing)?;
        reporter.stack("workloads", "stopping", "");
        local.apply(&nothing, &nothing).await?;
        fs::remove_dir(&nothing)?;
    }
    let mut retained = Vec::new();
    let sources = sources(assembly);
    if let Some(stacks) = stacks.filter(|_| runs) {
        for entry in manifest.stacks.iter().rev() {
            let template: Json = fs::read_to_string(assembly.join(&entry.template))
                .ok()
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default();
            let Some(deployed) = stacks.describe(&entry.name).await? else {
                reporter.stack(&entry.name, "absent", "");
                continue;
            };
            if deployed.protected {
                stacks.protect(&entry.name, false).await?;
            }
            reporter.stack(&entry.name, "deleting", "");
            let operations = Operations { cloud: stacks, reporter };
            let of_stack = sources.get(&entry.id).cloned().unwrap_or_default();
            operations.at_rest(&entry.name).await?;
            let stays = operations.delete(&entry.name, &template, &of_stack, None).await?;
            reporter.stack(&entry.name, "deleted", "");
            retained.extend(stays.iter().map(|resource| {
                format!(
                    "{} {} ({}) {}: it could not be deleted",
                    entry.name, resource.logical_id, resource.resource_type, resource.physical_id
                )
            }));
            retained.extend(retained_by(&entry.name, &template));
        }
    }
    if let Some(local) = local {
        reporter.stack("parts", "stopping", "");
        local.run(&["down"]).await?;
        reporter.stack("parts", "stopped", "");
    }
    if !retained.is_empty() {
        reporter.say("kept, because it holds data (remove it by hand when it is no longer wanted):");
        for line in retained {
            reporter.say(&format!("  {line}"));
        }
    }
    Ok(())
}

/// What a stack leaves behind.
fn retained_by(stack: &str, template: &Json) -> Vec<String> {
    template
        .get("Resources")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, resource)| {
            resource
                .get("DeletionPolicy")
                .and_then(Json::as_str)
                .is_some_and(|policy| policy.starts_with("Retain"))
        })
        .map(|(id, resource)| {
            format!("{stack} {id} ({})", resource.get("Type").and_then(Json::as_str).unwrap_or_default())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_listed() {
        let template = serde_json::json!({"Resources": {
            "Key": {"Type": "AWS::KMS::Key", "DeletionPolicy": "RetainExceptOnCreate"},
            "Vpc": {"Type": "AWS::EC2::VPC"},
        }});
        assert_eq!(retained_by("fg", &template), ["fg Key (AWS::KMS::Key)"]);
    }
}
