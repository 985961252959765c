//! The ledger system: partitions and connections from the transactions per second and the time of a write.

use crate::{
    database::{CONNECTIONS_RESERVED, Database, max_connections},
    figure::{CapacityError, Load, Sizing, ceil},
};

/// The service level of the ledger system.
#[derive(Clone, Copy, Debug)]
pub struct ServiceLevel<'a> {
    /// T: transactions per second.
    pub transactions_per_second: f64,
    /// t: how long the write of a batch takes, in seconds.
    pub write_seconds: f64,
    /// f: the buffer for spikes, 1.3 to 1.5.
    pub safety_factor: f64,
    /// B: records in a batch.
    pub batch_records: u64,
    /// Chunks of a batch that a writer writes at the same time, each on a connection of its own.
    pub chunk_concurrency: u64,
    /// Connections in a writer's pool, at most.
    pub pool_limit: u64,
    /// A record, in bytes.
    pub record_bytes: u64,
    /// The database behind the proxy.
    pub database: Database<'a>,
    /// Derived figures that are set instead.
    pub overrides: Overrides,
}

/// Derived figures that are set instead.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides {
    /// Partitions of the topic.
    pub partitions: Option<u64>,
    /// Writers at the same time.
    pub function_concurrency: Option<u64>,
    /// Pollers of the event source mapping.
    pub event_pollers: Option<u64>,
    /// Connections of the proxy to the database, in percent of `max_connections`.
    pub proxy_max_connections_percent: Option<u64>,
    /// Those of them that may stay open idly, in percent of `max_connections`.
    pub proxy_max_idle_percent: Option<u64>,
    /// Memory of a writer, in MiB.
    pub function_memory_mib: Option<u64>,
}

/// Bytes per second that one poller of an MSK event source carries: Lambda developer guide, provisioned mode.
pub const POLLER_BYTES_PER_SECOND: f64 = 5e6;

/// Batches that one poller has out at the same time: Lambda developer guide, provisioned mode.
pub const POLLER_INVOCATIONS: u64 = 5;

/// What a proxy may open is a multiple of what writers use: it spreads the limit over its own nodes, and opens
/// connections to a new writer before it has closed those to the old one. AWS advises 30% more at least.
const PROXY_RESERVE: u64 = 2;

/// What a writer needs before its first batch, in MiB: the binary, TLS, the SDK. An estimate.
const WRITER_BASE_MIB: u64 = 96;

/// The largest payload of an invocation, in MiB: Lambda quotas, synchronous invocation.
const PAYLOAD_MIB: u64 = 6;

/// Copies of the payload that a writer holds: as it came, decoded, and as statements.
const PAYLOAD_COPIES: u64 = 3;

/// What a database connection takes in a writer, in MiB. An estimate.
const CONNECTION_MIB: u64 = 2;

/// A writer has at least this, in MiB: Lambda gives CPU by memory, a whole core at 1,769 MiB, and a TLS handshake
/// on less than a seventh of one takes longer than a write.
const WRITER_LEAST_MIB: u64 = 256;

