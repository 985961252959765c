//! What each system uses in a month, from its sizes and its load.

use super::{HOURS, Lines, SECONDS};
use crate::{database, figure::CapacityError, prices::Prices};

/// Sizes and loads of all systems.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The network.
    pub network: Network,
    /// The Kafka cluster.
    pub kafka: Kafka<'a>,
    /// The trades system.
    pub trades: Trades,
    /// The ledger system.
    pub ledger: Ledger<'a>,
    /// The lessons system.
    pub lessons: Lessons,
    /// The tags system.
    pub tags: Tags<'a>,
}

/// The network.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// Availability zones.
    pub zones: u64,
    /// NAT gateways.
    pub nat_gateways: u64,
    /// Interface endpoints, each with an interface in every zone.
    pub interface_endpoints: u64,
}

/// The Kafka cluster.
#[derive(Clone, Copy, Debug)]
pub struct Kafka<'a> {
    /// Brokers.
    pub brokers: u64,
    /// Such as `kafka.m7g.large`.
    pub instance_type: &'a str,
    /// GiB a broker.
    pub volume_gib: u64,
    /// Sustained bytes per second that all topics take in.
    pub bytes_per_second: f64,
}

/// The trades system.
#[derive(Clone, Copy, Debug)]
pub struct Trades {
    /// Consumers when nothing flows.
    pub consumers_min: u64,
    /// Consumers at the peak.
    pub consumers: u64,
}

/// The ledger system.
#[derive(Clone, Copy, Debug)]
pub struct Ledger<'a> {
    /// Transactions per second.
    pub transactions_per_second: f64,
    /// Seconds that a write takes.
    pub write_seconds: f64,
    /// Records in a batch.
    pub batch_records: u64,
    /// A record, in bytes.
    pub record_bytes: u64,
    /// Pollers under load; one is there when nothing flows.
    pub event_pollers: u64,
    /// Memory of a writer, in MiB.
    pub function_memory_mib: u64,
    /// Such as `db.t4g.medium` or `db.serverless`.
    pub instance_class: &'a str,
    /// The least capacity of a serverless instance.
    pub min_capacity: f64,
    /// The greatest capacity of a serverless instance.
    pub max_capacity: f64,
    /// Database instances.
    pub instances: u64,
    /// Whether a proxy stands in front.
    pub proxy: bool,
}

/// The lessons system.
#[derive(Clone, Copy, Debug)]
pub struct Lessons {
    /// Records per second, on average.
    pub records_per_second: f64,
    /// A record as it comes in, in bytes.
    pub record_bytes: u64,
    /// Shards of both streams.
    pub shards: u64,
    /// Hours that records are kept in the streams.
    pub retention_hours: u64,
    /// Read units a record.
    pub read_units_per_record: f64,
    /// Write units a record.
    pub write_units_per_record: f64,
    /// GiB of both tables.
    pub tables_gib: u64,
    /// Whether the tables can be put back to any point in time.
    pub recovery: bool,
    /// Enrichers at the same time.
    pub function_concurrency: u64,
    /// Records in a batch, at most.
    pub batch_records: u64,
    /// Seconds that an enricher is busy with a record.
    pub seconds_per_record: f64,
}

/// The tags system.
#[derive(Clone, Copy, Debug)]
pub struct Tags<'a> {
    /// Messages per second.
    pub messages_per_second: f64,
    /// A message, in bytes.
    pub message_bytes: u64,
    /// An object's value, in bytes.
    pub object_bytes: u64,
    /// Workers.
    pub workers: u64,
    /// Nodes of the cache: shards with their replicas.
    pub nodes: u64,
    /// Such as `db.r7g.large`.
    pub node_type: &'a str,
    /// Memory of all values and keys, in GiB.
    pub memory_gib: u64,
    /// Days that snapshots are kept.
    pub snapshot_retention_days: u64,
}

/// GB of a GiB.
const GB_PER_GIB: f64 = (1u64 << 30) as f64 / 1e9;

/// Nodes that run what every cluster needs: DNS, KEDA, metrics.
const BASE_NODES: f64 = 2.0;

/// Pods of 100 millicores on a node of 2 cores, of which Kubernetes keeps some.
const PODS_PER_NODE: f64 = 19.0;

/// GB that NAT gateways pass on in a month: images and AWS APIs without an endpoint. An estimate.
const NAT_GB: f64 = 20.0;

