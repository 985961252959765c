//! What all systems are watched with: the topic of alarms, and the alarms and dashboard of the Kafka cluster.

use std::collections::BTreeMap;

use cfn::{App, Scope, Value};
use cfn_resources::cloudwatch::{AlarmStatistic, Dashboard};
use constructs::{
    alarm::{AlarmTopic, Limit, Metric, WithoutData},
    function::Function,
    queue::DeadLetterQueue,
};
use serde_json::json;

use crate::{environment::Environment, kafka::Kafka, network::stack_properties};

/// What the stack holds.
pub const DESCRIPTION: &str = "Topic of alarms, alarms and dashboard of the Kafka cluster";

/// A broker's disk may be filled this far, in percent: MSK advises to act at 85.
const DISK_USED_PERCENT_MAX: f64 = 80.0;

/// What the other stacks use.
#[derive(Clone, Debug)]
pub struct Observability {
    /// Where alarms are told.
    pub alarms: AlarmTopic,
}

impl Observability {
    /// Watches asynchronous functions: what they give up, what fails, what is turned away.
    pub(crate) fn watch_functions(
        &self,
        scope: &mut Scope<'_>,
        queue: &DeadLetterQueue,
        functions: &[(&str, &Function)],
    ) {
        let mut scope = scope.child("Alarms");
        let any = Limit {
            above: 0.0,
            period_seconds: 60,
            periods: 5,
            periods_above: 2,
            without_data: WithoutData::IsWell,
        };
        self.alarms.alarm(
            &mut scope,
            "DeadLetters",
            "Batches were given up: they lie in the queue with where they came from",
            &queue.messages(),
            &Limit { periods: 1, periods_above: 1, ..any },
        );
        for (name, function) in functions {
            self.alarms.alarm(
                &mut scope,
                &format!("{name}Errors"),
                "Invocations of the function fail",
                &function.metric("Errors", AlarmStatistic::Sum),
                &any,
            );
            self.alarms.alarm(
                &mut scope,
                &format!("{name}Throttles"),
                "Invocations of the function are turned away: its concurrency is used up",
                &function.metric("Throttles", AlarmStatistic::Sum),
                &any,
            );
        }
    }
}

/// Adds the stack.
pub fn add(app: &mut App, id: &str, environment: &Environment, kafka: &Kafka, brokers: u64) -> Observability {
    let stack = app.stack(id, stack_properties(environment, DESCRIPTION));
    let name = stack.name().to_owned();
    let mut scope = stack.scope();
    let alarms = AlarmTopic::new(&mut scope, "Alarms", &name, environment.data_policy());
    let metric = |name: &'static str, statistic, broker: Option<u64>| Metric {
        namespace: "AWS/Kafka",
        name,
        dimensions: std::iter::once(("Cluster Name", Value::Literal(kafka.name.clone())))
            .chain(broker.map(|number| ("Broker ID", Value::Literal(number.to_string()))))
            .collect::<BTreeMap<_, _>>(),
        statistic,
    };
    let mut of_kafka = scope.child("Kafka");
    alarms.alarm(
        &mut of_kafka,
        "OfflinePartitions",
        "Partitions of the Kafka cluster have no leader: they take no record and give none",
        &metric("OfflinePartitionsCount", AlarmStatistic::Maximum, None),
        &Limit {
            above: 0.0,
            period_seconds: 60,
            periods: 3,
            periods_above: 2,
            without_data: WithoutData::IsAlarming,
        },
    );
    for broker in 1..=brokers {
        alarms.alarm(
            &mut of_kafka,
            &format!("Disk{broker}"),
            "A broker's disk fills: raise the volume or lower the retention",
            &metric("KafkaDataLogsDiskUsed", AlarmStatistic::Maximum, Some(broker)),
            &Limit {
                above: DISK_USED_PERCENT_MAX,
                period_seconds: 300,
                periods: 3,
                periods_above: 3,
                without_data: WithoutData::IsUnknown,
            },
        );
    }
    let line = |name: &str, statistic: &str| {
        let metrics: Vec<_> = (1..=brokers)
            .map(|broker| {
                json!(["AWS/Kafka", name, "Cluster Name", kafka.name, "Broker ID", broker.to_string()])
            })
            .collect();
        json!({
            "type": "metric", "width": 12, "height": 6,
            "properties": {
                "title": name, "view": "timeSeries", "period": 60, "stat": statistic,
                "region": environment.region, "metrics": metrics
            }
        })
    };
    let body = json!({ "widgets": [
        line("BytesInPerSec", "Average"),
        line("BytesOutPerSec", "Average"),
        line("CpuUser", "Average"),
        line("KafkaDataLogsDiskUsed", "Maximum"),
        line("UnderReplicatedPartitions", "Maximum"),
        line("ConnectionCount", "Maximum"),
    ] });
    scope.add("Dashboard", Dashboard::new(Value::json_text(body)).dashboard_name(format!("{name}-kafka")));
    scope.output::<String>("AlarmTopicArn", alarms.arn(), "Subscribe to hear of alarms");
    Observability { alarms }
}
