//! What CloudFormation tells of an operation: when it ended, and which resource failed first. Pure.

use cfn::Json;

use crate::operation::Sources;

/// The type of a stack among its own resources.
const STACK: &str = "AWS::CloudFormation::Stack";

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
    let own = |event: &&ResourceEvent| event.logical_id == stack && event.resource_type == STACK;
    let last = events.iter().rev().find(own)?.status.as_str();
    // A rollback follows a failed creation or update; what has no rollback ends as failed.
    (!last.ends_with("_IN_PROGRESS")).then_some(last)
}

/// The first failure of an operation that ended in `status`: the resource, its construct and where that is in Rust,
/// what AWS says, and what to do. Where going back failed as well, the resource that hinders it is named too.
#[must_use]
pub fn explain(
    stack: &str,
    status: &str,
    template: &Json,
    sources: &Sources,
    events: &[ResourceEvent],
) -> String {
    let own = events.iter().find(|event| event.status.ends_with("_FAILED") && event.reason.is_some());
    let Some(event) = first_failure(events).or(own) else {
        return format!(
            "the stack {stack} is {status}; CloudFormation names no resource. Its events may tell more: `aws cloudformation describe-stack-events --stack-name {stack}`"
        );
    };
    let reason = reason(event);
    let back = hindrance(stack, status, events)
        .filter(|hindrance| *hindrance != event)
        .map(|hindrance| format!("\n  Going back failed at {}", place(hindrance, template, sources)))
        .unwrap_or_default();
    format!(
        "the stack {stack} failed at {}\n  {}{back}\n  The stack is {status}: {}",
        place(event, template, sources),
        advice(reason),
        afterwards(status),
    )
}

/// The first resource that failed by itself: the stack's own failure is a consequence, and so is what was stopped
/// because something else failed.
fn first_failure(events: &[ResourceEvent]) -> Option<&ResourceEvent> {
    events.iter().find(|event| {
        event.status.ends_with("_FAILED")
            && event.resource_type != STACK
            && !event.reason.as_deref().is_some_and(|reason| reason.contains("cancelled"))
    })
}

/// The resource that keeps a stack from going back, where its rollback failed.
fn hindrance<'e>(stack: &str, status: &str, events: &'e [ResourceEvent]) -> Option<&'e ResourceEvent> {
    let begins = |event: &ResourceEvent| {
        event.logical_id == stack
            && event.resource_type == STACK
            && event.status.ends_with("ROLLBACK_IN_PROGRESS")
    };
    let from = events.iter().position(begins).filter(|_| status.ends_with("ROLLBACK_FAILED"))?;
    first_failure(&events[from..])
}

/// A resource that failed: its construct, its logical id (which `--skip-resource` takes), its type, what AWS says, and
/// where it is declared.
fn place(event: &ResourceEvent, template: &Json, sources: &Sources) -> String {
    let ResourceEvent { logical_id, resource_type, status, .. } = event;
    let path = template
        .pointer(&format!("/Resources/{logical_id}/Metadata/floodgate:path"))
        .and_then(Json::as_str)
        .filter(|path| path != logical_id);
    let named = match path {
        Some(path) => format!("{path} ({logical_id}, {resource_type}, {status})"),
        None => format!("{logical_id} ({resource_type}, {status})"),
    };
    let source =
        sources.get(logical_id).map(|source| format!("\n    declared at {source}")).unwrap_or_default();
    format!("{named}:\n    {}{source}", reason(event))
}

fn reason(event: &ResourceEvent) -> &str {
    event.reason.as_deref().unwrap_or("CloudFormation gives no reason")
}