/// Sizes the system.
///
/// # Errors
///
/// When the figures contradict one another or the database does not take the connections.
pub fn size(level: &ServiceLevel<'_>) -> Result<Sizing, CapacityError> {
    let mut sizing = Sizing::of(Load::sustained(level.transactions_per_second, "transactions/s"));
    let ServiceLevel { write_seconds, safety_factor, batch_records, chunk_concurrency, pool_limit, .. } =
        *level;
    if batch_records == 0 || chunk_concurrency == 0 || !(write_seconds > 0.0 && safety_factor >= 1.0) {
        return Err(CapacityError::new(
            "write_seconds, batch_records and chunk_concurrency must be above 0, and safety_factor at least 1",
        ));
    }
    if chunk_concurrency > pool_limit {
        return Err(CapacityError::new(format!(
            "a writer writes {chunk_concurrency} chunks at a time on {pool_limit} connections; raise pool_limit or lower chunk_concurrency"
        )));
    }
    // What a partition carries: its batches are written one after the other.
    let per_partition = batch_records as f64 / write_seconds;
    let raw = level.transactions_per_second * write_seconds * safety_factor / batch_records as f64;
    let partitions = sizing.derive(
        "partitions",
        "partitions",
        ceil(raw).max(1),
        level.overrides.partitions,
        format!(
            "max(1, ceil(T {} x t {write_seconds} x f {safety_factor} / B {batch_records}))",
            level.transactions_per_second
        ),
        "a partition is written by one writer at a time, a batch after the other",
    );
    sizing.exhausted_at(partitions as f64 * per_partition);
    sizing.derive(
        "client_connections",
        "connections",
        partitions * pool_limit,
        None,
        format!("partitions {partitions} x pool_limit {pool_limit}"),
        "a writer a partition, each with its pool, connects to the proxy",
    );
    let connections = sizing.derive(
        "database_connections",
        "connections",
        partitions * chunk_concurrency,
        None,
        format!("partitions {partitions} x chunk_concurrency {chunk_concurrency}"),
        "the proxy borrows a database connection for each chunk that is being written",
    );
    let concurrency = sizing.derive(
        "function_concurrency",
        "executions",
        partitions,
        level.overrides.function_concurrency,
        format!("partitions {partitions}"),
        "Lambda runs one writer a partition; with less reserved concurrency than partitions the lag grows in turns",
    );
    sizing.exhausted_at(concurrency as f64 * per_partition);
    if concurrency < partitions {
        return Err(CapacityError::new(format!(
            "{concurrency} writers share {partitions} partitions and would be throttled; raise function_concurrency"
        )));
    }
    let bytes = level.transactions_per_second * safety_factor * level.record_bytes as f64;
    let (by_invocations, by_bytes) =
        (partitions.div_ceil(POLLER_INVOCATIONS), ceil(bytes / POLLER_BYTES_PER_SECOND));
    let pollers = sizing.derive(
        "event_pollers",
        "pollers",
        by_invocations.max(by_bytes).clamp(1, partitions.max(1)),
        level.overrides.event_pollers,
        format!(
            "min(partitions {partitions}, max(invocations {by_invocations} = ceil({partitions} / {POLLER_INVOCATIONS}), bytes {by_bytes} = ceil({bytes:.0} / 5,000,000)))"
        ),
        "Lambda, provisioned mode: a poller has 5 invocations out and carries 5 MB/s; one beyond the partitions idles",
    );
    let by_invocations = (pollers * POLLER_INVOCATIONS) as f64 * per_partition;
    let by_bytes = pollers as f64 * POLLER_BYTES_PER_SECOND / level.record_bytes.max(1) as f64;
    sizing.exhausted_at(by_invocations.min(by_bytes));
    if pollers == 0 || pollers > partitions {
        return Err(CapacityError::new(format!(
            "{pollers} pollers for {partitions} partitions; event_pollers is 1 to {partitions}"
        )));
    }
    proxy(&mut sizing, level, connections, per_partition)?;
    let needed = WRITER_BASE_MIB + PAYLOAD_MIB * PAYLOAD_COPIES + CONNECTION_MIB * pool_limit;
    sizing.derive(
        "function_memory_mib",
        "MiB",
        needed.next_multiple_of(128).max(WRITER_LEAST_MIB),
        level.overrides.function_memory_mib,
        format!(
            "max({WRITER_LEAST_MIB}, {WRITER_BASE_MIB} + payload {PAYLOAD_MIB} x {PAYLOAD_COPIES} copies + {CONNECTION_MIB} x pool_limit {pool_limit}, a multiple of 128)"
        ),
        "Lambda quotas: 6 MiB a payload, CPU in proportion to memory; what binary and connections take is an estimate",
    );
    Ok(sizing)
}

