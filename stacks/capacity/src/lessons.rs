//! The lessons system: shards, table capacity and enrichers from the records per second.

use crate::figure::{CapacityError, Load, Sizing, ceil};

/// The service level of the lessons system.
#[derive(Clone, Copy, Debug)]
pub struct ServiceLevel {
    /// Records per second of all kinds, on average.
    pub records_per_second: f64,
    /// Records per second at the peak.
    pub peak_records_per_second: f64,
    /// A record as it comes in, in bytes.
    pub record_bytes: u64,
    /// Consumers that read a stream by polling and so share a shard's bytes.
    pub fan_out: u64,
    /// Table reads for enrichment, a record on average: two a lesson, none a user or subscription.
    pub reads_per_record: f64,
    /// Table writes, a record on average: one a user or subscription, none a lesson.
    pub writes_per_record: f64,
    /// Items of the table `user`.
    pub users: u64,
    /// An item of the table `user`, in bytes.
    pub user_bytes: u64,
    /// Items of the table `user_subscription`.
    pub user_subscriptions: u64,
    /// An item of the table `user_subscription`, in bytes.
    pub user_subscription_bytes: u64,
    /// How long an enricher is busy with a record, in seconds.
    pub seconds_per_record: f64,
    /// Records in a batch, at most.
    pub batch_records: u64,
    /// What the peak is multiplied with, at least 1.
    pub safety_factor: f64,
    /// Derived figures that are set instead.
    pub overrides: Overrides,
}

/// Derived figures that are set instead.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides {
    /// Shards of the input stream.
    pub input_shards: Option<u64>,
    /// Shards of the output stream.
    pub output_shards: Option<u64>,
    /// Read capacity of the tables, in units a second.
    pub read_units: Option<u64>,
    /// Write capacity of the tables, in units a second.
    pub write_units: Option<u64>,
    /// Batches of a shard at the same time.
    pub parallelization_factor: Option<u64>,
    /// Enrichers at the same time.
    pub function_concurrency: Option<u64>,
}

/// Records that a shard takes each second: Kinesis quotas.
pub const SHARD_RECORDS_PER_SECOND: f64 = 1000.0;

/// Bytes that a shard takes each second: Kinesis quotas, 1 MiB.
pub const SHARD_BYTES_IN_PER_SECOND: f64 = 1_048_576.0;

/// Bytes that a shard gives each second, to all polling consumers together: Kinesis quotas, 2 MB.
pub const SHARD_BYTES_OUT_PER_SECOND: f64 = 2_000_000.0;

/// Reads that a shard takes each second; a consumer polls once a second at least: Kinesis quotas.
pub const SHARD_READS_PER_SECOND: u64 = 5;

/// Batches of a shard that Lambda processes at the same time, at most.
pub const PARALLELIZATION_MAX: u64 = 10;

/// What enrichment adds to a record, in bytes: country, subscription status and type, and the envelope.
pub const ENRICHMENT_BYTES: u64 = 128;

/// What a batch costs beside its records, in seconds: the invocation and the call to the output stream. An
/// estimate.
const BATCH_OVERHEAD_SECONDS: f64 = 0.02;

/// What an item takes beside its attributes: DynamoDB developer guide, item sizes for storage billing.
const ITEM_OVERHEAD_BYTES: u64 = 100;

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

/// Sizes the system.
///
/// # Errors
///
/// When the figures contradict one another.
pub fn size(level: &ServiceLevel) -> Result<Sizing, CapacityError> {
    let load =
        Load { sustained: level.records_per_second, peak: level.peak_records_per_second, unit: "records/s" };
    let mut sizing = Sizing::of(load);
    if level.fan_out == 0 || level.fan_out > SHARD_READS_PER_SECOND {
        return Err(CapacityError::new(format!(
            "{} consumers poll a shard, which takes {SHARD_READS_PER_SECOND} reads per second; fan_out is 1 to {SHARD_READS_PER_SECOND}, more need enhanced fan-out",
            level.fan_out
        )));
    }
    if level.batch_records == 0 || level.safety_factor < 1.0 {
        return Err(CapacityError::new("batch_records must be above 0 and safety_factor at least 1"));
    }
    // Records per second of one execution.
    let batch = level.batch_records as f64;
    let rate = batch / (batch * level.seconds_per_record + BATCH_OVERHEAD_SECONDS);
    let wanted = level.peak_records_per_second * level.safety_factor;
    let executions = ceil(wanted / rate).max(1);
    let by_time = executions.div_ceil(PARALLELIZATION_MAX);
    let (input, note) = stream(level, level.record_bytes, by_time);
    let input_shards = sizing.derive(
        "input_shards",
        "shards",
        input,
        level.overrides.input_shards,
        note,
        "Kinesis quotas a shard: 1,000 records/s and 1 MiB/s in, 2 MB/s out over all polling consumers",
    );
    sizing.exhausted_at(stream_carries(level, level.record_bytes, input_shards));
    let enriched = level.record_bytes + ENRICHMENT_BYTES;
    let (output, note) = stream(level, enriched, 1);
    let output_shards = sizing.derive(
        "output_shards",
        "shards",
        output,
        level.overrides.output_shards,
        note,
        "as the input, with records longer by what enrichment adds",
    );
    sizing.exhausted_at(stream_carries(level, enriched, output_shards));
    tables(&mut sizing, level)?;
    let factor = sizing.derive(
        "parallelization_factor",
        "batches a shard",
        executions.div_ceil(input_shards.max(1)).min(PARALLELIZATION_MAX),
        level.overrides.parallelization_factor,
        format!(
            "min({PARALLELIZATION_MAX}, ceil({executions} / input_shards {input_shards})), {executions} = ceil(peak {} x safety_factor {} / {rate:.1} records/s an execution)",
            level.peak_records_per_second, level.safety_factor
        ),
        "Lambda: 1 to 10 batches of a shard at the same time, in order by partition key",
    );
    let concurrency = sizing.derive(
        "function_concurrency",
        "executions",
        input_shards * factor,
        level.overrides.function_concurrency,
        format!("input_shards {input_shards} x parallelization_factor {factor}"),
        "Lambda: a Kinesis mapping invokes so many at most",
    );
    sizing.exhausted_at(concurrency.min(input_shards * factor) as f64 * rate);
    storage(&mut sizing, level);
    if input_shards == 0 || output_shards == 0 || concurrency == 0 {
        return Err(CapacityError::new(
            "a stream has at least one shard and one execution; raise the override",
        ));
    }
    if factor == 0 || factor > PARALLELIZATION_MAX {
        return Err(CapacityError::new(format!(
            "parallelization_factor {factor} is not 1 to {PARALLELIZATION_MAX}"
        )));
    }
    Ok(sizing)
}

