//! CloudFormation, through the SDK.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use aws_sdk_cloudformation::{
    Client,
    error::ProvideErrorMetadata,
    types::{Capability, ChangeSetStatus, ChangeSetType, Parameter, Stack, Tag},
};
use cfn::{Json, assembly::StackEntry, to_canonical_bytes};

use crate::{
    events::{ResourceEvent, ended, explain},
    plan::Observed,
    report::Reporter,
    sdk::told,
};

/// The change set's name; there is one at a time.
pub const CHANGE_SET: &str = "floodgate";

/// How long a change set or a stack operation may go without an end before it is given up: MSK and EKS
/// clusters take half an hour.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(2 * 3600);

/// How long a stack may be at rest without telling of the end of the operation that was asked for.
const QUIET_TIMEOUT: Duration = Duration::from_secs(60);

/// A stack as it is.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// Its id, which goes on naming it after it is deleted.
    pub id: String,
    /// Its status.
    pub status: String,
    /// Its parameters.
    pub parameters: BTreeMap<String, String>,
    /// Its outputs.
    pub outputs: BTreeMap<String, String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Whether it is protected against deletion.
    pub protected: bool,
}

/// How CloudFormation gets a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateBody {
    /// Within the request.
    Inline(String),
    /// From this address in a bucket.
    At(String),
}

/// CloudFormation.
#[derive(Clone, Debug)]
pub struct Stacks {
    client: Client,
    /// How often a status is asked for.
    poll: Duration,
}

impl Stacks {
    /// With a client and how often to ask.
    #[must_use]
    pub fn new(client: Client, poll: Duration) -> Self {
        Self { client, poll }
    }