/// The proxy's limits, in percent of what the database takes.
fn proxy(
    sizing: &mut Sizing,
    level: &ServiceLevel<'_>,
    connections: u64,
    per_partition: f64,
) -> Result<(), CapacityError> {
    let most = max_connections(&level.database)?;
    let percent = |connections: u64| (connections * 100).div_ceil(most).max(1);
    let wanted = percent(connections * PROXY_RESERVE);
    let used = sizing.derive(
        "proxy_max_connections_percent",
        "%",
        wanted.min(100),
        level.overrides.proxy_max_connections_percent,
        format!(
            "min(100, ceil({PROXY_RESERVE} x database_connections {connections} / max_connections {most} of {}))",
            level.database.instance_class
        ),
        "Aurora PostgreSQL: LEAST({DBInstanceClassMemory/9531392}, 5000), of which 0.9 of the memory counts; twice what is used",
    );
    let available = (most - CONNECTIONS_RESERVED).min(most * used / 100);
    let writers = (available / level.chunk_concurrency) as f64;
    sizing.exhausted_at(writers * per_partition);
    if used == 0 || used > 100 || available < connections {
        return Err(CapacityError::new(format!(
            "{connections} database connections do not fit into {available}, which is {used}% of the {most} that {} takes; take a larger database or lower chunk_concurrency",
            level.database.instance_class
        )));
    }
    let idle = sizing.derive(
        "proxy_max_idle_percent",
        "%",
        percent(connections).min(used),
        level.overrides.proxy_max_idle_percent,
        format!("min({used}, ceil(database_connections {connections} / max_connections {most}))"),
        "RDS: what is in use in GREEN stays open, so that a batch does not begin with a TLS handshake",
    );
    if idle > used {
        return Err(CapacityError::new(format!(
            "proxy_max_idle_percent {idle} exceeds proxy_max_connections_percent {used}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED: ServiceLevel<'_> = ServiceLevel {
        transactions_per_second: 500.0,
        write_seconds: 0.2,
        safety_factor: 1.3,
        batch_records: 30,
        chunk_concurrency: 2,
        pool_limit: 2,
        record_bytes: 1000,
        database: Database { instance_class: "db.t4g.medium", min_capacity: 0.5, max_capacity: 8.0 },
        overrides: Overrides {
            partitions: None,
            function_concurrency: None,
            event_pollers: None,
            proxy_max_connections_percent: None,
            proxy_max_idle_percent: None,
            function_memory_mib: None,
        },
    };

    fn value(sizing: &Sizing, name: &str) -> u64 {
        sizing.get(name).unwrap().value
    }

    #[test]
    fn the_published_case_needs_five_partitions_and_ten_connections() {
        let sizing = size(&SEED).unwrap();
        let all: Vec<_> = sizing.figures.iter().map(|figure| (figure.name, figure.value)).collect();
        assert_eq!(
            all,
            [
                ("partitions", 5),
                ("client_connections", 10),
                ("database_connections", 10),
                ("function_concurrency", 5),
                ("event_pollers", 1),
                ("proxy_max_connections_percent", 5),
                ("proxy_max_idle_percent", 3),
                ("function_memory_mib", 256),
            ]
        );
    }

    #[test]
    fn the_writers_break_first_and_a_peak_waits_in_the_topic() {
        let sizing = size(&SEED).unwrap();
        let first = sizing.breaks_first().unwrap();
        assert_eq!((first.figure.name, first.at), ("partitions", 750.0));
        assert!((first.figure.headroom_at_peak.unwrap() + 0.7).abs() < 1e-9, "5 x 500 is more than 750");
        assert_eq!(sizing.get("client_connections").unwrap().exhausted_at, None);
    }

    #[test]
    fn a_whole_number_is_not_rounded_up() {
        // 300 x 0.1 x 1 / 30 is 1.0000000000000002 in floating point when multiplied in another order.
        for (rate, seconds, batch, partitions) in
            [(300.0, 0.1, 30, 1), (600.0, 0.3, 60, 3), (900.0, 0.7, 90, 7)]
        {
            let level = ServiceLevel {
                transactions_per_second: rate,
                write_seconds: seconds,
                safety_factor: 1.0,
                batch_records: batch,
                ..SEED
            };
            assert_eq!(value(&size(&level).unwrap(), "partitions"), partitions);
        }
    }

    #[test]
    fn contradictions_are_refused_with_what_to_change() {
        let with = |overrides| size(&ServiceLevel { overrides, ..SEED }).unwrap_err().message;
        let none = Overrides::default();
        assert!(with(Overrides { event_pollers: Some(6), ..none }).contains("1 to 5"));
        assert!(with(Overrides { function_concurrency: Some(4), ..none }).contains("function_concurrency"));
        assert!(with(Overrides { proxy_max_connections_percent: Some(1), ..none }).contains("do not fit"));
        assert!(with(Overrides { proxy_max_idle_percent: Some(50), ..none }).contains("exceeds"));
        assert!(with(Overrides { partitions: Some(1000), ..none }).contains("larger database"));
        let narrow = ServiceLevel { pool_limit: 1, ..SEED };
        assert!(size(&narrow).unwrap_err().message.contains("pool_limit"));
        assert!(size(&ServiceLevel { batch_records: 0, ..SEED }).is_err());
    }

    proptest! {
        #[test]
        fn more_load_never_needs_less(rate in 0.0f64..2000.0, seconds in 0.001f64..1.0, more in 1.0f64..4.0) {
            let sized = |rate| size(&ServiceLevel { transactions_per_second: rate, write_seconds: seconds, ..SEED });
            if let (Ok(less), Ok(more)) = (sized(rate), sized(rate * more)) {
                for (one, other) in less.figures.iter().zip(&more.figures) {
                    prop_assert!(one.value >= 1 && other.value >= one.value, "{}", one.name);
                }
            }
        }

        #[test]
        fn the_load_is_carried_and_an_override_is_used(rate in 1.0f64..2000.0, partitions in 1u64..150) {
            let level = ServiceLevel { transactions_per_second: rate, ..SEED };
            let sizing = size(&level).unwrap();
            prop_assert!(sizing.breaks_first().unwrap().at >= rate * SEED.safety_factor * 0.999);
            let set = size(&ServiceLevel { overrides: Overrides { partitions: Some(partitions), ..level.overrides }, ..level });
            let set = set.unwrap();
            let figure = set.get("partitions").unwrap();
            prop_assert_eq!((figure.value, figure.derived), (partitions, value(&sizing, "partitions")));
            prop_assert_eq!(value(&set, "function_concurrency"), partitions);
        }
    }
}
