//! The lessons system: events come in a stream, are enriched from two tables, and go out in another.

use cfn::{App, DeployValue, Load, Property, Scope, StreamSystem, Value, assembly::AssetKind};
use cfn_resources::{
    cloudwatch::{AlarmStatistic, Dashboard},
    sns::Subscription,
};
use constructs::{
    alarm::{AlarmTopic, Limit, WithoutData},
    encryption,
    function::{Function, FunctionProperties, StreamSource},
    needs::Needs,
    network::as_text,
    queue::DeadLetterQueue,
    stream::DataStream,
    table::{Billing, KeyedTable},
};
use serde_json::json;
use worker_contract::lessons as variables;

use crate::{
    Base,
    environment::{Environment, Provider},
    network::stack_properties,
    observability::Observability,
    sizes::Sizes,
};

/// The system.
const SYSTEM: &str = "lessons";

/// The package of the program that makes the traffic.
const LOAD: &str = "lesson-load";

/// What that is asked for to try whether lessons flow: a second of events, always of the same few users, so that the
/// tables do not grow.
const TRIAL: [&str; 9] = ["--rate", "20", "--for", "1s", "--users", "5", "--seed", "0", "--verify"];

/// What the stack holds.
pub const DESCRIPTION: &str = "Lessons: streams, tables, the enricher, the scaler of shards";

/// The functions' packages, which are the names of their assets as well.
pub const FUNCTIONS: [&str; 2] = ["lessons-enricher", "lessons-shard-scaler"];

/// Records that cannot be processed: few.
const FAILED_SHARDS: i64 = 1;

/// Events older than this are given up, in seconds: a day, as long as the stream keeps them.
const RECORD_AGE_SECONDS_MAX: i64 = 24 * 3600;

/// How often a batch is tried again: with bisection, a single culprit among 500 is found in nine.
const RETRIES: i64 = 12;

/// An event may wait this long before somebody is told, in milliseconds.
const ITERATOR_AGE_MS_MAX: f64 = 60_000.0;

/// The share of what some shards take that makes them be split, in percent.
const SHARD_USE_PERCENT_MAX: f64 = 80.0;

/// The share of what half as many shards take under which shards are merged: lower than that for splitting, so that a
/// load between the two changes nothing.
const SHARD_USE_PERCENT_MIN: f64 = 60.0;

/// How long the load must have been that small, in minutes: a stream takes ten changes in 24 hours
/// (`UpdateShardCount`), and a merge that is taken back at once costs two.
const MERGE_AFTER_MINUTES: i64 = 60;

/// How often the shards may be doubled.
const DOUBLINGS: u32 = 3;

/// What a shard takes, in records and in bytes per second.
const SHARD_RECORDS_PER_SECOND: f64 = 1000.0;
const SHARD_BYTES_PER_SECOND: f64 = 1_000_000.0;

