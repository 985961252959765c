//! A system whose work a function does on a stream: its shards, what brings their records to the function, how old those
//! are when they come, what the function tells of them in its log, and what was given up. The same calls on AWS and
//! locally.

use anyhow::{Context, Result};
use cfn::assembly::{Manifest, StreamEntry};
use serde::Serialize;
use serde_json::Value as Json;

use crate::{
    cloudformation::CloudFormation,
    local::LocalEnvironment,
    sdk::told,
    signals::{AlarmNames, Alarms, Clients, Signals},
};

/// How far back a status looks for what the function told, in milliseconds.
const STATUS_WINDOW_MS: i64 = 60_000;

/// The ids of queries.
const ITERATOR_AGE: &str = "age";
const DEAD_LETTERS: &str = "dead";

/// What brings the stream's records to the function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventSourceStatus {
    /// `Enabled`, or what else Lambda says; locally what its stand-in says, such as `Running` or `Problem`.
    pub state: String,
    /// What came of the last batch, or what the problem is.
    pub reason: Option<String>,
}

impl EventSourceStatus {
    /// As the local environment's own runner of the mapping tells it, where it knows the mapping.
    fn told_by(status: &Json, mapping: &str) -> Option<Self> {
        let all = status.get("event_sources").and_then(Json::as_array)?;
        let text = |one: &Json, key: &str| one.get(key).and_then(Json::as_str).map(str::to_owned);
        let one = all.iter().find(|one| text(one, "uuid").as_deref() == Some(mapping))?;
        Some(Self { state: text(one, "state")?, reason: text(one, "reason") })
    }

    /// Whether it brings records.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let fails = self.reason.as_ref().is_some_and(|reason| reason.starts_with("PROBLEM"));
        ["Enabled", "Running"].contains(&self.state.as_str()) && !fails
    }
}

/// What was seen at a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StreamObservation {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The stream that events come in at.
    pub stream: String,
    /// Its open shards.
    pub shards: u32,
    /// The function.
    pub function: String,
    /// What brings it the records.
    pub event_source: EventSourceStatus,
    /// How old the last record of a batch was when it was handed over, at most, in seconds; nothing where no batch was
    /// lately.
    pub iterator_age_seconds: Option<f64>,
    /// Batches that were given up and lie in the queue; nothing where that was not told lately.
    pub dead_letters: Option<u64>,
    /// The alarms that call somebody.
    pub alarms: Alarms,
    /// Lines with metrics that the function has logged since the time that was asked for, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Json>,
}

/// A system, as `status` tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StreamStatus {
    /// The stream that its events come in at.
    pub stream: String,
    /// Its open shards.
    pub shards: u32,
    /// The function that does the work.
    pub function: String,
    /// What brings it the records.
    pub event_source: EventSourceStatus,
    /// How old the last record of a batch was when it was handed over, at most, in seconds; nothing where no batch was
    /// lately.
    pub lag_seconds: Option<f64>,
    /// Records that the function was done with per second, over the last minute.
    pub processed_per_second: f64,
    /// Lessons of them that went out enriched.
    pub enriched_per_second: f64,
    /// Events of them that went to the failed ones.
    pub failed_per_second: f64,
    /// Records that went back in that minute, to come again.
    pub returned: u64,
    /// Batches that were given up and lie in the queue.
    pub dead_letters_total: Option<u64>,
    /// The alarms that call somebody.
    pub alarms: Alarms,
    /// Why nothing else is known of it.
    pub error: Option<String>,
}

/// The system's parts, by the names that they were deployed with.
#[derive(Debug)]
pub struct StreamSystem {
    signals: Signals,
    stream: String,
    function: String,
    log_group: String,
    mapping: String,
    queue: String,
    alarms: AlarmNames,
}

impl StreamSystem {
    /// Finds them.
    ///
    /// # Errors
    ///
    /// When the system is not deployed, or AWS does not tell.
    pub async fn find(
        manifest: &Manifest,
        stacks: &impl CloudFormation,
        clients: Clients,
        entry: &StreamEntry,
    ) -> Result<Self> {
        let stack = manifest.stack(&entry.stack).context("the system has no stack")?;
        let resources = stacks.resources(&stack.name).await?;
        let deployed = |id: &String| {
            let found = resources.iter().find(|resource| resource.logical_id == *id);
            found
                .map(|resource| resource.physical_id.clone())
                .with_context(|| format!("{} has no {id}: it is not deployed", stack.name))
        };
        let signals = Signals::new(clients, &manifest.provider);
        let function = deployed(&entry.function)?;
        // A queue is known by its URL, which ends with its name.
        let queue = deployed(&entry.dead_letters)?;
        Ok(Self {
            stream: deployed(&entry.stream)?,
            log_group: signals.log_group(&function).await?,
            mapping: deployed(&entry.event_source)?,
            queue: queue.rsplit('/').next().unwrap_or_default().to_owned(),
            alarms: AlarmNames::of(&resources),
            function,
            signals,
        })
    }

