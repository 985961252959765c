//! What an environment may say: bounds of each value, and which values contradict one another.

use constructs::addresses::Block;

use super::{Database, Environment, Ledger, Lessons, Provider, ScalingTarget, Tags, Trades};

/// A rate over less may have but one sample in it.
const RATE_WINDOW_MIN_SECONDS: u32 = 180;

/// RDS tells its metrics each minute: within less there is none, or one that is already known.
const PRESSURE_PERIOD_MIN_SECONDS: u32 = 60;

/// What is wrong: the dotted key, and why.
type Complaint = (&'static str, String);

/// A number with its key and its bounds.
type Bounded = (&'static str, f64, f64, f64);

/// The first value that is out of its bounds or contradicts another, as (dotted key, what is wrong).
pub(super) fn complaint(environment: &Environment) -> Option<Complaint> {
    identity(environment)
        .or_else(|| network(environment))
        .or_else(|| first_out_of_bounds(&numbers(environment)))
        .or_else(|| database(&environment.database))
        .or_else(|| levels(environment))
}

fn identity(environment: &Environment) -> Option<Complaint> {
    if !is_account(&environment.account) {
        return Some(("account", format!("`{}` is not 12 digits", environment.account)));
    }
    if !is_region(&environment.region) {
        return Some(("region", format!("`{}` is not a region such as eu-west-1", environment.region)));
    }
    let prefix = &environment.prefix;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !prefix.starts_with(|c: char| c.is_ascii_lowercase())
        || !prefix.bytes().all(allowed)
        || prefix.len() > 40
    {
        return Some(("prefix", format!("`{prefix}` is not 1 to 40 lower-case letters, digits and hyphens")));
    }
    None
}

fn is_account(account: &str) -> bool {
    account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit())
}

/// Whether it reads like a region: two letters, words, a number, joined by hyphens.
fn is_region(region: &str) -> bool {
    let parts: Vec<&str> = region.split('-').collect();
    let [area, words @ .., number] = parts.as_slice() else { return false };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    area.len() == 2
        && word(area)
        && !words.is_empty()
        && words.iter().all(|part| word(part))
        && matches!(number.as_bytes(), [b'1'..=b'9'])
}

fn network(environment: &Environment) -> Option<Complaint> {
    let network = &environment.network;
    match network.cidr.parse::<Block>() {
        Err(error) => return Some(("network.cidr", error.to_string())),
        Ok(block) if !(16..=20).contains(&block.prefix()) => {
            return Some(("network.cidr", format!("/{} is not /16 to /20", block.prefix())));
        }
        Ok(_) => {}
    }
    if !(2..=3).contains(&network.zones) {
        return Some(("network.zones", format!("{} is not 2 or 3", network.zones)));
    }
    if let Some(delivery) = &environment.delivery
        && delivery.github_repository.is_some() == delivery.gitlab_project.is_some()
    {
        let message = "either this or gitlab_project says who deploys, and one of them must";
        return Some(("delivery.github_repository", message.to_owned()));
    }
    if environment
        .delivery
        .as_ref()
        .is_some_and(|delivery| delivery.promotes_to.as_ref() == Some(&environment.name))
    {
        return Some((
            "delivery.promotes_to",
            "releases go to another environment, not to this one".to_owned(),
        ));
    }
    let kafka = &environment.kafka;
    if !kafka.version.ends_with(".kraft") {
        return Some((
            "kafka.version",
            format!("`{}` is not a KRaft version such as 3.9.x.kraft", kafka.version),
        ));
    }
    if let Some(factor) = kafka.replication_factor
        && !(2..=network.zones).contains(&factor)
    {
        return Some((
            "kafka.replication_factor",
            format!(
                "{factor} in {} zones (network.zones): with more replicas than zones, a lost zone takes two of them; it is 2 to {}",
                network.zones, network.zones
            ),
        ));
    }
    environment
        .cluster
        .public_access_cidrs
        .iter()
        .find_map(|cidr| cidr.parse::<Block>().err())
        .map(|error| ("cluster.public_access_cidrs", error.to_string()))
}

fn first_out_of_bounds(numbers: &[Bounded]) -> Option<Complaint> {
    numbers
        .iter()
        .find(|(_, value, least, most)| !(value >= least && value <= most))
        .map(|(key, value, least, most)| (*key, format!("{value} is not {least} to {most}")))
}

fn numbers(environment: &Environment) -> Vec<Bounded> {
    let mut numbers = vec![
        ("log_retention_days", f64::from(environment.log_retention_days), 1.0, 3653.0),
        ("kafka.brokers_per_zone", f64::from(environment.kafka.brokers_per_zone), 1.0, 10.0),
        ("database.instances", f64::from(environment.database.instances), 1.0, 15.0),
        ("database.backup_retention_days", f64::from(environment.database.backup_retention_days), 1.0, 35.0),
        ("cache.snapshot_retention_days", f64::from(environment.cache.snapshot_retention_days), 0.0, 35.0),
    ];
    if let Some(minutes) = environment.delivery.as_ref().and_then(|delivery| delivery.bake_minutes) {
        numbers.push(("delivery.bake_minutes", f64::from(minutes), 1.0, 1440.0));
    }
    numbers.extend(trades(&environment.trades));
    numbers.extend(ledger(&environment.ledger));
    numbers.extend(lessons(&environment.lessons));
    numbers.extend(tags(&environment.tags));
    numbers
}

fn trades(trades: &Trades) -> Vec<Bounded> {
    let mut numbers = vec![
        ("trades.messages_per_second", trades.messages_per_second, 0.0, 100_000.0),
        ("trades.peak_messages_per_second", trades.peak_messages_per_second, 1.0, 100_000.0),
        ("trades.message_bytes", f64::from(trades.message_bytes), 1.0, 1e6),
        ("trades.retention_hours", f64::from(trades.retention_hours), 1.0, 8760.0),
        ("trades.batch_size", f64::from(trades.batch_size), 1.0, 10_000.0),
        ("trades.batch_timeout_seconds", trades.batch_timeout_seconds, 0.001, 60.0),
        ("trades.batch_processing_seconds", trades.batch_processing_seconds, 0.0, 300.0),
        ("trades.batches_in_flight", f64::from(trades.batches_in_flight), 1.0, 256.0),
        ("trades.safety_factor", trades.safety_factor, 1.0, 10.0),
        ("trades.backlog_drain_seconds", trades.backlog_drain_seconds, 1.0, 3600.0),
        (
            "trades.scaling.polling_interval_seconds",
            f64::from(trades.scaling.polling_interval_seconds),
            1.0,
            300.0,
        ),
        ("trades.scaling.cooldown_seconds", f64::from(trades.scaling.cooldown_seconds), 1.0, 3600.0),
        (
            "trades.scaling.scale_up_window_seconds",
            f64::from(trades.scaling.scale_up_window_seconds),
            0.0,
            3600.0,
        ),
        (
            "trades.scaling.scale_down_window_seconds",
            f64::from(trades.scaling.scale_down_window_seconds),
            0.0,
            3600.0,
        ),
        ("trades.scaling.rate_window_seconds", f64::from(trades.scaling.rate_window_seconds), 1.0, 3600.0),
    ];
    let memory = trades.overrides.consumer_memory_mib;
    optional(&mut numbers, &[("trades.override.consumer_memory_mib", memory, 64.0, 65_536.0)]);
    numbers
}

fn ledger(ledger: &Ledger) -> Vec<Bounded> {
    let overrides = &ledger.overrides;
    let mut numbers = vec![
        ("ledger.transactions_per_second", ledger.transactions_per_second, 0.0, 100_000.0),
        ("ledger.write_seconds", ledger.write_seconds, 0.001, 60.0),
        ("ledger.safety_factor", ledger.safety_factor, 1.0, 10.0),
        ("ledger.batch_records", f64::from(ledger.batch_records), 1.0, 10_000.0),
        ("ledger.batch_window_seconds", ledger.batch_window_seconds, 0.0, 300.0),
        ("ledger.chunk_concurrency", f64::from(ledger.chunk_concurrency), 1.0, 64.0),
        ("ledger.pool_limit", f64::from(ledger.pool_limit), 1.0, 64.0),
        ("ledger.record_bytes", f64::from(ledger.record_bytes), 1.0, 1e6),
        ("ledger.retention_hours", f64::from(ledger.retention_hours), 1.0, 8760.0),
        ("ledger.pressure_period_seconds", f64::from(ledger.pressure_period_seconds), 10.0, 3600.0),
        ("ledger.mode_hold_seconds", f64::from(ledger.mode_hold_seconds), 1.0, 3600.0),
    ];
    optional(
        &mut numbers,
        &[
            ("ledger.override.partitions", overrides.partitions, 1.0, 4000.0),
            ("ledger.override.function_concurrency", overrides.function_concurrency, 1.0, 4000.0),
            ("ledger.override.event_pollers", overrides.event_pollers, 1.0, 2000.0),
            (
                "ledger.override.proxy_max_connections_percent",
                overrides.proxy_max_connections_percent,
                1.0,
                100.0,
            ),
            ("ledger.override.proxy_max_idle_percent", overrides.proxy_max_idle_percent, 0.0, 100.0),
            ("ledger.override.function_memory_mib", overrides.function_memory_mib, 128.0, 10_240.0),
        ],
    );
    numbers
}

fn lessons(lessons: &Lessons) -> Vec<Bounded> {
    let overrides = &lessons.overrides;
    let mut numbers = vec![
        ("lessons.records_per_second", lessons.records_per_second, 0.0, 1e6),
        ("lessons.peak_records_per_second", lessons.peak_records_per_second, 1.0, 1e6),
        ("lessons.record_bytes", f64::from(lessons.record_bytes), 1.0, 1_048_576.0),
        ("lessons.fan_out", f64::from(lessons.fan_out), 1.0, 5.0),
        ("lessons.reads_per_record", lessons.reads_per_record, 0.0, 100.0),
        ("lessons.writes_per_record", lessons.writes_per_record, 0.0, 100.0),
        ("lessons.users", lessons.users as f64, 0.0, 1e12),
        ("lessons.user_bytes", f64::from(lessons.user_bytes), 1.0, 409_600.0),
        ("lessons.user_subscriptions", lessons.user_subscriptions as f64, 0.0, 1e12),
        ("lessons.user_subscription_bytes", f64::from(lessons.user_subscription_bytes), 1.0, 409_600.0),
        ("lessons.seconds_per_record", lessons.seconds_per_record, 0.0, 60.0),
        ("lessons.batch_records", f64::from(lessons.batch_records), 1.0, 10_000.0),
        ("lessons.safety_factor", lessons.safety_factor, 1.0, 10.0),
        ("lessons.retention_hours", f64::from(lessons.retention_hours), 24.0, 8760.0),
    ];
    optional(
        &mut numbers,
        &[
            ("lessons.override.input_shards", overrides.input_shards, 1.0, 20_000.0),
            ("lessons.override.output_shards", overrides.output_shards, 1.0, 20_000.0),
            ("lessons.override.read_units", overrides.read_units, 1.0, 40_000.0),
            ("lessons.override.write_units", overrides.write_units, 1.0, 40_000.0),
            ("lessons.override.parallelization_factor", overrides.parallelization_factor, 1.0, 10.0),
            ("lessons.override.function_concurrency", overrides.function_concurrency, 1.0, 10_000.0),
        ],
    );
    numbers
}

fn tags(tags: &Tags) -> Vec<Bounded> {
    let overrides = &tags.overrides;
    let mut numbers = vec![
        ("tags.objects", tags.objects as f64, 1.0, 1e11),
        ("tags.object_bytes", f64::from(tags.object_bytes), 1.0, 1e6),
        ("tags.objects_per_channel", f64::from(tags.objects_per_channel), 1.0, 1e6),
        ("tags.messages_per_second", tags.messages_per_second, 0.0, 1e6),
        ("tags.message_bytes", f64::from(tags.message_bytes), 1.0, 1e6),
        ("tags.producers", f64::from(tags.producers), 0.0, 100_000.0),
        ("tags.partitions", f64::from(tags.partitions), 1.0, 4000.0),
        ("tags.retention_hours", f64::from(tags.retention_hours), 1.0, 8760.0),
        ("tags.expiry_seconds", f64::from(tags.expiry_seconds), 60.0, 31_536_000.0),
        ("tags.worker_messages_per_second", tags.worker_messages_per_second, 1.0, 100_000.0),
        ("tags.workers_min", f64::from(tags.workers_min), 1.0, 1000.0),
    ];
    optional(
        &mut numbers,
        &[
            ("tags.override.memory_gib", overrides.memory_gib, 1.0, 100_000.0),
            ("tags.override.shards", overrides.shards, 1.0, 500.0),
            ("tags.override.replicas_per_shard", overrides.replicas_per_shard, 0.0, 5.0),
            ("tags.override.workers", overrides.workers, 1.0, 1000.0),
        ],
    );
    numbers
}

fn optional(numbers: &mut Vec<Bounded>, given: &[(&'static str, Option<u32>, f64, f64)]) {
    numbers.extend(
        given.iter().filter_map(|(key, value, least, most)| {
            value.map(|value| (*key, f64::from(value), *least, *most))
        }),
    );
}

/// Capacities of Aurora Serverless v2 go in halves up to 256.
fn is_capacity(capacity: f64) -> bool {
    (0.0..=256.0).contains(&capacity) && (capacity * 2.0).fract() == 0.0
}

fn database(database: &Database) -> Option<Complaint> {
    if !database.is_serverless() {
        if capacity::database::memory_gib(&database.instance_class).is_none() {
            return Some((
                "database.instance_class",
                format!("`{}` is not one such as db.t4g.medium or db.serverless", database.instance_class),
            ));
        }
        return (database.min_capacity.is_some() || database.max_capacity.is_some()).then(|| {
            let why = "has a fixed capacity: min_capacity and max_capacity belong to db.serverless alone";
            ("database.instance_class", format!("`{}` {why}", database.instance_class))
        });
    }
    let (Some(min), Some(max)) = (database.min_capacity, database.max_capacity) else {
        return Some((
            "database.instance_class",
            "db.serverless wants min_capacity and max_capacity beside it".to_owned(),
        ));
    };
    if !is_capacity(max) || max < 1.0 {
        return Some(("database.max_capacity", format!("{max} is not 1 to 256 in steps of 0.5")));
    }
    if !is_capacity(min) || min > max {
        return Some((
            "database.min_capacity",
            format!("{min} is not 0 to max_capacity {max} in steps of 0.5"),
        ));
    }
    if database.proxy && min == 0.0 {
        return Some((
            "database.min_capacity",
            "0 pauses an idle database, and an RDS Proxy (database.proxy) keeps connections open, so that it is never idle; set 0.5 or more, or proxy = false".to_owned(),
        ));
    }
    None
}

fn pressure_period(seconds: u32, provider: Provider) -> Option<String> {
    if ![10, 30].contains(&seconds) && !seconds.is_multiple_of(60) {
        return Some(format!("{seconds} is none of CloudWatch's periods: 10, 30 or a multiple of 60"));
    }
    (provider == Provider::Aws && seconds < PRESSURE_PERIOD_MIN_SECONDS).then(|| {
        format!(
            "{seconds} is less than {PRESSURE_PERIOD_MIN_SECONDS}: RDS tells its metrics each minute, and most periods would be empty"
        )
    })
}

/// What values of one service level must not say together.
fn levels(environment: &Environment) -> Option<Complaint> {
    let Environment { trades, ledger, lessons, .. } = environment;
    if trades.scaling.target == ScalingTarget::Rate && trades.backlog_drain_seconds.fract() != 0.0 {
        return Some((
            "trades.backlog_drain_seconds",
            format!(
                "{} is not whole seconds, which the formula over rate and lag wants",
                trades.backlog_drain_seconds
            ),
        ));
    }
    if environment.provider == Provider::Aws
        && trades.scaling.target == ScalingTarget::Rate
        && trades.scaling.rate_window_seconds < RATE_WINDOW_MIN_SECONDS
    {
        return Some((
            "trades.scaling.rate_window_seconds",
            format!(
                "{} is less than {RATE_WINDOW_MIN_SECONDS}: the brokers are scraped every 60 s, and a rate needs two samples",
                trades.scaling.rate_window_seconds
            ),
        ));
    }
    if ledger.batch_window_seconds > 0.5 && ledger.batch_window_seconds.fract() != 0.0 {
        return Some((
            "ledger.batch_window_seconds",
            format!("{} is neither at most 0.5 nor whole seconds", ledger.batch_window_seconds),
        ));
    }
    if ledger.chunk_concurrency > ledger.pool_limit {
        return Some((
            "ledger.chunk_concurrency",
            format!(
                "{} chunks at a time need as many connections, and pool_limit is {}",
                ledger.chunk_concurrency, ledger.pool_limit
            ),
        ));
    }
    if let Some(why) = pressure_period(ledger.pressure_period_seconds, environment.provider) {
        return Some(("ledger.pressure_period_seconds", why));
    }
    if lessons.peak_records_per_second < lessons.records_per_second {
        return Some((
            "lessons.peak_records_per_second",
            format!(
                "{} is less than the average records_per_second {}",
                lessons.peak_records_per_second, lessons.records_per_second
            ),
        ));
    }
    if capacity::tags::node_memory_gib(&environment.cache.node_type).is_none() {
        return Some((
            "cache.node_type",
            format!("`{}` is not one such as db.t4g.small or db.r7g.large", environment.cache.node_type),
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_and_accounts_are_told_from_what_only_looks_like_one() {
        for region in ["eu-west-1", "us-east-2", "ap-southeast-4", "us-gov-west-1", "il-central-1"] {
            assert!(is_region(region), "{region}");
        }
        for region in [
            "",
            "eu-west-",
            "eu-west",
            "EU-west-1",
            "europe-west-1",
            "eu--1",
            "eu-west-1a",
            "eu-west-0",
            "eu-1",
        ] {
            assert!(!is_region(region), "{region}");
        }
        assert!(is_account("012345678901"));
        assert!(!is_account("12345678901") && !is_account("12345678901x"));
    }
}