/// Logs of a system in a month, in GB. An estimate.
const LOG_GB: f64 = 1.0;

/// Bytes of an I/O of Aurora's storage.
const IO_BYTES: f64 = 4096.0;

/// The least that a proxy for a serverless database is billed for, in capacity units.
const PROXY_CAPACITY_MIN: f64 = 8.0;

/// Bytes of a put payload unit of Kinesis.
const PUT_UNIT_BYTES: u64 = 25 * 1024;

/// Memory of an enricher, in MiB.
const ENRICHER_MIB: f64 = 256.0;

/// GB that MemoryDB for Valkey writes free of charge each month.
const WRITTEN_FREE_GB: f64 = 10_240.0;

/// Alarms of the ledger, which set the mode.
const LEDGER_ALARMS: f64 = 4.0;

impl Inputs<'_> {
    /// The lines of one system.
    pub(super) fn lines(&self, system: &str, lines: &mut Lines<'_>) -> Result<(), CapacityError> {
        match system {
            "network" => self.network.lines(lines)?,
            "kafka" => self.kafka.lines(&self.network, lines)?,
            "cluster" => {
                lines.fixed("control plane", "eks_cluster", HOURS, "1 x 730 h")?;
                nodes(lines, "base nodes", (BASE_NODES, BASE_NODES), "2 nodes")?;
            }
            "trades" => {
                let Trades { consumers_min, consumers } = self.trades;
                // The producer is a pod as well.
                let pods = ((consumers_min + 1) as f64, (consumers + 1) as f64);
                pods_lines(lines, pods)?;
            }
            "ledger" => self.ledger.lines(lines)?,
            "lessons" => self.lessons.lines(lines)?,
            "tags" => self.tags.lines(lines)?,
            _ => return Ok(()),
        }
        lines.fixed("logs", "log_ingestion", LOG_GB, "1 GB")
    }
}

/// What a pod of 100 millicores costs an hour: its share of a node.
///
/// # Errors
///
/// When the table lacks the price of a node.
pub fn pod_hour(prices: &Prices) -> Result<f64, CapacityError> {
    Ok((prices.get("node")?.usd + prices.get("node_auto_mode")?.usd) / PODS_PER_NODE)
}

fn pods_lines(lines: &mut Lines<'_>, (idle, load): (f64, f64)) -> Result<(), CapacityError> {
    let because = format!("{idle} to {load} pods, {PODS_PER_NODE} a node");
    nodes(lines, "share of nodes", (idle / PODS_PER_NODE, load / PODS_PER_NODE), &because)
}

fn nodes(
    lines: &mut Lines<'_>,
    what: &str,
    (idle, load): (f64, f64),
    because: &str,
) -> Result<(), CapacityError> {
    let hours = (idle * HOURS, load * HOURS);
    lines.add(what, "node", hours, format!("{because} x 730 h"))?;
    lines.add(&format!("{what}, Auto Mode"), "node_auto_mode", hours, format!("{because} x 730 h"))
}

impl Network {
    fn lines(&self, lines: &mut Lines<'_>) -> Result<(), CapacityError> {
        let Self { zones, nat_gateways, interface_endpoints } = *self;
        lines.fixed(
            "NAT gateways",
            "nat_gateway",
            nat_gateways as f64 * HOURS,
            format!("{nat_gateways} x 730 h"),
        )?;
        lines.fixed("NAT data", "nat_gateway_data", NAT_GB, "images and AWS APIs without an endpoint")?;
        lines.fixed(
            "interface endpoints",
            "interface_endpoint",
            (interface_endpoints * zones) as f64 * HOURS,
            format!("{interface_endpoints} x {zones} zones x 730 h"),
        )
    }
}

impl Kafka<'_> {
    fn lines(&self, network: &Network, lines: &mut Lines<'_>) -> Result<(), CapacityError> {
        let Self { brokers, instance_type, volume_gib, bytes_per_second } = *self;
        lines.fixed(
            &format!("brokers {instance_type}"),
            instance_type,
            brokers as f64 * HOURS,
            format!("{brokers} x 730 h"),
        )?;
        lines.fixed(
            "broker volumes",
            "kafka_storage",
            (brokers * volume_gib) as f64,
            format!("{brokers} x {volume_gib} GiB"),
        )?;
        let zones = network.zones.max(1) as f64;
        // Written and read once each, and billed in both directions.
        let crossing = bytes_per_second * SECONDS / 1e9 * 2.0 * 2.0 * (zones - 1.0) / zones;
        lines.add(
            "records that cross zones",
            "cross_zone_data",
            (0.0, crossing),
            format!(
                "{bytes_per_second:.0} bytes/s in and out x 2 directions x {} of {zones} zones",
                zones - 1.0
            ),
        )?;
        lines.fixed("key", "kms_key", 1.0, "1")
    }
}

