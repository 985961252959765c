//! The tags system: a topic of tags, workers that keep snapshots and deltas of them in MemoryDB, and a Job that makes
//! load.
//!
//! The load is a Job and no Auto Scaling group of machines. The published system ran its producers on a group that was
//! scaled by hand from 0 to 128 instances, told to each by a file what it was, began by commands over SSM and collected
//! the results by rsync. A Job has all of this by itself: it is suspended and costs nothing until somebody runs it, its
//! pods are numbered and know their part, it says when all are done and which failed, and their logs are where all logs
//! are. The nodes come with the pods and go with them (EKS Auto Mode), the pods have the image, the identity and the
//! limits that workers have, and there is no machine image, agent or launch template to keep. What a group has over
//! it, a machine of one's own for each producer, is wanted for latencies in microseconds; those of this topic are
//! in milliseconds.

use std::collections::BTreeMap;

use cfn::{
    App, CacheSystem, ClusterManifest, DeployValue, Load, Lookup, Value, Workload, assembly::AssetKind,
};
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
    CacheAuthentication, CacheConfiguration, KafkaAuthentication, KafkaConfiguration,
    cache::CACHE_ACCESS,
    load::RATE_BOUNDS,
    tags::{LoadConfiguration, LoadShape, WorkerConfiguration},
    trades::METRICS_ADDRESS_DEFAULT,
};

use crate::{
    Base, RenderError,
    add_ons::PROMETHEUS,
    environment::Provider,
    kafka::DEAD_LETTER_RETENTION_HOURS,
    kubernetes::{Manifest, prometheus_operator::monitor},
    network::stack_properties,
    sizes::DEAD_LETTER_PARTITIONS,
    workload::{Job, Resources, Worker},
};

/// What the stack holds.
pub const DESCRIPTION: &str = "Tags: topic, MemoryDB, identities of workers and load fleet";

/// The system.
const SYSTEM: &str = "tags";

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

/// The load's name: of its Job, its service account, its package and its image.
pub const LOAD: &str = "tag-load";

/// What the load is asked for to try whether tags flow: a second of updates, to objects that are gone in some minutes.
const TRIAL: [&str; 11] =
    ["--rate", "50", "--for", "1s", "--channels", "4", "--objects", "2", "--lifetime", "300", "--verify"];

/// Pods that make the load side by side. One makes many times what an environment's peak is; more are for a load that
/// comes from many clients, and are asked for when it is run.
const LOAD_PODS: u64 = 1;

/// How long a run is, in seconds, unless it is ended before.
const LOAD_SECONDS: u64 = 600;

/// The share of updates that delete an object.
const LOAD_DELETE_SHARE: f64 = 0.05;

/// Objects that a pod writes to, where there are so many: enough that few are written twice in a second, and few enough
/// that each is written several times in a run.
const LOAD_OBJECTS: u64 = 100_000;

/// Channels that a load by hand writes to, at most.
const LOAD_CHANNELS_BY_HAND: u32 = 100;

/// What a pod of the load is given to end, in seconds: it waits for acknowledgements for 30.
const LOAD_GRACE_SECONDS: u64 = 45;

/// What a pod of either gets of its node.
const RESOURCES: Resources = Resources { cpu_millicores: 100, memory_mib: 128, memory_limit_mib: 256 };

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
    // It reads the cache as well, to verify what has become of its updates.
    let load = Needs::new().produces(&kafka.cluster, &topic).statements(cache.grant_connect());
    cluster.kubernetes.pod_identity(&mut scope, "Load", NAMESPACE, LOAD, load.policy());

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
        workloads(app, id, base, &cache, &name)?;
    }
    Ok(())
}

/// What the workers and the load reach.
struct Reach {
    kafka: KafkaConfiguration,
    cache: CacheConfiguration,
    /// The values of both, when they are known.
    values: BTreeMap<String, DeployValue>,
}

fn workloads(
    app: &mut App,
    id: &str,
    base: &Base<'_>,
    cache: &Cache,
    cache_name: &str,
) -> Result<(), RenderError> {
    let Base { environment, kafka, .. } = *base;
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
    let reach = Reach {
        kafka: KafkaConfiguration {
            bootstrap_servers: "${{ kafka_bootstrap_servers }}".to_owned(),
            authentication,
        },
        cache: CacheConfiguration {
            endpoint: "${{ cache_host }}".to_owned(),
            authentication: cache_authentication,
        },
        values: BTreeMap::from([
            (
                "kafka_bootstrap_servers".to_owned(),
                DeployValue::Lookup(Lookup::MskBootstrapBrokers {
                    cluster_arn: as_text(&kafka.cluster.arn()),
                    authentication: lookup_authentication.to_owned(),
                }),
            ),
            ("cache_host".to_owned(), DeployValue::Value(cache.cluster.cluster_endpoint_address())),
        ]),
    };
    app.cache_system(
        SYSTEM,
        CacheSystem {
            stack: id.to_owned(),
            kafka_cluster: kafka.name.clone(),
            topic: TOPIC.to_owned(),
            partitions: u32::try_from(base.sizes.tags("partitions")).unwrap_or(u32::MAX),
            dead_letter_topic: DEAD_LETTER_TOPIC.to_owned(),
            consumer_group: CONSUMER_GROUP.to_owned(),
            worker: WORKER.to_owned(),
            namespace: NAMESPACE.to_owned(),
            cache: cache_name.to_owned(),
        },
    );
    workers(app, base, &reach)?;
    load(app, base, &reach)
}

