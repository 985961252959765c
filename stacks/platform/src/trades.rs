//! The trades system: who may do what, and the workloads.

use std::collections::BTreeMap;

use cfn::{App, DeployValue, Lookup, System, Workload, assembly::AssetKind};
use constructs::{needs::Needs, network::as_text};
use worker_contract::{
    KafkaAuthentication, KafkaConfiguration,
    trades::{ConsumerConfiguration, METRICS_ADDRESS_DEFAULT, ProducerConfiguration},
};

use crate::{
    Base, RenderError,
    add_ons::{KEDA_NAMESPACE, KEDA_SERVICE_ACCOUNT},
    cluster::Cluster,
    environment::{Environment, Provider},
    kafka::{Kafka, TRADES_DEAD_LETTER_TOPIC, TRADES_TOPIC},
    kubernetes::Manifest,
    network::stack_properties,
    sizes::Sizes,
    workload::{Resources, Worker},
};

mod operations;
mod scaling;

/// What the stack holds.
pub const DESCRIPTION: &str = "Trades: pod identities of producer, consumer and KEDA";

/// The system's name.
const SYSTEM: &str = "trades";

/// The namespace of the workloads.
pub const NAMESPACE: &str = "trades";

/// The consumer group.
pub const CONSUMER_GROUP: &str = "trade-tx-consumer";

/// The workload that produces.
pub const PRODUCER: &str = "trade-producer";

/// The workload that consumes.
pub const CONSUMER: &str = "trade-consumer";

/// The longest trade that is taken, in bytes.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;

/// Bytes of a batch: far above what a batch of usual trades has. Large ones fill fewer a batch instead of more memory.
pub(crate) const BATCH_BYTES: u64 = 1 << 20;

/// How long a batch is tried again, in seconds.
const RETRY_BUDGET_SECONDS: f64 = 30.0;

/// How long the group waits for a consumer's sign of life, in seconds: what a lost node's partitions wait at least.
const SESSION_TIMEOUT_SECONDS: f64 = 10.0;

/// What a pod is given beyond the longest drain, in seconds.
const GRACE_MARGIN_SECONDS: u64 = 10;

/// Adds the stack, and the workloads once.
///
/// # Errors
///
/// When a manifest is wrong.
pub(crate) fn add(app: &mut App, id: &str, base: &Base<'_>, with_workloads: bool) -> Result<(), RenderError> {
    let Base { environment, sizes, kafka, cluster, .. } = *base;
    let stack = app.stack(id, stack_properties(environment, DESCRIPTION));
    let mut scope = stack.scope();
    let producer = Needs::new().produces(&kafka.cluster, &kafka.trades);
    cluster.kubernetes.pod_identity(&mut scope, "Producer", NAMESPACE, PRODUCER, producer.policy());
    let consumer = Needs::new()
        .consumes(&kafka.cluster, &kafka.trades, CONSUMER_GROUP)
        .produces(&kafka.cluster, &kafka.trades_dead_letters);
    cluster.kubernetes.pod_identity(&mut scope, "Consumer", NAMESPACE, CONSUMER, consumer.policy());
    cluster.kubernetes.pod_identity(
        &mut scope,
        "Keda",
        KEDA_NAMESPACE,
        KEDA_SERVICE_ACCOUNT,
        kafka.trades.grant_read_lag(CONSUMER_GROUP),
    );
    if with_workloads {
        workloads(app, environment, sizes, kafka, cluster)?;
    }
    Ok(())
}

