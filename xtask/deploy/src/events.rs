//! What CloudFormation tells of an operation: when it ended, and which resource failed first. Pure.

use cfn::Json;

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

/// The first failure of an operation, with the construct that it is of.
#[must_use]
pub fn explain(stack: &str, template: &Json, events: &[ResourceEvent]) -> String {
    let failed = events.iter().find(|event| {
        event.status.ends_with("_FAILED")
            // What was stopped because something else failed is a consequence.
            && !event.reason.as_deref().is_some_and(|reason| reason.contains("cancelled"))
    });
    let Some(event) = failed else {
        return format!(
            "the stack {stack} failed; CloudFormation names no resource. Its events may tell more"
        );
    };
    let path = template
        .pointer(&format!("/Resources/{}/Metadata/floodgate:path", event.logical_id))
        .and_then(Json::as_str)
        .unwrap_or(&event.logical_id);
    format!(
        "the stack {stack} failed at {path} ({}, {}):\n    {}\n  Repair that and deploy again; what has been made is kept or rolled back by CloudFormation, and the next deploy goes on from there.",
        event.resource_type,
        event.status,
        event.reason.as_deref().unwrap_or("CloudFormation gives no reason")
    )
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
        let text = explain("fg", &template, &events);
        assert!(text.contains("kafka/Topics/B") && text.contains("no such broker"), "{text}");
    }
}
