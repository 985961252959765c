//! Operations on a stack, from their beginning to their end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Result, bail};
use cfn::Json;
use tokio::time::Instant;

use crate::{
    cloudformation::{ChangeSet, CloudFormation, StackResource, Target, Validation},
    events::{ResourceEvent, ended, explain},
    report::Reporter,
    validation::{refusal, warnings},
};

/// How long a change set or a stack operation may go without an end before it is given up: MSK and EKS
/// clusters take half an hour.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(2 * 3600);

/// How long a stack may be at rest without telling of the end of the operation that was asked for.
const QUIET_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the resources of a stack come from: logical id -> `file:line` in Rust.
pub type Sources = BTreeMap<String, String>;

/// How the creation of a change set ended.
enum Settled {
    /// It can be executed; what CloudFormation says of it before.
    Ready(ChangeSet, Vec<Validation>),
    /// There is nothing to change.
    Nothing,
    /// The reason, and what CloudFormation found wrong.
    Refused(String, Vec<Validation>),
}

/// What operations need.
#[derive(Clone, Copy)]
pub struct Operations<'a, C> {
    /// CloudFormation.
    pub cloud: &'a C,
    /// What the user sees.
    pub reporter: &'a Reporter,
}

impl<C: CloudFormation> Operations<'_, C> {
    /// Creates the change set and waits until it is there; `None` when there is nothing to change.
    ///
    /// # Errors
    ///
    /// What CloudFormation refuses.
    pub async fn change_set(&self, target: &Target, create: bool) -> Result<Option<ChangeSet>> {
        self.checked_change_set(target, create, &Sources::new()).await
    }

    /// Creates the change set and waits until it is there; `None` when there is nothing to change. What CloudFormation
    /// finds wrong with it is told with construct and source: `sources` has where resources are declared.
    ///
    /// # Errors
    ///
    /// What CloudFormation refuses.
    pub async fn checked_change_set(
        &self,
        target: &Target,
        create: bool,
        sources: &Sources,
    ) -> Result<Option<ChangeSet>> {
        let name = &target.name;
        self.cloud.create_change_set(target, create).await?;
        match self.settled(name).await? {
            Settled::Ready(change_set, found) => {
                for warning in warnings(name, &found, &target.template, sources) {
                    self.reporter.say(&warning);
                }
                Ok(Some(change_set))
            }
            Settled::Nothing => Ok(None),
            Settled::Refused(reason, found) => {
                bail!(refusal(name, &reason, &found, &target.template, sources))
            }
        }
    }

    /// Waits until the change set of a stack is there; `None` when there is nothing to change. One that failed is
    /// deleted.
    ///
    /// # Errors
    ///
    /// That it failed, in the words given: `failed`, then AWS's reason, then `way_on`.
    pub async fn await_change_set(
        &self,
        name: &str,
        failed: &str,
        way_on: &str,
    ) -> Result<Option<ChangeSet>> {
        match self.settled(name).await? {
            Settled::Ready(change_set, _) => Ok(Some(change_set)),
            Settled::Nothing => Ok(None),
            Settled::Refused(reason, _) => bail!("{failed}: {reason}{way_on}"),
        }
    }

    /// Waits for the end of a change set's creation. What failed is deleted.
    async fn settled(&self, name: &str) -> Result<Settled> {
        let deadline = Instant::now() + OPERATION_TIMEOUT;
        for looks in 0.. {
            let change_set = self.cloud.describe_change_set(name).await?;
            match change_set.status.as_str() {
                "CREATE_COMPLETE" => {
                    return Ok(Settled::Ready(change_set, self.cloud.validations(name).await?));
                }
                "FAILED" => {
                    let reason = change_set.reason;
                    let nothing = reason.contains("didn't contain changes")
                        || reason.contains("No updates are to be performed");
                    // They are the change set's, and go with it.
                    let found = if nothing { Vec::new() } else { self.cloud.validations(name).await? };
                    self.cloud.delete_change_set(name).await?;
                    return Ok(if nothing { Settled::Nothing } else { Settled::Refused(reason, found) });
                }
                _ if Instant::now() >= deadline => break,
                _ => self.cloud.pause(looks).await,
            }
        }
        bail!("the change set of {name} does not come to an end")
    }

    /// Executes the change set and follows the stack to the end of the operation.
    ///
    /// # Errors
    ///
    /// The first resource that failed, with its construct, its source and AWS's reason.
    pub async fn execute(&self, name: &str, template: &Json, sources: &Sources) -> Result<()> {
        let seen = self.cloud.newest_events(name).await?;
        self.cloud.execute_change_set(name).await?;
        let total = template.get("Resources").and_then(Json::as_object).map_or(0, serde_json::Map::len);
        let (status, events) = self.follow(name, name, seen, total).await?;
        match status.as_str() {
            "CREATE_COMPLETE" | "UPDATE_COMPLETE" | "IMPORT_COMPLETE" => Ok(()),
            _ => bail!(explain(name, &status, template, sources, &events)),
        }
    }

    /// Waits until nobody's operation on a stack is under way.
    ///
    /// # Errors
    ///
    /// What the SDK says, or that it takes too long.
    pub async fn at_rest(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + OPERATION_TIMEOUT;
        let mut looks = 0;
        while let Some(deployed) = self.cloud.describe(name).await?
            && deployed.status.ends_with("_IN_PROGRESS")
            && deployed.status != "REVIEW_IN_PROGRESS"
        {
            if Instant::now() >= deadline {
                bail!("{name} is {} and does not come to an end", deployed.status);
            }
            self.cloud.pause(looks).await;
            looks += 1;
        }
        Ok(())
    }

    /// Deletes a stack and waits for it; that there is none is no error. What a deletion that failed before could
    /// not delete, and cannot be deleted now either, is left behind and given back.
    ///
    /// # Errors
    ///
    /// The resource that does not go, with its reason.
    pub async fn delete(
        &self,
        name: &str,
        template: &Json,
        sources: &Sources,
        role_arn: Option<&str>,
    ) -> Result<Vec<StackResource>> {
        self.delete_without(name, template, sources, role_arn, &BTreeSet::new()).await
    }

    /// The same, with resources (by logical id) that are known not to go: when only they hinder the deletion, they
    /// are left behind at once.
    ///
    /// # Errors
    ///
    /// Another resource that does not go, with its reason.
    pub async fn delete_without(
        &self,
        name: &str,
        template: &Json,
        sources: &Sources,
        role_arn: Option<&str>,
        may_stay: &BTreeSet<String>,
    ) -> Result<Vec<StackResource>> {
        let Some(deployed) = self.cloud.describe(name).await? else { return Ok(Vec::new()) };
        let failed_before = deployed.status == "DELETE_FAILED";
        let (status, events) = self.deletion(name, &deployed.id, &[], role_arn).await?;
        if status == "DELETE_COMPLETE" {
            return Ok(Vec::new());
        }
        if status != "DELETE_FAILED" {
            bail!(explain(name, &status, template, sources, &events));
        }
        let stays: Vec<StackResource> = self
            .cloud
            .resources(&deployed.id)
            .await?
            .into_iter()
            .filter(|resource| resource.status == "DELETE_FAILED")
            .collect();
        if !failed_before && !stays.iter().all(|one| may_stay.contains(&one.logical_id)) {
            bail!(explain(name, &status, template, sources, &events));
        }
        let retain: Vec<String> = stays.iter().map(|resource| resource.logical_id.clone()).collect();
        self.reporter.stack(
            name,
            "deleting",
            &format!("without {}, which cannot be deleted", retain.join(", ")),
        );
        let (status, events) = self.deletion(name, &deployed.id, &retain, role_arn).await?;
        if status != "DELETE_COMPLETE" {
            bail!(explain(name, &status, template, sources, &events));
        }
        Ok(stays)
    }

    async fn deletion(
        &self,
        name: &str,
        id: &str,
        retain: &[String],
        role_arn: Option<&str>,
    ) -> Result<(String, Vec<ResourceEvent>)> {
        let seen = self.cloud.newest_events(id).await?;
        let total = self.cloud.resources(id).await.map_or(0, |resources| resources.len());
        self.cloud.delete_stack(name, retain, role_arn).await?;
        self.follow(name, id, seen, total).await
    }

    /// Takes a stack back whose update or creation failed and that was not, or not wholly, rolled back. `skip` are
    /// resources that stay as they are.
    ///
    /// # Errors
    ///
    /// The resources that do not go back, and what one can do then.
    pub async fn go_back(
        &self,
        name: &str,
        skip: &[String],
        template: &Json,
        sources: &Sources,
        role_arn: Option<&str>,
    ) -> Result<()> {
        let Some(deployed) = self.cloud.describe(name).await? else {
            bail!("there is no stack {name}");
        };
        let seen = self.cloud.newest_events(name).await?;
        match deployed.status.as_str() {
            "UPDATE_ROLLBACK_FAILED" => {
                self.cloud.continue_update_rollback(name, skip, role_arn).await?;
            }
            "CREATE_FAILED" | "UPDATE_FAILED" if skip.is_empty() => {
                self.cloud.rollback_stack(name, role_arn).await?;
            }
            status => bail!(
                "the stack {name} is {status}: there is nothing to roll back{}",
                if skip.is_empty() { "" } else { " without a resource" }
            ),
        }
        let (status, events) = self.follow(name, name, seen, 0).await?;
        match status.as_str() {
            "UPDATE_ROLLBACK_COMPLETE" | "ROLLBACK_COMPLETE" => Ok(()),
            _ => bail!(explain(name, &status, template, sources, &events)),
        }
    }

    /// Follows an operation on a stack (`id`: its name or, where it goes away, its id) to its end; gives the
    /// status in which it ended and the events since `seen`.
    async fn follow(
        &self,
        name: &str,
        id: &str,
        mut seen: BTreeSet<String>,
        total: usize,
    ) -> Result<(String, Vec<ResourceEvent>)> {
        let mut events = Vec::new();
        let mut done = BTreeSet::new();
        let deadline = Instant::now() + OPERATION_TIMEOUT;
        let mut quiet_since = Instant::now();
        let mut looks = 0;
        let outcome = loop {
            let new = self.cloud.new_events(id, &seen).await?;
            let quiet = new.is_empty();
            for (event_id, event) in new {
                seen.insert(event_id);
                if event.logical_id != name {
                    if event.status.ends_with("_COMPLETE") {
                        done.insert(event.logical_id.clone());
                    }
                    self.reporter.resource(name, &event, done.len(), total.max(done.len()));
                }
                events.push(event);
            }
            if let Some(end) = ended(name, &events) {
                break end.to_owned();
            }
            // Its events tell what goes on; where they do not, the stack itself is looked at.
            if quiet {
                match self.cloud.describe(id).await?.map(|deployed| deployed.status) {
                    None => break "DELETE_COMPLETE".to_owned(),
                    Some(status) if status.ends_with("_IN_PROGRESS") => quiet_since = Instant::now(),
                    Some(status) if quiet_since.elapsed() > QUIET_TIMEOUT => break status,
                    Some(_) => {}
                }
            } else {
                quiet_since = Instant::now();
            }
            if Instant::now() >= deadline {
                bail!(
                    "the operation on {name} does not come to an end; CloudFormation goes on with it, deploy again later"
                );
            }
            self.cloud.pause(looks).await;
            looks += 1;
        };
        self.reporter.settle(name);
        Ok((outcome, events))
    }
}