    /// Looks; with what the function has told since a time.
    ///
    /// # Errors
    ///
    /// What AWS says, or the local environment.
    pub async fn observe(
        &self,
        local: Option<&LocalEnvironment>,
        since_ms: i64,
        now_ms: i64,
    ) -> Result<StreamObservation> {
        let queries = vec![
            self.signals.query(
                ITERATOR_AGE.to_owned(),
                "AWS/Lambda",
                "IteratorAge",
                &[("FunctionName", &self.function)],
                "Maximum",
            ),
            self.signals.query(
                DEAD_LETTERS.to_owned(),
                "AWS/SQS",
                "ApproximateNumberOfMessagesVisible",
                &[("QueueName", &self.queue)],
                "Maximum",
            ),
        ];
        let (shards, event_source, values, alarms, lines) = tokio::try_join!(
            self.shards(),
            self.event_source(local),
            self.signals.newest(queries, now_ms),
            self.signals.alarms_that_call(&self.alarms, now_ms),
            self.signals.lines(&self.log_group, since_ms, now_ms)
        )?;
        Ok(StreamObservation {
            at_ms: now_ms,
            stream: self.stream.clone(),
            shards,
            function: self.function.clone(),
            event_source,
            iterator_age_seconds: values.get(ITERATOR_AGE).map(|age| age / 1000.0),
            dead_letters: values.get(DEAD_LETTERS).map(|count| *count as u64),
            alarms,
            lines,
        })
    }

    /// How the system does.
    ///
    /// # Errors
    ///
    /// As [`StreamSystem::observe`].
    pub async fn status(&self, local: Option<&LocalEnvironment>) -> Result<StreamStatus> {
        let now_ms = chrono::Utc::now().timestamp_millis();
        Ok(StreamStatus::of(self.observe(local, now_ms - STATUS_WINDOW_MS, now_ms).await?))
    }

    async fn shards(&self) -> Result<u32> {
        let asked = self.signals.clients.streams.describe_stream_summary().stream_name(&self.stream);
        let answer =
            asked.send().await.map_err(|error| told(error, &format!("{} cannot be read", self.stream)))?;
        let shards = answer.stream_description_summary().map_or(0, |summary| summary.open_shard_count());
        Ok(u32::try_from(shards).unwrap_or(0))
    }

    async fn event_source(&self, local: Option<&LocalEnvironment>) -> Result<EventSourceStatus> {
        if let Some(local) = local {
            // The mapping is run next door; the emulator keeps it and knows nothing of how it does.
            let status = local.ask(&["status"]).await?;
            if let Some(told) = EventSourceStatus::told_by(&status, &self.mapping) {
                return Ok(told);
            }
        }
        let asked = self.signals.clients.functions.get_event_source_mapping().uuid(&self.mapping);
        let answer = asked.send().await.map_err(|error| {
            told(error, &format!("the event source {} cannot be looked at", self.mapping))
        })?;
        let said = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(EventSourceStatus {
            state: answer.state().unwrap_or_default().to_owned(),
            reason: said(answer.last_processing_result()),
        })
    }
}

impl StreamStatus {
    /// One of which nothing is known, and why.
    #[must_use]
    pub fn unseen(error: String) -> Self {
        Self { error: Some(error), ..Self::default() }
    }

    /// From a minute's observation.
    #[must_use]
    pub fn of(seen: StreamObservation) -> Self {
        let sum = |key: &str| -> f64 {
            let told = seen.lines.iter().filter_map(|line| line.get(key).and_then(Json::as_f64));
            // A sum of nothing is -0.
            told.fold(0.0, |sum, count| sum + count)
        };
        let per_second = |count: f64| count * 1000.0 / STATUS_WINDOW_MS as f64;
        let returned = sum("RecordsReturned");
        Self {
            processed_per_second: per_second(sum("RecordsReceived") - returned),
            enriched_per_second: per_second(sum("LessonsEnriched")),
            failed_per_second: per_second(sum("RecordsFailed")),
            returned: returned as u64,
            stream: seen.stream,
            shards: seen.shards,
            function: seen.function,
            event_source: seen.event_source,
            lag_seconds: seen.iterator_age_seconds,
            dead_letters_total: seen.dead_letters,
            alarms: seen.alarms,
            error: None,
        }
    }

