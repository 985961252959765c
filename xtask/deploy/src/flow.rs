//! A system whose work functions do: the mode and the alarms that make it, what waits for each function, and what the
//! functions tell in their logs. The same calls on AWS and locally.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use cfn::assembly::{FlowEntry, Manifest, StageEntry};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    cloudformation::CloudFormation,
    sdk::told,
    signals::{AlarmStatus, Clients, Signals, alarm_query, told_at},
};

mod status;

pub use status::FlowStatus;

/// A mode, as the parameter has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct ModeRecord {
    mode: String,
    version: i64,
    since_ms: i64,
    alarm: Option<String>,
    then: Option<Relief>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Relief {
    mode: String,
    at_ms: i64,
}

/// The mode that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModeStatus {
    /// `GREEN`, `YELLOW` or `RED`.
    pub mode: String,
    /// Orders modes.
    pub version: i64,
    /// Since when it holds, in milliseconds since 1970.
    pub since_ms: i64,
    /// The alarm to blame, where the mode is not `GREEN`.
    pub alarm: Option<String>,
    /// What it becomes when the alarms stay as they are, and when.
    pub next: Option<NextMode>,
}

/// What a mode becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NextMode {
    /// The mode.
    pub mode: String,
    /// From when on, in milliseconds since 1970.
    pub at_ms: i64,
}

impl ModeStatus {
    /// Reads the parameter's text.
    ///
    /// # Errors
    ///
    /// When it is no mode.
    pub fn parse(text: &str, now_ms: i64) -> Result<Self> {
        let record: ModeRecord =
            serde_json::from_str(text).with_context(|| format!("the parameter holds no mode: `{text}`"))?;
        let ModeRecord { mode, version, since_ms, alarm, then } = record;
        Ok(match then {
            // The step down has come: nobody writes that.
            Some(relief) if now_ms >= relief.at_ms => {
                let alarm = alarm.filter(|_| relief.mode != "GREEN");
                Self { mode: relief.mode, version, since_ms: relief.at_ms, alarm, next: None }
            }
            then => {
                let next = then.map(|relief| NextMode { mode: relief.mode, at_ms: relief.at_ms });
                Self { mode, version, since_ms, alarm, next }
            }
        })
    }
}

/// What waits for a function.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageStatus {
    /// The function.
    pub function: String,
    /// Its topic.
    pub topic: String,
    /// How many partitions that has.
    pub partitions: u32,
    /// Records that wait; nothing where that was not told lately.
    pub lag_records: Option<f64>,
}

/// A writer, as it told of itself last.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WriterStatus {
    /// Which environment of the function.
    pub instance: String,
    /// Chunks that it writes at once, at most.
    pub limit: u64,
    /// The mode that it goes by.
    pub mode: String,
    /// When it told so, in milliseconds since 1970.
    pub told_ms: i64,
}

/// What was seen at a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Observation {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The mode; nothing where the parameter is not there or holds none.
    pub mode: Option<ModeStatus>,
    /// The alarms that make it.
    pub alarms: Vec<AlarmStatus>,
    /// The functions, in the order in which a record comes by.
    pub stages: Vec<StageStatus>,
    /// Lines with metrics that the functions have logged since the time that was asked for, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Json>,
}

/// A system's functions and alarms, by the names that they were deployed with.
#[derive(Debug)]
pub struct Flow<'a> {
    entry: &'a FlowEntry,
    signals: Signals,
    stages: Vec<Deployed<'a>>,
    alarms: Vec<String>,
}

#[derive(Debug)]
struct Deployed<'a> {
    stage: &'a StageEntry,
    function: String,
    log_group: String,
}

