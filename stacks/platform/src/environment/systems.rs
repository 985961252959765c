//! The service levels of the systems, and the database and the cache behind them, as an environment gives them.

use serde::Deserialize;

/// The trades system's service level.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trades {
    /// The rate of the simulated producer, in messages per second; 0 idles.
    pub messages_per_second: f64,
    /// The peak that is to be carried.
    pub peak_messages_per_second: f64,
    /// A message, in bytes.
    pub message_bytes: u32,
    /// Hours that trades are kept.
    pub retention_hours: u32,
    /// Messages in a batch, at most.
    pub batch_size: u32,
    /// How long a batch waits for more, from its first message on.
    pub batch_timeout_seconds: f64,
    /// How long the simulated write of a batch takes.
    pub batch_processing_seconds: f64,
    /// Batches that a consumer has in flight.
    pub batches_in_flight: u32,
    /// What the peak is multiplied with.
    pub safety_factor: f64,
    /// Consumers, at least.
    pub consumers_min: u32,
    /// A backlog that a consumer would need longer for than this, in seconds, calls for another consumer; so it
    /// is also how long a record waits while the load is steady.
    pub backlog_drain_seconds: f64,
    /// What the consumers log, as `RUST_LOG` takes it; without it what they log by themselves.
    #[serde(default)]
    pub consumer_log: Option<String>,
    /// How consumers are added and taken away.
    pub scaling: TradesScaling,
    /// Derived figures that are set here instead.
    #[serde(default, rename = "override")]
    pub overrides: TradesOverride,
}

/// What the trades' consumers follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScalingTarget {
    /// The lag, a share a consumer: as published.
    Lag,
    /// What arrives, and what waits over the time to drain it.
    Rate,
}

/// How the trades' consumers are added and taken away.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TradesScaling {
    /// What they follow.
    pub target: ScalingTarget,
    /// How often KEDA asks for the lag.
    pub polling_interval_seconds: u32,
    /// Between the last record and the step to no consumer.
    pub cooldown_seconds: u32,
    /// How long more must have been asked for before consumers are added.
    pub scale_up_window_seconds: u32,
    /// How long less must have been asked for before consumers are taken away.
    pub scale_down_window_seconds: u32,
    /// Over which the arrival rate is measured; on AWS at least three of the exporters' 60 s.
    pub rate_window_seconds: u32,
}

/// Derived figures of the trades system that an environment sets itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TradesOverride {
    /// Consumers.
    #[serde(default)]
    pub consumers: Option<u32>,
    /// Partitions of the topic.
    #[serde(default)]
    pub partitions: Option<u32>,
    /// Memory of a consumer, in MiB.
    #[serde(default)]
    pub consumer_memory_mib: Option<u32>,
}

/// The ledger system's service level.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// T: transactions per second that are sustained.
    pub transactions_per_second: f64,
    /// t: how long the write of a batch takes, in seconds.
    pub write_seconds: f64,
    /// f: the buffer for spikes.
    pub safety_factor: f64,
    /// B: records in a batch.
    pub batch_records: u32,
    /// How long a batch waits for more, in seconds; a whole number where it is above half a second.
    pub batch_window_seconds: f64,
    /// Chunks of a batch that a writer writes at the same time in GREEN.
    pub chunk_concurrency: u32,
    /// Connections in a writer's pool, at most.
    pub pool_limit: u32,
    /// A record, in bytes.
    pub record_bytes: u32,
    /// Hours that records are kept.
    pub retention_hours: u32,
    /// The period of the alarms that make the mode, in seconds. On AWS at least 60: RDS tells its metrics each minute.
    pub pressure_period_seconds: u32,
    /// How long those alarms must be calm before the mode steps down, in seconds.
    pub mode_hold_seconds: u32,
    /// Derived figures that are set here instead.
    #[serde(default, rename = "override")]
    pub overrides: LedgerOverride,
}

/// Derived figures of the ledger system that an environment sets itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerOverride {
    /// Partitions of the topic.
    #[serde(default)]
    pub partitions: Option<u32>,
    /// Writers at the same time.
    #[serde(default)]
    pub function_concurrency: Option<u32>,
    /// Pollers of the event source mapping.
    #[serde(default)]
    pub event_pollers: Option<u32>,
    /// Connections of the proxy to the database, in percent of what it takes.
    #[serde(default)]
    pub proxy_max_connections_percent: Option<u32>,
    /// Those of them that may stay open idly, in percent of what it takes.
    #[serde(default)]
    pub proxy_max_idle_percent: Option<u32>,
    /// Memory of a writer, in MiB.
    #[serde(default)]
    pub function_memory_mib: Option<u32>,
}