    /// A stack by name; `None` when there is none.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn describe(&self, name: &str) -> Result<Option<Deployed>> {
        match self.client.describe_stacks().stack_name(name).send().await {
            Ok(answer) => Ok(answer.stacks().first().map(deployed)),
            Err(error) if error.message().is_some_and(|message| message.contains("does not exist")) => {
                Ok(None)
            }
            Err(error) => Err(told(error, &format!("cannot describe the stack {name}"))),
        }
    }

    /// What is there, compared with what should be.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn observe(
        &self,
        entry: &StackEntry,
        template: &Json,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Option<Observed>> {
        let Some(deployed) = self.describe(&entry.name).await? else { return Ok(None) };
        let same_template = match self.client.get_template().stack_name(&entry.name).send().await {
            Ok(answer) => answer
                .template_body()
                .and_then(|body| serde_json::from_str::<Json>(body).ok())
                .is_some_and(|body| to_canonical_bytes(&body) == to_canonical_bytes(template)),
            // A stack that was never created has no template.
            Err(_) => false,
        };
        Ok(Some(Observed {
            status: deployed.status,
            same_template,
            same_parameters: deployed.parameters == *parameters,
            same_tags: deployed.tags == entry.tags,
        }))
    }

    /// The template that a stack was last deployed with.
    ///
    /// # Errors
    ///
    /// What the SDK says, or that the template is no JSON, which this program always deploys.
    pub async fn template(&self, name: &str) -> Result<Json> {
        let answer = self
            .client
            .get_template()
            .stack_name(name)
            .send()
            .await
            .map_err(|error| told(error, &format!("cannot read the template of {name}")))?;
        serde_json::from_str(answer.template_body().unwrap_or_default())
            .with_context(|| format!("the template of {name} is no JSON: who else has deployed it?"))
    }

    /// Creates a change set; `None` when there is nothing to change.
    ///
    /// # Errors
    ///
    /// What CloudFormation refuses.
    pub async fn create_change_set(
        &self,
        entry: &StackEntry,
        template: TemplateBody,
        parameters: &BTreeMap<String, String>,
        create: bool,
    ) -> Result<Option<usize>> {
        let (body, url) = match template {
            TemplateBody::Inline(body) => (Some(body), None),
            TemplateBody::At(url) => (None, Some(url)),
        };
        let parameters = parameters
            .iter()
            .map(|(name, value)| Parameter::builder().parameter_key(name).parameter_value(value).build())
            .collect();
        let tags =
            entry.tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
        let capabilities = entry.capabilities.iter().map(|name| Capability::from(name.as_str())).collect();
        let kind = if create { ChangeSetType::Create } else { ChangeSetType::Update };
        let _ =
            self.client.delete_change_set().stack_name(&entry.name).change_set_name(CHANGE_SET).send().await;
        self.client
            .create_change_set()
            .stack_name(&entry.name)
            .change_set_name(CHANGE_SET)
            .change_set_type(kind)
            .set_template_body(body)
            .set_template_url(url)
            .set_parameters(Some(parameters))
            .set_tags(Some(tags))
            .set_capabilities(Some(capabilities))
            .send()
            .await
            .map_err(|error| {
                told(error, &format!("CloudFormation refuses the change set of {}", entry.name))
            })?;
        let deadline = tokio::time::Instant::now() + OPERATION_TIMEOUT;
        loop {
            let answer = self
                .client
                .describe_change_set()
                .stack_name(&entry.name)
                .change_set_name(CHANGE_SET)
                .send()
                .await
                .map_err(|error| told(error, &format!("cannot describe the change set of {}", entry.name)))?;
            match answer.status() {
                Some(ChangeSetStatus::CreateComplete) => return Ok(Some(answer.changes().len())),
                Some(ChangeSetStatus::Failed) => {
                    let reason = answer.status_reason().unwrap_or_default().to_owned();
                    self.discard_change_set(&entry.name).await;
                    if reason.contains("didn't contain changes")
                        || reason.contains("No updates are to be performed")
                    {
                        return Ok(None);
                    }
                    bail!("the change set of {} failed: {reason}", entry.name);
                }
                _ if tokio::time::Instant::now() >= deadline => {
                    bail!("the change set of {} does not come to an end", entry.name)
                }
                _ => tokio::time::sleep(self.poll).await,
            }
        }
    }

    /// Deletes a change set that was not executed; that there is none is no error.
    pub async fn discard_change_set(&self, name: &str) {
        let _ = self.client.delete_change_set().stack_name(name).change_set_name(CHANGE_SET).send().await;
    }

    /// Executes the change set and follows the stack to the end of the operation.
    ///
    /// # Errors
    ///
    /// The first resource that failed, with its construct and reason.
    pub async fn execute(&self, entry: &StackEntry, template: &Json, reporter: &Reporter) -> Result<()> {
        let name = &entry.name;
        let seen = self.event_ids(name).await?;
        self.client.execute_change_set().stack_name(name).change_set_name(CHANGE_SET).send().await.map_err(
            |error| told(error, &format!("CloudFormation does not execute the change set of {name}")),
        )?;
        let total = template.get("Resources").and_then(Json::as_object).map_or(0, serde_json::Map::len);
        let (status, events) = self.follow(name, name, seen, total, reporter).await?;
        reporter.settle();
        match status.as_str() {
            "CREATE_COMPLETE" | "UPDATE_COMPLETE" => Ok(()),
            _ => bail!(explain(name, template, &events)),
        }
    }

    async fn event_ids(&self, name: &str) -> Result<BTreeSet<String>> {
        Ok(self.new_events(name, &BTreeSet::new()).await?.into_iter().map(|(id, _)| id).collect())
    }

    /// Waits until nobody's operation on a stack is under way.
    ///
    /// # Errors
    ///
    /// What the SDK says, or that it takes too long.
    pub async fn at_rest(&self, name: &str) -> Result<()> {
        let deadline = tokio::time::Instant::now() + OPERATION_TIMEOUT;
        while let Some(deployed) = self.describe(name).await?
            && deployed.status.ends_with("_IN_PROGRESS")
            && deployed.status != "REVIEW_IN_PROGRESS"
        {
            if tokio::time::Instant::now() >= deadline {
                bail!("{name} is {} and does not come to an end", deployed.status);
            }
            tokio::time::sleep(self.poll).await;
        }
        Ok(())
    }

    /// Follows an operation on a stack (`id`: its name or, where it goes away, its id) to its end; gives the
    /// status in which it ended and the events since `seen`.
    async fn follow(
        &self,
        name: &str,
        id: &str,
        mut seen: BTreeSet<String>,
        total: usize,
        reporter: &Reporter,
    ) -> Result<(String, Vec<ResourceEvent>)> {
        let mut events = Vec::new();
        let mut done = BTreeSet::new();
        let deadline = tokio::time::Instant::now() + OPERATION_TIMEOUT;
        let mut quiet_since = tokio::time::Instant::now();
        loop {
            // The status first: what it has come to is then among the events.
            let status = self.describe(id).await?.map(|deployed| deployed.status);
            for (event_id, event) in self.new_events(id, &seen).await? {
                seen.insert(event_id);
                quiet_since = tokio::time::Instant::now();
                if event.logical_id != name {
                    if event.status.ends_with("_COMPLETE") {
                        done.insert(event.logical_id.clone());
                    }
                    reporter.resource(name, &event, done.len(), total);
                }
                events.push(event);
            }
            if let Some(end) = ended(name, &events) {
                return Ok((end.to_owned(), events));
            }
            match status {
                None => return Ok(("DELETE_COMPLETE".to_owned(), events)),
                Some(status) if status.ends_with("_IN_PROGRESS") => quiet_since = tokio::time::Instant::now(),
                Some(status) if quiet_since.elapsed() > QUIET_TIMEOUT => return Ok((status, events)),
                Some(_) => {}
            }
            if tokio::time::Instant::now() >= deadline {
                bail!(
                    "the operation on {name} does not come to an end; CloudFormation goes on with it, deploy again later"
                );
            }
            tokio::time::sleep(self.poll).await;
        }
    }

    /// Events that were not seen, oldest first, through all pages.
    async fn new_events(&self, name: &str, seen: &BTreeSet<String>) -> Result<Vec<(String, ResourceEvent)>> {
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        'pages: loop {
            let request = self.client.describe_stack_events().stack_name(name).set_next_token(token.take());
            let answer = match request.send().await {
                Ok(answer) => answer,
                Err(error) if error.message().is_some_and(|message| message.contains("does not exist")) => {
                    break;
                }
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
            token = answer.next_token().map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        found.reverse();
        Ok(found)
    }

    /// Turns the protection against deletion on or off.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn protect(&self, name: &str, protected: bool) -> Result<()> {
        self.client
            .update_termination_protection()
            .stack_name(name)
            .enable_termination_protection(protected)
            .send()
            .await
            .map(drop)
            .map_err(|error| told(error, &format!("cannot change the termination protection of {name}")))
    }

    /// Deletes a stack and waits for it; that there is none is no error.
    ///
    /// # Errors
    ///
    /// The resource that does not go, with its reason.
    pub async fn delete(&self, name: &str, template: &Json, reporter: &Reporter) -> Result<()> {
        let Some(deployed) = self.describe(name).await? else { return Ok(()) };
        let seen = self.event_ids(&deployed.id).await?;
        let total = self.resource_types(&deployed.id).await.map_or(0, |types| types.len());
        self.client
            .delete_stack()
            .stack_name(name)
            .send()
            .await
            .map_err(|error| told(error, &format!("CloudFormation does not delete {name}")))?;
        let (status, events) = self.follow(name, &deployed.id, seen, total, reporter).await?;
        reporter.settle();
        if status != "DELETE_COMPLETE" {
            bail!(explain(name, template, &events));
        }
        Ok(())
    }

    /// The types of a stack's resources.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn resource_types(&self, name: &str) -> Result<Vec<String>> {
        let mut pages = self.client.list_stack_resources().stack_name(name).into_paginator().items().send();
        let mut types = Vec::new();
        while let Some(resource) = pages.next().await {
            let resource =
                resource.map_err(|error| told(error, &format!("cannot list the resources of {name}")))?;
            types.extend(resource.resource_type().map(str::to_owned));
        }
        Ok(types)
    }
}

fn deployed(stack: &Stack) -> Deployed {
    Deployed {
        id: stack.stack_id().or(stack.stack_name()).unwrap_or_default().to_owned(),
        status: stack.stack_status().map(|status| status.as_str().to_owned()).unwrap_or_default(),
        parameters: stack
            .parameters()
            .iter()
            .filter_map(|parameter| {
                Some((parameter.parameter_key()?.to_owned(), parameter.parameter_value()?.to_owned()))
            })
            .collect(),
        outputs: stack
            .outputs()
            .iter()
            .filter_map(|output| Some((output.output_key()?.to_owned(), output.output_value()?.to_owned())))
            .collect(),
        tags: stack
            .tags()
            .iter()
            .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned())))
            // AWS's own.
            .filter(|(key, _)| !key.starts_with("aws:"))
            .collect(),
        protected: stack.enable_termination_protection().unwrap_or(false),
    }
}
