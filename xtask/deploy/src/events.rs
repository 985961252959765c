//! What CloudFormation tells of an operation: when it ended, and which resource failed first. Pure.

use cfn::Json;

use crate::operation::Sources;

/// A resource's event; the stack itself is one of its resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceEvent {
    /// Logical id.
    pub logical_id: String,
    /// Resource type.
    pub resource_type: String,
    /// Such as `CREATE_COMPLETE`.
    pub status: String,
    /// Why, where CloudFormation says.
    pub reason: Option<String>,
}

/// The status in which an operation on a stack ended, if it has. `events` are those since it was asked for.
///
/// The stack's status alone does not tell: execution is asynchronous, so for a moment after it was asked for
/// the stack still has the status of the operation before.
#[must_use]
pub fn ended<'a>(stack: &str, events: &'a [ResourceEvent]) -> Option<&'a str> {
    let own = |event: &&ResourceEvent| {
        event.logical_id == stack && event.resource_type == "AWS::CloudFormation::Stack"
    };
    let last = events.iter().rev().find(own)?.status.as_str();
    // A rollback follows a failed creation or update; what has no rollback ends as failed.
    (!last.ends_with("_IN_PROGRESS")).then_some(last)
}

/// The first failure of an operation that ended in `status`: the resource, its construct and where that is in Rust,
/// what AWS says, and what to do.
#[must_use]
pub fn explain(
    stack: &str,
    status: &str,
    template: &Json,
    sources: &Sources,
    events: &[ResourceEvent],
) -> String {
    let failed = events.iter().find(|event| {
        event.status.ends_with("_FAILED")
            // The stack's own failure is a consequence, and so is what was stopped because something else failed.
            && event.resource_type != "AWS::CloudFormation::Stack"
            && !event.reason.as_deref().is_some_and(|reason| reason.contains("cancelled"))
    });
    let own = events.iter().find(|event| event.status.ends_with("_FAILED") && event.reason.is_some());
    let Some(event) = failed.or(own) else {
        return format!(
            "the stack {stack} is {status}; CloudFormation names no resource. Its events may tell more: `aws cloudformation describe-stack-events --stack-name {stack}`"
        );
    };
    let path = template
        .pointer(&format!("/Resources/{}/Metadata/floodgate:path", event.logical_id))
        .and_then(Json::as_str)
        .unwrap_or(&event.logical_id);
    let source = sources
        .get(&event.logical_id)
        .map(|source| format!("\n    declared at {source}"))
        .unwrap_or_default();
    let reason = event.reason.as_deref().unwrap_or("CloudFormation gives no reason");
    format!(
        "the stack {stack} failed at {path} ({}, {}):\n    {reason}{source}\n  {}\n  The stack is {status}: {}",
        event.resource_type,
        event.status,
        advice(reason),
        afterwards(status),
    )
}

/// What to do about a reason of AWS's.
fn advice(reason: &str) -> &'static str {
    let says = |texts: &[&str]| texts.iter().any(|text| reason.contains(text));
    if says(&["AccessDenied", "not authorized", "UnauthorizedOperation", "is not allowed to"]) {
        "Who deploys lacks a right: `cargo xtask bootstrap` renders the roles anew with what the rendered types need."
    } else if says(&["already exists", "AlreadyExists"]) {
        "A resource of that name is there and not this stack's: remove it, import it, or give this one another name."
    } else if says(&["limit", "Limit", "quota", "Quota"]) {
        "A quota of the account is used up: ask for a higher one in Service Quotas, or ask for less."
    } else if says(&["does not exist", "not found", "NotFound", "no such"]) {
        "It names something that is not there: look at the values that the stack gets."
    } else if says(&["Rate exceeded", "Throttling", "ThrottlingException", "TooManyRequests"]) {
        "AWS wants it slower: deploy again, with a lower --concurrency."
    } else if says(&["dependent object", "DependencyViolation", "in use", "still referenced"]) {
        "Something that this stack does not know uses it: remove that, then go on."
    } else {
        "Repair that."
    }
}

/// What is to be done with a stack in the status in which an operation ended.
fn afterwards(status: &str) -> &'static str {
    match status {
        "ROLLBACK_COMPLETE" | "ROLLBACK_FAILED" | "CREATE_FAILED" => {
            "the next deploy deletes and creates it."
        }
        "UPDATE_ROLLBACK_FAILED" => {
            "the next deploy tries again to take it back; `cargo xtask rollback --skip-resource` leaves a resource out."
        }
        "DELETE_FAILED" => "the next try leaves behind what still cannot be deleted, and lists it.",
        "UPDATE_ROLLBACK_COMPLETE" => "it is as it was before. Deploy again: it goes on from here.",
        _ => "deploy again: it goes on from here.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_ends_with_the_stacks_own_last_event() {
        let event = |id: &str, status: &str| ResourceEvent {
            logical_id: id.to_owned(),
            resource_type: if id == "fg" { "AWS::CloudFormation::Stack" } else { "AWS::MSK::Topic" }
                .to_owned(),
            status: status.to_owned(),
            reason: None,
        };
        let mut events = vec![];
        assert_eq!(ended("fg", &events), None);
        for (id, status, end) in [
            ("fg", "UPDATE_IN_PROGRESS", None),
            ("Topic", "UPDATE_COMPLETE", None),
            ("fg", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", None),
            ("Old", "DELETE_COMPLETE", None),
            ("fg", "UPDATE_COMPLETE", Some("UPDATE_COMPLETE")),
        ] {
            events.push(event(id, status));
            assert_eq!(ended("fg", &events), end, "{id} {status}");
        }
    }

    #[test]
    fn the_first_failure_is_named_and_not_its_consequences() {
        let event = |id: &str, status: &str, reason: Option<&str>| ResourceEvent {
            logical_id: id.to_owned(),
            resource_type: "AWS::MSK::Topic".to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
        };
        let template =
            serde_json::json!({"Resources": {"B": {"Metadata": {"floodgate:path": "kafka/Topics/B"}}}});
        let events = [
            event("A", "CREATE_FAILED", Some("Resource creation cancelled")),
            event("B", "CREATE_FAILED", Some("no such broker")),
            event("S", "ROLLBACK_IN_PROGRESS", None),
        ];
        let sources = Sources::from([("B".to_owned(), "stacks/platform/src/kafka.rs:7".to_owned())]);
        let text = explain("fg", "ROLLBACK_COMPLETE", &template, &sources, &events);
        for part in [
            "kafka/Topics/B",
            "no such broker",
            "declared at stacks/platform/src/kafka.rs:7",
            "the next deploy",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = explain("fg", "UPDATE_ROLLBACK_FAILED", &template, &sources, &[]);
        assert!(text.contains("names no resource"), "{text}");
    }
}
