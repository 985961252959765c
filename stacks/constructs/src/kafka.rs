//! An MSK cluster, its topics, and what its clients may do.

use std::collections::BTreeMap;

use base64::Engine;
use cfn::{Handle, Json, Scope, Value};
use cfn_resources::{
    ec2::{SecurityGroup, SecurityGroupEgress, SecurityGroupIngress},
    ids,
    msk::{
        Cluster, ClusterBrokerLogs, ClusterBrokerNodeGroupInfo, ClusterClientAuthentication,
        ClusterCloudWatchLogs, ClusterConfigurationInfo, ClusterEbsStorageInfo, ClusterEncryptionAtRest,
        ClusterEncryptionInTransit, ClusterEncryptionInTransitClientBroker, ClusterEncryptionInfo,
        ClusterEnhancedMonitoring, ClusterIam, ClusterJmxExporter, ClusterLoggingInfo, ClusterNodeExporter,
        ClusterOpenMonitoring, ClusterPrometheus, ClusterRequired, ClusterSasl, ClusterStorageInfo,
        ClusterUnauthenticated, Configuration, Topic, TopicRequired,
    },
};

use crate::{
    DataPolicy, connections, encryption, iam, logs,
    network::{Network, as_text},
};

/// Where IAM clients connect, within the VPC.
pub const IAM_PORT: i64 = 9098;

/// The JMX and node exporters for Prometheus.
pub const EXPORTER_PORTS: [i64; 2] = [11_001, 11_002];

/// What a cluster is made for.
#[derive(Clone, Debug)]
pub struct KafkaClusterProperties {
    /// The cluster's name.
    pub name: String,
    /// A KRaft version as MSK spells it, such as `3.9.x.kraft`.
    pub version: String,
    /// Such as `kafka.m7g.large`.
    pub instance_type: String,
    /// A multiple of the zones.
    pub brokers: i64,
    /// GiB a broker.
    pub volume_gib: i64,
    /// Of topics that do not say.
    pub replication_factor: i64,
    /// Of topics that do not say.
    pub min_insync_replicas: i64,
    /// Days that broker logs are kept.
    pub log_retention_days: u32,
    /// What happens to the records with the stack.
    pub data: DataPolicy,
}

/// A cluster.
#[derive(Clone, Debug)]
pub struct KafkaCluster {
    /// The cluster.
    pub cluster: Handle<Cluster>,
    /// The brokers' security group.
    pub security_group: Handle<SecurityGroup>,
    replication_factor: i64,
    min_insync_replicas: i64,
    data: DataPolicy,
}

/// A topic.
#[derive(Clone, Debug)]
pub struct KafkaTopic {
    /// Its name.
    pub name: String,
    /// The cluster's ARN.
    cluster_arn: Value<String>,
    /// The topic.
    pub topic: Handle<Topic>,
}

impl KafkaCluster {
    /// A cluster in the private subnets: KRaft, IAM alone, TLS alone, encrypted with a key of its own.
    #[track_caller]
    pub fn new(
        scope: &mut Scope<'_>,
        name: &str,
        network: &Network,
        properties: &KafkaClusterProperties,
    ) -> Self {
        let mut scope = scope.child(name);
        let security_group =
            network.security_group(&mut scope, "SecurityGroup", "Brokers of the Kafka cluster", Vec::new());
        let key = encryption::key(
            &mut scope,
            "Key",
            &format!("{}-kafka", properties.name),
            "Records of the Kafka cluster at rest",
            &[],
            properties.data,
        );
        let log_group =
            logs::log_group(&mut scope, "BrokerLogs", properties.log_retention_days, properties.data);
        let configuration = scope.add(
            "Configuration",
            Configuration::new(
                format!("{}-{}", properties.name, properties.version.replace('.', "-")),
                Value::base64(server_properties(properties)),
            )
            .kafka_versions_list([properties.version.clone()]),
        );
        let nodes =
            ClusterBrokerNodeGroupInfo::new(network.private_subnet_ids(), properties.instance_type.clone())
                .security_groups([security_group.group_id()])
                .storage_info(
                    ClusterStorageInfo::new()
                        .ebs_storage_info(ClusterEbsStorageInfo::new().volume_size(properties.volume_gib)),
                );
        let cluster = Cluster::new(ClusterRequired {
            broker_node_group_info: Value::Literal(nodes),
            cluster_name: Value::Literal(properties.name.clone()),
            kafka_version: Value::Literal(properties.version.clone()),
            number_of_broker_nodes: Value::Literal(properties.brokers),
        })
        .client_authentication(
            ClusterClientAuthentication::new()
                .sasl(ClusterSasl::new().iam(ClusterIam::new(true)))
                .unauthenticated(ClusterUnauthenticated::new(false)),
        )
        .encryption_info(
            ClusterEncryptionInfo::new()
                .encryption_at_rest(ClusterEncryptionAtRest::new(as_text(&key.arn())))
                .encryption_in_transit(
                    ClusterEncryptionInTransit::new()
                        .client_broker(ClusterEncryptionInTransitClientBroker::Tls)
                        .in_cluster(true),
                ),
        )
        .configuration_info(ClusterConfigurationInfo::new(
            configuration.arn(),
            configuration.latest_revision_revision(),
        ))
        .enhanced_monitoring(ClusterEnhancedMonitoring::PerTopicPerBroker)
        .open_monitoring(ClusterOpenMonitoring::new(
            ClusterPrometheus::new()
                .jmx_exporter(ClusterJmxExporter::new(true))
                .node_exporter(ClusterNodeExporter::new(true)),
        ))
        .logging_info(
            ClusterLoggingInfo::new().broker_logs(
                ClusterBrokerLogs::new()
                    .cloud_watch_logs(ClusterCloudWatchLogs::new(true).log_group(log_group.reference())),
            ),
        );
        let cluster = scope.add("Resource", cluster);
        scope.removal(cluster.raw(), properties.data.removal());
        Self {
            cluster,
            security_group,
            replication_factor: properties.replication_factor,
            min_insync_replicas: properties.min_insync_replicas,
            data: properties.data,
        }
    }