/// What to do about a reason of AWS's.
fn advice(reason: &str) -> &'static str {
    let says = |texts: &[&str]| texts.iter().any(|text| reason.contains(text));
    if says(&["AccessDenied", "not authorized", "UnauthorizedOperation", "is not allowed to"]) {
        "Who deploys lacks a right: `cargo xtask bootstrap` renders the roles anew with what the rendered types need."
    } else if says(&["already exists", "AlreadyExists"]) {
        "A resource of that name is there and not this stack's: remove it, import it, or give this one another name."
    } else if says(&["Rate exceeded", "Throttling", "Throttled", "TooManyRequests", "RequestLimitExceeded"]) {
        // Before the quotas: what is throttled is said to have exceeded a limit as well.
        "AWS wants it slower: deploy again, with a lower --concurrency."
    } else if says(&["limit", "Limit", "quota", "Quota"]) {
        "A quota of the account is used up: ask for a higher one in Service Quotas, or ask for less."
    } else if says(&["NotStabilized", "did not stabilize", "Exceeded attempts to wait", "timed out"]) {
        "It did not become ready in time: look at it in its service, then deploy again."
    } else if says(&["does not exist", "not found", "NotFound", "no such"]) {
        "It names something that is not there: look at the values that the stack gets."
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
            resource_type: if id == "fg" { STACK } else { "AWS::MSK::Topic" }.to_owned(),
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
            "failed at kafka/Topics/B (B, AWS::MSK::Topic, CREATE_FAILED):",
            "no such broker",
            "declared at stacks/platform/src/kafka.rs:7",
            "the next deploy",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = explain("fg", "UPDATE_ROLLBACK_FAILED", &template, &sources, &[]);
        assert!(text.contains("names no resource"), "{text}");
    }

    #[test]
    fn what_hinders_a_rollback_is_named_beside_what_failed_first() {
        let event = |id: &str, status: &str, reason: &str| ResourceEvent {
            logical_id: id.to_owned(),
            resource_type: if id == "fg" { STACK } else { "AWS::MSK::Topic" }.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
        };
        let template =
            serde_json::json!({"Resources": {"A": {"Metadata": {"floodgate:path": "kafka/Topics/A"}}}});
        let sources = Sources::from([("A".to_owned(), "stacks/platform/src/kafka.rs:9".to_owned())]);
        let events = [
            event("B", "UPDATE_FAILED", "no such broker"),
            event("fg", "UPDATE_ROLLBACK_IN_PROGRESS", "The following resource(s) failed to update: [B]."),
            event("A", "UPDATE_FAILED", "the topic was deleted"),
            event("fg", "UPDATE_ROLLBACK_FAILED", "The following resource(s) failed to update: [A]."),
        ];
        let text = explain("fg", "UPDATE_ROLLBACK_FAILED", &template, &sources, &events);
        let back = "Going back failed at kafka/Topics/A (A, AWS::MSK::Topic, UPDATE_FAILED):\n    the topic was deleted\n    declared at stacks/platform/src/kafka.rs:9";
        assert!(text.starts_with("the stack fg failed at B (AWS::MSK::Topic"), "{text}");
        assert!(text.contains(back), "{text}");
        // It went back, or nothing but the rollback failed: then there is one to name.
        let text = explain("fg", "UPDATE_ROLLBACK_COMPLETE", &template, &sources, &events[..2]);
        assert!(!text.contains("Going back"), "{text}");
        let text = explain("fg", "UPDATE_ROLLBACK_FAILED", &template, &sources, &events[1..]);
        assert!(
            text.starts_with("the stack fg failed at kafka/Topics/A") && !text.contains("Going back"),
            "{text}"
        );
    }

    #[test]
    fn what_is_throttled_is_not_taken_for_a_quota() {
        for reason in ["Request limit exceeded (RequestLimitExceeded)", "Rate exceeded (Throttling)"] {
            assert!(advice(reason).contains("slower"), "{reason}");
        }
        assert!(advice("The maximum number of VPCs: VpcLimitExceeded").contains("Service Quotas"));
        assert!(advice("Resource did not stabilize (HandlerErrorCode: NotStabilized)").contains("in time"));
    }
}
