//! The lessons system: events come in a stream, are enriched from two tables, and go out in another.

use cfn::{App, Property, Scope, Value, assembly::AssetKind};
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
    Base, environment::Environment, network::stack_properties, observability::Observability, sizes::Sizes,
};

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

/// The share of a shard's bytes or records that makes it be split, in percent of its limit.
const SHARD_USE_PERCENT_MAX: f64 = 80.0;

/// The share under which shards are merged.
const SHARD_USE_PERCENT_MIN: f64 = 30.0;

/// What a shard takes, in records per second.
const SHARD_RECORDS_PER_SECOND: f64 = 1000.0;

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
    let output = DataStream::new(&mut streams, "Output", &key, figure("output_shards"), hours, data);
    let failed = DataStream::new(&mut streams, "Failed", &key, FAILED_SHARDS, hours, data);

    let mut tables = scope.child("Tables");
    let billing = billing(environment, sizes);
    let users = KeyedTable::new(&mut tables, "User", &key, ("user_uuid", None), billing, data);
    let subscriptions = KeyedTable::new(
        &mut tables,
        "UserSubscription",
        &key,
        ("user_uuid", Some("language")),
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
    enricher.stream_source(
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
    let needs = Needs::new()
        .statements(input.grant_scale("ScaleInput"))
        .statements(queue.grant_send("SendDeadLetters"))
        .variable(variables::SCALED_STREAM, input.name())
        .variable(variables::SHARDS_MIN, figure("input_shards").to_string())
        .variable(variables::SHARDS_MAX, (figure("input_shards") * 8).to_string());
    let scaler = Function::new(
        &mut scope,
        "ShardScaler",
        &properties(FUNCTIONS[1], "Splits and merges the input stream's shards", 60, 1),
        None,
        &needs,
    );
    scaling_alarms(&mut scope, &scaling, &input, figure("input_shards"));
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
    for package in FUNCTIONS {
        app.asset(package, AssetKind::Zip, package, None);
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

/// The alarms that the scaler hears: the stream takes nearly all that it can, or little of it.
fn scaling_alarms(scope: &mut Scope<'_>, topic: &AlarmTopic, input: &DataStream, shards: i64) {
    let mut scope = scope.child("ShardUse");
    let capacity_a_minute = SHARD_RECORDS_PER_SECOND * shards as f64 * 60.0;
    let metric = input.metric("IncomingRecords", AlarmStatistic::Sum);
    let limit = |percent: f64, periods| Limit {
        above: capacity_a_minute * percent / 100.0,
        period_seconds: 60,
        periods,
        periods_above: periods,
        without_data: WithoutData::IsWell,
    };
    topic.alarm(
        &mut scope,
        "High",
        "The stream takes nearly all the records that its shards can",
        &metric,
        &limit(SHARD_USE_PERCENT_MAX, 2),
    );
    // The opposite of `High` with a long memory: that it is over tells that shards can be merged.
    topic.alarm(
        &mut scope,
        "Used",
        "The stream takes more than few records; when this is over, shards are merged",
        &metric,
        &limit(SHARD_USE_PERCENT_MIN, 15),
    );
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