    /// Lets addresses of a block reach the brokers: clients at the IAM port, Prometheus at the exporters. The
    /// rule is a resource of its own, so that two groups can name each other.
    pub fn allow_clients_from(&self, scope: &mut Scope<'_>, name: &str, cidr: &str) {
        let mut scope = scope.child(name);
        let ports = [("Clients", IAM_PORT, IAM_PORT), ("Exporters", EXPORTER_PORTS[0], EXPORTER_PORTS[1])];
        for (who, from, to) in ports {
            scope.add(
                who,
                SecurityGroupIngress::new("tcp")
                    .group_id(self.security_group.group_id())
                    .description(format!("{who} in the VPC"))
                    .cidr_ip(cidr)
                    .from_port(from)
                    .to_port(to),
            );
        }
    }

    /// Lets Lambda's pollers of event source mappings work: they have the cluster's own security groups, and so
    /// reach the brokers from within the group, and AWS's APIs over HTTPS.
    pub fn allow_event_source_mappings(&self, scope: &mut Scope<'_>, name: &str) {
        let mut scope = scope.child(name);
        let group = &self.security_group;
        scope.add(
            "Ingress",
            SecurityGroupIngress::new("tcp")
                .group_id(group.group_id())
                .description("Pollers of event source mappings")
                .source_security_group_id(group.group_id())
                .from_port(IAM_PORT)
                .to_port(IAM_PORT),
        );
        scope.add(
            "Egress",
            SecurityGroupEgress::new(group.group_id(), "tcp")
                .description("Pollers of event source mappings to the brokers")
                .destination_security_group_id(group.group_id())
                .from_port(IAM_PORT)
                .to_port(IAM_PORT),
        );
        connections::allow_https(&mut scope, group);
    }

    /// A topic, replicated as the cluster is.
    #[track_caller]
    pub fn topic(
        &self,
        scope: &mut Scope<'_>,
        construct: &str,
        name: &str,
        partitions: i64,
        settings: &BTreeMap<&str, String>,
    ) -> KafkaTopic {
        let mut all: BTreeMap<&str, String> =
            BTreeMap::from([("min.insync.replicas", self.min_insync_replicas.to_string())]);
        all.extend(settings.iter().map(|(key, value)| (*key, value.clone())));
        let text: String = all.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        let topic = scope.add(
            construct,
            Topic::new(TopicRequired {
                cluster_arn: self.cluster.arn(),
                partition_count: Value::Literal(partitions),
                replication_factor: Value::Literal(self.replication_factor),
                topic_name: Value::Literal(name.to_owned()),
            })
            .configs(base64::engine::general_purpose::STANDARD.encode(text)),
        );
        scope.removal(topic.raw(), self.data.removal());
        KafkaTopic { name: name.to_owned(), cluster_arn: as_text(&self.cluster.arn()), topic }
    }

    /// The cluster's ARN.
    #[must_use]
    pub fn arn(&self) -> Value<ids::ClusterArn> {
        self.cluster.arn()
    }
}

/// Server properties of the cluster: keys that MSK takes in KRaft mode. Threads follow from the processors:
/// four, two and one a virtual processor for requests, the network and replication, but never fewer than Kafka's
/// defaults; on a kafka.m7g.2xlarge that is 32, 16 and 8. What older clusters were given and is gone: the
/// `zookeeper.*` properties, because there is no ZooKeeper in KRaft mode; MSK refuses a configuration with one.
fn server_properties(properties: &KafkaClusterProperties) -> String {
    let processors = processors(&properties.instance_type);
    format!(
        "auto.create.topics.enable=false\n\
         default.replication.factor={}\n\
         min.insync.replicas={}\n\
         num.io.threads={}\n\
         num.network.threads={}\n\
         num.partitions=6\n\
         num.replica.fetchers={}\n\
         replica.lag.time.max.ms=30000\n\
         socket.receive.buffer.bytes=1024000\n\
         socket.request.max.bytes=104857600\n\
         socket.send.buffer.bytes=1024000\n\
         unclean.leader.election.enable=false\n\
         log.retention.hours=24\n",
        properties.replication_factor,
        properties.min_insync_replicas,
        (processors * 4).max(8),
        (processors * 2).max(3),
        processors.max(1),
    )
}