/// The lessons system's service level.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lessons {
    /// Records per second of all kinds, on average.
    pub records_per_second: f64,
    /// Records per second at the peak.
    pub peak_records_per_second: f64,
    /// A record as it comes in, in bytes.
    pub record_bytes: u32,
    /// Consumers that poll a stream, and so share a shard's bytes.
    pub fan_out: u32,
    /// Table reads for enrichment, a record on average.
    pub reads_per_record: f64,
    /// Table writes, a record on average.
    pub writes_per_record: f64,
    /// Items of the table `user`.
    pub users: u64,
    /// An item of the table `user`, in bytes.
    pub user_bytes: u32,
    /// Items of the table `user_subscription`.
    pub user_subscriptions: u64,
    /// An item of the table `user_subscription`, in bytes.
    pub user_subscription_bytes: u32,
    /// How long an enricher is busy with a record, in seconds.
    pub seconds_per_record: f64,
    /// Records in a batch, at most.
    pub batch_records: u32,
    /// What the peak is multiplied with.
    pub safety_factor: f64,
    /// Hours that records are kept in the streams.
    pub retention_hours: u32,
    /// Tables are paid for by capacity, which follows the load, instead of by request.
    #[serde(default)]
    pub provisioned_capacity: bool,
    /// Derived figures that are set here instead.
    #[serde(default, rename = "override")]
    pub overrides: LessonsOverride,
}

/// Derived figures of the lessons system that an environment sets itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LessonsOverride {
    /// Shards of the input stream.
    #[serde(default)]
    pub input_shards: Option<u32>,
    /// Shards of the output stream.
    #[serde(default)]
    pub output_shards: Option<u32>,
    /// Read capacity of the tables, in units a second.
    #[serde(default)]
    pub read_units: Option<u32>,
    /// Write capacity of the tables, in units a second.
    #[serde(default)]
    pub write_units: Option<u32>,
    /// Batches of a shard at the same time.
    #[serde(default)]
    pub parallelization_factor: Option<u32>,
    /// Enrichers at the same time.
    #[serde(default)]
    pub function_concurrency: Option<u32>,
}

/// The tags system's service level.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tags {
    /// Objects that have a value, at most.
    pub objects: u64,
    /// An object's value as it is stored, in bytes.
    pub object_bytes: u32,
    /// Objects that share a snapshot and a delta stream, on average.
    pub objects_per_channel: u32,
    /// Messages per second that are sustained.
    pub messages_per_second: f64,
    /// A message, in bytes.
    pub message_bytes: u32,
    /// Processes that produce.
    pub producers: u32,
    /// Partitions of the topic.
    pub partitions: u32,
    /// Hours that messages are kept in the topic.
    pub retention_hours: u32,
    /// How long an object lives that nobody changes, in seconds.
    pub expiry_seconds: u32,
    /// Messages per second that one worker carries with the latency that is wanted.
    pub worker_messages_per_second: f64,
    /// Workers, at least.
    pub workers_min: u32,
    /// Derived figures that are set here instead.
    #[serde(default, rename = "override")]
    pub overrides: TagsOverride,
}

/// Derived figures of the tags system that an environment sets itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagsOverride {
    /// Memory of all values and keys, in GiB.
    #[serde(default)]
    pub memory_gib: Option<u32>,
    /// Shards of the cache.
    #[serde(default)]
    pub shards: Option<u32>,
    /// Replicas of a shard beside its primary.
    #[serde(default)]
    pub replicas_per_shard: Option<u32>,
    /// Workers.
    #[serde(default)]
    pub workers: Option<u32>,
}

/// The ledger's database: Aurora PostgreSQL.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// The engine's version, such as `16.8`.
    pub version: String,
    /// Such as `db.t4g.medium`, or `db.serverless` for a capacity that follows the load.
    pub instance_class: String,
    /// The least capacity of a serverless instance, in Aurora capacity units; 0 pauses it when it is idle.
    #[serde(default)]
    pub min_capacity: Option<f64>,
    /// The greatest capacity of a serverless instance, in Aurora capacity units.
    #[serde(default)]
    pub max_capacity: Option<f64>,
    /// The writer and its readers: 1 to 15.
    pub instances: u32,
    /// Whether an RDS Proxy stands in front.
    pub proxy: bool,
    /// Days that backups are kept.
    pub backup_retention_days: u32,
}

impl Database {
    /// Whether the capacity follows the load.
    #[must_use]
    pub fn is_serverless(&self) -> bool {
        self.instance_class == capacity::database::SERVERLESS
    }
}

/// The tags' cache: MemoryDB.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// The version of Valkey, such as `7.3`.
    pub version: String,
    /// Such as `db.r7g.large`.
    pub node_type: String,
    /// Days that snapshots are kept; 0 takes none.
    pub snapshot_retention_days: u32,
}