/// Shards of a stream, and the formula.
fn stream(level: &ServiceLevel, record_bytes: u64, least: u64) -> (u64, String) {
    let records = level.peak_records_per_second * level.safety_factor;
    let bytes = records * record_bytes as f64;
    let by_records = ceil(records / SHARD_RECORDS_PER_SECOND);
    let by_bytes = ceil(bytes / SHARD_BYTES_IN_PER_SECOND);
    let by_reads = ceil(bytes * level.fan_out as f64 / SHARD_BYTES_OUT_PER_SECOND);
    let formula = format!(
        "max({least}, records {by_records} = ceil({records} / 1000), bytes in {by_bytes} = ceil({bytes:.0} / 2^20), bytes out {by_reads} = ceil({bytes:.0} x fan_out {} / 2,000,000))",
        level.fan_out
    );
    (by_records.max(by_bytes).max(by_reads).max(least).max(1), formula)
}

/// Records per second that so many shards carry.
fn stream_carries(level: &ServiceLevel, record_bytes: u64, shards: u64) -> f64 {
    let bytes = record_bytes.max(1) as f64;
    let a_shard = SHARD_RECORDS_PER_SECOND
        .min(SHARD_BYTES_IN_PER_SECOND / bytes)
        .min(SHARD_BYTES_OUT_PER_SECOND / bytes / level.fan_out as f64);
    shards as f64 * a_shard
}

/// Capacity units of the tables at the peak.
fn tables(sizing: &mut Sizing, level: &ServiceLevel) -> Result<(), CapacityError> {
    let largest = level.user_bytes.max(level.user_subscription_bytes);
    let read_cost = 0.5 * largest.div_ceil(4096).max(1) as f64;
    let write_cost = largest.div_ceil(1024).max(1) as f64;
    for (name, unit, each, cost, overridden, source) in [
        (
            "read_units",
            "read units/s",
            level.reads_per_record,
            read_cost,
            level.overrides.read_units,
            "DynamoDB: half a unit for an eventually consistent read of up to 4 KiB",
        ),
        (
            "write_units",
            "write units/s",
            level.writes_per_record,
            write_cost,
            level.overrides.write_units,
            "DynamoDB: a unit for a write of up to 1 KiB",
        ),
    ] {
        let used = sizing.derive(
            name,
            unit,
            ceil(level.peak_records_per_second * each * cost).max(1),
            overridden,
            format!("ceil(peak {} x {each} a record x {cost})", level.peak_records_per_second),
            source,
        );
        if each > 0.0 {
            sizing.exhausted_at(used as f64 / (each * cost));
        }
        if used == 0 {
            return Err(CapacityError::new(format!("{name} is at least 1")));
        }
    }
    Ok(())
}

