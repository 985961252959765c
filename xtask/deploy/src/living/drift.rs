//! Drift: what somebody has changed behind CloudFormation's back.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_sdk_cloudformation::{
    Client,
    types::{
        Capability, ChangeSetType, DeploymentMode, Parameter, StackDriftDetectionStatus,
        StackResourceDriftStatus,
    },
};
use cfn::{AT_RUN_TIME, Json, assembly::StackEntry};
use futures::{StreamExt, stream};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    approval::shown,
    cloudformation::{CHANGE_SET, CloudFormation},
    operation::{Operations, Sources},
    sdk::told,
    stacks::Stacks,
};

/// How long a detection may take: it reads every resource of a stack.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(1800);

/// How many detections are under way at a time; CloudFormation bounds how often it is asked.
const DETECTIONS: usize = 8;

/// A resource that is not as its stack says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drifted {
    /// The stack's id in the app.
    pub stack: String,
    /// The resource's logical id.
    pub logical_id: String,
    /// Its construct's path, where the template tells.
    pub path: String,
    /// Its type.
    pub resource_type: String,
    /// `MODIFIED` or `DELETED`.
    pub status: String,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// A property that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its path, such as `/VisibilityTimeout`.
    pub property: String,
    /// As the template has it.
    pub expected: String,
    /// As it is.
    pub actual: String,
}

impl std::fmt::Display for Drifted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({}) is {}", self.path, self.resource_type, self.status.to_lowercase())?;
        for difference in &self.differences {
            let Difference { property, expected, actual } = difference;
            write!(formatter, "\n    {property}: {expected} -> {actual}")?;
        }
        Ok(())
    }
}

/// What a detection has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detected {
    /// Resources that are not as their stack says.
    pub drifted: Vec<Drifted>,
    /// Why others could not be read, so that nobody knows whether they are.
    pub unread: Option<String>,
}

/// Detects the drift of a stack as a whole. A type that CloudFormation cannot read back is not compared.
///
/// # Errors
///
/// What the SDK says, that a resource could not be read, or that it takes too long.
pub async fn detect(
    client: &Client,
    poll: Duration,
    entry: &StackEntry,
    template: &Json,
) -> Result<Vec<Drifted>> {
    match detect_readable(client, poll, entry, template).await? {
        Detected { drifted, unread: None } => Ok(drifted),
        Detected { unread: Some(why), .. } => bail!("the drift of {} cannot be detected: {why}", entry.name),
    }
}

/// The same of those resources that can be read, with the reason why others could not be.
///
/// # Errors
///
/// What the SDK says, or that it takes too long.
pub async fn detect_readable(
    client: &Client,
    poll: Duration,
    entry: &StackEntry,
    template: &Json,
) -> Result<Detected> {
    let name = &entry.name;
    let what = |doing: &str| format!("the drift of {name} cannot be {doing}");
    let begun = client
        .detect_stack_drift()
        .stack_name(name)
        .send()
        .await
        .map_err(|error| told(error, &what("detected")))?;
    let id = begun.stack_drift_detection_id().context("CloudFormation gives no id of the detection")?;
    let deadline = Instant::now() + DETECTION_TIMEOUT;
    let unread = loop {
        let answer = client
            .describe_stack_drift_detection_status()
            .stack_drift_detection_id(id)
            .send()
            .await
            .map_err(|error| told(error, &what("detected")))?;
        match answer.detection_status() {
            Some(StackDriftDetectionStatus::DetectionComplete) => break None,
            // Some resources could not be read; those that could are told.
            Some(StackDriftDetectionStatus::DetectionFailed) => {
                let why = answer.detection_status_reason().unwrap_or("CloudFormation does not say why");
                break Some(why.to_owned());
            }
            _ if Instant::now() >= deadline => bail!("{} within half an hour", what("detected")),
            _ => sleep(poll).await,
        }
    };
    let mut found = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let answer = client
            .describe_stack_resource_drifts()
            .stack_name(name)
            .stack_resource_drift_status_filters(StackResourceDriftStatus::Modified)
            .stack_resource_drift_status_filters(StackResourceDriftStatus::Deleted)
            .set_next_token(token.take())
            .send()
            .await
            .map_err(|error| told(error, &what("read")))?;
        for drift in answer.stack_resource_drifts() {
            let logical_id = drift.logical_resource_id().unwrap_or_default().to_owned();
            let path = template
                .pointer(&format!("/Resources/{logical_id}/Metadata/floodgate:path"))
                .and_then(Json::as_str)
                .unwrap_or(&logical_id)
                .to_owned();
            let text = |text: Option<&str>| text.unwrap_or("nothing").to_owned();
            let all = drift.property_differences();
            let of_somebody: Vec<_> = all
                .iter()
                .filter(|one| {
                    !is_set_at_run_time(template, &logical_id, one.property_path().unwrap_or_default())
                })
                .collect();
            if of_somebody.is_empty() && !all.is_empty() {
                continue;
            }
            found.push(Drifted {
                stack: entry.id.clone(),
                path,
                resource_type: drift.resource_type().unwrap_or_default().to_owned(),
                status: drift
                    .stack_resource_drift_status()
                    .map(|status| status.as_str().to_owned())
                    .unwrap_or_default(),
                differences: of_somebody
                    .into_iter()
                    .map(|difference| Difference {
                        property: text(difference.property_path()),
                        expected: text(difference.expected_value()),
                        actual: text(difference.actual_value()),
                    })
                    .collect(),
                logical_id,
            });
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            return Ok(Detected { drifted: found, unread });
        }
    }
}

