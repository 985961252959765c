//! The grammar of IAM's policies: what a statement may hold. IAM refuses the rest in the middle of a deployment.
//! Source: the IAM user guide, "Grammar of the IAM JSON policy language".

use std::collections::BTreeSet;

use super::{
    Findings,
    names::nearest,
    rules::POLICY_GRAMMAR,
    template::{Resource, Template},
};
use crate::{intrinsic::is_intrinsic, value::Json};

const VERSIONS: [&str; 2] = ["2012-10-17", "2008-10-17"];

const STATEMENT: [&str; 9] = [
    "Action",
    "Condition",
    "Effect",
    "NotAction",
    "NotPrincipal",
    "NotResource",
    "Principal",
    "Resource",
    "Sid",
];

const PRINCIPALS: [&str; 4] = ["AWS", "CanonicalUser", "Federated", "Service"];

/// Condition operators, without `IfExists` and the prefixes for keys of several values.
const OPERATORS: [&str; 27] = [
    "ArnEquals",
    "ArnLike",
    "ArnNotEquals",
    "ArnNotLike",
    "BinaryEquals",
    "Bool",
    "DateEquals",
    "DateGreaterThan",
    "DateGreaterThanEquals",
    "DateLessThan",
    "DateLessThanEquals",
    "DateNotEquals",
    "IpAddress",
    "NotIpAddress",
    "Null",
    "NumericEquals",
    "NumericGreaterThan",
    "NumericGreaterThanEquals",
    "NumericLessThan",
    "NumericLessThanEquals",
    "NumericNotEquals",
    "StringEquals",
    "StringEqualsIgnoreCase",
    "StringLike",
    "StringNotEquals",
    "StringNotEqualsIgnoreCase",
    "StringNotLike",
];

/// Whom a policy is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Its holder: no principal, and resources.
    Identity,
    /// Whoever uses the resource that it is on: principals; the resource may be left out.
    Resource,
    /// Whoever takes the role: principals, and no resource.
    Trust,
}

/// Where policies are, by the end of a property's name.
fn kind(resource: &Resource<'_>, property: &str) -> Option<Kind> {
    match property {
        "AssumeRolePolicyDocument" => Some(Kind::Trust),
        "PolicyDocument" if resource.kind.starts_with("AWS::IAM::") => Some(Kind::Identity),
        "PolicyDocument" | "KeyPolicy" | "ResourcePolicy" | "RepositoryPolicyText" => Some(Kind::Resource),
        _ => None,
    }
}

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    for resource in &template.resources {
        policies(resource, resource.properties(), findings);
    }
}

/// Finds policies at the top of the properties and in lists of inline policies.
fn policies(resource: &Resource<'_>, json: &Json, findings: &mut Findings<'_>) {
    for (name, value) in json.as_object().into_iter().flatten() {
        match kind(resource, name) {
            Some(kind) if value.is_object() && !is_intrinsic(value) => {
                Grammar { resource, kind, property: name, findings }.document(value);
            }
            _ if name == "Policies" => {
                for policy in value.as_array().into_iter().flatten() {
                    policies(resource, policy, findings);
                }
            }
            _ => {}
        }
    }
}

struct Grammar<'a, 'f, 's> {
    resource: &'a Resource<'a>,
    kind: Kind,
    property: &'a str,
    findings: &'f mut Findings<'s>,
}

