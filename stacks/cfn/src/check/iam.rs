//! Policies of IAM: what they allow, on what, and to whom.

use std::collections::BTreeSet;

use super::{
    Findings,
    names::nearest,
    permissions::{covers, managed_name},
    rules::{
        BROAD_MANAGED_POLICY, DATABASE_USER, KAFKA_ACTION, KAFKA_COMPANION, LONG_LIVED_KEY, NEGATED_POLICY,
        OPEN_PRINCIPAL, PASS_ROLE, POD_TRUST, PRINCIPAL, WILDCARD_ACTION, WILDCARD_RESOURCE,
    },
    template::{Resource, Template, texts},
};
use crate::value::Json;

/// Actions that IAM allows on `*` alone: the service authorization reference lists no resource for them.
const WITHOUT_RESOURCE: [&str; 16] = [
    "cloudformation:BatchDescribeTypeConfigurations",
    "cloudformation:DescribeStackDriftDetectionStatus",
    "cloudwatch:GetMetricData",
    "cloudwatch:GetMetricStatistics",
    "cloudwatch:ListMetrics",
    "cloudwatch:PutMetricData",
    "dynamodb:ListStreams",
    "ec2:Describe*",
    "ecr:GetAuthorizationToken",
    "kafka:ListClusters*",
    "kinesis:ListStreams",
    "sts:GetCallerIdentity",
    "tag:GetResources",
    "xray:GetSampling*",
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
];

/// AWS's own policies that allow far more than one workload needs.
const BROAD: [&str; 3] = ["AdministratorAccess", "PowerUserAccess", "IAMFullAccess"];

/// awsdocs/amazon-msk-developer-guide, iam-access-control: what each action needs beside it.
const COMPANIONS: [(&str, &[&str]); 5] = [
    ("kafka-cluster:WriteData", &["kafka-cluster:Connect", "kafka-cluster:DescribeTopic"]),
    (
        "kafka-cluster:ReadData",
        &["kafka-cluster:Connect", "kafka-cluster:DescribeTopic", "kafka-cluster:AlterGroup"],
    ),
    ("kafka-cluster:AlterGroup", &["kafka-cluster:Connect", "kafka-cluster:DescribeGroup"]),
    ("kafka-cluster:WriteDataIdempotently", &["kafka-cluster:Connect", "kafka-cluster:WriteData"]),
    (
        "kafka-cluster:AlterTransactionalId",
        &["kafka-cluster:Connect", "kafka-cluster:DescribeTransactionalId", "kafka-cluster:WriteData"],
    ),
];

/// The kind of resource that each action is defined for, from the same page.
const DEFINED_FOR: [(&str, &[&str]); 4] = [
    (
        "cluster",
        &[
            "Connect",
            "DescribeCluster",
            "AlterCluster",
            "DescribeClusterDynamicConfiguration",
            "AlterClusterDynamicConfiguration",
            "WriteDataIdempotently",
        ],
    ),
    (
        "topic",
        &[
            "CreateTopic",
            "DescribeTopic",
            "AlterTopic",
            "DeleteTopic",
            "DescribeTopicDynamicConfiguration",
            "AlterTopicDynamicConfiguration",
            "ReadData",
            "WriteData",
        ],
    ),
    ("group", &["DescribeGroup", "AlterGroup", "DeleteGroup"]),
    ("transactional-id", &["DescribeTransactionalId", "AlterTransactionalId"]),
];

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    for resource in &template.resources {
        statements(template, resource, findings);
    }
    for kind in ["AWS::IAM::Role", "AWS::IAM::User", "AWS::IAM::Group"] {
        for holder in template.of_kind(kind) {
            for policy in holder.list("/ManagedPolicyArns") {
                let name = managed_name(policy).unwrap_or_default();
                if BROAD.contains(&name) || name.ends_with("FullAccess") {
                    findings.resource(
                        BROAD_MANAGED_POLICY,
                        holder.logical_id,
                        format!("it has the policy {name}"),
                    );
                }
            }
        }
    }
    for key in template.of_kind("AWS::IAM::AccessKey") {
        findings.resource(LONG_LIVED_KEY, key.logical_id, "it is a key that never ends".to_owned());
    }
}

