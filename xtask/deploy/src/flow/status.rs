//! A system of functions, as `status` tells it.

use anyhow::Result;
use cfn::assembly::FlowEntry;
use serde::Serialize;
use serde_json::Value as Json;

use super::{Flow, ModeStatus, Observation, StageStatus, WriterStatus, age_seconds, writers};
use crate::{local::LocalEnvironment, signals::AlarmStatus};

/// A system, as `status` tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FlowStatus {
    /// The topic that its events come to.
    pub topic: String,
    /// How many partitions that has.
    pub partitions: u64,
    /// Records that wait for a function, of all of them; nothing where one of them did not tell.
    pub lag_records: Option<f64>,
    /// Events that were written per second, over the last minute.
    pub processed_per_second: f64,
    /// The age that 95% of them did not exceed when they were written, in seconds.
    pub age_p95_seconds: Option<f64>,
    /// The mode.
    pub mode: Option<ModeStatus>,
    /// The alarms that make it.
    pub alarms: Vec<AlarmStatus>,
    /// The functions.
    pub stages: Vec<StageStatus>,
    /// The writers that told of themselves in the last minute.
    pub writers: Vec<WriterStatus>,
    /// Why nothing else is known of it.
    pub error: Option<String>,
}

/// How far back a status looks for what functions told, in milliseconds.
const STATUS_WINDOW_MS: i64 = 60_000;

impl Flow<'_> {
    /// How the system does.
    ///
    /// # Errors
    ///
    /// What AWS says, or the broker of the local environment.
    pub async fn status(&self, local: Option<&LocalEnvironment>) -> Result<FlowStatus> {
        let now_ms = chrono::Utc::now().timestamp_millis();
        let mut seen = self.observe(now_ms - STATUS_WINDOW_MS, now_ms).await?;
        if let Some(local) = local {
            // The broker next door knows it as of now.
            for (stage, deployed) in seen.stages.iter_mut().zip(&self.stages) {
                let group = &deployed.stage.consumer_group;
                let told = local.ask(&["lag", "--topic", &deployed.stage.topic, "--group", group]).await?;
                stage.lag_records = told.get("lag_records").and_then(Json::as_f64);
            }
        }
        Ok(FlowStatus::of(seen))
    }
}

impl FlowStatus {
    /// One of which nothing is known, and why.
    #[must_use]
    pub fn unseen(entry: &FlowEntry, error: String) -> Self {
        let topic = entry.stages.first().map(|stage| stage.topic.clone()).unwrap_or_default();
        Self { topic, error: Some(error), ..Self::default() }
    }

    /// From a minute's observation.
    #[must_use]
    pub fn of(seen: Observation) -> Self {
        let first = seen.stages.first();
        let writers = writers(&seen.lines);
        let of_writers = |line: &&Json| line.get("Limit").is_some();
        let records = |line: &Json| line.get("Records").and_then(Json::as_f64);
        let written =
            seen.lines.iter().filter(of_writers).filter_map(records).fold(0.0, |sum, count| sum + count);
        Self {
            topic: first.map(|stage| stage.topic.clone()).unwrap_or_default(),
            partitions: first.map_or(0, |stage| u64::from(stage.partitions)),
            lag_records: seen.stages.iter().map(|stage| stage.lag_records).sum(),
            processed_per_second: written * 1000.0 / STATUS_WINDOW_MS as f64,
            age_p95_seconds: age_seconds(&seen.lines, 95.0),
            mode: seen.mode,
            alarms: seen.alarms,
            stages: seen.stages,
            writers,
            error: None,
        }
    }

