//! What the platform does not allow, and what AWS refuses only when it is too late.

use std::collections::BTreeSet;

use super::{
    AUTO_MODE, DATA_DELETION, Findings, KAFKA_AT_REST, KAFKA_BROKERS, KAFKA_COMPANION, KAFKA_REPLICAS,
    KAFKA_TRANSIT, LOG_RETENTION, OPEN_INGRESS, POD_TRUST, Resource, WILDCARD_ACTION, WILDCARD_RESOURCE,
};
use crate::value::Json;

pub(super) fn check(resources: &[Resource<'_>], data_kept: bool, findings: &mut Findings<'_>) {
    for resource in resources {
        statements(resource, findings);
        match resource.kind {
            "AWS::Logs::LogGroup" if resource.properties().get("RetentionInDays").is_none() => {
                findings.resource(LOG_RETENTION, resource.logical_id, "it has no RetentionInDays".to_owned());
            }
            "AWS::MSK::Cluster" => kafka_cluster(resource, findings),
            "AWS::MSK::Topic" => kafka_topic(resource, findings),
            "AWS::EKS::Cluster" => auto_mode(resource, findings),
            "AWS::EC2::SecurityGroupIngress" => ingress(resource, resource.properties(), findings),
            "AWS::EC2::SecurityGroup" => {
                let rules = resource.properties().get("SecurityGroupIngress").and_then(Json::as_array);
                for rule in rules.into_iter().flatten() {
                    ingress(resource, rule, findings);
                }
            }
            _ => {}
        }
        let deleted = resource.json.get("DeletionPolicy").and_then(Json::as_str) == Some("Delete");
        if data_kept && deleted {
            findings.resource(DATA_DELETION, resource.logical_id, "its DeletionPolicy is Delete".to_owned());
        }
    }
}

fn flag(json: &Json, pointer: &str) -> Option<bool> {
    json.pointer(pointer).and_then(Json::as_bool)
}

fn kafka_cluster(resource: &Resource<'_>, findings: &mut Findings<'_>) {
    let properties = resource.properties();
    let transit = properties.pointer("/EncryptionInfo/EncryptionInTransit");
    let tls = transit.is_some_and(|transit| {
        transit.get("ClientBroker").and_then(Json::as_str) == Some("TLS")
            && transit.get("InCluster").and_then(Json::as_bool) == Some(true)
    });
    if !tls || flag(properties, "/ClientAuthentication/Unauthenticated/Enabled") != Some(false) {
        findings.resource(
            KAFKA_TRANSIT,
            resource.logical_id,
            "not every connection is encrypted and authenticated".to_owned(),
        );
    }
    if properties.pointer("/EncryptionInfo/EncryptionAtRest/DataVolumeKMSKeyId").is_none() {
        findings.resource(
            KAFKA_AT_REST,
            resource.logical_id,
            "its volumes have no key of their own".to_owned(),
        );
    }
    let subnets =
        properties.pointer("/BrokerNodeGroupInfo/ClientSubnets").and_then(Json::as_array).map_or(0, Vec::len);
    let brokers = properties.get("NumberOfBrokerNodes").and_then(Json::as_u64).unwrap_or(0);
    if subnets > 0 && !brokers.is_multiple_of(subnets as u64) {
        findings.resource(
            KAFKA_BROKERS,
            resource.logical_id,
            format!("{brokers} brokers over {subnets} subnets"),
        );
    }
}

fn kafka_topic(resource: &Resource<'_>, findings: &mut Findings<'_>) {
    let properties = resource.properties();
    let text = properties.get("Configs").and_then(Json::as_str).and_then(decode_base64).unwrap_or_default();
    let wanted =
        text.lines().find_map(|line| line.strip_prefix("min.insync.replicas=")?.trim().parse::<u64>().ok());
    let replicas = properties.get("ReplicationFactor").and_then(Json::as_u64);
    if let (Some(wanted), Some(replicas)) = (wanted, replicas)
        && wanted > replicas
    {
        findings.resource(
            KAFKA_REPLICAS,
            resource.logical_id,
            format!("min.insync.replicas is {wanted}, the replication factor {replicas}"),
        );
    }
}

/// Standard base64; `None` when it is none. Small enough not to be worth a dependency of the language.
fn decode_base64(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for symbol in text.trim_end_matches('=').bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    String::from_utf8(bytes).ok()
}

fn auto_mode(resource: &Resource<'_>, findings: &mut Findings<'_>) {
    let properties = resource.properties();
    let switches = [
        "/ComputeConfig/Enabled",
        "/KubernetesNetworkConfig/ElasticLoadBalancing/Enabled",
        "/StorageConfig/BlockStorage/Enabled",
    ]
    .map(|pointer| flag(properties, pointer).unwrap_or(false));
    let on = switches.iter().filter(|switch| **switch).count();
    if on != 0 && on != switches.len() {
        findings.resource(AUTO_MODE, resource.logical_id, format!("{on} of its 3 switches are on"));
    }
    if on > 0 && flag(properties, "/BootstrapSelfManagedAddons") != Some(false) {
        findings.resource(
            AUTO_MODE,
            resource.logical_id,
            "BootstrapSelfManagedAddons is not false".to_owned(),
        );
    }
    let pools = properties
        .pointer("/ComputeConfig/NodePools")
        .and_then(Json::as_array)
        .is_some_and(|pools| !pools.is_empty());
    let role = properties.pointer("/ComputeConfig/NodeRoleArn").is_some();
    if on > 0 && pools != role {
        findings.resource(AUTO_MODE, resource.logical_id, "NodePools and NodeRoleArn go together".to_owned());
    }
}

fn ingress(resource: &Resource<'_>, rule: &Json, findings: &mut Findings<'_>) {
    let open = |key: &str, every: &str| rule.get(key).and_then(Json::as_str) == Some(every);
    if open("CidrIp", "0.0.0.0/0") || open("CidrIpv6", "::/0") {
        findings.resource(OPEN_INGRESS, resource.logical_id, "every address may come in".to_owned());
    }
}

/// One or several texts.
fn texts(json: Option<&Json>) -> Vec<&str> {
    match json {
        Some(Json::String(text)) => vec![text],
        Some(Json::Array(items)) => items.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

fn statements(resource: &Resource<'_>, findings: &mut Findings<'_>) {
    let mut found = Vec::new();
    collect_statements(resource.properties(), &mut found);
    let mut allowed: BTreeSet<&str> = BTreeSet::new();
    for statement in &found {
        if statement.get("Effect").and_then(Json::as_str) != Some("Allow") {
            continue;
        }
        let actions = texts(statement.get("Action"));
        let principals = statement.get("Principal");
        for action in actions.iter().filter(|action| action.ends_with(":*") || **action == "*") {
            findings.resource(WILDCARD_ACTION, resource.logical_id, format!("{action} is allowed"));
        }
        // In a key's policy the resource is the key itself.
        if texts(statement.get("Resource")).contains(&"*") && resource.kind != "AWS::KMS::Key" {
            findings.resource(
                WILDCARD_RESOURCE,
                resource.logical_id,
                format!("{} are allowed on every resource", actions.join(", ")),
            );
        }
        if principals.is_some_and(|principals| principals.to_string().contains("pods.eks.amazonaws.com"))
            && !actions.contains(&"sts:TagSession")
        {
            findings.resource(POD_TRUST, resource.logical_id, "sts:TagSession is not allowed".to_owned());
        }
        idempotent_write(resource, statement, &actions, findings);
        allowed.extend(actions);
    }
    // awsdocs/amazon-msk-developer-guide, iam-access-control: what each action needs beside it.
    const COMPANIONS: [(&str, &[&str]); 4] = [
        ("kafka-cluster:WriteData", &["kafka-cluster:Connect", "kafka-cluster:DescribeTopic"]),
        (
            "kafka-cluster:ReadData",
            &["kafka-cluster:Connect", "kafka-cluster:DescribeTopic", "kafka-cluster:AlterGroup"],
        ),
        ("kafka-cluster:AlterGroup", &["kafka-cluster:Connect", "kafka-cluster:DescribeGroup"]),
        ("kafka-cluster:WriteDataIdempotently", &["kafka-cluster:Connect", "kafka-cluster:WriteData"]),
    ];
    for (action, companions) in COMPANIONS {
        let missing: Vec<&str> =
            companions.iter().copied().filter(|companion| !allowed.contains(companion)).collect();
        if allowed.contains(action) && !missing.is_empty() {
            findings.resource(
                KAFKA_COMPANION,
                resource.logical_id,
                format!("{action} needs {}", missing.join(", ")),
            );
        }
    }
}

/// `WriteDataIdempotently` is defined for clusters; on a topic it grants nothing.
fn idempotent_write(
    resource: &Resource<'_>,
    statement: &Json,
    actions: &[&str],
    findings: &mut Findings<'_>,
) {
    let on_topic = statement.get("Resource").is_some_and(|resource| resource.to_string().contains(":topic/"));
    if actions.contains(&"kafka-cluster:WriteDataIdempotently") && on_topic {
        findings.resource(
            KAFKA_COMPANION,
            resource.logical_id,
            "kafka-cluster:WriteDataIdempotently is an action on the cluster, not on a topic".to_owned(),
        );
    }
}

fn collect_statements<'a>(json: &'a Json, found: &mut Vec<&'a Json>) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| collect_statements(item, found)),
        Json::Object(object) => {
            for (key, value) in object {
                match (key.as_str(), value) {
                    ("Statement", Json::Array(items)) => found.extend(items),
                    ("Statement", Json::Object(_)) => found.push(value),
                    (_, value) => collect_statements(value, found),
                }
            }
        }
        _ => {}
    }
}
