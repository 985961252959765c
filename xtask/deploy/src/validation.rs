//! What CloudFormation's own checks of a change set have found, in words: with the construct, where it is declared and
//! what to do. Pure.

use cfn::Json;

use crate::{cloudformation::Validation, operation::Sources};

/// Why a change set was refused: `reason` is what CloudFormation says of it as a whole.
#[must_use]
pub fn refusal(
    stack: &str,
    reason: &str,
    validations: &[Validation],
    template: &Json,
    sources: &Sources,
) -> String {
    let fatal: Vec<String> = validations
        .iter()
        .filter(|validation| validation.fatal)
        .map(|validation| finding(validation, template, sources))
        .collect();
    if !fatal.is_empty() {
        let things = if fatal.len() == 1 { "thing" } else { "things" };
        return format!(
            "CloudFormation refuses the change set of {stack} for {} {things}; nothing was touched:\n{}",
            fatal.len(),
            fatal.join("\n")
        );
    }
    let hint = if reason.contains("DescribeEvents") {
        "\n  What its checks have found could not be read: whoever deploys needs cloudformation:DescribeEvents, which `cargo xtask bootstrap` gives to the pipeline's role"
    } else {
        ""
    };
    format!("the change set of {stack} failed: {reason}{hint}")
}

/// What would not keep a change set from being executed, a line or more each.
#[must_use]
pub fn warnings(stack: &str, validations: &[Validation], template: &Json, sources: &Sources) -> Vec<String> {
    validations
        .iter()
        .filter(|validation| !validation.fatal)
        .map(|validation| {
            format!("warning: CloudFormation of {stack}:\n{}", finding(validation, template, sources))
        })
        .collect()
}

fn finding(validation: &Validation, template: &Json, sources: &Sources) -> String {
    let Validation { name, logical_id, resource_type, path, reason, .. } = validation;
    let construct = template
        .pointer(&format!("/Resources/{logical_id}/Metadata/floodgate:path"))
        .and_then(Json::as_str)
        .unwrap_or(logical_id);
    let within = path.strip_prefix(&format!("/Resources/{logical_id}")).unwrap_or(path);
    let within = within.trim_start_matches('/').replace('/', ".");
    let within = if within.is_empty() { String::new() } else { format!(" {within}") };
    let source =
        sources.get(logical_id).map(|source| format!("\n    declared at {source}")).unwrap_or_default();
    format!(
        "  {construct} ({resource_type}){within}:\n    {reason} ({name}){source}\n    {}",
        advice(name, reason)
    )
}

/// What to do about a finding.
fn advice(name: &str, reason: &str) -> &'static str {
    let says = |texts: &[&str]| {
        texts.iter().any(|text| name.to_uppercase().contains(text) || reason.to_uppercase().contains(text))
    };
    if says(&["NAME_CONFLICT", "ALREADY EXISTS", "EXISTENCE"]) {
        "A resource of that name is there and not this stack's: take it in (`cargo xtask import`), remove it, or give this one another name."
    } else if says(&["BUCKET", "EMPT"]) {
        "What is to be deleted still holds something: empty it first, or let it stay (`cargo xtask orphan`)."
    } else if says(&["QUOTA", "LIMIT"]) {
        "Ask for a higher quota in Service Quotas, or for less of it in the environment's file."
    } else {
        "Repair the property; `cargo xtask check` may know the rule, and if it does not, it should."
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template() -> Json {
        json!({ "Resources": { "Queue": { "Metadata": { "floodgate:path": "ledger/Queue" } } } })
    }

    fn validation(name: &str, path: &str, fatal: bool) -> Validation {
        Validation {
            name: name.to_owned(),
            logical_id: "Queue".to_owned(),
            resource_type: "AWS::SQS::Queue".to_owned(),
            path: path.to_owned(),
            reason: "#/DelaySeconds: 901 is greater than 900".to_owned(),
            fatal,
        }
    }

    #[test]
    fn a_refusal_names_construct_property_source_and_repair() {
        let sources = Sources::from([("Queue".to_owned(), "stacks/platform/src/ledger.rs:7".to_owned())]);
        let found = [
            validation("PROPERTY_VALIDATION", "/Resources/Queue/Properties/DelaySeconds", true),
            validation("SERVICE_QUOTA_VALIDATION", "/Resources/Queue", false),
        ];
        assert_eq!(
            refusal("fg-ledger", "Validation failed", &found, &template(), &sources),
            "CloudFormation refuses the change set of fg-ledger for 1 thing; nothing was touched:\n  \
             ledger/Queue (AWS::SQS::Queue) Properties.DelaySeconds:\n    \
             #/DelaySeconds: 901 is greater than 900 (PROPERTY_VALIDATION)\n    \
             declared at stacks/platform/src/ledger.rs:7\n    \
             Repair the property; `cargo xtask check` may know the rule, and if it does not, it should."
        );
        let warnings = warnings("fg-ledger", &found, &template(), &sources);
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].starts_with("warning: ") && warnings[0].contains("Service Quotas"),
            "{warnings:?}"
        );
    }

    #[test]
    fn without_findings_the_reason_is_told_and_what_is_missing() {
        let text =
            refusal("s", "to troubleshoot, use the DescribeEvents API", &[], &template(), &Sources::new());
        assert!(text.contains("troubleshoot") && text.contains("cloudformation:DescribeEvents"), "{text}");
        let text = refusal("s", "a parameter is missing", &[], &template(), &Sources::new());
        assert_eq!(text, "the change set of s failed: a parameter is missing");
    }
}