/// What the tables hold.
fn storage(sizing: &mut Sizing, level: &ServiceLevel) {
    for (name, items, bytes) in [
        ("user_table_gib", level.users, level.user_bytes),
        ("user_subscription_table_gib", level.user_subscriptions, level.user_subscription_bytes),
    ] {
        sizing.derive(
            name,
            "GiB",
            ceil(items as f64 * (bytes + ITEM_OVERHEAD_BYTES) as f64 / GIB).max(1),
            None,
            format!("ceil(items {items} x (bytes {bytes} + {ITEM_OVERHEAD_BYTES}) / 2^30)"),
            "DynamoDB: 100 bytes of index data an item are stored and billed",
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED: ServiceLevel = ServiceLevel {
        records_per_second: 125.0,
        peak_records_per_second: 625.0,
        record_bytes: 1024,
        fan_out: 1,
        reads_per_record: 1.6,
        writes_per_record: 0.2,
        users: 500_000_000,
        user_bytes: 300,
        user_subscriptions: 500_000_000,
        user_subscription_bytes: 300,
        seconds_per_record: 0.005,
        batch_records: 100,
        safety_factor: 1.25,
        overrides: Overrides {
            input_shards: None,
            output_shards: None,
            read_units: None,
            write_units: None,
            parallelization_factor: None,
            function_concurrency: None,
        },
    };

    fn value(sizing: &Sizing, name: &str) -> u64 {
        sizing.get(name).unwrap().value
    }

    #[test]
    fn the_published_load_fits_one_shard_with_room_to_spare() {
        let sizing = size(&SEED).unwrap();
        let all: Vec<_> = sizing.figures.iter().map(|figure| (figure.name, figure.value)).collect();
        assert_eq!(
            all,
            [
                ("input_shards", 1),
                ("output_shards", 1),
                // Half a unit for each of 1,000 reads, and one for each of 125 writes.
                ("read_units", 500),
                ("write_units", 125),
                ("parallelization_factor", 5),
                ("function_concurrency", 5),
                // 500 million items of 400 bytes are 200 GB.
                ("user_table_gib", 187),
                ("user_subscription_table_gib", 187),
            ]
        );
        // 1,000 records/s a shard is 60% more than 625, which leaves 37% of the shard free.
        let shards = sizing.get("input_shards").unwrap();
        assert!((shards.headroom_at_peak.unwrap() - 0.6).abs() < 1e-9);
        assert_eq!(sizing.breaks_first().unwrap().figure.name, "read_units", "sized to the peak exactly");
    }

    #[test]
    fn the_tightest_of_records_bytes_and_readers_decides() {
        let shards = |level| value(&size(&level).unwrap(), "input_shards");
        assert_eq!(shards(ServiceLevel { peak_records_per_second: 4000.0, ..SEED }), 5, "records");
        assert_eq!(shards(ServiceLevel { record_bytes: 10_240, ..SEED }), 8, "bytes in");
        assert_eq!(shards(ServiceLevel { record_bytes: 10_240, fan_out: 5, ..SEED }), 20, "bytes out");
        assert_eq!(shards(ServiceLevel { seconds_per_record: 0.1, ..SEED }), 8, "executions, 10 a shard");
    }

    #[test]
    fn contradictions_are_refused_with_what_to_change() {
        let told = |level| size(&level).unwrap_err().message;
        assert!(told(ServiceLevel { fan_out: 6, ..SEED }).contains("enhanced fan-out"));
        assert!(told(ServiceLevel { fan_out: 0, ..SEED }).contains("1 to 5"));
        let overrides = Overrides { parallelization_factor: Some(11), ..SEED.overrides };
        assert!(told(ServiceLevel { overrides, ..SEED }).contains("1 to 10"));
        let overrides = Overrides { input_shards: Some(0), ..SEED.overrides };
        assert!(told(ServiceLevel { overrides, ..SEED }).contains("at least one shard"));
    }

    proptest! {
        #[test]
        fn more_load_never_needs_less(
            peak in 1.0f64..20_000.0, bytes in 1u64..50_000, fan_out in 1u64..=5, more in 1.0f64..4.0
        ) {
            let sized = |peak| size(&ServiceLevel {
                peak_records_per_second: peak, record_bytes: bytes, fan_out, ..SEED
            }).unwrap();
            let (less, more) = (sized(peak), sized(peak * more));
            for (one, other) in less.figures.iter().zip(&more.figures) {
                prop_assert!(one.value >= 1 && other.value >= 1, "{}", one.name);
                // More shards carry more batches, so that each needs fewer at the same time.
                if one.name != "parallelization_factor" && one.name != "function_concurrency" {
                    prop_assert!(other.value >= one.value, "{}", one.name);
                }
            }
        }

        #[test]
        fn the_peak_is_carried(peak in 1.0f64..20_000.0, bytes in 1u64..50_000, seconds in 0.0f64..0.5) {
            let sizing = size(&ServiceLevel {
                peak_records_per_second: peak, record_bytes: bytes, seconds_per_record: seconds, ..SEED
            }).unwrap();
            prop_assert!(sizing.breaks_first().unwrap().at >= peak * 0.999);
        }

        #[test]
        fn an_override_is_used(shards in 1u64..100, units in 1u64..40_000) {
            let overrides = Overrides { input_shards: Some(shards), read_units: Some(units), ..SEED.overrides };
            let sizing = size(&ServiceLevel { overrides, ..SEED }).unwrap();
            prop_assert_eq!((value(&sizing, "input_shards"), value(&sizing, "read_units")), (shards, units));
            prop_assert_eq!(sizing.get("input_shards").unwrap().derived, 1);
        }
    }
}