impl Ledger<'_> {
    fn lines(&self, lines: &mut Lines<'_>) -> Result<(), CapacityError> {
        let rate = self.transactions_per_second;
        let invocations = rate / self.batch_records.max(1) as f64;
        let memory = self.function_memory_mib as f64 / 1024.0;
        lines.add(
            "writer invocations",
            "lambda_requests",
            (0.0, invocations * SECONDS / 1e6),
            format!("{rate}/s / {} records", self.batch_records),
        )?;
        lines.add(
            "writer duration",
            "lambda_duration",
            (0.0, invocations * self.write_seconds * memory * SECONDS),
            format!("{invocations:.2}/s x {} s x {} MiB", self.write_seconds, self.function_memory_mib),
        )?;
        lines.add(
            "event pollers",
            "lambda_event_poller",
            (HOURS, self.event_pollers.max(1) as f64 * HOURS),
            format!("1 to {} x 730 h", self.event_pollers.max(1)),
        )?;
        self.database(lines)?;
        let grown = rate * self.record_bytes as f64 * SECONDS / 1e9;
        lines.add(
            "database storage",
            "aurora_storage",
            (0.0, grown),
            format!("{rate}/s x {} bytes, after a month", self.record_bytes),
        )?;
        let inputs = rate * self.record_bytes as f64 / IO_BYTES * 2.0;
        lines.add(
            "database I/O",
            "aurora_io",
            (0.0, inputs * SECONDS / 1e6),
            format!("{rate}/s x {} bytes / 4 KiB, written and read", self.record_bytes),
        )?;
        lines.fixed("database credentials", "secret", 1.0, "1")?;
        lines.fixed("alarms that set the mode", "alarm", LEDGER_ALARMS, "4")
    }

    fn database(&self, lines: &mut Lines<'_>) -> Result<(), CapacityError> {
        let instances = self.instances as f64;
        if self.instance_class == database::SERVERLESS {
            let (min, max) = (self.min_capacity, self.max_capacity);
            lines.add(
                "database capacity",
                database::SERVERLESS,
                (instances * min * HOURS, instances * max * HOURS),
                format!("{instances} x {min} to {max} units x 730 h"),
            )?;
            if self.proxy {
                let billed = |capacity: f64| (instances * capacity).max(PROXY_CAPACITY_MIN) * HOURS;
                lines.add(
                    "proxy",
                    "rds_proxy",
                    (billed(min), billed(max)),
                    format!("max({PROXY_CAPACITY_MIN}, {instances} x {min} to {max} units) x 730 h"),
                )?;
            }
            return Ok(());
        }
        lines.fixed(
            &format!("database instances {}", self.instance_class),
            self.instance_class,
            instances * HOURS,
            format!("{instances} x 730 h"),
        )?;
        if self.proxy {
            let cores = vcpus(self.instance_class);
            lines.fixed(
                "proxy",
                "rds_proxy",
                instances * cores * HOURS,
                format!("{instances} x {cores} vCPU x 730 h"),
            )?;
        }
        Ok(())
    }
}

/// The cores of an instance class.
fn vcpus(instance_class: &str) -> f64 {
    match instance_class.rsplit('.').next() {
        Some("xlarge") => 4.0,
        Some(size) => size
            .strip_suffix("xlarge")
            .and_then(|times| times.parse::<u32>().ok())
            .map_or(2.0, |times| 4.0 * f64::from(times)),
        None => 2.0,
    }
}

