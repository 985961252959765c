//! Where a change allows more than before: policy documents, wherever they stand, and what attaches them.
//!
//! A grant is one action on one resource for one principal under a condition. It is new unless a grant of before
//! covers it, wildcards included; narrower than before is no finding. With a Deny it is the other way round.

use std::collections::{BTreeMap, BTreeSet};

use super::expressions::text;
use crate::{canonical::to_canonical_bytes, value::Json};

/// What is allowed more, in words. A side that does not exist is `Null`.
pub(super) fn broadened(kind: &str, before: &Json, after: &Json) -> Vec<String> {
    let mut found = BTreeSet::new();
    let (old, new) = (Documents::of(before), Documents::of(after));
    let nothing = Vec::new();
    let groups: BTreeSet<&String> = old.0.keys().chain(new.0.keys()).collect();
    for group in groups {
        let was = old.0.get(group).unwrap_or(&nothing);
        let is = new.0.get(group).unwrap_or(&nothing);
        let trust = if group == TRUST { "trusts " } else { "" };
        let allowed: Vec<&Grant> = was.iter().filter(|known| known.allow).collect();
        let more: Vec<(&Grant, &str)> = is
            .iter()
            .filter(|grant| grant.allow && !allowed.iter().any(|known| known.covers(grant)))
            .map(|grant| (grant, grant.widening(&allowed)))
            .collect();
        found.extend(sentences(trust, &more));
        // What goes with the resource that it protected is no loss; a policy's target may stay.
        let target_stays = !after.is_null() || kind.ends_with("Policy");
        let free: Vec<(&Grant, &str)> = was
            .iter()
            .filter(|grant| !grant.allow && target_stays)
            .filter(|deny| !is.iter().any(|known| !known.allow && known.covers(deny)))
            .map(|deny| (deny, ""))
            .collect();
        found.extend(sentences("no longer denies ", &free));
    }
    attachments(kind, before, after, &mut found);
    found.into_iter().collect()
}

/// Grants in words, each with what is to be added; those that differ in actions or in resources alone share one
/// sentence.
fn sentences(prefix: &str, grants: &[(&Grant, &str)]) -> Vec<String> {
    let mut actions: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (grant, suffix) in grants {
        let rest = format!("{}{suffix}", grant.circumstances());
        actions.entry((grant.resource.words(), rest)).or_default().insert(grant.action.words());
    }
    let mut resources: BTreeMap<(BTreeSet<String>, String), BTreeSet<String>> = BTreeMap::new();
    for ((resource, rest), actions) in actions {
        resources.entry((actions, rest)).or_default().insert(resource);
    }
    let list = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(", ");
    resources
        .into_iter()
        .map(|((actions, rest), resources)| {
            let on = Some(list(resources)).filter(|names| !names.is_empty());
            let on = on.map(|names| format!(" on {names}")).unwrap_or_default();
            format!("{prefix}{}{on}{rest}", list(actions))
        })
        .collect()
}

/// What a statement's member names: these, or all but these.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    Only(String),
    AllBut(BTreeSet<String>),
    /// The member is not there, as the resource in a trust policy.
    Any,
}

impl Scope {
    fn covers(&self, other: &Scope) -> bool {
        match (self, other) {
            (Scope::Any, _) => true,
            (Scope::Only(known), Scope::Only(asked)) => matches(known, asked),
            (Scope::AllBut(known), Scope::AllBut(asked)) => known.is_subset(asked),
            (Scope::AllBut(known), Scope::Only(asked)) => {
                !known.iter().any(|not| matches(not, asked) || matches(asked, not))
            }
            (Scope::Only(known), Scope::AllBut(_) | Scope::Any) => known == "*",
            (Scope::AllBut(known), Scope::Any) => known.is_empty(),
        }
    }