/// Adds a workload of this system with its image.
fn workload(app: &mut App, base: &Base<'_>, reach: &Reach, name: &str, manifest: String) {
    let repository =
        base.cluster.repositories.get(name).map(|handle| DeployValue::Value(handle.repository_uri()));
    app.asset(name, AssetKind::Image, name, repository);
    let mut values = reach.values.clone();
    let image = DeployValue::Asset { name: name.to_owned(), field: "image_uri".to_owned() };
    values.insert("image".to_owned(), image);
    app.workload(Workload {
        system: SYSTEM.to_owned(),
        name: name.to_owned(),
        namespace: NAMESPACE.to_owned(),
        manifest,
        values,
    });
}

/// The workers' Deployment. Their number follows from the messages per second: they wait for the network, not for a
/// processor, and a scaler that adds some makes the group pause, which is what their latency is measured by.
fn workers(app: &mut App, base: &Base<'_>, reach: &Reach) -> Result<(), RenderError> {
    let Base { environment, sizes, .. } = *base;
    let configuration = WorkerConfiguration {
        kafka: reach.kafka.clone(),
        topic: TOPIC.to_owned(),
        dead_letter_topic: DEAD_LETTER_TOPIC.to_owned(),
        consumer_group: CONSUMER_GROUP.to_owned(),
        cache: reach.cache.clone(),
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
        system: SYSTEM,
        replicas: Some(sizes.tags("workers")),
        environment: &configuration.to_environment(),
        grace_seconds: GRACE_SECONDS,
        spread: true,
        resources: RESOURCES,
    }
    .manifest()?
    .text();
    workload(app, base, reach, WORKER, manifest);
    if environment.provider == Provider::Aws {
        app.cluster_manifest(ClusterManifest {
            name: "tag-monitors".to_owned(),
            manifest: Manifest::default().with(&monitor(WORKER, NAMESPACE, SYSTEM))?.text(),
            values: BTreeMap::new(),
            // The workload brings its namespace.
            after: vec![WORKER.to_owned(), PROMETHEUS.to_owned()],
        });
    }
    Ok(())
}

/// The Job that makes load, of the environment's own rate and messages. It waits for somebody who runs it.
fn load(app: &mut App, base: &Base<'_>, reach: &Reach) -> Result<(), RenderError> {
    let level = &base.environment.tags;
    let objects = level.objects.min(LOAD_OBJECTS);
    let channels = (objects / u64::from(level.objects_per_channel.max(1))).max(1);
    let configuration = LoadConfiguration {
        kafka: reach.kafka.clone(),
        topic: TOPIC.to_owned(),
        cache: Some(reach.cache.clone()),
        updates_per_second: level.messages_per_second.clamp(*RATE_BOUNDS.start(), *RATE_BOUNDS.end()),
        period_seconds: LOAD_SECONDS,
        shape: LoadShape {
            channels: u32::try_from(channels).unwrap_or(u32::MAX),
            objects_per_channel: level.objects_per_channel,
            message_bytes: level.message_bytes,
            delete_share: LOAD_DELETE_SHARE,
            lifetime_seconds: 0,
        },
        generator_seed: None,
        verify: true,
        number: 0,
    };
    let manifest = Job {
        name: LOAD,
        namespace: NAMESPACE,
        system: SYSTEM,
        pods: LOAD_PODS,
        environment: &configuration.to_environment(),
        grace_seconds: LOAD_GRACE_SECONDS,
        resources: RESOURCES,
    }
    .manifest()?
    .text();
    workload(app, base, reach, LOAD, manifest);
    if base.environment.provider == Provider::Local {
        app.load(SYSTEM, load_by_hand(configuration, reach));
    }
    Ok(())
}

/// The same program, as somebody on this machine has it run: to fewer channels, so that those that it follows change
/// often enough to tell ages.
fn load_by_hand(mut configuration: LoadConfiguration, reach: &Reach) -> Load {
    let shape = &mut configuration.shape;
    shape.channels = shape.channels.min(LOAD_CHANNELS_BY_HAND);
    let value = |text: String| {
        let named = text.strip_prefix("${{ ").and_then(|rest| rest.strip_suffix(" }}"));
        let known = named.and_then(|name| reach.values.get(name)).cloned();
        known.unwrap_or(DeployValue::Value(Value::Literal(text)))
    };
    Load {
        package: LOAD.to_owned(),
        variables: configuration
            .to_environment()
            .into_iter()
            .map(|(name, text)| (name, value(text)))
            .collect(),
        trial: TRIAL.map(str::to_owned).to_vec(),
    }
}