/// The virtual processors of a broker, by the size that its instance type ends with.
fn processors(instance_type: &str) -> u32 {
    let size = instance_type.rsplit('.').next().unwrap_or_default();
    match size.strip_suffix("xlarge") {
        Some("") => 4,
        Some(times) => times.parse::<u32>().map_or(2, |times| times * 4),
        // `small` and `large`.
        None => 2,
    }
}

/// The ARN of something below the cluster: `topic/NAME`, `group/NAME`. It is made from the cluster's own
/// (`…:cluster/CLUSTER/UUID`), whose UUID nobody knows beforehand.
fn below(cluster_arn: &Value<String>, kind: &str, name: &str) -> Value<String> {
    let parts: Value<Vec<Value<String>>> = Value::split(":cluster/", cluster_arn.clone());
    let (prefix, path): (Value<String>, Value<String>) =
        (Value::select(0, parts.clone()), Value::select(1, parts));
    Value::join("", [prefix, Value::Literal(format!(":{kind}/")), path, Value::Literal(format!("/{name}"))])
}

/// What a client may do: statements with the companions that MSK's IAM wants, each on the kind of resource
/// that it is defined for.
impl KafkaTopic {
    /// Reads the topic as a member of a group.
    #[must_use]
    pub fn grant_consume(&self, group: &str) -> Vec<Json> {
        vec![
            iam::allow("ConnectToKafka", &["kafka-cluster:Connect"], std::slice::from_ref(&self.cluster_arn)),
            iam::allow(
                "ReadTopic",
                &["kafka-cluster:DescribeTopic", "kafka-cluster:ReadData"],
                &[below(&self.cluster_arn, "topic", &self.name)],
            ),
            iam::allow(
                "JoinGroup",
                &["kafka-cluster:AlterGroup", "kafka-cluster:DescribeGroup"],
                &[below(&self.cluster_arn, "group", group)],
            ),
        ]
    }

    /// Writes to the topic with an idempotent producer. `WriteDataIdempotently` is an action on the cluster.
    #[must_use]
    pub fn grant_produce_idempotently(&self) -> Vec<Json> {
        vec![
            iam::allow(
                "ConnectToKafkaIdempotently",
                &["kafka-cluster:Connect", "kafka-cluster:WriteDataIdempotently"],
                std::slice::from_ref(&self.cluster_arn),
            ),
            iam::allow(
                &format!("Write{}", self.name.replace('-', "")),
                &["kafka-cluster:DescribeTopic", "kafka-cluster:WriteData"],
                &[below(&self.cluster_arn, "topic", &self.name)],
            ),
        ]
    }

    /// Sees how far a group is behind on the topic, and nothing of its records: what KEDA's scaler needs.
    #[must_use]
    pub fn grant_read_lag(&self, group: &str) -> Vec<Json> {
        vec![
            iam::allow(
                "ConnectToKafka",
                &["kafka-cluster:Connect", "kafka-cluster:DescribeCluster"],
                std::slice::from_ref(&self.cluster_arn),
            ),
            iam::allow(
                "DescribeTopic",
                &["kafka-cluster:DescribeTopic"],
                &[below(&self.cluster_arn, "topic", &self.name)],
            ),
            iam::allow(
                "DescribeGroup",
                &["kafka-cluster:DescribeGroup"],
                &[below(&self.cluster_arn, "group", group)],
            ),
        ]
    }
}

/// The settings of a topic whose records are kept for some hours.
#[must_use]
pub fn retained_for_hours(hours: u64) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", (hours * 3_600_000).to_string()),
    ])
}

/// The settings of a topic that keeps the last record of each key: compacted soon, so that a reader from the
/// beginning has little to read.
#[must_use]
pub fn compacted() -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("cleanup.policy", "compact".to_owned()),
        ("min.cleanable.dirty.ratio", "0.01".to_owned()),
        ("segment.ms", "600000".to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_follow_from_the_processors() {
        let properties = |instance_type: &str| {
            server_properties(&KafkaClusterProperties {
                name: "k".to_owned(),
                version: "3.9.x.kraft".to_owned(),
                instance_type: instance_type.to_owned(),
                brokers: 3,
                volume_gib: 100,
                replication_factor: 3,
                min_insync_replicas: 2,
                log_retention_days: 7,
                data: DataPolicy::Kept,
            })
        };
        let large = properties("kafka.m7g.2xlarge");
        for line in ["num.io.threads=32", "num.network.threads=16", "num.replica.fetchers=8"] {
            assert!(large.contains(line), "{line} in {large}");
        }
        assert!(properties("kafka.t3.small").contains("num.io.threads=8"));
        assert!(!large.contains("zookeeper."), "{large}");
    }
}
