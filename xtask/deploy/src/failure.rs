//! Which resource failed first, and why.

use cfn::Json;

use crate::report::ResourceEvent;

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