    fn words(&self) -> String {
        match self {
            Scope::Only(name) => name.clone(),
            Scope::AllBut(names) => {
                format!("all but {}", names.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
            }
            Scope::Any => String::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    allow: bool,
    principal: Scope,
    action: Scope,
    resource: Scope,
    /// (operator, key) -> values that meet it. All must be met.
    conditions: BTreeMap<(String, String), BTreeSet<String>>,
}

impl Grant {
    fn covers(&self, other: &Grant) -> bool {
        self.action.covers(&other.action)
            && self.resource.covers(&other.resource)
            && self.principal.covers(&other.principal)
            && self.conditions.iter().all(|(key, values)| {
                other.conditions.get(key).is_some_and(|asked| {
                    // Of negated operators more values mean less; of the others, fewer.
                    if key.0.contains("Not") { values.is_subset(asked) } else { asked.is_subset(values) }
                })
            })
    }

    /// For whom and under which conditions.
    fn circumstances(&self) -> String {
        let mut words = match &self.principal {
            Scope::Any => String::new(),
            principal => format!(" for {}", principal.words()),
        };
        for (at, ((operator, key), values)) in self.conditions.iter().enumerate() {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let join = if at == 0 { ", if" } else { " and" };
            words.push_str(&format!("{join} {operator} {key} {}", values.join(" or ")));
        }
        words
    }

    /// Says where only the condition is why this is more than before.
    fn widening(&self, allowed: &[&Grant]) -> &'static str {
        let loosened = allowed.iter().any(|known| {
            let free = Grant { conditions: BTreeMap::new(), ..(*known).clone() };
            free.covers(self)
        });
        if loosened { " (a condition is gone, wider or another)" } else { "" }
    }
}

/// The property that holds a role's trust.
const TRUST: &str = "AssumeRolePolicyDocument";

/// Grants by the property that holds their document: a role's trust is no permission.
struct Documents(BTreeMap<String, Vec<Grant>>);

impl Documents {
    fn of(properties: &Json) -> Self {
        let mut grants = BTreeMap::new();
        for (name, value) in properties.as_object().into_iter().flatten() {
            let mut found = Vec::new();
            documents(value, &mut found);
            if !found.is_empty() {
                // Inline policies may move from one property to another.
                let group = if name == TRUST { TRUST } else { "policies" };
                grants.entry(group.to_owned()).or_insert_with(Vec::new).append(&mut found);
            }
        }
        Self(grants)
    }
}

fn documents(json: &Json, found: &mut Vec<Grant>) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| documents(item, found)),
        Json::Object(object) => {
            for (key, value) in object {
                if key == "Statement" { statements(value, found) } else { documents(value, found) }
            }
        }
        // Some types take a policy as text.
        Json::String(text) if text.contains("\"Statement\"") => {
            if let Ok(document) = serde_json::from_str::<Json>(text) {
                documents(&document, found);
            }
        }
        _ => {}
    }
}

/// Statements, also below a `Fn::If`: what may be allowed counts as allowed.
fn statements(json: &Json, found: &mut Vec<Grant>) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| statements(item, found)),
        Json::Object(object) if object.contains_key("Effect") => grants(json, found),
        Json::Object(object) => object.values().for_each(|value| statements(value, found)),
        _ => {}
    }
}

fn grants(statement: &Json, found: &mut Vec<Grant>) {
    let allow = statement.get("Effect").and_then(Json::as_str) != Some("Deny");
    let conditions = conditions(statement.get("Condition"));
    for action in scopes(statement, "Action") {
        for resource in scopes(statement, "Resource") {
            for principal in principals(statement) {
                found.push(Grant {
                    allow,
                    principal,
                    action: action.clone(),
                    resource: resource.clone(),
                    conditions: conditions.clone(),
                });
            }
        }
    }
}

fn list(value: &Json) -> Vec<&Json> {
    match value {
        Json::Array(items) => items.iter().collect(),
        other => vec![other],
    }
}

