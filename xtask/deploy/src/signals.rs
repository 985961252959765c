//! What tells how a system does: its alarms, their metrics, and what functions log in the embedded metric format. The
//! same calls on AWS and locally.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use aws_sdk_cloudwatch::{
    primitives::DateTime,
    types::{Dimension, Metric, MetricAlarm, MetricDataQuery, MetricStat},
};
use serde::Serialize;
use serde_json::Value as Json;

use crate::{cloudformation::StackResource, sdk::told, smoke::calls_somebody};

/// Lines of a function's log that are read in one look, at most.
const LINES_MAX: usize = 5_000;

/// What marks a line with metrics (Amazon CloudWatch user guide, "Specification: Embedded metric format").
const METRICS: &str = "CloudWatchMetrics";

/// The AWS APIs that tell.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Where a mode is.
    pub parameters: aws_sdk_ssm::Client,
    /// Alarms and metrics.
    pub metrics: aws_sdk_cloudwatch::Client,
    /// The functions' logs.
    pub logs: aws_sdk_cloudwatchlogs::Client,
    /// The functions, which know their logs, and what brings them records.
    pub functions: aws_sdk_lambda::Client,
    /// Streams, which know their shards.
    pub streams: aws_sdk_kinesis::Client,
}

/// How often metrics come, and how far back the newest is looked for, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Resolution {
    /// Between two values.
    pub period: i32,
    /// Before what is not there counts as unknown.
    pub window: i64,
}

impl Resolution {
    /// Of an environment's provider: AWS tells these metrics once a minute, the local environment once a second.
    #[must_use]
    pub fn of(provider: &str) -> Self {
        if provider == "local" { Self { period: 1, window: 60 } } else { Self { period: 60, window: 600 } }
    }
}

/// An alarm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlarmStatus {
    /// Its name.
    pub name: String,
    /// `OK`, `ALARM` or `INSUFFICIENT_DATA`.
    pub state: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// What it watches.
    pub metric: String,
    /// The metric's newest value; nothing where none came lately.
    pub value: Option<f64>,
    /// Above which it goes off.
    pub threshold: Option<f64>,
}

impl AlarmStatus {
    /// As CloudWatch has it, with its metric's newest value.
    #[must_use]
    pub fn of(alarm: &MetricAlarm, value: Option<f64>) -> Self {
        Self {
            name: alarm.alarm_name().unwrap_or_default().to_owned(),
            state: alarm.state_value().map_or("UNKNOWN", |state| state.as_str()).to_owned(),
            since_ms: alarm.state_updated_timestamp().and_then(|at| at.to_millis().ok()),
            metric: alarm.metric_name().unwrap_or_default().to_owned(),
            value,
            threshold: alarm.threshold(),
        }
    }

    /// As a line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let number =
            |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.1}"));
        let Self { state, metric, value, threshold, .. } = self;
        format!("  alarm      {state:<18} {metric:<42} {} of {}", number(*value), number(*threshold))
    }
}

/// The alarms of a stack that call somebody; what steers the stack itself goes off in the course of things.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Alarms {
    /// Those that are in ALARM.
    pub ringing: Vec<AlarmStatus>,
    /// How many others there are.
    pub quiet: usize,
}

impl Alarms {
    /// As lines for people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.ringing.iter().map(|alarm| format!("{}  ({})", alarm.line(), alarm.name)).collect();
        if lines.is_empty() {
            lines.push(match self.quiet {
                0 => "  alarms     none".to_owned(),
                quiet => format!("  alarms     all {quiet} quiet"),
            });
        }
        lines
    }
}

/// Alarms of a stack, by the names that they were deployed with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlarmNames {
    alarms: Vec<String>,
    /// Topics of the stack's own.
    own_topics: BTreeSet<String>,
}

impl AlarmNames {
    /// Of a stack that has these resources.
    #[must_use]
    pub fn of(resources: &[StackResource]) -> Self {
        let of = |kind: &str| {
            let kind = kind.to_owned();
            resources
                .iter()
                .filter(move |resource| resource.resource_type == kind)
                .map(|resource| resource.physical_id.clone())
        };
        Self { alarms: of("AWS::CloudWatch::Alarm").collect(), own_topics: of("AWS::SNS::Topic").collect() }
    }
}

