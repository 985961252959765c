//! What a role may do, as far as a template tells.

use std::collections::{BTreeMap, BTreeSet};

use super::template::{Resource, Template, texts};
use crate::value::Json;

/// What AWS's own policies allow, of those actions that the rules ask for. Source: the managed policies'
/// documents in AWS's managed policy reference.
const MANAGED: [(&str, &[&str]); 5] = [
    (
        "AWSLambdaMSKExecutionRole",
        &[
            "kafka:DescribeCluster",
            "kafka:DescribeClusterV2",
            "kafka:GetBootstrapBrokers",
            "ec2:CreateNetworkInterface",
            "ec2:DeleteNetworkInterface",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSecurityGroups",
            "ec2:DescribeSubnets",
            "ec2:DescribeVpcs",
            "logs:*",
        ],
    ),
    (
        "AWSLambdaKinesisExecutionRole",
        &[
            "kinesis:DescribeStream",
            "kinesis:DescribeStreamSummary",
            "kinesis:GetRecords",
            "kinesis:GetShardIterator",
            "kinesis:ListShards",
            "kinesis:ListStreams",
            "kinesis:SubscribeToShard",
            "logs:*",
        ],
    ),
    (
        "AWSLambdaDynamoDBExecutionRole",
        &[
            "dynamodb:DescribeStream",
            "dynamodb:GetRecords",
            "dynamodb:GetShardIterator",
            "dynamodb:ListStreams",
            "logs:*",
        ],
    ),
    (
        "AWSLambdaSQSQueueExecutionRole",
        &["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "logs:*"],
    ),
    ("AWSLambdaBasicExecutionRole", &["logs:*"]),
];

/// Managed policies that allow nothing that a rule asks for.
const IRRELEVANT: [&str; 3] =
    ["AWSXRayDaemonWriteAccess", "CloudWatchLambdaInsightsExecutionRolePolicy", "AmazonEKSClusterPolicy"];

/// What is allowed.
#[derive(Clone, Debug, Default)]
pub(super) struct Permissions<'a> {
    actions: BTreeSet<&'a str>,
    /// Whether there may be more than what is known.
    open: bool,
}

impl<'a> Permissions<'a> {
    pub(super) fn add(&mut self, document: &'a Json) {
        for statement in statements(document) {
            if statement.get("Effect").and_then(Json::as_str) == Some("Allow") {
                self.actions.extend(texts(statement.get("Action")));
            }
        }
    }

    /// Those of the actions that are certainly not allowed.
    pub(super) fn lacks<'n>(&self, needed: &[&'n str]) -> Vec<&'n str> {
        if self.open {
            return Vec::new();
        }
        needed
            .iter()
            .copied()
            .filter(|action| !self.actions.iter().any(|pattern| covers(pattern, action)))
            .collect()
    }
}

/// Whether an action's pattern, with `*` and `?`, covers an action. IAM does not mind the case.
pub(super) fn covers(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_lowercase().into_bytes(), action.to_lowercase().into_bytes());
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < action.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(symbol) if *symbol == b'?' || *symbol == action[from] => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((star_at, star_from)) => {
                    at = star_at + 1;
                    from = star_from + 1;
                    star = Some((star_at, from));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|symbol| *symbol == b'*')
}

/// The statements of a policy document.
pub(super) fn statements(document: &Json) -> &[Json] {
    match document.get("Statement") {
        Some(Json::Array(items)) => items,
        Some(single @ Json::Object(_)) => std::slice::from_ref(single),
        _ => &[],
    }
}

/// What each role of a template may do, with the policies that are attached to it from elsewhere in the app.
pub(super) fn by_role<'a>(template: &Template<'a>) -> BTreeMap<&'a str, Permissions<'a>> {
    let mut roles: BTreeMap<&str, Permissions<'a>> = template
        .of_kind("AWS::IAM::Role")
        .iter()
        .map(|role| (role.logical_id, of_role(template, role)))
        .collect();
    for policy in template.policies() {
        let named = match policy.kind {
            "AWS::IAM::RolePolicy" => policy.at("/RoleName").map_or(&[][..], std::slice::from_ref),
            _ => policy.list("/Roles"),
        };
        for role in named.iter().filter_map(|role| template.target_of(policy, role)) {
            if let (true, Some(known), Some(document)) =
                (role.home == template.id, roles.get_mut(role.logical_id), policy.at("/PolicyDocument"))
            {
                known.add(document);
            }
        }
    }
    roles
}

fn of_role<'a>(template: &Template<'a>, role: &Resource<'a>) -> Permissions<'a> {
    let mut permissions = Permissions::default();
    for policy in role.list("/Policies") {
        if let Some(document) = policy.get("PolicyDocument") {
            permissions.add(document);
        }
    }
    for policy in role.list("/ManagedPolicyArns") {
        let own = template.own(policy).filter(|policy| policy.kind == "AWS::IAM::ManagedPolicy");
        if let Some(document) = own.and_then(|policy| policy.at("/PolicyDocument")) {
            permissions.add(document);
            continue;
        }
        let name = managed_name(policy).unwrap_or_default();
        match MANAGED.iter().find(|(known, _)| *known == name) {
            Some((_, actions)) => permissions.actions.extend(*actions),
            None => permissions.open |= !IRRELEVANT.contains(&name),
        }
    }
    if role.at("/ManagedPolicyArns").is_some_and(|json| !json.is_array()) {
        permissions.open = true;
    }
    permissions
}

/// The name of a managed policy in its ARN, literal or with the partition filled in.
pub(super) fn managed_name(json: &Json) -> Option<&str> {
    let text = json.as_str().or_else(|| json.get("Fn::Sub").and_then(Json::as_str)).or_else(|| {
        json.pointer("/Fn::Join/1").and_then(Json::as_array).and_then(|parts| parts.last()?.as_str())
    })?;
    text.rsplit('/').next()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_cover_what_they_say() {
        assert!(covers("kafka-cluster:*", "kafka-cluster:Connect"));
        assert!(covers("*", "s3:GetObject"));
        assert!(covers("s3:Get*", "s3:getobject"));
        assert!(covers("s3:?etObject", "s3:GetObject"));
        assert!(covers("kafka-cluster:*Topic", "kafka-cluster:DescribeTopic"));
        assert!(!covers("kafka-cluster:*Topic", "kafka-cluster:DescribeTopicDynamicConfiguration"));
        assert!(!covers("s3:GetObject", "s3:GetObjectAcl"));
    }

    proptest! {
        /// An action covers itself, and so does each pattern got from it by replacing an end by a star.
        #[test]
        fn a_star_stands_for_any_end(action in "[a-z]{2,6}:[A-Za-z]{1,12}", cut in 0usize..20) {
            let cut = cut.min(action.len());
            let pattern = format!("{}*", &action[..cut]);
            prop_assert!(covers(&action, &action));
            prop_assert!(covers(&pattern, &action));
        }
    }
}
