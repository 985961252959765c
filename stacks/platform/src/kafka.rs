//! The Kafka cluster and the topics of the systems.

use std::collections::BTreeMap;

use cfn::App;
use constructs::{
    kafka::{KafkaCluster, KafkaClusterProperties, KafkaTopic, retained_for_hours},
    network::Network,
};

use crate::{
    environment::{Environment, System},
    network::stack_properties,
    sizes::{DEAD_LETTER_PARTITIONS, Sizes},
};

/// What the stack holds.
pub const DESCRIPTION: &str = "MSK cluster in KRaft mode (IAM, TLS) with the topics of all systems";

/// The topic of trades.
pub const TRADES_TOPIC: &str = "trade-tx";

/// The topic for trades that cannot be processed.
pub const TRADES_DEAD_LETTER_TOPIC: &str = "trade-tx-dlq";

/// How long dead letters are kept, in hours: two weeks to notice and repair.
pub(crate) const DEAD_LETTER_RETENTION_HOURS: u64 = 14 * 24;

/// The cluster with its topics.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// The cluster's name.
    pub name: String,
    /// The cluster.
    pub cluster: KafkaCluster,
    /// The topic of trades.
    pub trades: KafkaTopic,
    /// The topic for trades that cannot be processed.
    pub trades_dead_letters: KafkaTopic,
}

/// Adds the stack.
pub fn add(app: &mut App, id: &str, environment: &Environment, sizes: &Sizes, network: &Network) -> Kafka {
    let stack = app.stack(id, stack_properties(environment, DESCRIPTION));
    let name = stack.name().to_owned();
    let mut scope = stack.scope();
    let figure = |name: &str| i64::try_from(sizes.kafka(name)).unwrap_or(i64::MAX);
    let cluster = KafkaCluster::new(
        &mut scope,
        "Kafka",
        network,
        &KafkaClusterProperties {
            name: name.clone(),
            version: environment.kafka.version.clone(),
            instance_type: environment.kafka.instance_type.clone(),
            brokers: figure("brokers"),
            volume_gib: figure("volume_gib"),
            replication_factor: figure("replication_factor"),
            min_insync_replicas: figure("min_insync_replicas"),
            log_retention_days: environment.log_retention_days,
            data: environment.data_policy(),
        },
    );
    cluster.allow_clients_from(&mut scope, "Ingress", &network.cidr.to_string());
    if environment.has(System::Ledger) {
        cluster.allow_event_source_mappings(&mut scope, "Pollers");
    }
    let mut topics = scope.child("Topics");
    let partitions = i64::try_from(sizes.trades("partitions")).unwrap_or(i64::MAX);
    let settings = retained_for_hours(u64::from(environment.trades.retention_hours));
    let trades = cluster.topic(&mut topics, "Trades", TRADES_TOPIC, partitions, &settings);
    let settings: BTreeMap<_, _> = retained_for_hours(DEAD_LETTER_RETENTION_HOURS);
    let trades_dead_letters = cluster.topic(
        &mut topics,
        "TradesDeadLetters",
        TRADES_DEAD_LETTER_TOPIC,
        i64::try_from(DEAD_LETTER_PARTITIONS).unwrap_or(1),
        &settings,
    );
    Kafka { name, cluster, trades, trades_dead_letters }
}
