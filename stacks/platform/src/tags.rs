//! The tags system: a topic of tags, workers that keep snapshots and deltas of them in MemoryDB, and a fleet
//! that makes load.

use cfn::App;
use cfn_resources::cloudwatch::AlarmStatistic;
use constructs::{
    alarm::{Limit, WithoutData},
    cache::{Cache, CacheProperties},
    connections,
    kafka::retained_for_hours,
    needs::Needs,
};

use crate::{
    Base, kafka::DEAD_LETTER_RETENTION_HOURS, network::stack_properties, sizes::DEAD_LETTER_PARTITIONS,
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

/// What the workers may do in the cache: read and write the snapshots and delta streams, nothing that
/// administers.
const ACCESS: &str = "resetchannels -@all +@read +@write +@connection ~*";

/// The share of the cache's memory that may be used, in percent.
const MEMORY_PERCENT_MAX: f64 = 80.0;

/// Adds the stack.
pub(crate) fn add(app: &mut App, id: &str, base: &Base<'_>) {
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
            access: ACCESS.to_owned(),
            data: environment.data_policy(),
        },
    );
    // The pods run in the cluster's own group.
    connections::allow_cidr(&mut scope, &cache.peer(), &network.cidr.to_string());

    let worker = Needs::new()
        .consumes(&kafka.cluster, &topic, CONSUMER_GROUP)
        .produces(&kafka.cluster, &dead_letters)
        .statements(cache.grant_connect());
    cluster.kubernetes.pod_identity(&mut scope, "Worker", NAMESPACE, "tag-worker", worker.policy());
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
}
