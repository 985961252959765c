//! Kafka clusters: versions, brokers, listeners, and the doors to them.

use super::{
    Findings, REVIEWED,
    permissions::{covers, statements},
    rules::{
        KAFKA_AT_REST, KAFKA_BROKER_LOGS, KAFKA_BROKER_TYPE, KAFKA_BROKERS, KAFKA_CONNECTIONS, KAFKA_EXPRESS,
        KAFKA_PORT, KAFKA_PUBLIC, KAFKA_SERVERLESS, KAFKA_SUBNETS, KAFKA_TRANSACTIONS, KAFKA_TRANSIT,
        KAFKA_VERSION, KAFKA_VERSION_ENDED, KAFKA_ZOOKEEPER,
    },
    template::{Resource, Template, number, texts},
};
use crate::value::Json;

/// Ends of support, from the MSK developer guide's page of supported versions; a version without an end has
/// none announced. What MSK no longer lists at all is older than these.
const VERSIONS: [(&str, Option<&str>); 12] = [
    ("2.8.2", Some("2024-09-11")),
    ("3.3.1", Some("2024-09-11")),
    ("3.3.2", Some("2024-09-11")),
    ("3.4.0", Some("2025-08-04")),
    ("3.5.1", Some("2025-10-23")),
    ("3.6.0", Some("2026-06-01")),
    ("3.7.x", None),
    ("3.7.x.kraft", None),
    ("3.8.x", None),
    ("3.8.x.kraft", None),
    ("3.9.x", None),
    ("3.9.x.kraft", None),
];

/// Broker sizes of the MSK developer guide, by family.
const FAMILIES: [(&str, &[&str]); 4] = [
    ("kafka.t3", &["small"]),
    ("kafka.m5", &["large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge", "24xlarge"]),
    ("kafka.m7g", &["large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge"]),
    ("express.m7g", &["large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge"]),
];

/// Ports of the listeners that are open without IAM: plain text, TLS with certificates, SCRAM, and ZooKeeper.
const OTHER_PORTS: [(i64, &str); 5] = [
    (2181, "ZooKeeper"),
    (2182, "ZooKeeper"),
    (9092, "plain text"),
    (9094, "TLS without IAM"),
    (9096, "SCRAM"),
];

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    for cluster in template.of_kind("AWS::MSK::Cluster") {
        security(cluster, findings);
        brokers(cluster, findings);
        version(template, cluster, findings);
    }
    ports(template, findings);
    topics(template, findings);
}

fn security(cluster: &Resource<'_>, findings: &mut Findings<'_>) {
    let transit = cluster.at("/EncryptionInfo/EncryptionInTransit");
    let tls = transit.is_some_and(|transit| {
        transit.get("ClientBroker").and_then(Json::as_str) == Some("TLS")
            && transit.get("InCluster").and_then(Json::as_bool) == Some(true)
    });
    let anonymous = cluster.at("/ClientAuthentication/Unauthenticated/Enabled").and_then(Json::as_bool);
    if !tls || anonymous != Some(false) {
        findings.resource(
            KAFKA_TRANSIT,
            cluster.logical_id,
            "not every connection is encrypted and authenticated".to_owned(),
        );
    }
    if !cluster.has("/EncryptionInfo/EncryptionAtRest/DataVolumeKMSKeyId") {
        findings.resource(
            KAFKA_AT_REST,
            cluster.logical_id,
            "its volumes have no key of their own".to_owned(),
        );
    }
    if cluster.text("/BrokerNodeGroupInfo/ConnectivityInfo/PublicAccess/Type")
        == Some("SERVICE_PROVIDED_EIPS")
    {
        findings.resource(KAFKA_PUBLIC, cluster.logical_id, "its brokers have public addresses".to_owned());
    }
    let logs = ["CloudWatchLogs", "S3", "Firehose"]
        .into_iter()
        .all(|place| cluster.off(&format!("/LoggingInfo/BrokerLogs/{place}/Enabled")));
    if logs {
        findings.resource(KAFKA_BROKER_LOGS, cluster.logical_id, "its brokers' logs go nowhere".to_owned());
    }
}

