//! The tags system: a topic of tags, workers that keep snapshots and deltas of them in MemoryDB, and a fleet
//! that makes load.

use std::collections::BTreeMap;

use cfn::{App, ClusterManifest, DeployValue, Lookup, Workload, assembly::AssetKind};
use cfn_resources::cloudwatch::AlarmStatistic;
use constructs::{
    alarm::{Limit, WithoutData},
    cache::{Cache, CacheProperties},
    connections,
    kafka::retained_for_hours,
    needs::Needs,
    network::as_text,
};
use worker_contract::{
    CacheAuthentication, CacheConfiguration, KafkaAuthentication, KafkaConfiguration, cache::CACHE_ACCESS,
    tags::WorkerConfiguration, trades::METRICS_ADDRESS_DEFAULT,
};

use crate::{
    Base, RenderError,
    add_ons::PROMETHEUS,
    environment::Provider,
    kafka::DEAD_LETTER_RETENTION_HOURS,
    kubernetes::{Manifest, prometheus_operator::monitor},
    network::stack_properties,
    sizes::DEAD_LETTER_PARTITIONS,
    workload::{Resources, Worker},
};

/// What the stack holds.
pub const DESCRIPTION: &str = "Tags: topic, MemoryDB, identities of workers and load fleet";

/// The topic of tags.
pub const TOPIC: &str = "tag-data";

/// The topic for tags that cannot be processed.
pub const DEAD_LETTER_TOPIC: &str = "tag-data-dlq";

/// The consumer group of the workers.
pub const CONSUMER_GROUP: &str = "tag-worker";

/// The namespace of the workloads.
pub const NAMESPACE: &str = "tags";

/// The workers' name: of their Deployment, their service account, their package and their image.
pub const WORKER: &str = "tag-worker";

/// The longest message that is taken, in bytes.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;

/// How long a batch is tried again, in seconds.
const RETRY_BUDGET_SECONDS: f64 = 30.0;

/// How long the end of a worker waits for batches in flight, in seconds.
const DRAIN_TIMEOUT_SECONDS: f64 = 5.0;

/// What a pod is given to end, in seconds: the drain, the last commit and a margin.
const GRACE_SECONDS: u64 = 20;

/// The share of the cache's memory that may be used, in percent.
const MEMORY_PERCENT_MAX: f64 = 80.0;

/// Adds the stack, and the workers once.
///
/// # Errors
///
/// When the manifests' template is wrong.
pub(crate) fn add(app: &mut App, id: &str, base: &Base<'_>, with_workloads: bool) -> Result<(), RenderError> {
    let Base { environment, sizes, network, kafka, cluster, observability } = *base;
    let stack = app.stack(id, stack_properties(environment, DESCRIPTION));
    let name = stack.name().to_owned();
    let mut scope = stack.scope();
    let figure = |name: &str| i64::try_from(sizes.tags(name)).unwrap_or(i64::MAX);
    let topic = kafka.cluster.topic(
        &mut scope,
        "Topic",
        TOPIC,
        figure("partitions"),
        &retained_for_hours(u64::from(environment.tags.retention_hours)),
    );
    let dead_letters = kafka.cluster.topic(
        &mut scope,
        "DeadLetters",
        DEAD_LETTER_TOPIC,
        i64::try_from(DEAD_LETTER_PARTITIONS).unwrap_or(1),
        &retained_for_hours(DEAD_LETTER_RETENTION_HOURS),
    );
    let cache = Cache::new(
        &mut scope,
        "Cache",
        network,
        &observability.alarms,
        &CacheProperties {
            name: name.clone(),
            node_type: environment.cache.node_type.clone(),
            engine_version: environment.cache.version.clone(),
            shards: figure("shards"),
            replicas_per_shard: figure("replicas_per_shard"),
            snapshot_retention_days: i64::from(environment.cache.snapshot_retention_days),
            access: CACHE_ACCESS.to_owned(),
            data: environment.data_policy(),
        },
    );
    // The pods run in the cluster's own group.
    connections::allow_cidr(&mut scope, &cache.peer(), &network.cidr.to_string());

    let worker = Needs::new()
        .consumes(&kafka.cluster, &topic, CONSUMER_GROUP)
        .produces(&kafka.cluster, &dead_letters)
        .statements(cache.grant_connect());
    cluster.kubernetes.pod_identity(&mut scope, "Worker", NAMESPACE, WORKER, worker.policy());
    // Load is made by Kubernetes jobs: the nodes come and go with them in Auto Mode, nothing is paid for
    // between runs, and there is no image, agent or group of machines to keep.
    let load = Needs::new().produces(&kafka.cluster, &topic).statements(cache.grant_connect());
    cluster.kubernetes.pod_identity(&mut scope, "Load", NAMESPACE, "tag-load", load.policy());

    let mut alarms = scope.child("Alarms");
    let limit =
        |above, without_data| Limit { above, period_seconds: 60, periods: 5, periods_above: 3, without_data };
    observability.alarms.alarm(
        &mut alarms,
        "Memory",
        "The cache fills: more shards, larger nodes or shorter lifetimes",
        &cache.metric("DatabaseMemoryUsagePercentage", AlarmStatistic::Maximum),
        &limit(MEMORY_PERCENT_MAX, WithoutData::IsUnknown),
    );
    observability.alarms.alarm(
        &mut alarms,
        "Cpu",
        "The cache's engine is busy: more shards",
        &cache.metric("EngineCPUUtilization", AlarmStatistic::Maximum),
        &limit(80.0, WithoutData::IsUnknown),
    );
    scope.output(
        "CacheEndpoint",
        cache.cluster.cluster_endpoint_address(),
        "Where the cache is reached, by TLS",
    );
    if with_workloads {
        workers(app, base, &cache, &name)?;
    }
    Ok(())
}

