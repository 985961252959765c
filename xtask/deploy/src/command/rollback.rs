//! `rollback` of a stack.

use std::process::ExitCode;

use anyhow::{Result, bail};
use deploy_engine::{
    cloudformation::{CloudFormation, StackResource},
    deploy::sources,
    role::ExecutionRole,
};

use crate::{cli::Consent, engine::Engine};

/// Takes a stack back whose rollback failed.
///
/// # Errors
///
/// When there is no such stack, or what CloudFormation says.
pub(crate) async fn run(
    engine: &Engine,
    consent: &Consent,
    stack: &str,
    skip: &[String],
) -> Result<ExitCode> {
    let Engine { manifest, reporter, clients, common, .. } = engine;
    let entry = manifest.stack_named(stack)?;
    if !skip.is_empty() {
        check_skipped(&entry.name, skip, &clients.stacks.resources(&entry.name).await?)?;
    }
    engine.agree(consent, "rollback of a stack in")?;
    let work = async {
        for resource in skip {
            eprintln!(
                "warning: {resource} stays as it is while the stack says that it is as before; bring it in line by hand, or the next update of it may fail"
            );
        }
        let template = clients.stacks.template(&entry.name).await?;
        let of_stack = sources(&common.assembly).remove(&entry.id).unwrap_or_default();
        reporter.stack(&entry.name, "going back", "");
        let role = ExecutionRole::look_up(manifest, &clients.stacks).await?.for_stack(&entry.id);
        engine.operations().go_back(&entry.name, skip, &template, &of_stack, role.as_deref()).await?;
        reporter.stack(&entry.name, "back", "it is as it was before; deploy again");
        Ok(ExitCode::SUCCESS)
    };
    engine
        .under_lock("rollback", work, async || {
            format!("interrupted; CloudFormation goes on with {}", entry.name)
        })
        .await
}

/// What there is not is said before anybody is asked and anything is begun, with what it may be that was meant.
fn check_skipped(stack: &str, skip: &[String], resources: &[StackResource]) -> Result<()> {
    let unknown: Vec<&str> = skip
        .iter()
        .filter(|id| resources.iter().all(|resource| resource.logical_id != **id))
        .map(String::as_str)
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let failed: Vec<&str> = resources
        .iter()
        .filter(|resource| resource.status.ends_with("_FAILED"))
        .map(|resource| resource.logical_id.as_str())
        .collect();
    let meant = if failed.is_empty() {
        String::new()
    } else {
        format!("; those that failed are: {}", failed.join(", "))
    };
    bail!("the stack {stack} has no resource {}{meant}", unknown.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_that_there_is_not_is_told_with_those_that_failed() {
        let resource = |id: &str, status: &str| StackResource {
            logical_id: id.to_owned(),
            resource_type: "AWS::MSK::Topic".to_owned(),
            status: status.to_owned(),
            physical_id: String::new(),
        };
        let resources = [resource("Topic", "UPDATE_FAILED"), resource("Key", "UPDATE_COMPLETE")];
        assert!(check_skipped("fg", &["Topic".to_owned()], &resources).is_ok());
        let wrong = check_skipped("fg", &["Topic".to_owned(), "Topci".to_owned()], &resources).unwrap_err();
        assert_eq!(wrong.to_string(), "the stack fg has no resource Topci; those that failed are: Topic");
    }
}
