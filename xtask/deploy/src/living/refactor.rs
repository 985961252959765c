//! A resource gets another logical id or another stack without being replaced, by CloudFormation's stack
//! refactoring. A refactoring is given no role: whoever asks for it needs the rights, and the pipeline's role has none of
//! them. A move is something that an administrator does, with the change of the code beside it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_sdk_cloudformation::{
    Client,
    error::ProvideErrorMetadata,
    types::{
        ResourceLocation, ResourceMapping, StackDefinition, StackRefactorExecutionStatus, StackRefactorStatus,
    },
};
use cfn::{Json, to_canonical_bytes};
use tokio::time::{Instant, sleep};

use crate::{
    cloudformation::CloudFormation,
    living::change::{renamed, transferred},
    operation::Operations,
    sdk::told,
    stacks::Stacks,
};

const TIMEOUT: Duration = Duration::from_secs(1800);

/// A resource of a stack, by the stack's name in CloudFormation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The stack's name.
    pub stack: String,
    /// The logical id.
    pub logical_id: String,
}

/// Moves a resource.
///
/// # Errors
///
/// When it is not there, is referred to across the stacks, or CloudFormation refuses; nothing is changed then.
pub async fn run(
    client: &Client,
    operations: &Operations<'_, Stacks>,
    poll: Duration,
    from: &Place,
    to: &Place,
) -> Result<()> {
    let source = operations.cloud.template(&from.stack).await?;
    let mut definitions = Vec::new();
    if from.stack == to.stack {
        definitions.push(definition(&from.stack, &renamed(&source, &from.logical_id, &to.logical_id)?)?);
    } else {
        let destination = operations.cloud.template(&to.stack).await?;
        let (left, gained) = transferred(&source, &destination, &from.logical_id, &to.logical_id)?;
        definitions.push(definition(&from.stack, &left)?);
        definitions.push(definition(&to.stack, &gained)?);
    }
    let place = |place: &Place| {
        ResourceLocation::builder().stack_name(&place.stack).logical_resource_id(&place.logical_id).build()
    };
    let mapping = ResourceMapping::builder().source(place(from)).destination(place(to)).build();
    let created = client
        .create_stack_refactor()
        .description(format!("{}/{} to {}/{}", from.stack, from.logical_id, to.stack, to.logical_id))
        .set_stack_definitions(Some(definitions))
        .resource_mappings(mapping)
        .send()
        .await
        .map_err(|error| refused(error, "CloudFormation refuses the refactoring"))?;
    let id = created.stack_refactor_id().context("CloudFormation gives no id of the refactoring")?;
    let deadline = Instant::now() + TIMEOUT;
    let mut executed = false;
    loop {
        let answer = client
            .describe_stack_refactor()
            .stack_refactor_id(id)
            .send()
            .await
            .map_err(|error| refused(error, "CloudFormation does not tell of the refactoring"))?;
        let reason = || {
            answer
                .execution_status_reason()
                .or(answer.status_reason())
                .unwrap_or("CloudFormation gives no reason")
                .to_owned()
        };
        match (answer.status(), answer.execution_status()) {
            (Some(StackRefactorStatus::CreateFailed), _) => {
                bail!("the refactoring is refused, nothing is changed: {}", reason())
            }
            (_, Some(StackRefactorExecutionStatus::ExecuteComplete)) => break,
            (
                _,
                Some(
                    StackRefactorExecutionStatus::ExecuteFailed
                    | StackRefactorExecutionStatus::RollbackComplete
                    | StackRefactorExecutionStatus::RollbackFailed,
                ),
            ) => bail!("the refactoring failed: {}", reason()),
            (Some(StackRefactorStatus::CreateComplete), _) if !executed => {
                operations.reporter.stack(
                    &from.stack,
                    "refactoring",
                    &format!("{} to {}/{}", from.logical_id, to.stack, to.logical_id),
                );
                client
                    .execute_stack_refactor()
                    .stack_refactor_id(id)
                    .send()
                    .await
                    .map_err(|error| refused(error, "CloudFormation does not execute the refactoring"))?;
                executed = true;
            }
            _ => {}
        }
        if Instant::now() >= deadline {
            bail!("the refactoring {id} does not come to an end; CloudFormation goes on with it");
        }
        sleep(poll).await;
    }
    operations.reporter.stack(&from.stack, "refactored", "nothing was replaced");
    Ok(())
}

/// What AWS says; who lacks the rights is told whose work it is.
fn refused<E>(error: E, what: &str) -> anyhow::Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let lacks = matches!(error.code(), Some("AccessDenied" | "AccessDeniedException"));
    let error = told(error, what);
    if lacks {
        anyhow::anyhow!(
            "{error:#}.\n  A move is an administrator's: CloudFormation refactors with the rights of whoever asks, and neither the pipeline's role nor the one of deployments is used. Run it again with an administrator's credentials. Nothing was replaced"
        )
    } else {
        error
    }
}

fn definition(stack: &str, template: &Json) -> Result<StackDefinition> {
    let body = String::from_utf8(to_canonical_bytes(template)).context("a template is text")?;
    Ok(StackDefinition::builder().stack_name(stack).template_body(body).build())
}
