//! The tags system: memory, shards and workers from the objects and the messages per second.

use crate::figure::{CapacityError, Load, PEAK_FACTOR, Sizing, ceil};

/// The service level of the tags system.
#[derive(Clone, Copy, Debug)]
pub struct ServiceLevel<'a> {
    /// Objects that have a value, at most.
    pub objects: u64,
    /// An object's value as it is stored, in bytes.
    pub object_bytes: u64,
    /// Objects that share a snapshot hash and a delta stream, on average: those of a channel and scope.
    pub objects_per_channel: u64,
    /// Messages per second, sustained.
    pub messages_per_second: f64,
    /// A message, in bytes.
    pub message_bytes: u64,
    /// Partitions of the topic.
    pub partitions: u64,
    /// How long an object lives that nobody changes, in seconds.
    pub retention_seconds: u64,
    /// Messages per second that one worker carries with the latency that is wanted.
    pub worker_messages_per_second: f64,
    /// Workers, at least.
    pub workers_min: u64,
    /// Availability zones.
    pub zones: u64,
    /// Such as `db.r7g.large`.
    pub node_type: &'a str,
    /// Derived figures that are set instead.
    pub overrides: Overrides,
}

/// Derived figures that are set instead.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides {
    /// Partitions of the topic.
    pub partitions: Option<u64>,
    /// Memory of all values and keys, in GiB.
    pub memory_gib: Option<u64>,
    /// Shards of the cluster.
    pub shards: Option<u64>,
    /// Replicas of a shard beside its primary.
    pub replicas_per_shard: Option<u64>,
    /// Workers.
    pub workers: Option<u64>,
}

/// What Valkey takes for a key beside its bytes and those of its value: dictionary entry, object header, string
/// headers, entry in the table of expiry times, allocator. Measured values lie around 100 bytes.
pub const KEY_OVERHEAD_BYTES: u64 = 112;

/// What a field of a hash takes beside its bytes, above the size up to which a hash is packed.
pub const FIELD_OVERHEAD_BYTES: u64 = 72;

/// An object's name, in bytes, and a channel's identifier in a key.
const NAME_BYTES: u64 = 48;

/// Deltas that a channel's stream keeps.
pub const DELTAS_PER_CHANNEL: u64 = 16;

/// What an entry of a stream takes beside its bytes: id, field name and list packing.
const DELTA_OVERHEAD_BYTES: u64 = 32;

/// The part of a node's memory that is planned for: the rest is for replication buffers, clients, and slots on their
/// way to another shard.
const MEMORY_PLANNED: f64 = 0.75;

/// Messages per second that a shard takes with the latency that is wanted; each appends to a stream, sets a field
/// and renews two expiry times, in one round trip. An estimate to be measured with `cargo xtask load`.
pub const SHARD_MESSAGES_PER_SECOND: f64 = 10_000.0;

/// A cluster has at least so many shards, so that a failover stalls a third of the objects.
pub const SHARDS_MIN: u64 = 3;

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

/// Memory that a node has for data, in GiB: MemoryDB developer guide, node-type specific parameters (`maxmemory`).
#[must_use]
pub fn node_memory_gib(node_type: &str) -> Option<f64> {
    match node_type {
        "db.t4g.small" => Some(1.37),
        "db.t4g.medium" => Some(3.09),
        "db.r6g.large" | "db.r7g.large" => Some(13.07),
        "db.r6g.xlarge" | "db.r7g.xlarge" => Some(26.32),
        "db.r6g.2xlarge" | "db.r7g.2xlarge" => Some(52.82),
        "db.r6g.4xlarge" | "db.r7g.4xlarge" => Some(105.81),
        "db.r6g.8xlarge" | "db.r7g.8xlarge" => Some(209.55),
        "db.r6g.12xlarge" | "db.r7g.12xlarge" => Some(317.77),
        "db.r6g.16xlarge" | "db.r7g.16xlarge" => Some(419.09),
        _ => None,
    }
}

