//! CloudFormation, through the SDK.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use aws_sdk_cloudformation::{
    Client,
    error::ProvideErrorMetadata,
    types::{
        Capability, ChangeSetType, EventType, HookFailureMode, OperationEvent, Parameter, Stack, Tag,
        ValidationStatus,
    },
};
use cfn::{Json, to_canonical_bytes};

use crate::{
    cloudformation::{
        CHANGE_SET, ChangeSet, CloudFormation, Deployed, NOT_ECHOED, ResourceChange, StackResource, Target,
        Validation,
    },
    events::ResourceEvent,
    sdk::told,
};

/// CloudFormation.
#[derive(Clone, Debug)]
pub struct Stacks {
    client: Client,
    /// How often a status is asked for when it is not soon there.
    poll: Duration,
}

impl Stacks {
    /// With a client and how often to ask.
    #[must_use]
    pub fn new(client: Client, poll: Duration) -> Self {
        Self { client, poll }
    }
}

/// How many looks come sooner than the others: each after twice the time of the one before.
const SOONER_LOOKS: u32 = 4;

/// Whether an error says that there is no such stack or change set.
fn is_absent<E: ProvideErrorMetadata>(error: &E) -> bool {
    error.message().is_some_and(|message| message.contains("does not exist"))
        || error.code().is_some_and(|code| code.contains("ChangeSetNotFound"))
}

/// Whether an error says that findings are not to be had, and no more.
fn tells_nothing<E: ProvideErrorMetadata>(error: &E) -> bool {
    is_absent(error)
        || error.code().is_some_and(|code| {
            ["AccessDenied", "InvalidAction", "UnknownOperation", "NotImplemented"]
                .iter()
                .any(|no| code.contains(no))
        })
}

