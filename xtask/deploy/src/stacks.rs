//! CloudFormation, through the SDK.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use aws_sdk_cloudformation::{
    Client,
    error::{DisplayErrorContext, ProvideErrorMetadata},
    types::{Capability, ChangeSetStatus, ChangeSetType, Parameter, Stack, Tag},
};
use cfn::{Json, assembly::StackEntry, to_canonical_bytes};

use crate::{
    failure::explain,
    plan::Observed,
    report::{Reporter, ResourceEvent},
};

/// CloudFormation takes a template of at most this many bytes within a request.
pub const TEMPLATE_BYTES_MAX: usize = 51_200;

/// The change set's name; there is one at a time.
pub const CHANGE_SET: &str = "floodgate";

/// How long a change set or a stack operation may go without an end before it is given up: MSK and EKS
/// clusters take half an hour.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(2 * 3600);

/// A stack as it is.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// Its status.
    pub status: String,
    /// Its parameters.
    pub parameters: BTreeMap<String, String>,
    /// Its outputs.
    pub outputs: BTreeMap<String, String>,
    /// Whether it is protected against deletion.
    pub protected: bool,
}

/// CloudFormation.
#[derive(Clone, Debug)]
pub struct Stacks {
    client: Client,
    /// How often a status is asked for.
    poll: Duration,
}

/// An SDK error with all that it knows.
fn told<E: std::error::Error + Send + Sync + 'static>(error: E, what: &str) -> anyhow::Error {
    anyhow::anyhow!("{what}: {}", DisplayErrorContext(&error))
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
        name: &str,
        template: &Json,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Option<Observed>> {
        let Some(deployed) = self.describe(name).await? else { return Ok(None) };
        let same_template = match self.client.get_template().stack_name(name).send().await {
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
        }))
    }

    /// Creates a change set; `None` when there is nothing to change.
    ///
    /// # Errors
    ///
    /// What CloudFormation refuses.
    pub async fn create_change_set(
        &self,
        entry: &StackEntry,
        template: &Json,
        parameters: &BTreeMap<String, String>,
        create: bool,
    ) -> Result<Option<usize>> {
        let body = String::from_utf8(to_canonical_bytes(template)).context("a template is text")?;
        if body.len() > TEMPLATE_BYTES_MAX {
            bail!(
                "the template of {} has {} bytes; CloudFormation takes {TEMPLATE_BYTES_MAX} within a request. Split the stack",
                entry.name,
                body.len()
            );
        }
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
            .template_body(body)
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
        let seen = self.event_ids(&entry.name).await;
        self.client
            .execute_change_set()
            .stack_name(&entry.name)
            .change_set_name(CHANGE_SET)
            .send()
            .await
            .map_err(|error| {
                told(error, &format!("CloudFormation does not execute the change set of {}", entry.name))
            })?;
        let total = template.get("Resources").and_then(Json::as_object).map_or(0, serde_json::Map::len);
        let (status, events) = self.follow(&entry.name, seen, total, Some(reporter)).await?;
        reporter.settle();
        match status.as_deref() {
            Some("CREATE_COMPLETE" | "UPDATE_COMPLETE") => Ok(()),
            _ => bail!(explain(&entry.name, template, &events)),
        }
    }

    async fn event_ids(&self, name: &str) -> std::collections::BTreeSet<String> {
        let Ok(answer) = self.client.describe_stack_events().stack_name(name).send().await else {
            return std::collections::BTreeSet::new();
        };
        answer.stack_events().iter().filter_map(|event| event.event_id().map(str::to_owned)).collect()
    }

    /// Follows a stack until its status is no longer in progress; gives that status (`None` for a stack that
    /// is gone) and the events since.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn follow(
        &self,
        name: &str,
        mut seen: std::collections::BTreeSet<String>,
        total: usize,
        reporter: Option<&Reporter>,
    ) -> Result<(Option<String>, Vec<ResourceEvent>)> {
        let mut events = Vec::new();
        let mut done = std::collections::BTreeSet::new();
        let deadline = tokio::time::Instant::now() + OPERATION_TIMEOUT;
        loop {
            // The status first: events that come with the last status are then seen as well.
            let status = self.describe(name).await?.map(|deployed| deployed.status);
            for (id, event) in self.new_events(name, &seen).await? {
                seen.insert(id);
                if event.logical_id != name && event.status.ends_with("_COMPLETE") {
                    done.insert(event.logical_id.clone());
                }
                if let Some(reporter) = reporter.filter(|_| event.logical_id != name) {
                    reporter.resource(name, &event, done.len(), total);
                }
                events.push(event);
            }
            match status.as_deref() {
                Some(status) if status.ends_with("_IN_PROGRESS") && status != "REVIEW_IN_PROGRESS" => {}
                // Execution is asynchronous: the stack may not have begun to change.
                Some("REVIEW_IN_PROGRESS") => {}
                Some(_) if events.is_empty() && reporter.is_some() => {}
                other => return Ok((other.map(str::to_owned), events)),
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
    async fn new_events(
        &self,
        name: &str,
        seen: &std::collections::BTreeSet<String>,
    ) -> Result<Vec<(String, ResourceEvent)>> {
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
                        reason: event.resource_status_reason().map(str::to_owned),
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
        if self.describe(name).await?.is_none() {
            return Ok(());
        }
        let seen = self.event_ids(name).await;
        self.client
            .delete_stack()
            .stack_name(name)
            .send()
            .await
            .map_err(|error| told(error, &format!("CloudFormation does not delete {name}")))?;
        let deadline = tokio::time::Instant::now() + OPERATION_TIMEOUT;
        loop {
            let (status, events) = self.follow(name, seen.clone(), 0, None).await?;
            match status.as_deref() {
                None | Some("DELETE_COMPLETE") => return Ok(()),
                Some("DELETE_FAILED") => bail!(explain(name, template, &events)),
                Some(_) if tokio::time::Instant::now() < deadline => tokio::time::sleep(self.poll).await,
                Some(status) => bail!("{name} is {status} and does not go"),
            }
            reporter.settle();
        }
    }

    /// The types of a stack's resources.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn resource_types(&self, name: &str) -> Result<Vec<String>> {
        let answer = self
            .client
            .describe_stack_resources()
            .stack_name(name)
            .send()
            .await
            .map_err(|error| told(error, &format!("cannot list the resources of {name}")))?;
        Ok(answer
            .stack_resources()
            .iter()
            .filter_map(|resource| resource.resource_type().map(str::to_owned))
            .collect())
    }
}

fn deployed(stack: &Stack) -> Deployed {
    Deployed {
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
        protected: stack.enable_termination_protection().unwrap_or(false),
    }
}