impl Grammar<'_, '_, '_> {
    fn found(&mut self, message: &str) {
        let text = format!("{} {message}", self.property);
        self.findings.resource(POLICY_GRAMMAR, self.resource.logical_id, text);
    }

    fn document(&mut self, document: &Json) {
        for (key, value) in document.as_object().into_iter().flatten() {
            match key.as_str() {
                "Version" if !is_intrinsic(value) && !VERSIONS.iter().any(|known| value == known) => {
                    self.found(&format!("has the version {value}; take 2012-10-17"));
                }
                "Version" | "Id" | "Statement" => {}
                _ => self.unknown(key, &["Version", "Id", "Statement"]),
            }
        }
        match document.get("Statement") {
            None => self.found("has no Statement"),
            Some(Json::Array(statements)) => {
                let mut sids = BTreeSet::new();
                for one in statements {
                    if one.get("Sid").and_then(Json::as_str).is_some_and(|sid| !sids.insert(sid)) {
                        self.found("has two statements of one Sid");
                    }
                    self.statement(one);
                }
            }
            Some(one @ Json::Object(_)) => self.statement(one),
            Some(_) => self.found("has a Statement that is neither a statement nor a list of them"),
        }
    }

    fn unknown(&mut self, key: &str, known: &[&str]) {
        let hint = nearest(key, known.iter().copied());
        let hint = hint.map(|near| format!("; is {near} meant?")).unwrap_or_default();
        self.found(&format!("has `{key}`, which no policy has{hint}"));
    }

    fn statement(&mut self, statement: &Json) {
        if is_intrinsic(statement) {
            return;
        }
        let Some(object) = statement.as_object() else {
            self.found("has a statement that is none");
            return;
        };
        for key in object.keys().filter(|key| !STATEMENT.contains(&key.as_str())) {
            self.unknown(key, &STATEMENT);
        }
        match object.get("Effect") {
            None => self.found("has a statement without Effect"),
            Some(effect) if effect.as_str().is_some_and(|effect| !["Allow", "Deny"].contains(&effect)) => {
                self.found(&format!("has the effect {effect}; it is Allow or Deny"));
            }
            Some(_) => {}
        }
        // Resource policies may have other signs in it, by service.
        let plain = |sid: &str| !sid.is_empty() && sid.chars().all(|c| c.is_ascii_alphanumeric());
        match object.get("Sid") {
            Some(Json::String(sid)) if self.kind == Kind::Identity && !plain(sid) => {
                self.found(&format!("has the Sid `{sid}`; it is letters and digits"));
            }
            Some(sid) if !sid.is_string() && !is_intrinsic(sid) => self.found("has a Sid that is no text"),
            _ => {}
        }
        self.one_of(object, "Action", "NotAction", true);
        self.one_of(object, "Resource", "NotResource", self.kind == Kind::Identity);
        self.one_of(object, "Principal", "NotPrincipal", self.kind != Kind::Identity);
        if self.kind == Kind::Identity && object.contains_key("Principal") {
            self.found("names a principal; the policy is about who holds it");
        }
        if self.kind == Kind::Trust && (object.contains_key("Resource") || object.contains_key("NotResource"))
        {
            self.found("names a resource; a role's trust is about the role itself");
        }
        for key in ["Action", "NotAction"] {
            self.texts(object.get(key), key, &|action| is_action(action));
        }
        for key in ["Resource", "NotResource"] {
            self.texts(object.get(key), key, &|resource| is_resource(resource));
        }
        self.principal(object.get("Principal"));
        self.condition(object.get("Condition"));
    }

    fn one_of(&mut self, object: &serde_json::Map<String, Json>, one: &str, other: &str, wanted: bool) {
        match (object.contains_key(one), object.contains_key(other)) {
            (true, true) => self.found(&format!("has a statement with {one} and {other}")),
            (false, false) if wanted => {
                self.found(&format!("has a statement without {one}"));
            }
            _ => {}
        }
    }

    /// One or several texts of a form; expressions are given the benefit of the doubt.
    fn texts(&mut self, value: Option<&Json>, key: &str, fits: &dyn Fn(&str) -> bool) {
        let items = match value {
            None => return,
            Some(Json::Array(items)) if items.is_empty() => {
                self.found(&format!("has an empty {key}"));
                return;
            }
            Some(Json::Array(items)) => items.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        for item in items {
            match item {
                Json::String(text) if fits(text) => {}
                item if is_intrinsic(item) => {}
                item => self.found(&format!("has {item} as {key}")),
            }
        }
    }

    fn principal(&mut self, principal: Option<&Json>) {
        match principal {
            Some(Json::String(text)) if text != "*" => {
                self.found(&format!("has the principal `{text}`; it is `*`, or a kind with names"));
            }
            Some(object @ Json::Object(kinds)) if !is_intrinsic(object) => {
                for (key, value) in kinds {
                    if !PRINCIPALS.contains(&key.as_str()) {
                        self.unknown(key, &PRINCIPALS);
                    }
                    self.texts(Some(value), key, &|name| !name.is_empty());
                }
            }
            Some(Json::Array(_) | Json::Number(_) | Json::Bool(_)) => {
                self.found("has a principal that is neither `*` nor a kind with names");
            }
            _ => {}
        }
    }

    fn condition(&mut self, condition: Option<&Json>) {
        let Some(condition) = condition.filter(|condition| !is_intrinsic(condition)) else { return };
        let Some(operators) = condition.as_object() else {
            self.found("has a condition that is none");
            return;
        };
        for (operator, keys) in operators {
            let bare = operator
                .trim_start_matches("ForAnyValue:")
                .trim_start_matches("ForAllValues:")
                .trim_end_matches("IfExists");
            if !OPERATORS.contains(&bare) {
                self.unknown(operator, &OPERATORS);
            }
            if !keys.is_object() {
                self.found(&format!("has the condition {operator} without keys"));
            }
        }
    }
}

/// `service:Action`, with wildcards in the action's name, or `*`.
fn is_action(text: &str) -> bool {
    let name =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "*?-".contains(c));
    text == "*" || text.split_once(':').is_some_and(|(service, action)| name(service) && name(action))
}

/// An ARN of at least six parts, or one that begins with a wildcard.
fn is_resource(text: &str) -> bool {
    text.starts_with('*') || (text.starts_with("arn:") && text.split(':').count() >= 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_and_resources_have_a_form() {
        assert!(is_action("s3:GetObject") && is_action("s3:Get*") && is_action("*"));
        assert!(!is_action("list") && !is_action("s3:") && !is_action("s3:Get Object"));
        assert!(is_resource("arn:aws:s3:::records/*") && is_resource("*"));
        assert!(!is_resource("records") && !is_resource("arn:aws:s3"));
    }
}
