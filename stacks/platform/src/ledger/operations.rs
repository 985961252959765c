//! What the ledger is watched with beside its functions: how old events are when they are written, what waits, what is put
//! aside, and the dashboard that shows why.

use std::collections::BTreeMap;

use cfn::{Json, Property, Scope, Value};
use cfn_resources::cloudwatch::{AlarmStatistic, Dashboard};
use constructs::{
    alarm::{Limit, Metric, WithoutData},
    database::Database,
    function::Function,
    network::as_text,
};
use serde_json::json;

use crate::observability::Observability;

/// The namespace of the metrics that the functions tell.
const NAMESPACE: &str = "Floodgate/Ledger";

/// An event that is older than this when it is written is late, in milliseconds: thirty times what it takes when all is
/// well.
const AGE_MS_MAX: f64 = 60_000.0;

/// So long may a topic's backlog grow, in seconds of the load that the system is sized for.
const BACKLOG_SECONDS: f64 = 120.0;

/// The functions, as they are watched.
pub(super) struct Functions<'a> {
    pub(super) transform: &'a Function,
    pub(super) writer: &'a Function,
    pub(super) mode: &'a Function,
}

fn told(function: &Function, name: &'static str, statistic: AlarmStatistic) -> Metric {
    Metric {
        namespace: NAMESPACE,
        name,
        dimensions: BTreeMap::from([("Function", as_text(&function.function.reference()))]),
        statistic,
    }
}

/// What waits for a function, as Lambda's pollers count it. The brokers' own figure is silent while the group
/// rebalances.
fn lag(function: &Function) -> Metric {
    function.metric("OffsetLag", AlarmStatistic::Maximum)
}

/// Adds the alarms. The mode is not made of them: they call a person.
pub(super) fn alarms(
    scope: &mut Scope<'_>,
    observability: &Observability,
    functions: &Functions<'_>,
    transactions_per_second: f64,
) {
    let mut scope = scope.child("Operations");
    // Nothing is told while nothing comes.
    let limit = |above| Limit {
        above,
        period_seconds: 60,
        periods: 5,
        periods_above: 3,
        without_data: WithoutData::IsWell,
    };
    let alarms = &observability.alarms;
    alarms.alarm(
        &mut scope,
        "Age",
        "Events are written late: see the mode and what waits in the topics",
        &told(functions.writer, "AgeMilliseconds", AlarmStatistic::Maximum),
        &limit(AGE_MS_MAX),
    );
    for (name, function) in [("SourceLag", functions.transform), ("BufferLag", functions.writer)] {
        alarms.alarm(
            &mut scope,
            name,
            "Records wait in the topic for longer than they should",
            &lag(function),
            &limit((transactions_per_second * BACKLOG_SECONDS).ceil()),
        );
    }
    for (name, function) in
        [("TransformDeadLetters", functions.transform), ("WriterDeadLetters", functions.writer)]
    {
        alarms.alarm(
            &mut scope,
            name,
            "Events were put aside: they lie in the topic ledger-dlq with their cause",
            &told(function, "DeadLetters", AlarmStatistic::Sum),
            &Limit { periods: 1, periods_above: 1, ..limit(0.0) },
        );
    }
}

/// Adds the dashboard: from what presses on the database to what it does to the events.
pub(super) fn dashboard(scope: &mut Scope<'_>, name: &str, database: &Database, functions: &Functions<'_>) {
    let writer = |name: &'static str, statistic| told(functions.writer, name, statistic);
    let Functions { transform, writer: writing, mode } = functions;
    let body = json!({ "widgets": [
        chart("database: processors", "Average", &[&database.metric("CPUUtilization", AlarmStatistic::Average)]),
        chart("mode (0 GREEN, 1 YELLOW, 2 RED) and chunks at once", "Maximum", &[
            &writer("Severity", AlarmStatistic::Maximum), &writer("Limit", AlarmStatistic::Maximum),
        ]),
        chart("rows, and what changed nothing", "Sum", &[
            &writer("Rows", AlarmStatistic::Sum),
            &writer("Duplicates", AlarmStatistic::Sum),
            &writer("RegressionsRefused", AlarmStatistic::Sum),
        ]),
        chart("what went back, and what was put aside", "Sum", &[
            &writer("Returned", AlarmStatistic::Sum),
            &writer("Retries", AlarmStatistic::Sum),
            &writer("DeadLetters", AlarmStatistic::Sum),
        ]),
        chart("a chunk, and the age of events (ms)", "p95", &[
            &writer("ChunkMilliseconds", AlarmStatistic::Maximum), &writer("AgeMilliseconds", AlarmStatistic::Maximum),
        ]),
        chart("what waits in the topics", "Maximum", &[
            &lag(transform), &lag(writing),
        ]),
        transform.widget("transform"), writing.widget("writer"), mode.widget("mode"),
    ] });
    scope.add("Dashboard", Dashboard::new(Value::json_text(body)).dashboard_name(name));
}

fn chart(title: &str, statistic: &str, metrics: &[&Metric]) -> Json {
    let metrics: Vec<Json> = metrics
        .iter()
        .map(|metric| {
            let mut parts = vec![Json::from(metric.namespace), Json::from(metric.name)];
            for (name, value) in &metric.dimensions {
                parts.push((*name).into());
                parts.push(value.to_json());
            }
            parts.into()
        })
        .collect();
    json!({
        "type": "metric", "width": 12, "height": 6,
        "properties": {
            "title": title, "view": "timeSeries", "period": 60, "stat": statistic, "metrics": metrics
        }
    })
}