/// What tells how a system does.
#[derive(Clone, Debug)]
pub struct Signals {
    /// The AWS APIs.
    pub clients: Clients,
    resolution: Resolution,
}

impl Signals {
    /// Of an environment of that provider.
    #[must_use]
    pub fn new(clients: Clients, provider: &str) -> Self {
        Self { clients, resolution: Resolution::of(provider) }
    }

    /// Where a function logs.
    ///
    /// # Errors
    ///
    /// What Lambda says.
    pub async fn log_group(&self, function: &str) -> Result<String> {
        let configuration = self
            .clients
            .functions
            .get_function_configuration()
            .function_name(function)
            .send()
            .await
            .map_err(|error| told(error, &format!("the function {function} cannot be read")))?;
        Ok(configuration
            .logging_config()
            .and_then(|logging| logging.log_group())
            .map_or_else(|| format!("/aws/lambda/{function}"), str::to_owned))
    }

    /// Alarms, in the order of their names; one hundred at most.
    ///
    /// # Errors
    ///
    /// What CloudWatch says.
    pub async fn alarms(&self, names: &[String]) -> Result<Vec<MetricAlarm>> {
        if names.is_empty() {
            // Without names it would tell all alarms of the account.
            return Ok(Vec::new());
        }
        let answer = self
            .clients
            .metrics
            .describe_alarms()
            .set_alarm_names(Some(names.to_vec()))
            .max_records(100)
            .send()
            .await
            .map_err(|error| told(error, "the alarms cannot be read"))?;
        let mut alarms = answer.metric_alarms().to_vec();
        alarms.sort_by_key(|alarm| names.iter().position(|name| Some(name.as_str()) == alarm.alarm_name()));
        Ok(alarms)
    }

    /// The alarms of a stack that call somebody.
    ///
    /// # Errors
    ///
    /// What CloudWatch says.
    pub async fn alarms_that_call(&self, of: &AlarmNames, now_ms: i64) -> Result<Alarms> {
        let mut all = self.alarms(&of.alarms).await?;
        all.retain(|alarm| calls_somebody(alarm.alarm_actions(), &of.own_topics));
        let (ringing, quiet): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|alarm| alarm.state_value() == Some(&aws_sdk_cloudwatch::types::StateValue::Alarm));
        let values = self.newest(self.alarm_queries(&ringing), now_ms).await?;
        let told = ringing.iter().enumerate();
        let ringing =
            told.map(|(place, alarm)| AlarmStatus::of(alarm, values.get(&alarm_query(place)).copied()));
        Ok(Alarms { ringing: ringing.collect(), quiet: quiet.len() })
    }

    /// Queries of the alarms' metrics, by [`alarm_query`].
    #[must_use]
    pub fn alarm_queries(&self, alarms: &[MetricAlarm]) -> Vec<MetricDataQuery> {
        let queries = alarms.iter().enumerate().map(|(place, alarm)| {
            let metric = Metric::builder()
                .set_namespace(alarm.namespace().map(str::to_owned))
                .set_metric_name(alarm.metric_name().map(str::to_owned))
                .set_dimensions(Some(alarm.dimensions().to_vec()))
                .build();
            let statistic = alarm.statistic().map_or("Average", |statistic| statistic.as_str());
            self.query_of(alarm_query(place), metric, statistic)
        });
        queries.collect()
    }

    /// A query of a metric.
    #[must_use]
    pub fn query(
        &self,
        id: String,
        namespace: &str,
        name: &str,
        dimensions: &[(&str, &str)],
        statistic: &str,
    ) -> MetricDataQuery {
        let dimensions = dimensions
            .iter()
            .map(|(name, value)| Dimension::builder().name(*name).value(*value).build())
            .collect();
        let metric =
            Metric::builder().namespace(namespace).metric_name(name).set_dimensions(Some(dimensions)).build();
        self.query_of(id, metric, statistic)
    }

    fn query_of(&self, id: String, metric: Metric, statistic: &str) -> MetricDataQuery {
        let stat =
            MetricStat::builder().metric(metric).period(self.resolution.period).stat(statistic).build();
        MetricDataQuery::builder().id(id).metric_stat(stat).build()
    }

    /// The newest value of each query by its id; none where none came lately.
    ///
    /// # Errors
    ///
    /// What CloudWatch says.
    pub async fn newest(&self, queries: Vec<MetricDataQuery>, now_ms: i64) -> Result<BTreeMap<String, f64>> {
        if queries.is_empty() {
            return Ok(BTreeMap::new());
        }
        let answer = self
            .clients
            .metrics
            .get_metric_data()
            .set_metric_data_queries(Some(queries))
            .start_time(DateTime::from_millis(now_ms - self.resolution.window * 1000))
            // What comes this very second counts as well.
            .end_time(DateTime::from_millis(now_ms + 1000))
            .send()
            .await
            .map_err(|error| told(error, "the metrics cannot be read"))?;
        let newest = |result: &aws_sdk_cloudwatch::types::MetricDataResult| {
            let points = result.timestamps().iter().zip(result.values());
            let (_, value) = points.max_by_key(|(at, _)| at.secs())?;
            Some((result.id()?.to_owned(), *value))
        };
        Ok(answer.metric_data_results().iter().filter_map(newest).collect())
    }

    /// Lines with metrics that a function has logged in a time, the oldest first.
    ///
    /// # Errors
    ///
    /// What CloudWatch Logs says.
    pub async fn lines(&self, log_group: &str, since_ms: i64, now_ms: i64) -> Result<Vec<Json>> {
        let mut events = self
            .clients
            .logs
            .filter_log_events()
            .log_group_name(log_group)
            .filter_pattern(format!("\"{METRICS}\""))
            .start_time(since_ms)
            .end_time(now_ms)
            .into_paginator()
            .send();
        let mut lines = Vec::new();
        while let Some(page) = events.next().await {
            let page = match page {
                Ok(page) => page,
                // A function that was never invoked has no log.
                Err(error)
                    if error
                        .as_service_error()
                        .is_some_and(|told| told.is_resource_not_found_exception()) =>
                {
                    break;
                }
                Err(error) => return Err(told(error, &format!("the log {log_group} cannot be read"))),
            };
            let left = LINES_MAX - lines.len();
            let told = page.events().iter().filter_map(|event| serde_json::from_str(event.message()?).ok());
            lines.extend(told.take(left));
            if lines.len() == LINES_MAX {
                break;
            }
        }
        lines.sort_by_key(told_at);
        Ok(lines)
    }
}