/// Adds the stack.
pub(crate) fn add(app: &mut App, id: &str, base: &Base<'_>) {
    let Base { environment, sizes, observability, .. } = *base;
    let stack = app.stack(id, stack_properties(environment, DESCRIPTION));
    let name = stack.name().to_owned();
    let mut scope = stack.scope();
    let data = environment.data_policy();
    let figure = |name: &str| i64::try_from(sizes.lessons(name)).unwrap_or(i64::MAX);
    let key = encryption::key(&mut scope, "Key", &name, "Streams and tables of lessons at rest", &[], data);

    let mut streams = scope.child("Streams");
    let hours = i64::from(environment.lessons.retention_hours);
    let input = DataStream::new(&mut streams, "Input", &key, figure("input_shards"), hours, data);
    streams.changes_at_run_time(input.stream.raw(), &["ShardCount"]);
    let output = DataStream::new(&mut streams, "Output", &key, figure("output_shards"), hours, data);
    let failed = DataStream::new(&mut streams, "Failed", &key, FAILED_SHARDS, hours, data);

    let mut tables = scope.child("Tables");
    let billing = billing(environment, sizes);
    let users = KeyedTable::new(&mut tables, "User", &key, (variables::USER_KEY, None), billing, data);
    let subscriptions = KeyedTable::new(
        &mut tables,
        "UserSubscription",
        &key,
        (variables::USER_KEY, Some(variables::LANGUAGE_KEY)),
        billing,
        data,
    );
    let queue = DeadLetterQueue::new(&mut scope, "FailedBatches", data);

    let properties =
        |asset: &'static str, description: &'static str, timeout_seconds, concurrency| FunctionProperties {
            asset,
            description,
            memory_mib: 512,
            timeout_seconds,
            reserved_concurrency: Some(concurrency),
            log_retention_days: environment.log_retention_days,
            data,
        };
    let needs = Function::needs_of_stream_source(
        Needs::new()
            .statements(output.grant_write("WriteOutput"))
            .statements(failed.grant_write("WriteFailed"))
            .statements(users.grant_read("ReadUsers"))
            .statements(users.grant_write("WriteUsers"))
            .statements(subscriptions.grant_read("ReadSubscriptions"))
            .statements(subscriptions.grant_write("WriteSubscriptions"))
            .variable(variables::OUTPUT_STREAM, output.name())
            .variable(variables::FAILED_STREAM, failed.name())
            .variable(variables::USER_TABLE, users.name())
            .variable(variables::USER_SUBSCRIPTION_TABLE, subscriptions.name()),
        &input,
        &queue,
    );
    let enricher = Function::new(
        &mut scope,
        "Enricher",
        &properties(
            FUNCTIONS[0],
            "Enriches lessons by user and subscription",
            60,
            figure("function_concurrency"),
        ),
        None,
        &needs,
    );
    let source = enricher.stream_source(
        &mut scope,
        "EnricherSource",
        &StreamSource {
            stream: &input,
            batch_size: i64::from(environment.lessons.batch_records),
            window_seconds: 1,
            parallelization_factor: figure("parallelization_factor"),
            retries: RETRIES,
            record_age_seconds: RECORD_AGE_SECONDS_MAX,
            on_failure: &queue,
        },
    );

    let scaling = AlarmTopic::new(&mut scope, "Scaling", &format!("{name}-scaling"), data);
    let shards_min = figure("input_shards");
    let of_shard =
        SHARD_RECORDS_PER_SECOND.min(SHARD_BYTES_PER_SECOND / f64::from(environment.lessons.record_bytes));
    let [above, used] = scaling_alarms(&mut scope, &scaling, &input, shards_min as f64 * of_shard);
    let needs = Needs::new()
        .statements(input.grant_scale("ScaleInput"))
        .statements(queue.grant_send("SendDeadLetters"))
        .variable(variables::SCALED_STREAM, input.name())
        .variable(variables::SHARDS_MIN, shards_min.to_string())
        .variable(variables::SHARDS_MAX, (shards_min << DOUBLINGS).to_string())
        .variable(variables::ALARMS_ABOVE, Value::join(",", above))
        .variable(variables::ALARMS_USED, Value::join(",", used));
    let scaler = Function::new(
        &mut scope,
        "ShardScaler",
        &properties(FUNCTIONS[1], "Splits and merges the input stream's shards", 60, 1),
        None,
        &needs,
    );
    scope.add(
        "ScalerSubscription",
        Subscription::new("lambda", scaling.arn())
            .endpoint(as_text(&scaler.function.arn()))
            .redrive_policy(json!({ "deadLetterTargetArn": queue.arn().to_json() })),
    );
    scaler.invoked_by(&mut scope, "ScalerInvocation", "sns.amazonaws.com", as_text(&scaling.arn()), &queue);

    alarms(&mut scope, observability, &enricher, &[&users, &subscriptions]);
    observability.watch_functions(&mut scope, &queue, &[("Enricher", &enricher), ("ShardScaler", &scaler)]);
    let body = json!({ "widgets": [enricher.widget("enricher"), scaler.widget("shard scaler")] });
    scope.add("Dashboard", Dashboard::new(Value::json_text(body)).dashboard_name(name));
    scope.output::<String>("InputStream", input.name(), "Where events come in");
    scope.output::<String>("OutputStream", output.name(), "Where enriched events go out");
    scope.output::<String>("FailedStream", failed.name(), "Where events go that cannot be processed");
    for package in FUNCTIONS {
        app.asset(package, AssetKind::Zip, package, None);
    }
    app.stream_system(
        SYSTEM,
        StreamSystem {
            stack: id.to_owned(),
            stream: input.stream.raw().logical_id().to_owned(),
            function: enricher.function.raw().logical_id().to_owned(),
            event_source: source.raw().logical_id().to_owned(),
            dead_letters: queue.queue.raw().logical_id().to_owned(),
        },
    );
    if environment.provider == Provider::Local {
        let streams = [
            (variables::INPUT_STREAM, &input),
            (variables::OUTPUT_STREAM, &output),
            (variables::FAILED_STREAM, &failed),
        ];
        app.load(
            SYSTEM,
            Load {
                package: LOAD.to_owned(),
                variables: streams
                    .into_iter()
                    .map(|(name, stream)| (name.to_owned(), DeployValue::Value(stream.name())))
                    .collect(),
                trial: TRIAL.map(str::to_owned).to_vec(),
            },
        );
    }
}