fn brokers(cluster: &Resource<'_>, findings: &mut Findings<'_>) {
    let subnets = cluster.list("/BrokerNodeGroupInfo/ClientSubnets").len();
    let brokers = cluster.at("/NumberOfBrokerNodes").and_then(Json::as_u64).unwrap_or(0);
    if subnets > 0 && !brokers.is_multiple_of(subnets as u64) {
        findings.resource(
            KAFKA_BROKERS,
            cluster.logical_id,
            format!("{brokers} brokers over {subnets} subnets"),
        );
    }
    if subnets == 1 {
        findings.resource(KAFKA_SUBNETS, cluster.logical_id, "it has one subnet".to_owned());
    }
    let Some(kind) = cluster.text("/BrokerNodeGroupInfo/InstanceType") else { return };
    let known = kind
        .rsplit_once('.')
        .and_then(|(family, size)| {
            FAMILIES.iter().find(|(known, sizes)| *known == family && sizes.contains(&size))
        })
        .is_some();
    if !known {
        let families: Vec<&str> = FAMILIES.iter().map(|(family, _)| *family).collect();
        findings.resource(
            KAFKA_BROKER_TYPE,
            cluster.logical_id,
            format!("{kind} is no broker of MSK's; its families are {}", families.join(", ")),
        );
    }
    if kind == "kafka.t3.small" && cluster.on("/ClientAuthentication/Sasl/Iam/Enabled") {
        findings.resource(
            KAFKA_CONNECTIONS,
            cluster.logical_id,
            "kafka.t3.small takes 4 new connections with IAM a second".to_owned(),
        );
    }
    if kind.starts_with("express.") {
        express(cluster, findings);
    }
}

fn express(cluster: &Resource<'_>, findings: &mut Findings<'_>) {
    let mut wrong = |message: &str| {
        findings.resource(KAFKA_EXPRESS, cluster.logical_id, message.to_owned());
    };
    if cluster.has("/BrokerNodeGroupInfo/StorageInfo") {
        wrong("Express brokers have no volumes, and StorageInfo is given");
    }
    if cluster.text("/KafkaVersion").and_then(release).is_some_and(|release| release < (3, 6)) {
        wrong("Express brokers want Kafka 3.6 or later");
    }
    if cluster.list("/BrokerNodeGroupInfo/ClientSubnets").len() == 2 {
        wrong("Express brokers keep 3 replicas and want 3 zones");
    }
}

/// What the cluster decides about its topics.
fn topics(template: &Template<'_>, findings: &mut Findings<'_>) {
    for topic in template.of_kind("AWS::MSK::Topic") {
        let Some(cluster) = topic.at("/ClusterArn").and_then(|arn| template.target(arn)) else { continue };
        let express = cluster
            .text("/BrokerNodeGroupInfo/InstanceType")
            .is_some_and(|kind| kind.starts_with("express."));
        if let Some(factor) = topic.number("/ReplicationFactor").filter(|factor| express && *factor != 3.0) {
            findings.resource(
                KAFKA_EXPRESS,
                topic.logical_id,
                format!("Express brokers keep 3 replicas, not {factor}"),
            );
        }
        let serverless = cluster.kind == "AWS::MSK::ServerlessCluster";
        let partitions = topic.number("/PartitionCount").filter(|count| serverless && *count > 120.0);
        if let Some(partitions) = partitions {
            findings.resource(
                KAFKA_SERVERLESS,
                topic.logical_id,
                format!("{partitions} partitions; MSK Serverless takes 120"),
            );
        }
    }
}