    /// As lines for people.
    #[must_use]
    pub fn lines(&self, now_ms: i64) -> Vec<String> {
        if let Some(error) = &self.error {
            return vec![format!("  cannot be observed: {error}")];
        }
        let count =
            |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.0}"));
        let ago = |at_ms: i64| (now_ms - at_ms).max(0) / 1000;
        let mut lines = vec![format!("  topic      {} ({} partitions)", self.topic, self.partitions)];
        match &self.mode {
            None => lines.push("  mode       unknown: the parameter is not there".to_owned()),
            Some(mode) => {
                let mut line = format!(
                    "  mode       {} since {} ({} s)",
                    mode.mode,
                    clock(mode.since_ms),
                    ago(mode.since_ms)
                );
                if let Some(alarm) = &mode.alarm {
                    line += &format!("; {alarm} is to blame");
                }
                if let Some(next) = &mode.next {
                    line += &format!("; {} at {} unless an alarm goes off", next.mode, clock(next.at_ms));
                }
                lines.push(line);
            }
        }
        for alarm in &self.alarms {
            lines.push(alarm.line());
        }
        let age = self
            .age_p95_seconds
            .map(|age| format!(", 95% of them at most {age:.2} s old"))
            .unwrap_or_default();
        lines.push(format!("  written    {:.1}/s over a minute{age}", self.processed_per_second));
        for stage in &self.stages {
            lines.push(format!(
                "  lag        {:<18} {} records wait for {}",
                stage.topic,
                count(stage.lag_records),
                stage.function
            ));
        }
        for writer in &self.writers {
            let short: String =
                writer.instance.chars().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect();
            lines.push(format!(
                "  writer     {short:<18} {} chunks at once in {}, told {} s ago",
                writer.limit,
                writer.mode,
                ago(writer.told_ms)
            ));
        }
        if self.writers.is_empty() {
            lines.push("  writer     none has written anything in the last minute".to_owned());
        }
        lines
    }
}

/// The time of the day in UTC.
fn clock(at_ms: i64) -> String {
    let second = at_ms.div_euclid(1000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_reads_well_and_has_the_fields_that_scripts_rely_on() {
        let line = |instance: &str, at: i64, limit: u32| {
            json!({"_aws": {"Timestamp": at}, "instance": instance, "Limit": limit, "mode": "RED", "Records": 300,
                   "AgeMilliseconds": [900, 1400]})
        };
        let alarm = |state: &str, metric: &str, value, threshold| AlarmStatus {
            name: format!("ledger-{metric}"),
            state: state.to_owned(),
            since_ms: Some(3_600_000),
            metric: metric.to_owned(),
            value,
            threshold: Some(threshold),
        };
        let stage = |topic: &str, lag_records| StageStatus {
            function: format!("{topic}-function"),
            topic: topic.to_owned(),
            partitions: 5,
            lag_records,
        };
        let seen = Observation {
            at_ms: 3_664_000,
            mode: ModeStatus::parse(
                r#"{"mode":"RED","version":7,"since_ms":3661000,"alarm":"ledger-CPUUtilization","then":{"mode":"GREEN","at_ms":3671000}}"#,
                3_664_000,
            )
            .ok(),
            alarms: vec![
                alarm("ALARM", "CPUUtilization", Some(81.25), 40.0),
                alarm("OK", "ClientConnections", None, 10.0),
            ],
            stages: vec![stage("source", Some(0.0)), stage("buffer", Some(1200.0))],
            lines: vec![line("0123456789abcdef", 3_663_000, 1), json!({"Records": 7})],
        };
        let status = FlowStatus::of(seen);
        assert_eq!((status.lag_records, status.processed_per_second), (Some(1200.0), 5.0));
        insta::assert_snapshot!(status.lines(3_664_500).join("\n"));
        let json = serde_json::to_value(&status).unwrap();
        for pointer in [
            "/topic",
            "/partitions",
            "/lag_records",
            "/mode/mode",
            "/mode/since_ms",
            "/mode/alarm",
            "/writers/0/limit",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer}");
        }
        let missing = FlowStatus { lag_records: None, ..FlowStatus::default() };
        assert!(missing.lines(0).join("\n").contains("the parameter is not there"));
    }
}
