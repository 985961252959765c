//! A resource leaves its stack and stays alive.

use anyhow::Result;
use cfn::{Json, assembly::StackEntry};

use crate::{
    approval::shown,
    cloudformation::{CloudFormation, Target},
    living::change::without_orphan,
    operation::{Operations, Sources},
    stacks::Stacks,
};

/// Lets a resource go, with the role that CloudFormation works with on the stack. It can be run again after any
/// failure.
///
/// # Errors
///
/// When it is not deployed, still rendered, or referred to; or CloudFormation refuses.
pub async fn run(
    operations: &Operations<'_, Stacks>,
    of: (&StackEntry, Option<&str>),
    rendered: &Json,
    logical_id: &str,
) -> Result<()> {
    let (entry, _) = of;
    let deployed = operations.cloud.template(&entry.name).await?;
    let (first, then) = without_orphan(&deployed, rendered, logical_id)?;
    if let Some(first) = first {
        operations.reporter.stack(&entry.name, "updating", &format!("{logical_id} is to be retained"));
        update(operations, of, first).await?;
    }
    operations.reporter.stack(&entry.name, "updating", &format!("{logical_id} leaves the stack"));
    update(operations, of, then).await
}

async fn update(
    operations: &Operations<'_, Stacks>,
    (entry, role): (&StackEntry, Option<&str>),
    template: Json,
) -> Result<()> {
    let deployed = operations.cloud.describe(&entry.name).await?;
    let target = Target {
        name: entry.name.clone(),
        template,
        template_url: None,
        parameters: deployed.map(|deployed| deployed.parameters).unwrap_or_default(),
        tags: entry.tags.clone(),
        capabilities: entry.capabilities.clone(),
        role_arn: role.map(str::to_owned),
    };
    if let Some(change_set) = operations.change_set(&target, false).await? {
        operations.reporter.say(&shown(&entry.name, &change_set));
        operations.execute(&entry.name, &target.template, &Sources::new()).await?;
    }
    Ok(())
}