fn statements(template: &Template<'_>, resource: &Resource<'_>, findings: &mut Findings<'_>) {
    let mut found = Vec::new();
    collect(resource.properties(), &mut found);
    let mut allowed: BTreeSet<&str> = BTreeSet::new();
    for statement in &found {
        if statement.get("Effect").and_then(Json::as_str) != Some("Allow") {
            continue;
        }
        let actions = texts(statement.get("Action"));
        for action in actions.iter().filter(|action| action.ends_with(":*") || **action == "*") {
            findings.resource(WILDCARD_ACTION, resource.logical_id, format!("{action} is allowed"));
        }
        let bound: Vec<&str> = actions
            .iter()
            .copied()
            .filter(|action| !WITHOUT_RESOURCE.iter().any(|free| covers(free, action)))
            .collect();
        // In a key's policy the resource is the key itself.
        let everywhere = texts(statement.get("Resource")).contains(&"*") && resource.kind != "AWS::KMS::Key";
        if everywhere && (actions.is_empty() || !bound.is_empty()) {
            findings.resource(
                WILDCARD_RESOURCE,
                resource.logical_id,
                format!("{} are allowed on every resource", bound.join(", ")),
            );
        }
        for key in ["NotAction", "NotResource", "NotPrincipal"] {
            if statement.get(key).is_some() {
                findings.resource(
                    NEGATED_POLICY,
                    resource.logical_id,
                    format!("it allows everything but what {key} names"),
                );
            }
        }
        trust(resource, statement, &actions, findings);
        if actions.iter().any(|action| covers(action, "iam:PassRole")) && statement.get("Condition").is_none()
        {
            findings.resource(
                PASS_ROLE,
                resource.logical_id,
                "iam:PassRole is allowed to every service".to_owned(),
            );
        }
        kafka_actions(resource, &actions, findings);
        kafka_places(template, resource, statement, &actions, findings);
        if actions.contains(&"rds-db:connect") && !names_database_user(statement.get("Resource")) {
            findings.resource(
                DATABASE_USER,
                resource.logical_id,
                "rds-db:connect is allowed on something that is no database user".to_owned(),
            );
        }
        allowed.extend(actions);
    }
    let has = |action: &str| allowed.iter().any(|pattern| covers(pattern, action));
    for (action, companions) in COMPANIONS {
        let missing: Vec<&str> = companions.iter().copied().filter(|companion| !has(companion)).collect();
        if allowed.contains(action) && !missing.is_empty() {
            findings.resource(
                KAFKA_COMPANION,
                resource.logical_id,
                format!("{action} needs {}", missing.join(", ")),
            );
        }
    }
}

/// To whom a statement allows something.
fn trust(resource: &Resource<'_>, statement: &Json, actions: &[&str], findings: &mut Findings<'_>) {
    let Some(principal) = statement.get("Principal") else { return };
    let services = texts(principal.get("Service"));
    if services.contains(&"pods.eks.amazonaws.com") {
        let missing: Vec<&str> =
            ["sts:AssumeRole", "sts:TagSession"].into_iter().filter(|a| !actions.contains(a)).collect();
        if !missing.is_empty() {
            findings.resource(
                POD_TRUST,
                resource.logical_id,
                format!("{} is not allowed", missing.join(" and ")),
            );
        }
    }
    for service in services.iter().filter(|service| !is_service(service)) {
        findings.resource(PRINCIPAL, resource.logical_id, format!("`{service}` is no service of AWS's"));
    }
    let everybody = principal.as_str() == Some("*") || texts(principal.get("AWS")).contains(&"*");
    // An endpoint's policy is about who is in the VPC already; the policies of both sides still hold.
    let endpoint = resource.kind == "AWS::EC2::VPCEndpoint";
    if everybody && !endpoint && statement.get("Condition").is_none() {
        findings.resource(
            OPEN_PRINCIPAL,
            resource.logical_id,
            format!("{} is allowed to every account", actions.join(", ")),
        );
    }
}

