//! What the engine asks of CloudFormation. The SDK answers in [`crate::stacks`]; in tests a simulation answers, which
//! refuses what AWS refuses.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use cfn::Json;
use serde::Serialize;

use crate::events::ResourceEvent;

/// The change set's name; there is one at a time.
pub const CHANGE_SET: &str = "floodgate";

/// What CloudFormation shows instead of a parameter's value that is not to be echoed.
pub const NOT_ECHOED: &str = "****";

/// A stack as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deployed {
    /// Its name.
    pub name: String,
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

/// What a stack is to become.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The stack's name.
    pub name: String,
    /// Its template.
    pub template: Json,
    /// Where CloudFormation finds the template, where it is too large for a request.
    pub template_url: Option<String>,
    /// Its parameters; [`NOT_ECHOED`] keeps the value that it has.
    pub parameters: BTreeMap<String, String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// What CloudFormation must be told to accept.
    pub capabilities: Vec<String>,
    /// The role that CloudFormation works with; without one it works with the caller's rights.
    pub role_arn: Option<String>,
}

/// A change of a resource, as a change set tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResourceChange {
    /// `Add`, `Modify`, `Remove`, `Import` or `Dynamic`.
    pub action: String,
    /// Logical id.
    pub logical_id: String,
    /// Resource type.
    #[serde(rename = "type")]
    pub resource_type: String,
    /// `True`, `False` or `Conditional`: whether it is made anew.
    pub replacement: String,
    /// What of it changes: `Properties`, `Tags`, `Metadata`…
    pub scope: Vec<String>,
}

/// A change set as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeSet {
    /// Such as `CREATE_COMPLETE`.
    pub status: String,
    /// Why, where CloudFormation says.
    pub reason: String,
    /// What it would change, from all pages.
    pub changes: Vec<ResourceChange>,
}

/// The calls of CloudFormation that the engine makes. Each is one operation of AWS's (with all of its pages) and is
/// refused where AWS refuses it; none waits for the end of what it begins.
#[expect(async_fn_in_trait, reason = "all implementations are in this crate, and none is spawned")]
pub trait CloudFormation {
    /// A stack by name or id; `None` when there is none.
    async fn describe(&self, name: &str) -> Result<Option<Deployed>>;

    /// All stacks of the account and region that are there.
    async fn list(&self) -> Result<Vec<Deployed>>;

    /// The template that a stack was last deployed with.
    async fn template(&self, name: &str) -> Result<Json>;

    /// Begins to create the change set of that name; one that is there already is deleted before.
    async fn create_change_set(&self, target: &Target, create: bool) -> Result<()>;

    /// The change set.
    async fn describe_change_set(&self, name: &str) -> Result<ChangeSet>;

    /// What CloudFormation has found wrong with the change set before it touches anything; nothing where it does not
    /// look, or does not tell.
    async fn validations(&self, name: &str) -> Result<Vec<Validation>> {
        let _ = name;
        Ok(Vec::new())
    }

    /// Deletes the change set; that there is none is no error.
    async fn delete_change_set(&self, name: &str) -> Result<()>;

    /// Begins to execute the change set.
    async fn execute_change_set(&self, name: &str) -> Result<()>;

    /// The ids of the newest events, of which [`Self::new_events`] needs one to know where to stop.
    async fn newest_events(&self, name: &str) -> Result<BTreeSet<String>>;

    /// Events that came after those seen, with their ids, the oldest first.
    async fn new_events(&self, name: &str, seen: &BTreeSet<String>) -> Result<Vec<(String, ResourceEvent)>>;

    /// Begins to delete a stack, which is protected no more; leaves the resources named behind, which is allowed of
    /// a stack that failed to be deleted.
    async fn delete_stack(&self, name: &str, retain: &[String], role_arn: Option<&str>) -> Result<()>;

    /// Begins to take a failed rollback of an update up again, without the resources named.
    async fn continue_update_rollback(
        &self,
        name: &str,
        skip: &[String],
        role_arn: Option<&str>,
    ) -> Result<()>;

    /// Begins to take a stack back that failed and was not rolled back.
    async fn rollback_stack(&self, name: &str, role_arn: Option<&str>) -> Result<()>;

    /// Turns the protection against deletion on or off.
    async fn protect(&self, name: &str, protected: bool) -> Result<()>;

    /// The resources of a stack, as (logical id, type, status, physical id).
    async fn resources(&self, name: &str) -> Result<Vec<StackResource>>;

    /// Lets some time go by before the next look; `looks` is how many there have been since something was asked for.
    async fn pause(&self, looks: u32);
}

/// A resource of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackResource {
    /// Logical id.
    pub logical_id: String,
    /// Resource type.
    pub resource_type: String,
    /// Such as `CREATE_COMPLETE`.
    pub status: String,
    /// What names it in its service.
    pub physical_id: String,
}

/// Something that CloudFormation's own checks of a change set have found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validation {
    /// The check: `PROPERTY_VALIDATION`, `NAME_CONFLICT_VALIDATION`…
    pub name: String,
    /// The resource's logical id.
    pub logical_id: String,
    /// Resource type.
    pub resource_type: String,
    /// Where in the template, such as `/Resources/Queue/Properties/DelaySeconds`.
    pub path: String,
    /// What is wrong.
    pub reason: String,
    /// Whether the change set cannot be executed for it; else it is a warning.
    pub fatal: bool,
}
