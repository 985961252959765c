//! `rollback` of a stack.

use std::process::ExitCode;

use anyhow::{Result, bail};
use deploy_engine::{cloudformation::CloudFormation, deploy::sources, role::ExecutionRole};

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
    let Some(entry) = manifest.stack(stack) else {
        let all: Vec<&str> = manifest.stacks.iter().map(|stack| stack.id.as_str()).collect();
        bail!("there is no stack {stack}; there are: {}", all.join(", "));
    };
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