/// `arn:…:rds-db:REGION:ACCOUNT:dbuser:RESOURCE-ID/USER`; an ARN that a parameter holds may be one.
fn names_database_user(resource: Option<&Json>) -> bool {
    let user = |json: &Json| {
        let text = json.to_string();
        text.contains(":dbuser:") || (json.get("Ref").is_some() && !text.contains("AWS::"))
    };
    match resource {
        Some(Json::Array(items)) => items.iter().all(user),
        Some(one) => user(one),
        None => true,
    }
}

fn is_service(name: &str) -> bool {
    name.strip_suffix(".cn").unwrap_or(name).ends_with(".amazonaws.com") || name.contains("${")
}

/// Actions that MSK does not have: IAM takes any name, and grants nothing by it.
fn kafka_actions(resource: &Resource<'_>, actions: &[&str], findings: &mut Findings<'_>) {
    let known = || DEFINED_FOR.iter().flat_map(|(_, names)| names.iter().copied());
    for action in actions {
        let Some(name) = action.strip_prefix("kafka-cluster:") else { continue };
        if name.contains(['*', '?']) || known().any(|known| known.eq_ignore_ascii_case(name)) {
            continue;
        }
        let hint = nearest(name, known()).map(|near| format!("; is {near} meant?")).unwrap_or_default();
        findings.resource(KAFKA_ACTION, resource.logical_id, format!("MSK has no action {action}{hint}"));
    }
}

/// An action of MSK's on a kind of resource that it is not defined for grants nothing.
fn kafka_places(
    template: &Template<'_>,
    resource: &Resource<'_>,
    statement: &Json,
    actions: &[&str],
    findings: &mut Findings<'_>,
) {
    if !actions.iter().any(|action| action.starts_with("kafka-cluster:")) {
        return;
    }
    let places: Vec<Option<&str>> = match statement.get("Resource") {
        Some(Json::Array(items)) => items.iter().map(|item| kafka_place(template, item)).collect(),
        Some(one) => vec![kafka_place(template, one)],
        None => return,
    };
    for action in actions {
        let Some(name) = action.strip_prefix("kafka-cluster:") else { continue };
        let Some((wanted, _)) = DEFINED_FOR.iter().find(|(_, names)| names.contains(&name)) else { continue };
        let fits = places.iter().any(|place| place.is_none_or(|place| place == *wanted));
        if !fits {
            let given: BTreeSet<&str> = places.iter().copied().flatten().collect();
            let given: Vec<&str> = given.into_iter().collect();
            findings.resource(
                KAFKA_COMPANION,
                resource.logical_id,
                format!("{action} is an action on a {wanted}, not on a {}", given.join(" or ")),
            );
        }
    }
}

/// `cluster`, `topic`, `group` or `transactional-id`, where an ARN tells.
fn kafka_place<'n>(template: &Template<'_>, json: &'n Json) -> Option<&'n str> {
    if template.target(json).is_some_and(|target| target.kind == "AWS::MSK::Cluster") {
        return Some("cluster");
    }
    let mut found = None;
    place_in(json, &mut found);
    found
}

/// A topic's ARN is built from its cluster's, so that the more special kind decides.
fn place_in<'n>(json: &'n Json, found: &mut Option<&'n str>) {
    match json {
        Json::String(text) => {
            for (mark, kind) in [
                (":topic/", "topic"),
                (":group/", "group"),
                (":transactional-id/", "transactional-id"),
                (":cluster/", "cluster"),
            ] {
                let special = found.is_some_and(|known| known != "cluster");
                if text.contains(mark) && !special {
                    *found = Some(kind);
                }
            }
        }
        Json::Array(items) => items.iter().for_each(|item| place_in(item, found)),
        Json::Object(object) => object.values().for_each(|value| place_in(value, found)),
        _ => {}
    }
}

fn collect<'a>(json: &'a Json, found: &mut Vec<&'a Json>) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Json::Object(object) => {
            for (key, value) in object {
                match (key.as_str(), value) {
                    ("Statement", Json::Array(items)) => found.extend(items),
                    ("Statement", Json::Object(_)) => found.push(value),
                    (_, value) => collect(value, found),
                }
            }
        }
        _ => {}
    }
}