/// Sizes the system.
///
/// # Errors
///
/// When the figures contradict one another.
pub fn size(level: &ServiceLevel<'_>) -> Result<Sizing, CapacityError> {
    let rate = level.messages_per_second;
    let peak = rate * PEAK_FACTOR;
    let mut sizing = Sizing::of(Load::sustained(rate, "messages/s"));
    if level.objects_per_channel == 0 || level.worker_messages_per_second <= 0.0 {
        return Err(CapacityError::new("objects_per_channel and worker_messages_per_second must be above 0"));
    }
    let partitions = sizing.derive(
        "partitions",
        "partitions",
        level.partitions,
        level.overrides.partitions,
        format!("partitions {}", level.partitions),
        "the service level: order is kept per object, and a partition bounds who waits for whom",
    );
    sizing.exhausted_at(partitions as f64 * level.worker_messages_per_second);
    let node = node_memory_gib(level.node_type).ok_or_else(|| {
        CapacityError::new(format!(
            "the node type `{}` is not one of MemoryDB's, such as db.t4g.small or db.r7g.large",
            level.node_type
        ))
    })?;
    let (memory, exhausted_per_gib) = memory(&mut sizing, level);
    let by_memory = ceil(memory as f64 / (node * MEMORY_PLANNED));
    let by_rate = ceil(peak / SHARD_MESSAGES_PER_SECOND);
    let shards = sizing.derive(
        "shards",
        "shards",
        by_memory.max(by_rate).max(SHARDS_MIN),
        level.overrides.shards,
        format!(
            "max({SHARDS_MIN}, memory {by_memory} = ceil({memory} GiB / ({node} GiB of {} x {MEMORY_PLANNED})), rate {by_rate} = ceil({peak} at the peak / {SHARD_MESSAGES_PER_SECOND}))",
            level.node_type
        ),
        "MemoryDB: maxmemory by node type; a quarter stays free; messages a shard are an estimate",
    );
    // Beyond that rate all objects live already, and more messages take no more memory.
    let all_live = level.objects as f64 / level.retention_seconds.max(1) as f64;
    let by_memory = exhausted_per_gib
        .map(|load| shards as f64 * node * load)
        .filter(|load| *load < all_live)
        .unwrap_or(f64::INFINITY);
    sizing.exhausted_at((shards as f64 * SHARD_MESSAGES_PER_SECOND).min(by_memory));
    if shards == 0 || shards as f64 * node < memory as f64 {
        return Err(CapacityError::new(format!(
            "{memory} GiB do not fit into {shards} shards of {node} GiB; raise shards or take a larger node_type"
        )));
    }
    sizing.derive(
        "replicas_per_shard",
        "replicas",
        level.zones.saturating_sub(1).min(1),
        level.overrides.replicas_per_shard,
        format!("min(zones {} - 1, 1)", level.zones),
        "MemoryDB keeps every write in a log over several zones; a replica in another zone takes over in seconds",
    );
    let by_rate = ceil(peak / level.worker_messages_per_second);
    let workers = sizing.derive(
        "workers",
        "replicas",
        by_rate.max(level.workers_min).max(1),
        level.overrides.workers,
        format!(
            "max(workers_min {}, ceil({peak} at the peak / {} a worker))",
            level.workers_min, level.worker_messages_per_second
        ),
        "the peak is carried without a growing lag, since latency is the point",
    );
    sizing.exhausted_at(workers as f64 * level.worker_messages_per_second);
    if workers == 0 || workers > partitions {
        return Err(CapacityError::new(format!(
            "{workers} workers for {partitions} partitions; workers is 1 to {partitions}"
        )));
    }
    Ok(sizing)
}