impl Lessons {
    fn lines(&self, lines: &mut Lines<'_>) -> Result<(), CapacityError> {
        let rate = self.records_per_second;
        let shards = self.shards as f64;
        lines.fixed("shards", "kinesis_shard", shards * HOURS, format!("{shards} x 730 h, both streams"))?;
        if self.retention_hours > 24 {
            lines.fixed(
                "retention beyond a day",
                "kinesis_extended_retention",
                shards * HOURS,
                format!("{shards} x 730 h, for {} h", self.retention_hours),
            )?;
        }
        let units = self.record_bytes.div_ceil(PUT_UNIT_BYTES).max(1) as f64;
        lines.add(
            "records put",
            "kinesis_put",
            (0.0, rate * units * 2.0 * SECONDS / 1e6),
            format!("{rate}/s x {units} unit of 25 KiB x 2 streams"),
        )?;
        for (what, price, each) in [
            ("table reads", "dynamodb_read", self.read_units_per_record),
            ("table writes", "dynamodb_write", self.write_units_per_record),
        ] {
            let because = format!("{rate}/s x {each} units a record");
            lines.add(what, price, (0.0, rate * each * SECONDS / 1e6), because)?;
        }
        let stored = self.tables_gib as f64 * GB_PER_GIB;
        lines.fixed("tables", "dynamodb_storage", stored, format!("{} GiB", self.tables_gib))?;
        if self.recovery {
            lines.fixed(
                "point-in-time recovery",
                "dynamodb_recovery",
                stored,
                format!("{} GiB", self.tables_gib),
            )?;
        }
        // Full batches where records come faster than Lambda looks, else what has come since the last look.
        let invocations =
            (rate / self.batch_records.max(1) as f64).max(rate.min(self.function_concurrency as f64));
        lines.add(
            "enricher invocations",
            "lambda_requests",
            (0.0, invocations * SECONDS / 1e6),
            format!("{invocations:.2}/s"),
        )?;
        lines.add(
            "enricher duration",
            "lambda_duration",
            (0.0, rate * self.seconds_per_record * ENRICHER_MIB / 1024.0 * SECONDS),
            format!("{rate}/s x {} s x {ENRICHER_MIB} MiB", self.seconds_per_record),
        )
    }
}