/// The id of the query of an alarm's metric.
#[must_use]
pub fn alarm_query(place: usize) -> String {
    format!("alarm{place}")
}

/// When a line was told, in milliseconds since 1970.
#[must_use]
pub fn told_at(line: &Json) -> i64 {
    line.pointer("/_aws/Timestamp").and_then(Json::as_i64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_that_ring_are_told_and_the_others_counted() {
        let ringing = AlarmStatus {
            name: "lessons-AlarmsDeadLetters".to_owned(),
            state: "ALARM".to_owned(),
            since_ms: Some(1),
            metric: "ApproximateNumberOfMessagesVisible".to_owned(),
            value: Some(2.0),
            threshold: Some(0.0),
        };
        let alarms = Alarms { ringing: vec![ringing], quiet: 3 };
        assert_eq!(
            alarms.lines(),
            [
                "  alarm      ALARM              ApproximateNumberOfMessagesVisible         2.0 of 0.0  (lessons-AlarmsDeadLetters)"
            ]
        );
        assert_eq!(Alarms { quiet: 3, ..Alarms::default() }.lines(), ["  alarms     all 3 quiet"]);
    }

    #[test]
    fn alarms_and_topics_of_a_stack_are_found_by_their_types() {
        let resource = |kind: &str, id: &str| StackResource {
            logical_id: id.to_owned(),
            physical_id: format!("deployed-{id}"),
            resource_type: kind.to_owned(),
            status: "CREATE_COMPLETE".to_owned(),
        };
        let found = AlarmNames::of(&[
            resource("AWS::SNS::Topic", "Scaling"),
            resource("AWS::CloudWatch::Alarm", "Age"),
            resource("AWS::Lambda::Function", "Enricher"),
        ]);
        assert_eq!(found.alarms, ["deployed-Age"]);
        assert_eq!(found.own_topics, BTreeSet::from(["deployed-Scaling".to_owned()]));
    }
}