impl<'a> Flow<'a> {
    /// Finds them.
    ///
    /// # Errors
    ///
    /// When the system is not deployed, or AWS does not tell.
    pub async fn find(
        manifest: &'a Manifest,
        stacks: &impl CloudFormation,
        clients: Clients,
        entry: &'a FlowEntry,
    ) -> Result<Self> {
        let stack = manifest.stack(&entry.stack).context("the system has no stack")?;
        let resources: BTreeMap<String, String> = stacks
            .resources(&stack.name)
            .await?
            .into_iter()
            .map(|resource| (resource.logical_id, resource.physical_id))
            .collect();
        let deployed = |id: &String| {
            resources
                .get(id)
                .cloned()
                .with_context(|| format!("{} has no {id}: it is not deployed", stack.name))
        };
        let signals = Signals::new(clients, &manifest.provider);
        let mut stages = Vec::new();
        for stage in &entry.stages {
            let function = deployed(&stage.function)?;
            let log_group = signals.log_group(&function).await?;
            stages.push(Deployed { stage, function, log_group });
        }
        let alarms = entry.alarms.iter().map(deployed).collect::<Result<_>>()?;
        Ok(Self { entry, signals, stages, alarms })
    }

    /// Looks; with what the functions have told since a time.
    ///
    /// # Errors
    ///
    /// What AWS says.
    pub async fn observe(&self, since_ms: i64, now_ms: i64) -> Result<Observation> {
        let (mode, alarms, lines) = tokio::try_join!(
            self.mode(now_ms),
            self.signals.alarms(&self.alarms),
            self.lines(since_ms, now_ms)
        )?;
        let mut queries = self.signals.alarm_queries(&alarms);
        for (place, deployed) in self.stages.iter().enumerate() {
            let of = [("FunctionName", deployed.function.as_str())];
            queries.push(self.signals.query(stage_query(place), "AWS/Lambda", "OffsetLag", &of, "Maximum"));
        }
        let values = self.signals.newest(queries, now_ms).await?;
        let value = |id: String| values.get(&id).copied();
        Ok(Observation {
            at_ms: now_ms,
            mode,
            alarms: alarms
                .iter()
                .enumerate()
                .map(|(place, alarm)| AlarmStatus::of(alarm, value(alarm_query(place))))
                .collect(),
            stages: self
                .stages
                .iter()
                .enumerate()
                .map(|(place, deployed)| StageStatus {
                    function: deployed.function.clone(),
                    topic: deployed.stage.topic.clone(),
                    partitions: deployed.stage.partitions,
                    lag_records: value(stage_query(place)),
                })
                .collect(),
            lines,
        })
    }

    async fn mode(&self, now_ms: i64) -> Result<Option<ModeStatus>> {
        let name = &self.entry.mode_parameter;
        let answer = match self.signals.clients.parameters.get_parameter().name(name).send().await {
            Ok(answer) => answer,
            Err(error) if error.as_service_error().is_some_and(|told| told.is_parameter_not_found()) => {
                return Ok(None);
            }
            Err(error) => return Err(told(error, &format!("the parameter {name} cannot be read"))),
        };
        let text = answer.parameter().and_then(|parameter| parameter.value()).unwrap_or_default();
        ModeStatus::parse(text, now_ms).map(Some)
    }

    async fn lines(&self, since_ms: i64, now_ms: i64) -> Result<Vec<Json>> {
        let mut lines = Vec::new();
        for deployed in &self.stages {
            lines.extend(self.signals.lines(&deployed.log_group, since_ms, now_ms).await?);
        }
        lines.sort_by_key(told_at);
        Ok(lines)
    }
}

fn stage_query(place: usize) -> String {
    format!("stage{place}")
}

/// The writers among those who told, each as it told last.
#[must_use]
pub fn writers(lines: &[Json]) -> Vec<WriterStatus> {
    let mut newest: BTreeMap<String, WriterStatus> = BTreeMap::new();
    for line in lines {
        let text = |key: &str| line.get(key).and_then(Json::as_str);
        let (Some(instance), Some(limit)) = (text("instance"), line.get("Limit").and_then(Json::as_f64))
        else {
            continue;
        };
        let writer = WriterStatus {
            instance: instance.to_owned(),
            limit: limit as u64,
            mode: text("mode").unwrap_or_default().to_owned(),
            told_ms: told_at(line),
        };
        match newest.get(instance) {
            Some(known) if known.told_ms > writer.told_ms => {}
            _ => drop(newest.insert(instance.to_owned(), writer)),
        }
    }
    newest.into_values().collect()
}