fn scopes(statement: &Json, name: &str) -> Vec<Scope> {
    if let Some(value) = statement.get(name) {
        return list(value).into_iter().map(|item| Scope::Only(text(item))).collect();
    }
    match statement.get(format!("Not{name}")) {
        Some(value) => vec![Scope::AllBut(list(value).into_iter().map(text).collect())],
        None => vec![Scope::Any],
    }
}

fn principals(statement: &Json) -> Vec<Scope> {
    let names = |value: &Json| -> Vec<String> {
        match value {
            Json::Object(kinds) if !crate::intrinsic::is_intrinsic(value) => kinds
                .iter()
                .flat_map(|(kind, names)| {
                    list(names).into_iter().map(move |name| match text(name).as_str() {
                        "*" => "*".to_owned(),
                        name => format!("{kind} {name}"),
                    })
                })
                .collect(),
            other => list(other).into_iter().map(text).collect(),
        }
    };
    if let Some(value) = statement.get("Principal") {
        return names(value).into_iter().map(Scope::Only).collect();
    }
    match statement.get("NotPrincipal") {
        Some(value) => vec![Scope::AllBut(names(value).into_iter().collect())],
        None => vec![Scope::Any],
    }
}

fn conditions(condition: Option<&Json>) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for (operator, keys) in condition.and_then(Json::as_object).into_iter().flatten() {
        match keys {
            Json::Object(keys) => {
                for (key, values) in keys {
                    found.insert(
                        (operator.clone(), key.clone()),
                        list(values).into_iter().map(text).collect(),
                    );
                }
            }
            other => {
                let whole = String::from_utf8(to_canonical_bytes(other)).unwrap_or_default();
                found.insert((operator.clone(), String::new()), BTreeSet::from([whole]));
            }
        }
    }
    found
}