impl Tags<'_> {
    fn lines(&self, lines: &mut Lines<'_>) -> Result<(), CapacityError> {
        lines.fixed(
            &format!("cache nodes {}", self.node_type),
            &format!("memorydb {}", self.node_type),
            self.nodes as f64 * HOURS,
            format!("{} x 730 h", self.nodes),
        )?;
        let bytes = (self.message_bytes + self.object_bytes) as f64;
        let written = self.messages_per_second * bytes * SECONDS / 1e9;
        lines.add(
            "cache writes",
            "memorydb_written",
            (0.0, (written - WRITTEN_FREE_GB).max(0.0)),
            format!("{written:.0} GB, of which 10,240 are free"),
        )?;
        let days = self.snapshot_retention_days.saturating_sub(1);
        lines.add(
            "snapshots beyond the first",
            "memorydb_snapshot",
            (0.0, days as f64 * self.memory_gib as f64 * GB_PER_GIB),
            format!("{days} x {} GiB", self.memory_gib),
        )?;
        let pods = self.workers as f64;
        pods_lines(lines, (pods, pods))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Estimate, SYSTEMS, estimate};
    use super::*;
    use crate::prices::{BUILT_IN, Prices};

    const INPUTS: Inputs<'_> = Inputs {
        network: Network { zones: 3, nat_gateways: 3, interface_endpoints: 4 },
        kafka: Kafka {
            brokers: 3,
            instance_type: "kafka.m7g.large",
            volume_gib: 100,
            bytes_per_second: 1_000_000.0,
        },
        trades: Trades { consumers_min: 3, consumers: 7 },
        ledger: Ledger {
            transactions_per_second: 500.0,
            write_seconds: 0.2,
            batch_records: 30,
            record_bytes: 1000,
            event_pollers: 1,
            function_memory_mib: 256,
            instance_class: "db.t4g.medium",
            min_capacity: 0.0,
            max_capacity: 0.0,
            instances: 1,
            proxy: true,
        },
        lessons: Lessons {
            records_per_second: 125.0,
            record_bytes: 1024,
            shards: 2,
            retention_hours: 24,
            read_units_per_record: 0.8,
            write_units_per_record: 0.2,
            tables_gib: 374,
            recovery: false,
            function_concurrency: 5,
            batch_records: 100,
            seconds_per_record: 0.005,
        },
        tags: Tags {
            messages_per_second: 1000.0,
            message_bytes: 512,
            object_bytes: 512,
            workers: 4,
            nodes: 9,
            node_type: "db.r7g.large",
            memory_gib: 12,
            snapshot_retention_days: 1,
        },
    };

    fn of(inputs: &Inputs<'_>) -> Estimate {
        estimate(inputs, &Prices::parse(BUILT_IN).unwrap()).unwrap()
    }

    fn line(estimate: &Estimate, system: &str, what: &str) -> (f64, f64) {
        let line = estimate.lines.iter().find(|line| line.system == system && line.what == what).unwrap();
        ((line.cost().idle * 100.0).round() / 100.0, (line.cost().load * 100.0).round() / 100.0)
    }

    #[test]
    fn lines_are_quantity_times_price() {
        let estimate = of(&INPUTS);
        assert_eq!(line(&estimate, "network", "NAT gateways"), (98.55, 98.55));
        assert_eq!(line(&estimate, "kafka", "broker volumes"), (30.0, 30.0));
        assert_eq!(line(&estimate, "cluster", "control plane"), (73.0, 73.0));
        assert_eq!(line(&estimate, "lessons", "shards"), (21.9, 21.9));
        // 500 / 30 invocations a second for a month.
        assert_eq!(line(&estimate, "ledger", "writer invocations"), (0.0, 8.76));
        assert_eq!(line(&estimate, "ledger", "proxy"), (21.9, 21.9));
        // The published load on tables billed on demand: 100 read and 25 write units a second.
        assert_eq!(line(&estimate, "lessons", "table reads"), (0.0, 32.85));
        assert_eq!(line(&estimate, "lessons", "table writes"), (0.0, 41.06));
        assert_eq!(line(&estimate, "lessons", "tables"), (100.39, 100.39));
    }

    #[test]
    fn the_total_is_the_sum_of_its_systems() {
        let estimate = of(&INPUTS);
        let parts = SYSTEMS.map(|system| estimate.total(Some(system)));
        let total = estimate.total(None);
        assert!((parts.iter().map(|cost| cost.idle).sum::<f64>() - total.idle).abs() < 1e-6);
        assert!((parts.iter().map(|cost| cost.load).sum::<f64>() - total.load).abs() < 1e-6);
        assert!(parts.iter().all(|cost| cost.idle > 0.0 && cost.load >= cost.idle));
        assert_eq!(estimate.lines_of(Some("tags")).count(), 4);
    }

    #[test]
    fn a_proxy_before_a_serverless_database_has_a_floor() {
        let ledger = Ledger {
            instance_class: "db.serverless",
            min_capacity: 0.5,
            max_capacity: 16.0,
            ..INPUTS.ledger
        };
        let with = of(&Inputs { ledger, ..INPUTS });
        assert_eq!(line(&with, "ledger", "proxy"), (87.6, 175.2), "8 capacity units at least");
        assert_eq!(line(&with, "ledger", "database capacity"), (43.8, 1401.6));
        let without = of(&Inputs { ledger: Ledger { proxy: false, ..ledger }, ..INPUTS });
        assert!(without.lines.iter().all(|line| line.what != "proxy"));
    }

    #[test]
    fn a_missing_price_is_told_by_name() {
        let kafka = Kafka { instance_type: "kafka.m9g.large", ..INPUTS.kafka };
        let prices = Prices::parse(BUILT_IN).unwrap();
        let error = estimate(&Inputs { kafka, ..INPUTS }, &prices).unwrap_err();
        assert!(error.message.contains("`kafka.m9g.large`"), "{error}");
    }

    #[test]
    fn ten_terabytes_of_cache_writes_are_free() {
        let written = |rate| {
            let tags = Tags { messages_per_second: rate, ..INPUTS.tags };
            of(&Inputs { tags, ..INPUTS }).lines.iter().any(|line| line.price == "memorydb_written")
        };
        assert!(!written(1000.0) && written(5000.0));
    }

    proptest! {
        #[test]
        fn more_load_never_costs_less(rate in 0.0f64..10_000.0, more in 1.0f64..4.0) {
            let cost = |rate| {
                let estimate = of(&Inputs {
                    kafka: Kafka { bytes_per_second: rate * 1000.0, ..INPUTS.kafka },
                    ledger: Ledger { transactions_per_second: rate, ..INPUTS.ledger },
                    lessons: Lessons { records_per_second: rate, ..INPUTS.lessons },
                    tags: Tags { messages_per_second: rate, ..INPUTS.tags },
                    ..INPUTS
                });
                estimate.total(None)
            };
            let (less, more) = (cost(rate), cost(rate * more));
            prop_assert!(more.load >= less.load && less.load >= less.idle);
            prop_assert!((more.idle - less.idle).abs() < 1e-9, "idle is idle");
        }
    }
}