impl CloudFormation for Stacks {
    async fn describe(&self, name: &str) -> Result<Option<Deployed>> {
        match self.client.describe_stacks().stack_name(name).send().await {
            Ok(answer) => Ok(answer.stacks().first().map(deployed)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(told(error, &format!("cannot describe the stack {name}"))),
        }
    }

    async fn list(&self) -> Result<Vec<Deployed>> {
        let mut pages = self.client.describe_stacks().into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(stack) = pages.next().await {
            found.push(deployed(&stack.map_err(|error| told(error, "cannot list the stacks"))?));
        }
        Ok(found)
    }

    async fn template(&self, name: &str) -> Result<Json> {
        let answer = self.client.get_template().stack_name(name).send().await.map_err(|error| {
            if is_absent(&error) {
                anyhow!("the stack {name} is not deployed; `cargo xtask deploy` makes it")
            } else {
                told(error, &format!("cannot read the template of {name}"))
            }
        })?;
        serde_json::from_str(answer.template_body().unwrap_or_default())
            .with_context(|| format!("the template of {name} is no JSON: who else has deployed it?"))
    }

    async fn create_change_set(&self, target: &Target, create: bool) -> Result<()> {
        let name = &target.name;
        let body = String::from_utf8(to_canonical_bytes(&target.template)).context("a template is text")?;
        let parameters = target
            .parameters
            .iter()
            .map(|(name, value)| {
                let parameter = Parameter::builder().parameter_key(name);
                match value.as_str() {
                    NOT_ECHOED => parameter.use_previous_value(true),
                    value => parameter.parameter_value(value),
                }
                .build()
            })
            .collect();
        let tags =
            target.tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
        let capabilities = target.capabilities.iter().map(|name| Capability::from(name.as_str())).collect();
        self.delete_change_set(name).await?;
        self.client
            .create_change_set()
            .stack_name(name)
            .change_set_name(CHANGE_SET)
            .change_set_type(if create { ChangeSetType::Create } else { ChangeSetType::Update })
            .set_template_body(target.template_url.is_none().then_some(body))
            .set_template_url(target.template_url.clone())
            .set_parameters(Some(parameters))
            .set_tags(Some(tags))
            .set_capabilities(Some(capabilities))
            .set_role_arn(target.role_arn.clone())
            .send()
            .await
            .map(drop)
            .map_err(|error| told(error, &format!("CloudFormation refuses the change set of {name}")))
    }

    async fn describe_change_set(&self, name: &str) -> Result<ChangeSet> {
        let mut found = ChangeSet::default();
        let mut token: Option<String> = None;
        loop {
            let answer = self
                .client
                .describe_change_set()
                .stack_name(name)
                .change_set_name(CHANGE_SET)
                .set_next_token(token.take())
                .send()
                .await
                .map_err(|error| told(error, &format!("cannot describe the change set of {name}")))?;
            found.status = answer.status().map(|status| status.as_str().to_owned()).unwrap_or_default();
            found.reason = answer.status_reason().unwrap_or_default().to_owned();
            found.changes.extend(
                answer.changes().iter().filter_map(|change| Some(resource_change(change.resource_change()?))),
            );
            token = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    async fn validations(&self, name: &str) -> Result<Vec<Validation>> {
        let request = self.client.describe_events().stack_name(name).change_set_name(CHANGE_SET);
        let mut pages = request.into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(event) = pages.next().await {
            let event = match event {
                Ok(event) => event,
                // Who may not ask, and an endpoint that does not know the question, have deployed without it before.
                Err(error) if tells_nothing(&error) => return Ok(Vec::new()),
                Err(error) => {
                    return Err(told(
                        error,
                        &format!("cannot read what was found in the change set of {name}"),
                    ));
                }
            };
            if event.event_type() == Some(&EventType::ValidationError)
                && event.validation_status() == Some(&ValidationStatus::Failed)
            {
                found.push(validation(&event));
            }
        }
        Ok(found)
    }

    async fn delete_change_set(&self, name: &str) -> Result<()> {
        match self.client.delete_change_set().stack_name(name).change_set_name(CHANGE_SET).send().await {
            Ok(_) => Ok(()),
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => Err(told(error, &format!("cannot delete the change set of {name}"))),
        }
    }

    async fn execute_change_set(&self, name: &str) -> Result<()> {
        self.client
            .execute_change_set()
            .stack_name(name)
            .change_set_name(CHANGE_SET)
            .send()
            .await
            .map(drop)
            .map_err(|error| {
                told(error, &format!("CloudFormation does not execute the change set of {name}"))
            })
    }

    async fn newest_events(&self, name: &str) -> Result<BTreeSet<String>> {
        match self.client.describe_stack_events().stack_name(name).send().await {
            Ok(page) => {
                let ids = page.stack_events().iter().filter_map(|event| event.event_id());
                Ok(ids.map(str::to_owned).collect())
            }
            Err(error) if is_absent(&error) => Ok(BTreeSet::new()),
            Err(error) => Err(told(error, &format!("cannot read the events of {name}"))),
        }
    }

    async fn new_events(&self, name: &str, seen: &BTreeSet<String>) -> Result<Vec<(String, ResourceEvent)>> {
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        'pages: loop {
            let request = self.client.describe_stack_events().stack_name(name).set_next_token(token.take());
            let answer = match request.send().await {
                Ok(answer) => answer,
                Err(error) if is_absent(&error) => break,
                Err(error) => return Err(told(error, &format!("cannot read the events of {name}"))),
            };
            for event in answer.stack_events() {
                let Some(id) = event.event_id() else { continue };
                if seen.contains(id) {
                    break 'pages;
                }
                found.push((
                    id.to_owned(),
                    ResourceEvent {
                        logical_id: event.logical_resource_id().unwrap_or_default().to_owned(),
                        resource_type: event.resource_type().unwrap_or_default().to_owned(),
                        status: event
                            .resource_status()
                            .map(|status| status.as_str().to_owned())
                            .unwrap_or_default(),
                        reason: event
                            .resource_status_reason()
                            .filter(|reason| !reason.is_empty())
                            .map(str::to_owned),
                    },
                ));
            }
            token = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        found.reverse();
        Ok(found)
    }

    async fn delete_stack(&self, name: &str, retain: &[String], role_arn: Option<&str>) -> Result<()> {
        self.client
            .delete_stack()
            .stack_name(name)
            .set_retain_resources((!retain.is_empty()).then(|| retain.to_vec()))
            .set_role_arn(role_arn.map(str::to_owned))
            .send()
            .await
            .map(drop)
            .map_err(|error| told(error, &format!("CloudFormation does not delete {name}")))
    }

    async fn continue_update_rollback(
        &self,
        name: &str,
        skip: &[String],
        role_arn: Option<&str>,
    ) -> Result<()> {
        self.client
            .continue_update_rollback()
            .stack_name(name)
            .set_resources_to_skip((!skip.is_empty()).then(|| skip.to_vec()))
            .set_role_arn(role_arn.map(str::to_owned))
            .send()
            .await
            .map(drop)
            .map_err(|error| told(error, &format!("CloudFormation does not go on rolling {name} back")))
    }

    async fn rollback_stack(&self, name: &str, role_arn: Option<&str>) -> Result<()> {
        self.client
            .rollback_stack()
            .stack_name(name)
            .set_role_arn(role_arn.map(str::to_owned))
            .send()
            .await
            .map(drop)
            .map_err(|error| told(error, &format!("CloudFormation does not roll {name} back")))
    }

    async fn protect(&self, name: &str, protected: bool) -> Result<()> {
        self.client
            .update_termination_protection()
            .stack_name(name)
            .enable_termination_protection(protected)
            .send()
            .await
            .map(drop)
            .map_err(|error| told(error, &format!("cannot change the termination protection of {name}")))
    }

    async fn resources(&self, name: &str) -> Result<Vec<StackResource>> {
        let mut pages = self.client.list_stack_resources().stack_name(name).into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(resource) = pages.next().await {
            let resource =
                resource.map_err(|error| told(error, &format!("cannot list the resources of {name}")))?;
            found.push(StackResource {
                logical_id: resource.logical_resource_id().unwrap_or_default().to_owned(),
                resource_type: resource.resource_type().unwrap_or_default().to_owned(),
                status: resource
                    .resource_status()
                    .map(|status| status.as_str().to_owned())
                    .unwrap_or_default(),
                physical_id: resource.physical_resource_id().unwrap_or_default().to_owned(),
            });
        }
        Ok(found)
    }

    async fn pause(&self, looks: u32) {
        tokio::time::sleep(interval(self.poll, looks)).await;
    }
}

/// How long until the next look. What takes a moment is seen soon, what takes longer is not asked for all the time.
fn interval(poll: Duration, looks: u32) -> Duration {
    poll / (1 << SOONER_LOOKS.saturating_sub(looks))
}

fn resource_change(change: &aws_sdk_cloudformation::types::ResourceChange) -> ResourceChange {
    ResourceChange {
        action: change.action().map(|action| action.as_str().to_owned()).unwrap_or_default(),
        logical_id: change.logical_resource_id().unwrap_or_default().to_owned(),
        resource_type: change.resource_type().unwrap_or_default().to_owned(),
        replacement: change.replacement().map(|how| how.as_str().to_owned()).unwrap_or_default(),
        scope: change.scope().iter().map(|scope| scope.as_str().to_owned()).collect(),
    }
}

fn validation(event: &OperationEvent) -> Validation {
    let path = event.validation_path().unwrap_or_default();
    let of_path = path.split('/').skip_while(|part| *part != "Resources").nth(1).unwrap_or_default();
    let id = event.logical_resource_id().filter(|id| !id.is_empty()).unwrap_or(of_path);
    Validation {
        name: event.validation_name().unwrap_or_default().to_owned(),
        logical_id: id.to_owned(),
        resource_type: event.resource_type().unwrap_or_default().to_owned(),
        path: path.to_owned(),
        reason: event.validation_status_reason().unwrap_or("CloudFormation gives no reason").to_owned(),
        fatal: event.validation_failure_mode() != Some(&HookFailureMode::Warn),
    }
}

fn deployed(stack: &Stack) -> Deployed {
    Deployed {
        name: stack.stack_name().unwrap_or_default().to_owned(),
        id: stack.stack_id().or(stack.stack_name()).unwrap_or_default().to_owned(),
        status: stack.stack_status().map(|status| status.as_str().to_owned()).unwrap_or_default(),
        parameters: pairs(
            stack
                .parameters()
                .iter()
                .map(|parameter| (parameter.parameter_key(), parameter.parameter_value())),
        ),
        outputs: pairs(stack.outputs().iter().map(|output| (output.output_key(), output.output_value()))),
        tags: pairs(
            stack
                .tags()
                .iter()
                .map(|tag| (tag.key(), tag.value()))
                // AWS's own.
                .filter(|(key, _)| key.is_none_or(|key| !key.starts_with("aws:"))),
        ),
        protected: stack.enable_termination_protection().unwrap_or(false),
    }
}

fn pairs<'a>(pairs: impl Iterator<Item = (Option<&'a str>, Option<&'a str>)>) -> BTreeMap<String, String> {
    pairs.filter_map(|(key, value)| Some((key?.to_owned(), value?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_come_ever_later_and_then_at_the_same_pace() {
        let poll = Duration::from_secs(3);
        let all: Vec<Duration> = (0..7).map(|looks| interval(poll, looks)).collect();
        assert!(all[0] < poll / 10 && all.is_sorted(), "{all:?}");
        assert_eq!(all[4..], [poll; 3]);
        assert_eq!(interval(poll, u32::MAX), poll);
    }
}
