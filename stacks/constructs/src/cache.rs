//! A MemoryDB cluster with Valkey: TLS, an access list, IAM instead of passwords.

use std::collections::BTreeMap;

use cfn::{Handle, Json, Scope, Value};
use cfn_resources::{
    cloudwatch::AlarmStatistic,
    ec2::SecurityGroup,
    memorydb::{
        Acl, Cluster, ClusterRequired, SubnetGroup, User, UserAuthenticationMode, UserAuthenticationModeType,
    },
};

use crate::{
    DataPolicy,
    alarm::{AlarmTopic, Metric},
    encryption, iam,
    needs::Peer,
    network::{Network, as_text},
};

/// Where the cluster listens.
pub const VALKEY_PORT: i64 = 6379;

/// What a cluster is made for.
#[derive(Clone, Debug)]
pub struct CacheProperties {
    /// The cluster's name, at most 40 characters.
    pub name: String,
    /// Such as `db.r7g.large`.
    pub node_type: String,
    /// Valkey's version, such as `7.3`.
    pub engine_version: String,
    /// Shards.
    pub shards: i64,
    /// Replicas of each shard; one in another zone takes over.
    pub replicas_per_shard: i64,
    /// Days that snapshots are kept, 0 to 35.
    pub snapshot_retention_days: i64,
    /// What the user may do, as an access string without `on` and passwords.
    pub access: String,
    /// What happens to the data with the stack.
    pub data: DataPolicy,
}

/// A cluster.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The cluster.
    pub cluster: Handle<Cluster>,
    /// Its user.
    pub user: Handle<User>,
    /// The nodes' security group.
    pub security_group: Handle<SecurityGroup>,
    name: String,
}

impl Cache {
    /// A cluster in the private subnets.
    #[track_caller]
    pub fn new(
        scope: &mut Scope<'_>,
        name: &str,
        network: &Network,
        alarms: &AlarmTopic,
        properties: &CacheProperties,
    ) -> Self {
        let mut scope = scope.child(name);
        let security_group =
            network.security_group(&mut scope, "SecurityGroup", "Nodes of the cache", Vec::new());
        let key = encryption::key(
            &mut scope,
            "Key",
            &format!("{}-cache", properties.name),
            "The cache and its snapshots at rest",
            &[],
            properties.data,
        );
        let subnets = scope.add(
            "Subnets",
            SubnetGroup::new(format!("{}-cache", properties.name), network.private_subnet_ids()),
        );
        let user = scope.add(
            "User",
            User::new(Self::user_name(&properties.name))
                .access_string(format!("on {}", properties.access))
                .authentication_mode(UserAuthenticationMode::new().type_(UserAuthenticationModeType::Iam)),
        );
        let acl = scope
            .add("AccessList", Acl::new(format!("{}-cache", properties.name)).user_names([user.reference()]));
        let cluster = scope.add(
            "Resource",
            Cluster::new(ClusterRequired {
                acl_name: acl.reference(),
                cluster_name: Value::Literal(properties.name.clone()),
                node_type: Value::Literal(properties.node_type.clone()),
            })
            .engine("valkey")
            .engine_version(properties.engine_version.clone())
            .num_shards(properties.shards)
            .num_replicas_per_shard(properties.replicas_per_shard)
            .port(VALKEY_PORT)
            .tls_enabled(true)
            .kms_key_id(as_text(&key.arn()))
            .security_group_ids([security_group.group_id()])
            .subnet_group_name(subnets.reference())
            .snapshot_retention_limit(properties.snapshot_retention_days)
            .auto_minor_version_upgrade(true)
            .sns_topic_arn(as_text(&alarms.arn())),
        );
        scope.removal(cluster.raw(), properties.data.removal());
        Self { cluster, user, security_group, name: properties.name.clone() }
    }

    /// The name of the user of a cluster of that name.
    #[must_use]
    pub fn user_name(cluster_name: &str) -> String {
        format!("{cluster_name}-worker")
    }

    /// Connects as the cluster's user, by IAM.
    #[must_use]
    pub fn grant_connect(&self) -> Vec<Json> {
        vec![iam::allow("ConnectToCache", &["memorydb:Connect"], &[self.cluster.arn(), self.user.arn()])]
    }

    /// The nodes, as something to connect to.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer { name: "Cache", group: self.security_group.clone(), port: VALKEY_PORT }
    }

    /// A metric of the cluster.
    #[must_use]
    pub fn metric(&self, name: &'static str, statistic: AlarmStatistic) -> Metric {
        Metric {
            namespace: "AWS/MemoryDB",
            name,
            dimensions: BTreeMap::from([("ClusterName", Value::Literal(self.name.clone()))]),
            statistic,
        }
    }
}