fn workloads(
    app: &mut App,
    environment: &Environment,
    sizes: &Sizes,
    kafka: &Kafka,
    cluster: &Cluster,
) -> Result<(), RenderError> {
    let authentication = match environment.provider {
        Provider::Aws => KafkaAuthentication::MskIam { region: environment.region.clone() },
        Provider::Local => KafkaAuthentication::None,
    };
    let connection =
        KafkaConfiguration { bootstrap_servers: "${{ kafka_bootstrap_servers }}".to_owned(), authentication };
    let level = &environment.trades;
    let drain_timeout_seconds = (level.batch_processing_seconds * 2.0).clamp(5.0, 120.0);
    let producer = ProducerConfiguration {
        kafka: connection.clone(),
        topic: TRADES_TOPIC.to_owned(),
        messages_per_second: level.messages_per_second,
        generator_seed: None,
        metrics_address: METRICS_ADDRESS_DEFAULT.to_owned(),
    };
    let consumer = ConsumerConfiguration {
        kafka: connection,
        topic: TRADES_TOPIC.to_owned(),
        dead_letter_topic: TRADES_DEAD_LETTER_TOPIC.to_owned(),
        consumer_group: CONSUMER_GROUP.to_owned(),
        // Pods come and go with the load: one that goes for good gives its partitions up at once.
        group_instance_id: None,
        session_timeout_seconds: SESSION_TIMEOUT_SECONDS,
        batch_size: level.batch_size,
        batch_bytes: BATCH_BYTES,
        batch_timeout_seconds: level.batch_timeout_seconds,
        batch_processing_seconds: level.batch_processing_seconds,
        batches_in_flight: level.batches_in_flight,
        message_bytes_max: MESSAGE_BYTES_MAX,
        retry_budget_seconds: RETRY_BUDGET_SECONDS,
        drain_timeout_seconds,
        metrics_address: METRICS_ADDRESS_DEFAULT.to_owned(),
    };
    let mut consumer_environment = consumer.to_environment();
    consumer_environment.extend(level.consumer_log.iter().map(|log| ("RUST_LOG".to_owned(), log.clone())));
    let pods = [
        Pod {
            name: PRODUCER,
            replicas: Some(1),
            environment: producer.to_environment(),
            grace_seconds: 30,
            spread: false,
            // Its client holds 64 MiB of what the brokers do not take.
            resources: Resources { cpu_millicores: 100, memory_mib: 128, memory_limit_mib: 256 },
        },
        Pod {
            name: CONSUMER,
            // The scaler sets them, and a deploy must not set them back.
            replicas: None,
            environment: consumer_environment,
            grace_seconds: drain_timeout_seconds.ceil() as u64 + GRACE_MARGIN_SECONDS,
            spread: true,
            resources: Resources {
                cpu_millicores: sizes.trades("consumer_cpu_millicores"),
                // Memory that is promised to others cannot be taken back from them: what may be used is kept free.
                memory_mib: sizes.trades("consumer_memory_mib"),
                memory_limit_mib: sizes.trades("consumer_memory_mib"),
            },
        },
    ];
    let lookup_authentication = match environment.provider {
        Provider::Aws => "iam",
        Provider::Local => "plaintext",
    };
    let bootstrap_servers = DeployValue::Lookup(Lookup::MskBootstrapBrokers {
        cluster_arn: as_text(&kafka.cluster.arn()),
        authentication: lookup_authentication.to_owned(),
    });
    for pod in pods {
        let repository =
            cluster.repositories.get(pod.name).map(|handle| DeployValue::Value(handle.repository_uri()));
        app.asset(pod.name, AssetKind::Image, pod.name, repository);
        app.workload(Workload {
            system: SYSTEM.to_owned(),
            name: pod.name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            manifest: match environment.provider {
                // On one machine no kind has to be installed first: what scales a workload comes with it.
                Provider::Local if pod.name == CONSUMER => {
                    let scaling = scaling::Scaling::of(environment, sizes);
                    pod.manifest()?.and(&scaling.manifest(environment, sizes)?).text()
                }
                _ => pod.manifest()?.text(),
            },
            values: BTreeMap::from([
                ("kafka_bootstrap_servers".to_owned(), bootstrap_servers.clone()),
                (
                    "image".to_owned(),
                    DeployValue::Asset { name: pod.name.to_owned(), field: "image_uri".to_owned() },
                ),
            ]),
        });
    }
    if environment.provider == Provider::Aws {
        operations::add(app, environment, sizes, bootstrap_servers, drain_timeout_seconds)?;
    }
    app.system(
        SYSTEM,
        System {
            topic: TRADES_TOPIC.to_owned(),
            dead_letter_topic: TRADES_DEAD_LETTER_TOPIC.to_owned(),
            consumer_group: CONSUMER_GROUP.to_owned(),
            partitions: u32::try_from(sizes.trades("partitions")).unwrap_or(u32::MAX),
            producer: PRODUCER.to_owned(),
            consumer: CONSUMER.to_owned(),
        },
    );
    Ok(())
}

struct Pod {
    name: &'static str,
    /// `None` where a scaler sets them.
    replicas: Option<u64>,
    environment: BTreeMap<String, String>,
    grace_seconds: u64,
    /// Whether its replicas are spread over zones and kept from being evicted all at once.
    spread: bool,
    resources: Resources,
}

impl Pod {
    fn manifest(&self) -> Result<Manifest, RenderError> {
        Worker {
            name: self.name,
            namespace: NAMESPACE,
            system: SYSTEM,
            replicas: self.replicas,
            environment: &self.environment,
            grace_seconds: self.grace_seconds,
            spread: self.spread,
            resources: self.resources,
        }
        .manifest()
    }
}