/// What became of events, as the functions told it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Effects {
    /// Those whose effect is in the database.
    pub written: u64,
    /// Those that are dead letters, of all functions.
    pub dead_letters: u64,
}

impl Effects {
    /// Of the lines that functions have logged.
    #[must_use]
    pub fn of(lines: &[Json]) -> Self {
        let mut effects = Self::default();
        for line in lines {
            let count = |key: &str| line.get(key).and_then(Json::as_f64).unwrap_or(0.0) as u64;
            let dead_letters = count("DeadLetters");
            effects.dead_letters += dead_letters;
            // Writers alone have a limit; what the function before them passed on has no effect yet.
            if line.get("Limit").is_some() {
                effects.written += count("Records").saturating_sub(count("Returned") + dead_letters);
            }
        }
        effects
    }
}

/// The age that so many per cent of the events of these lines did not exceed when they were written, in seconds.
#[must_use]
pub fn age_seconds(lines: &[Json], percent: f64) -> Option<f64> {
    let mut ages: Vec<f64> = Vec::new();
    for line in lines {
        match line.get("AgeMilliseconds") {
            Some(Json::Array(values)) => ages.extend(values.iter().filter_map(Json::as_f64)),
            Some(value) => ages.extend(value.as_f64()),
            None => {}
        }
    }
    ages.sort_by(f64::total_cmp);
    let place = (ages.len() as f64 * percent / 100.0).ceil().max(1.0) as usize - 1;
    ages.get(place).map(|age| age / 1000.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RED: &str =
        r#"{"mode":"RED","version":7,"since_ms":1000,"alarm":"cpu","then":{"mode":"GREEN","at_ms":9000}}"#;

    #[test]
    fn a_mode_is_what_it_has_become_by_now() {
        let before = ModeStatus::parse(RED, 8_999).unwrap();
        assert_eq!(
            (before.mode.as_str(), before.since_ms, before.alarm.as_deref()),
            ("RED", 1000, Some("cpu"))
        );
        assert_eq!(before.next, Some(NextMode { mode: "GREEN".to_owned(), at_ms: 9000 }));
        let after = ModeStatus::parse(RED, 9_000).unwrap();
        assert_eq!((after.mode.as_str(), after.since_ms, after.alarm), ("GREEN", 9000, None));
        assert!(ModeStatus::parse("GREEN", 0).unwrap_err().to_string().contains("`GREEN`"));
    }

    #[test]
    fn what_is_written_is_what_writers_neither_gave_back_nor_put_aside() {
        let lines = [
            json!({"Records": 23, "DeadLetters": 1, "Returned": 0}),
            json!({"instance": "a", "Limit": 2, "Records": 12, "Returned": 2.0, "DeadLetters": 0}),
            json!({"instance": "b", "Limit": 2, "Records": 12, "Returned": 0, "DeadLetters": 3}),
        ];
        assert_eq!(Effects::of(&lines), Effects { written: 19, dead_letters: 4 });
        assert_eq!(Effects::of(&[]), Effects::default());
    }

    #[test]
    fn each_writer_is_told_as_it_was_last() {
        let line = |instance: &str, at: i64, limit: u32| {
            json!({"_aws": {"Timestamp": at}, "instance": instance, "Limit": limit, "mode": "RED",
                   "AgeMilliseconds": [10.0 * f64::from(limit), 2500.0]})
        };
        let lines =
            [line("b", 5, 1), line("a", 1, 2), line("b", 9, 2), line("b", 7, 1), json!({"Records": 3})];
        let told: Vec<(String, u64, i64)> = writers(&lines)
            .into_iter()
            .map(|writer| (writer.instance, writer.limit, writer.told_ms))
            .collect();
        assert_eq!(told, [("a".to_owned(), 2, 1), ("b".to_owned(), 2, 9)]);
        assert_eq!(age_seconds(&lines, 95.0), Some(2.5));
        assert_eq!(age_seconds(&lines, 25.0), Some(0.01));
        assert_eq!(age_seconds(&[json!({"AgeMilliseconds": 40})], 50.0), Some(0.04));
        assert_eq!(age_seconds(&[], 50.0), None);
    }
}