/// The workers' Deployment. Their number follows from the messages per second: they wait for the network, not for a
/// processor, and a scaler that adds some makes the group pause, which is what their latency is measured by.
fn workers(app: &mut App, base: &Base<'_>, cache: &Cache, cache_name: &str) -> Result<(), RenderError> {
    let Base { environment, sizes, kafka, cluster, .. } = *base;
    let region = environment.region.clone();
    let (authentication, cache_authentication, lookup_authentication) = match environment.provider {
        Provider::Aws => (
            KafkaAuthentication::MskIam { region: region.clone() },
            CacheAuthentication::MemoryDbIam {
                region,
                cluster: cache_name.to_owned(),
                user: Cache::user_name(cache_name),
            },
            "iam",
        ),
        Provider::Local => (KafkaAuthentication::None, CacheAuthentication::None, "plaintext"),
    };
    let configuration = WorkerConfiguration {
        kafka: KafkaConfiguration {
            bootstrap_servers: "${{ kafka_bootstrap_servers }}".to_owned(),
            authentication,
        },
        topic: TOPIC.to_owned(),
        dead_letter_topic: DEAD_LETTER_TOPIC.to_owned(),
        consumer_group: CONSUMER_GROUP.to_owned(),
        cache: CacheConfiguration {
            endpoint: "${{ cache_host }}".to_owned(),
            authentication: cache_authentication,
        },
        batch_size: 500,
        batch_timeout_seconds: 0.005,
        batches_in_flight: 8,
        message_bytes_max: MESSAGE_BYTES_MAX,
        expiry_seconds: environment.tags.expiry_seconds,
        retry_budget_seconds: RETRY_BUDGET_SECONDS,
        drain_timeout_seconds: DRAIN_TIMEOUT_SECONDS,
        metrics_address: METRICS_ADDRESS_DEFAULT.to_owned(),
    };
    let manifest = Worker {
        name: WORKER,
        namespace: NAMESPACE,
        system: "tags",
        replicas: Some(sizes.tags("workers")),
        environment: &configuration.to_environment(),
        grace_seconds: GRACE_SECONDS,
        spread: true,
        resources: Resources { cpu_millicores: 100, memory_mib: 128, memory_limit_mib: 256 },
    }
    .manifest()?
    .text();
    let repository =
        cluster.repositories.get(WORKER).map(|handle| DeployValue::Value(handle.repository_uri()));
    app.asset(WORKER, AssetKind::Image, WORKER, repository);
    let values = BTreeMap::from([
        (
            "kafka_bootstrap_servers".to_owned(),
            DeployValue::Lookup(Lookup::MskBootstrapBrokers {
                cluster_arn: as_text(&kafka.cluster.arn()),
                authentication: lookup_authentication.to_owned(),
            }),
        ),
        ("cache_host".to_owned(), DeployValue::Value(cache.cluster.cluster_endpoint_address())),
        ("image".to_owned(), DeployValue::Asset { name: WORKER.to_owned(), field: "image_uri".to_owned() }),
    ]);
    app.workload(Workload {
        system: "tags".to_owned(),
        name: WORKER.to_owned(),
        namespace: NAMESPACE.to_owned(),
        manifest,
        values,
    });
    if environment.provider == Provider::Aws {
        app.cluster_manifest(ClusterManifest {
            name: "tag-monitors".to_owned(),
            manifest: Manifest::default().with(&monitor(WORKER, NAMESPACE, "tags"))?.text(),
            values: BTreeMap::new(),
            // The workload brings its namespace.
            after: vec![WORKER.to_owned(), PROMETHEUS.to_owned()],
        });
    }
    Ok(())
}