    /// As lines for people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        if let Some(error) = &self.error {
            return vec![format!("  cannot be observed: {error}")];
        }
        let shards = if self.shards == 1 { "shard" } else { "shards" };
        let reason =
            self.event_source.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let returned = match self.returned {
            0 => String::new(),
            returned => format!(", {returned} records went back to come again"),
        };
        let lag = self.lag_seconds.map_or_else(
            || "no batch lately".to_owned(),
            |lag| format!("{lag:.2} s (iterator age of the last batch)"),
        );
        let dead = self.dead_letters_total.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
        let mut lines = vec![
            format!("  stream     {} ({} {shards})", self.stream, self.shards),
            format!("  source     {}{reason}; it feeds {}", self.event_source.state, self.function),
            format!(
                "  processed  {:.1}/s over a minute: {:.1}/s enriched, {:.1}/s failed{returned}",
                self.processed_per_second, self.enriched_per_second, self.failed_per_second
            ),
            format!("  lag        {lag}"),
            format!("  dead       {dead} letters"),
        ];
        lines.extend(self.alarms.lines());
        lines
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::signals::AlarmStatus;

    fn seen() -> StreamObservation {
        StreamObservation {
            at_ms: 1,
            stream: "lessons-input".to_owned(),
            shards: 2,
            function: "lessons-enricher".to_owned(),
            event_source: EventSourceStatus {
                state: "Problem".to_owned(),
                reason: Some("the function does not answer".to_owned()),
            },
            iterator_age_seconds: Some(1.25),
            dead_letters: Some(3),
            alarms: Alarms {
                ringing: vec![AlarmStatus {
                    name: "lessons-AlarmsDeadLetters".to_owned(),
                    state: "ALARM".to_owned(),
                    since_ms: None,
                    metric: "ApproximateNumberOfMessagesVisible".to_owned(),
                    value: Some(3.0),
                    threshold: Some(0.0),
                }],
                quiet: 9,
            },
            lines: vec![
                json!({"RecordsReceived": 600, "LessonsEnriched": 420, "RecordsFailed": 60, "RecordsReturned": 30}),
                json!({"RecordsReceived": 60, "LessonsEnriched": 60}),
                json!({"somebody": "else"}),
            ],
        }
    }

    #[test]
    fn a_status_reads_well_and_has_the_fields_that_scripts_rely_on() {
        let status = StreamStatus::of(seen());
        assert_eq!((status.processed_per_second, status.enriched_per_second), (10.5, 8.0));
        assert!(!status.event_source.is_well());
        let quiet = StreamStatus::of(StreamObservation {
            shards: 1,
            event_source: EventSourceStatus { state: "Enabled".to_owned(), reason: None },
            iterator_age_seconds: None,
            dead_letters: None,
            alarms: Alarms { ringing: Vec::new(), quiet: 10 },
            lines: Vec::new(),
            ..seen()
        });
        assert!(quiet.event_source.is_well());
        let unseen = StreamStatus::unseen("the stack is not there".to_owned());
        insta::assert_snapshot!(
            [status.lines(), quiet.lines(), unseen.lines()].map(|lines| lines.join("\n")).join("\n\n")
        );
        let json = serde_json::to_value(&status).unwrap();
        for pointer in [
            "/stream",
            "/shards",
            "/event_source/state",
            "/lag_seconds",
            "/processed_per_second",
            "/dead_letters_total",
            "/alarms/ringing/0/name",
            "/alarms/quiet",
            "/error",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer}");
        }
    }

    #[test]
    fn the_runner_of_a_mapping_is_believed_where_it_knows_it() {
        let status = json!({"event_sources": [
            {"uuid": "other", "state": "Refused", "reason": "no such function"},
            {"uuid": "mine", "state": "Running"},
        ]});
        let told = EventSourceStatus::told_by(&status, "mine").unwrap();
        assert!(told.is_well() && told.reason.is_none());
        assert_eq!(EventSourceStatus::told_by(&status, "unknown"), None);
        assert_eq!(EventSourceStatus::told_by(&json!({}), "mine"), None);
        let fails = EventSourceStatus {
            state: "Enabled".to_owned(),
            reason: Some("PROBLEM: Function call failed".to_owned()),
        };
        assert!(!fails.is_well());
    }
}