/// Whether what runs sets a property as it goes, as its template says: nobody has changed it by hand.
fn is_set_at_run_time(template: &Json, logical_id: &str, property: &str) -> bool {
    let marked = template.pointer(&format!("/Resources/{logical_id}/Metadata/{AT_RUN_TIME}"));
    marked.and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).any(|name| {
        let rest = property.strip_prefix('/').and_then(|path| path.strip_prefix(name));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// What is known of a stack's drift before it is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The stack's name.
    pub stack: String,
    /// What has drifted, as far as that is known.
    pub found: Detected,
}

/// Detects the drift of several stacks, side by side and each within a time: CloudFormation reads every resource,
/// and a deployment waits for it. What is not known is told and stops nobody.
pub async fn look(
    client: &Client,
    poll: Duration,
    stacks: &[(&StackEntry, &Json)],
    within: Duration,
) -> Vec<Looked> {
    let one = |(entry, template): (&StackEntry, &Json)| {
        let entry = entry.clone();
        let template = template.clone();
        async move {
            let detected = detect_readable(client, poll, &entry, &template);
            let unread = |why: String| Detected { unread: Some(why), ..Detected::default() };
            let found = match tokio::time::timeout(within, detected).await {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => unread(format!("{error:#}")),
                Err(_) => unread(format!("it was not known within {} s", within.as_secs())),
            };
            Looked { stack: entry.name, found }
        }
    };
    stream::iter(stacks.iter().copied().map(one)).buffered(DETECTIONS).collect().await
}

/// Brings a stack's resources back to what its template says, by a change set that heeds drift, with the role that
/// CloudFormation works with there.
///
/// # Errors
///
/// What CloudFormation refuses, or that the endpoint knows no such change sets.
pub async fn revert(
    client: &Client,
    operations: &Operations<'_, Stacks>,
    (entry, role): (&StackEntry, Option<&str>),
    template: &Json,
) -> Result<()> {
    let name = &entry.name;
    let deployed =
        operations.cloud.describe(name).await?.with_context(|| format!("there is no stack {name}"))?;
    let parameters = deployed
        .parameters
        .keys()
        .map(|key| Parameter::builder().parameter_key(key).use_previous_value(true).build())
        .collect();
    operations.cloud.delete_change_set(name).await?;
    client
        .create_change_set()
        .stack_name(name)
        .change_set_name(CHANGE_SET)
        .change_set_type(ChangeSetType::Update)
        .deployment_mode(DeploymentMode::RevertDrift)
        .use_previous_template(true)
        .set_role_arn(role.map(str::to_owned))
        .set_parameters(Some(parameters))
        .set_capabilities(Some(
            entry.capabilities.iter().map(|name| Capability::from(name.as_str())).collect(),
        ))
        .send()
        .await
        .map_err(|error| told(error, &format!("CloudFormation refuses to revert the drift of {name}")))?;
    let way_on = ". Where the endpoint knows no change sets that heed drift, change the resource back by hand, as `cargo xtask drift` shows it";
    let failed = format!("the drift of {name} is not reverted");
    let Some(change_set) = operations.await_change_set(name, &failed, way_on).await? else {
        bail!("{failed}: CloudFormation finds nothing to change{way_on}");
    };
    operations.reporter.say(&shown(name, &change_set));
    operations.execute(name, template, &Sources::new()).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A mode that was written, a stream that was scaled: an environment that works would never be promoted from.
    #[test]
    fn what_runs_may_set_what_its_template_says_and_nothing_else() {
        let template = json!({ "Resources": {
            "Mode": { "Metadata": { AT_RUN_TIME: ["Value", "ProvisionedThroughput"] } }, "Other": {} } });
        let set = |id: &str, property: &str| is_set_at_run_time(&template, id, property);
        assert!(set("Mode", "/Value") && set("Mode", "/ProvisionedThroughput/ReadCapacityUnits"));
        for (id, property) in
            [("Mode", "/Values"), ("Mode", "/Name"), ("Mode", ""), ("Other", "/Value"), ("None", "/Value")]
        {
            assert!(!set(id, property), "{id} {property}");
        }
    }
}