/// Whether a pattern with `*` and `?` covers a text that may have them itself.
fn matches(pattern: &str, asked: &str) -> bool {
    if pattern == asked {
        return true;
    }
    let (pattern, asked): (Vec<char>, Vec<char>) = (pattern.chars().collect(), asked.chars().collect());
    let (mut p, mut a) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while a < asked.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p, a));
                p += 1;
            }
            // One character does not cover a `*`, which may be many.
            Some('?') if asked[a] != '*' => {
                p += 1;
                a += 1;
            }
            Some(c) if *c == asked[a] => {
                p += 1;
                a += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    p = star + 1;
                    a = from + 1;
                    retry = Some((star, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Lists whose elements give somebody more, and how to say so.
const ATTACHED: [(&str, &str, &str); 7] = [
    ("", "ManagedPolicyArns", "attaches the managed policy"),
    ("AWS::EKS::AccessEntry", "AccessPolicies", "attaches the cluster access policy"),
    ("AWS::EKS::AccessEntry", "KubernetesGroups", "joins the Kubernetes group"),
    ("AWS::EKS::PodIdentityAssociation", "RoleArn", "gives pods the role"),
    ("AWS::IAM", "Roles", "is attached to the role"),
    ("AWS::IAM", "Users", "is attached to the user"),
    ("AWS::IAM", "Groups", "is attached to the group"),
];

fn attachments(kind: &str, before: &Json, after: &Json, found: &mut BTreeSet<String>) {
    for (types, property, words) in ATTACHED {
        let texts = |side: &Json| -> Vec<String> {
            side.get(property).map(|value| list(value).into_iter().map(text).collect()).unwrap_or_default()
        };
        let old = texts(before);
        if kind.starts_with(types) {
            found.extend(
                texts(after)
                    .into_iter()
                    .filter(|item| !old.contains(item))
                    .map(|item| format!("{words} {item}")),
            );
        }
    }
    let boundary = |side: &Json| side.get("PermissionsBoundary").map(text);
    if let Some(was) = boundary(before)
        && !after.is_null()
        && boundary(after).as_ref() != Some(&was)
    {
        found.insert(format!("the permissions boundary {was} is no longer its own"));
    }
    if kind == "AWS::Lambda::Permission" && !after.is_null() && before != after {
        let part = |name: &str| after.get(name).map(text).unwrap_or_default();
        found.insert(format!(
            "lets {} call {} of {}",
            part("Principal"),
            part("Action"),
            part("FunctionName")
        ));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn policy(statements: Json) -> Json {
        json!({ "PolicyDocument": { "Statement": statements } })
    }

    fn role(before: Json, after: Json) -> Vec<String> {
        broadened("AWS::IAM::Policy", &policy(before), &policy(after))
    }

    fn allow(actions: &[&str], resources: &[&str]) -> Json {
        json!({ "Effect": "Allow", "Action": actions, "Resource": resources })
    }

    #[test]
    fn a_new_action_or_resource_is_more() {
        let read = allow(&["s3:GetObject"], &["arn:b/*"]);
        assert_eq!(
            role(json!([read]), json!([allow(&["s3:GetObject", "s3:PutObject"], &["arn:b/*"])])),
            ["s3:PutObject on arn:b/*"]
        );
        assert_eq!(
            role(json!([read]), json!([allow(&["s3:GetObject"], &["arn:b/*", "arn:c/*"])])),
            ["s3:GetObject on arn:c/*"]
        );
        assert_eq!(role(json!([read]), json!([allow(&["s3:*"], &["arn:b/*"])])), ["s3:* on arn:b/*"]);
    }

    #[test]
    fn narrower_or_written_in_another_way_is_not_more() {
        let all = allow(&["s3:*"], &["*"]);
        assert!(role(json!([all]), json!([allow(&["s3:GetObject"], &["arn:b/*"])])).is_empty());
        let apart = json!([allow(&["s3:GetObject"], &["arn:b"]), allow(&["s3:PutObject"], &["arn:b"])]);
        assert!(role(json!([allow(&["s3:GetObject", "s3:PutObject"], &["arn:b"])]), apart).is_empty());
        assert!(role(json!([all]), json!([])).is_empty());
    }

    #[test]
    fn a_condition_that_is_gone_or_wider_is_more() {
        let under = |accounts: Json| json!({ "Effect": "Allow", "Action": "s3:GetObject", "Resource": "*", "Condition": { "StringEquals": { "aws:SourceAccount": accounts } } });
        let free = json!({ "Effect": "Allow", "Action": "s3:GetObject", "Resource": "*" });
        let found = role(json!([under(json!("1"))]), json!([free]));
        assert_eq!(found, ["s3:GetObject on * (a condition is gone, wider or another)"]);
        assert_eq!(role(json!([under(json!("1"))]), json!([under(json!(["1", "2"]))])).len(), 1);
        assert!(role(json!([under(json!(["1", "2"]))]), json!([under(json!("1"))])).is_empty());
        assert!(role(json!([free]), json!([under(json!("1"))])).is_empty());
    }

    #[test]
    fn a_deny_that_is_gone_or_narrower_is_more() {
        let deny = |action: &str| json!({ "Effect": "Deny", "Action": action, "Resource": "*" });
        assert_eq!(role(json!([deny("s3:*")]), json!([])), ["no longer denies s3:* on *"]);
        assert_eq!(role(json!([deny("s3:*")]), json!([deny("s3:PutObject")])).len(), 1);
        assert!(role(json!([deny("s3:PutObject")]), json!([deny("s3:*")])).is_empty());
    }

    #[test]
    fn grants_that_go_together_share_a_sentence() {
        let broad = allow(&["s3:GetObject", "s3:PutObject"], &["arn:b", "arn:c"]);
        let under = json!({ "Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:b", "Condition": { "Bool": { "aws:SecureTransport": "true" } } });
        assert_eq!(
            role(json!([]), json!([broad, under])),
            [
                "s3:GetObject, s3:PutObject on arn:b, arn:c",
                "s3:ListBucket on arn:b, if Bool aws:SecureTransport true"
            ]
        );
    }

    #[test]
    fn trust_is_apart_from_permissions() {
        let trust = |service: &str| json!({ "AssumeRolePolicyDocument": { "Statement": [{ "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": { "Service": service } }] } });
        assert_eq!(
            broadened("AWS::IAM::Role", &trust("lambda.amazonaws.com"), &trust("ec2.amazonaws.com")),
            ["trusts sts:AssumeRole for Service ec2.amazonaws.com"]
        );
        let anybody = json!({ "AssumeRolePolicyDocument": { "Statement": { "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": "*" } } });
        assert!(broadened("AWS::IAM::Role", &anybody, &trust("ec2.amazonaws.com")).is_empty());
    }

    #[test]
    fn all_but_few_is_more_when_fewer_are_left_out() {
        let but = |actions: Json| json!({ "Effect": "Allow", "NotAction": actions, "Resource": "*" });
        assert_eq!(role(json!([but(json!(["iam:*", "s3:*"]))]), json!([but(json!(["iam:*"]))])).len(), 1);
        assert!(role(json!([but(json!(["iam:*"]))]), json!([but(json!(["iam:*", "s3:*"]))])).is_empty());
        assert!(role(json!([but(json!(["iam:*"]))]), json!([allow(&["s3:GetObject"], &["*"])])).is_empty());
        assert_eq!(role(json!([but(json!(["iam:*"]))]), json!([allow(&["iam:PassRole"], &["*"])])).len(), 1);
    }

    #[test]
    fn what_is_attached_counts() {
        let with = |arns: Json| json!({ "ManagedPolicyArns": arns, "PermissionsBoundary": "arn:boundary" });
        assert_eq!(
            broadened("AWS::IAM::Role", &with(json!(["a"])), &with(json!(["a", "b"]))),
            ["attaches the managed policy b"]
        );
        let unbound = json!({ "ManagedPolicyArns": ["a"] });
        assert_eq!(broadened("AWS::IAM::Role", &with(json!(["a"])), &unbound).len(), 1);
        assert!(broadened("AWS::IAM::Role", &unbound, &with(json!(["a"]))).is_empty());
        assert_eq!(broadened("AWS::Lambda::Permission", &Json::Null, &json!({ "Principal": "*" })).len(), 1);
    }

    #[test]
    fn a_policy_as_text_is_read() {
        let text = policy(json!([allow(&["ecr:*"], &["*"])]))["PolicyDocument"].to_string();
        let after = json!({ "RepositoryPolicyText": text });
        assert_eq!(broadened("AWS::ECR::Repository", &Json::Null, &after), ["ecr:* on *"]);
    }

    proptest! {
        /// A grant covers itself, and `*` covers everything.
        #[test]
        fn covering_is_reflexive(text in "[a-c*?:]{0,8}") {
            prop_assert!(matches(&text, &text));
            prop_assert!(matches("*", &text));
        }

        /// Whatever a pattern matches when its wildcards are filled in, it covers.
        #[test]
        fn a_pattern_covers_what_it_stands_for(pieces in proptest::collection::vec("[a-c]{0,3}", 1..4), filling in "[a-c]{0,3}") {
            prop_assert!(matches(&pieces.join("*"), &pieces.join(&filling)));
        }

        /// Taking statements away never allows more; putting one in is told unless it is covered.
        #[test]
        fn fewer_statements_are_no_more(actions in proptest::collection::vec("[a-c]:[a-c*]{1,2}", 1..5), keep in 0usize..5) {
            let all: Vec<Json> = actions.iter().map(|action| allow(&[action], &["*"])).collect();
            let some: Vec<Json> = all.iter().take(keep).cloned().collect();
            prop_assert!(role(all.clone().into(), some.clone().into()).is_empty());
            let more = role(some.into(), all.clone().into());
            let covered = actions.iter().skip(keep).all(|action| actions.iter().take(keep).any(|known| matches(known, action)));
            prop_assert_eq!(more.is_empty(), covered);
        }
    }
}