/// The memory in GiB, and at which load a GiB of it is full, as long as the load decides how many objects live.
fn memory(sizing: &mut Sizing, level: &ServiceLevel<'_>) -> (u64, Option<f64>) {
    // An object that nobody changes goes, so that no more live than are written within that time.
    let written = level.messages_per_second * level.retention_seconds as f64;
    let by_rate = written < level.objects as f64;
    let live = if by_rate { written } else { level.objects as f64 };
    let delta = level.message_bytes + DELTA_OVERHEAD_BYTES;
    let channel = 2 * (KEY_OVERHEAD_BYTES + NAME_BYTES) + DELTAS_PER_CHANNEL * delta;
    let object = level.object_bytes + NAME_BYTES + FIELD_OVERHEAD_BYTES;
    let bytes = live * (object as f64 + channel as f64 / level.objects_per_channel as f64);
    let memory = sizing.derive(
        "memory_gib",
        "GiB",
        ceil(bytes / GIB).max(1),
        level.overrides.memory_gib,
        format!(
            "ceil(objects {live:.0} x (bytes {} + name {NAME_BYTES} + field {FIELD_OVERHEAD_BYTES} + channel {channel} / objects_per_channel {}) / 2^30), channel = 2 keys x ({KEY_OVERHEAD_BYTES} + {NAME_BYTES}) + {DELTAS_PER_CHANNEL} deltas x {delta}",
            level.object_bytes, level.objects_per_channel
        ),
        "Valkey: about 112 bytes a key with expiry, 72 a field; objects are those of the service level or those written within the retention, whichever is less",
    );
    (memory, (by_rate && bytes > 0.0).then(|| level.messages_per_second * GIB / bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED: ServiceLevel<'_> = ServiceLevel {
        objects: 10_000_000,
        object_bytes: 512,
        objects_per_channel: 16,
        messages_per_second: 1000.0,
        message_bytes: 512,
        partitions: 256,
        retention_seconds: 86_400,
        worker_messages_per_second: 2000.0,
        workers_min: 4,
        zones: 3,
        node_type: "db.r7g.large",
        overrides: Overrides {
            partitions: None,
            memory_gib: None,
            shards: None,
            replicas_per_shard: None,
            workers: None,
        },
    };

    fn value(sizing: &Sizing, name: &str) -> u64 {
        sizing.get(name).unwrap().value
    }

    #[test]
    fn the_published_load_needs_three_small_shards_and_four_workers() {
        let sizing = size(&SEED).unwrap();
        let all: Vec<_> = sizing.figures.iter().map(|figure| (figure.name, figure.value)).collect();
        assert_eq!(
            all,
            [
                ("partitions", 256),
                // 10 million x (512 + 48 + 72 + (2 x 160 + 16 x 544) / 16) = 11.96 GB.
                ("memory_gib", 12),
                ("shards", 3),
                ("replicas_per_shard", 1),
                ("workers", 4),
            ]
        );
        let first = sizing.breaks_first().unwrap();
        assert_eq!((first.figure.name, first.at), ("workers", 8000.0));
        assert!((first.figure.headroom_at_peak.unwrap() - 0.6).abs() < 1e-9);
    }

    #[test]
    fn objects_that_nobody_writes_do_not_live() {
        let sizing = size(&ServiceLevel { messages_per_second: 10.0, ..SEED }).unwrap();
        assert_eq!(value(&sizing, "memory_gib"), 1, "864,000 objects at most");
    }

    #[test]
    fn memory_decides_where_it_is_the_tightest() {
        let small = ServiceLevel { node_type: "db.t4g.small", ..SEED };
        assert_eq!(value(&size(&small).unwrap(), "shards"), 12, "12 GiB over 1.03 GiB");
    }

    #[test]
    fn memory_breaks_only_while_the_rate_decides_how_many_objects_live() {
        // A day's objects of 1,000 messages/s are 86.4 million, of 10,000 million that there may be.
        let many = ServiceLevel { objects: 10_000_000_000, ..SEED };
        let sizing = size(&many).unwrap();
        assert_eq!((value(&sizing, "memory_gib"), value(&sizing, "shards")), (97, 10));
        let shards = sizing.get("shards").unwrap().exhausted_at.unwrap();
        assert!((1300.0..1400.0).contains(&shards), "130.7 GiB are full at {shards} messages/s");
        let few = size(&SEED).unwrap();
        assert_eq!(few.get("shards").unwrap().exhausted_at, Some(30_000.0), "all objects live already");
    }

    #[test]
    fn contradictions_are_refused_with_what_to_change() {
        let told = |level| size(&level).unwrap_err().message;
        assert!(told(ServiceLevel { node_type: "cache.r7g.large", ..SEED }).contains("db.r7g.large"));
        assert!(told(ServiceLevel { partitions: 3, ..SEED }).contains("workers is 1 to 3"));
        let overrides = Overrides { shards: Some(1), memory_gib: Some(100), ..SEED.overrides };
        assert!(told(ServiceLevel { overrides, ..SEED }).contains("larger node_type"));
        let overrides = Overrides { shards: Some(0), ..SEED.overrides };
        assert!(size(&ServiceLevel { overrides, ..SEED }).is_err());
    }

    proptest! {
        #[test]
        fn more_load_never_needs_less(
            rate in 0.0f64..20_000.0, objects in 1u64..100_000_000, bytes in 1u64..4096, more in 1.0f64..4.0
        ) {
            let sized = |rate| size(&ServiceLevel {
                messages_per_second: rate, objects, object_bytes: bytes, ..SEED
            }).unwrap();
            let (less, more) = (sized(rate), sized(rate * more));
            for (one, other) in less.figures.iter().zip(&more.figures) {
                prop_assert!(one.value >= 1 && other.value >= one.value, "{}", one.name);
            }
        }

        #[test]
        fn an_override_is_used(shards in 1u64..100, workers in 1u64..256) {
            let overrides = Overrides { shards: Some(shards), workers: Some(workers), ..SEED.overrides };
            let sizing = size(&ServiceLevel { overrides, ..SEED }).unwrap();
            prop_assert_eq!((value(&sizing, "shards"), value(&sizing, "workers")), (shards, workers));
            prop_assert_eq!((sizing.get("shards").unwrap().derived, sizing.get("workers").unwrap().derived), (3, 4));
        }
    }
}