/// Major and minor.
pub(super) fn release(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether a version of MSK's runs without ZooKeeper: from 4.0 on, and before where its name says so.
pub(super) fn is_kraft(version: &str) -> bool {
    version.ends_with(".kraft") || release(version).is_some_and(|release| release >= (4, 0))
}

fn version(template: &Template<'_>, cluster: &Resource<'_>, findings: &mut Findings<'_>) {
    let Some(version) = cluster.text("/KafkaVersion") else { return };
    let Some(found) = release(version) else {
        findings.resource(KAFKA_VERSION, cluster.logical_id, format!("`{version}` is no version"));
        return;
    };
    let ended = match VERSIONS.iter().find(|(known, _)| *known == version) {
        Some((_, end)) => *end,
        None if found < (3, 3) => Some("2024-09-11"),
        None if found >= (4, 0) => None,
        None => {
            let known: Vec<&str> =
                VERSIONS.iter().filter(|(_, end)| end.is_none()).map(|(version, _)| *version).collect();
            findings.resource(
                KAFKA_VERSION,
                cluster.logical_id,
                format!("{version} is not known; MSK has {}, and 4.0 and later", known.join(", ")),
            );
            return;
        }
    };
    if let Some(end) = ended.filter(|end| *end <= REVIEWED) {
        findings.resource(
            KAFKA_VERSION_ENDED,
            cluster.logical_id,
            format!("Kafka {version} is supported until {end}"),
        );
    }
    if !is_kraft(version) {
        findings.resource(KAFKA_ZOOKEEPER, cluster.logical_id, format!("Kafka {version} runs on ZooKeeper"));
    }
    let transactions = || {
        template.of_kind("AWS::IAM::Role").iter().find(|role| {
            role.list("/Policies").iter().filter_map(|policy| policy.get("PolicyDocument")).any(|document| {
                statements(document).iter().any(|statement| {
                    texts(statement.get("Action"))
                        .iter()
                        .any(|action| covers(action, "kafka-cluster:AlterTransactionalId"))
                })
            })
        })
    };
    if found < (3, 8)
        && cluster.on("/ClientAuthentication/Sasl/Iam/Enabled")
        && let Some(role) = transactions()
    {
        findings.resource(
            KAFKA_TRANSACTIONS,
            cluster.logical_id,
            format!("{} may begin transactions, which Kafka {version} with IAM cannot end", role.logical_id),
        );
    }
}

/// Doors to listeners that are switched off. A door is told where it is declared, be the cluster there or not.
fn ports(template: &Template<'_>, findings: &mut Findings<'_>) {
    let clusters = template.of_kind("AWS::MSK::Cluster");
    for cluster in clusters.iter().filter(|cluster| takes_iam_alone(cluster)) {
        for group in cluster.list("/BrokerNodeGroupInfo/SecurityGroups") {
            let Some(group) = template.target(group) else { continue };
            for door in template.doors(&group).iter().filter(|door| door.inward) {
                if door.declared_by.home == template.id {
                    port(&door.declared_by, door.rule, findings);
                } else if let Some(open) = other_ports(door.rule) {
                    let place = format!("{}/{}", door.declared_by.home, door.declared_by.logical_id);
                    findings.resource(KAFKA_PORT, cluster.logical_id, format!("{place} opens {open}"));
                }
            }
        }
    }
}

fn takes_iam_alone(cluster: &Resource<'_>) -> bool {
    cluster.on("/ClientAuthentication/Sasl/Iam/Enabled")
        && cluster.off("/ClientAuthentication/Sasl/Scram/Enabled")
        && cluster.off("/ClientAuthentication/Tls/Enabled")
        && cluster.at("/ClientAuthentication/Unauthenticated/Enabled").and_then(Json::as_bool) != Some(true)
}

/// The other listeners that a rule reaches.
fn other_ports(rule: &Json) -> Option<String> {
    let bound = |key: &str| rule.get(key).and_then(number);
    let (from, to) = (bound("FromPort")?, bound("ToPort")?);
    let open: Vec<String> = OTHER_PORTS
        .iter()
        .filter(|(port, _)| (from..=to).contains(&(*port as f64)))
        .map(|(port, listener)| format!("{port} ({listener})"))
        .collect();
    (!open.is_empty()).then(|| open.join(", "))
}

fn port(resource: &Resource<'_>, rule: &Json, findings: &mut Findings<'_>) {
    if let Some(open) = other_ports(rule) {
        findings.resource(
            KAFKA_PORT,
            resource.logical_id,
            format!("it opens {open}; with IAM clients come in at 9098"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_tells_its_release_and_mode() {
        assert_eq!(release("3.9.x.kraft"), Some((3, 9)));
        assert_eq!(release("latest"), None);
        assert!(is_kraft("3.9.x.kraft") && is_kraft("4.0.x.kraft") && is_kraft("4.1.x"));
        assert!(!is_kraft("3.9.x"));
    }
}