fn billing(environment: &Environment, sizes: &Sizes) -> Billing {
    if !environment.lessons.provisioned_capacity {
        return Billing::OnDemand;
    }
    let figure = |name: &str| i64::try_from(sizes.lessons(name)).unwrap_or(i64::MAX);
    let (read, write) = (figure("read_units"), figure("write_units"));
    Billing::Provisioned {
        read_min: (read / 5).max(1),
        read_max: read,
        write_min: (write / 5).max(1),
        write_max: write,
    }
}

/// The alarms that the scaler hears, by name: for each number of shards the one that goes off above what they should
/// carry, and the one that is over when they have long been enough. An alarm's threshold is a number and it calls only
/// when its state changes, so that each number of shards wants its own.
fn scaling_alarms(
    scope: &mut Scope<'_>,
    topic: &AlarmTopic,
    input: &DataStream,
    records_per_second: f64,
) -> [Vec<Value<String>>; 2] {
    let mut scope = scope.child("ShardUse");
    let metric = input.metric("IncomingRecords", AlarmStatistic::Sum);
    let mut alarm = |name: String, description: String, percent: f64, level: u32, periods| {
        let limit = Limit {
            above: (records_per_second * f64::from(1 << level) * 60.0 * percent / 100.0).floor(),
            period_seconds: 60,
            periods,
            periods_above: if periods > 2 { 1 } else { periods },
            without_data: WithoutData::IsWell,
        };
        topic.alarm(&mut scope, &name, &description, &metric, &limit).reference()
    };
    let mut names = [Vec::new(), Vec::new()];
    for level in 0..DOUBLINGS {
        let times = 1 << level;
        names[0].push(alarm(
            format!("Above{times}"),
            format!("The stream takes nearly all that {times} x its least shards can; they are doubled"),
            SHARD_USE_PERCENT_MAX,
            level,
            2,
        ));
        names[1].push(alarm(
            format!("Used{times}"),
            format!(
                "The stream needs more than {times} x its least shards; when this is over, they are halved"
            ),
            SHARD_USE_PERCENT_MIN,
            level,
            MERGE_AFTER_MINUTES,
        ));
    }
    names
}

fn alarms(
    scope: &mut Scope<'_>,
    observability: &Observability,
    enricher: &Function,
    tables: &[&KeyedTable; 2],
) {
    let mut scope = scope.child("Delay");
    observability.alarms.alarm(
        &mut scope,
        "IteratorAge",
        "Events wait: the enricher does not follow, or a batch keeps failing",
        &enricher.metric("IteratorAge", AlarmStatistic::Maximum),
        &Limit {
            above: ITERATOR_AGE_MS_MAX,
            period_seconds: 60,
            periods: 5,
            periods_above: 3,
            without_data: WithoutData::IsWell,
        },
    );
    for (name, table) in ["User", "UserSubscription"].into_iter().zip(tables) {
        for (what, metric) in table.throttled() {
            observability.alarms.alarm(
                &mut scope,
                &format!("{name}{what}Throttled"),
                &format!("{what} of the table are turned away for want of capacity"),
                &metric,
                &Limit {
                    above: 0.0,
                    period_seconds: 60,
                    periods: 5,
                    periods_above: 3,
                    without_data: WithoutData::IsWell,
                },
            );
        }
    }
}
