//! A system of the running local environment, looked at once a second.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

use crate::deploy::Target;

/// What is watched of the database's processors, and of sessions on it.
const PROCESSORS: &str = "CPUUtilization";
const SESSIONS: &str = "DatabaseConnections";

/// What a function told of an invocation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Telling {
    /// When, in milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// Which environment of a writer; nothing for functions that do not write to the database.
    pub(crate) writer: Option<String>,
    /// Chunks that the writer writes at once, at most.
    pub(crate) limit: u64,
    /// Records of the invocation.
    pub(crate) records: u64,
    /// Of those, what went back.
    pub(crate) returned: u64,
    /// Of those, dead letters.
    pub(crate) dead_letters: u64,
    /// Events that had had their effect before, and events that were older than their row.
    pub(crate) refused: u64,
    /// How old events were when they were written, in seconds.
    pub(crate) ages: Vec<f64>,
}

impl Telling {
    fn read(line: &Json) -> Self {
        let number = |key: &str| line.get(key).and_then(Json::as_f64).unwrap_or(0.0) as u64;
        let ages = line.get("AgeMilliseconds").and_then(Json::as_array).into_iter().flatten();
        Self {
            at_ms: line.pointer("/_aws/Timestamp").and_then(Json::as_i64).unwrap_or(0),
            writer: line.get("instance").and_then(Json::as_str).map(str::to_owned),
            limit: number("Limit"),
            records: number("Records"),
            returned: number("Returned"),
            dead_letters: number("DeadLetters"),
            refused: number("Duplicates") + number("RegressionsRefused"),
            ages: ages.filter_map(Json::as_f64).map(|age| age / 1000.0).collect(),
        }
    }
}

/// What was seen at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// When, in milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// The mode, and since when it holds, in milliseconds since 1970.
    pub(crate) mode: Option<(String, i64)>,
    /// The alarm to blame.
    pub(crate) alarm: Option<String>,
    /// How busy the database's processors are, and above which the alarm goes off, in percent.
    pub(crate) cpu: Option<f64>,
    pub(crate) cpu_threshold: Option<f64>,
    /// The writers' sessions.
    pub(crate) connections: Option<f64>,
    /// Records that wait for each function.
    pub(crate) lag: Vec<Option<u64>>,
    /// What functions have told since the look before.
    pub(crate) tellings: Vec<Telling>,
}

impl Seen {
    /// Reads a line of the deploy engine's; nothing where the look failed.
    pub(crate) fn read(line: &Json) -> Option<Self> {
        if line.get("error").is_some() {
            return None;
        }
        let array = |key: &str| line.get(key).and_then(Json::as_array).into_iter().flatten();
        let alarm = |metric: &str, key: &str| {
            let of = |alarm: &&Json| alarm.get("metric").and_then(Json::as_str) == Some(metric);
            array("alarms").find(of)?.get(key)?.as_f64()
        };
        let text = |pointer: &str| line.pointer(pointer).and_then(Json::as_str).map(str::to_owned);
        Some(Self {
            at_ms: line.get("at_ms")?.as_i64()?,
            mode: text("/mode/mode").zip(line.pointer("/mode/since_ms").and_then(Json::as_i64)),
            alarm: text("/mode/alarm"),
            cpu: alarm(PROCESSORS, "value"),
            cpu_threshold: alarm(PROCESSORS, "threshold"),
            connections: alarm(SESSIONS, "value"),
            lag: array("stages")
                .map(|stage| stage.get("lag_records").and_then(Json::as_f64).map(|lag| lag as u64))
                .collect(),
            tellings: array("lines").map(Telling::read).collect(),
        })
    }

    /// All that waits; nothing where that is not known.
    pub(crate) fn lag(&self) -> Option<u64> {
        self.lag.iter().copied().sum()
    }

    /// What writers have told.
    pub(crate) fn writers(&self) -> impl Iterator<Item = &Telling> {
        self.tellings.iter().filter(|telling| telling.writer.is_some())
    }

    /// Records that writers are done with.
    pub(crate) fn written(&self) -> u64 {
        self.writers().map(|telling| telling.records.saturating_sub(telling.returned)).sum()
    }
}

/// The limit of each writer that told of itself within a while.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits(BTreeMap<String, (i64, u64)>);

/// How long a writer counts that told nothing, in milliseconds.
const WRITER_MS: i64 = 10_000;

impl Limits {
    /// Takes in what was told.
    pub(crate) fn hear(&mut self, seen: &Seen) {
        for telling in seen.writers() {
            let Some(writer) = &telling.writer else { continue };
            let known = self.0.entry(writer.clone()).or_default();
            *known = (*known).max((telling.at_ms, telling.limit));
        }
        self.0.retain(|_, (at_ms, _)| *at_ms >= seen.at_ms - WRITER_MS);
    }

    /// How many writers there are, and their chunks at once together.
    pub(crate) fn sum(&self) -> (usize, u64) {
        (self.0.len(), self.0.values().map(|(_, limit)| limit).sum())
    }
}

/// The age that so many per cent did not exceed, in seconds; nothing without any.
pub(crate) fn percentile(mut ages: Vec<f64>, percent: f64) -> Option<f64> {
    ages.sort_by(f64::total_cmp);
    let place = (ages.len() as f64 * percent / 100.0).ceil().max(1.0) as usize - 1;
    ages.get(place).copied()
}

/// Looks at a system for as long as it lives.
pub(crate) struct Observer {
    child: Child,
    lines: Receiver<Json>,
}

impl Observer {
    /// Of a system of an environment that runs here.
    ///
    /// # Errors
    ///
    /// When the environment does not run.
    pub(crate) fn start(root: &Path, environment: &str, system: &str) -> Result<Self> {
        let target = Target::with(root, environment, &[])?;
        let endpoint_url = target.endpoint_url(root).with_context(|| {
            format!("{environment} does not run; `cargo xtask deploy --env {environment}` starts it")
        })?;
        let mut engine = target.engine(root, Some(&endpoint_url), false);
        engine.args(["observe", system]).stdin(Stdio::null()).stdout(Stdio::piped());
        // Ctrl-C reaches this program alone: what is put back is looked at as well.
        std::os::unix::process::CommandExt::process_group(&mut engine, 0);
        let mut child = engine.spawn().context("cannot start the deploy engine")?;
        let out = BufReader::new(child.stdout.take().context("the deploy engine has no output")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let lines = out.lines().map_while(Result::ok);
            lines.filter_map(|line| serde_json::from_str(&line).ok()).try_for_each(|line| sender.send(line))
        });
        Ok(Self { child, lines })
    }

    /// What was seen since the last call, after waiting for a while where that is nothing. A look that failed is passed
    /// over: the environment may be busy.
    ///
    /// # Errors
    ///
    /// When nobody looks any more.
    pub(crate) fn seen(&mut self, wait: Duration) -> Result<Vec<Seen>> {
        Ok(self.looks(wait)?.iter().filter_map(Seen::read).collect())
    }

    /// The same, as the deploy engine tells it: a system that is no system of functions with a mode has figures of its own.
    ///
    /// # Errors
    ///
    /// As [`Observer::seen`].
    pub(crate) fn looks(&mut self, wait: Duration) -> Result<Vec<Json>> {
        let mut lines = match self.lines.recv_timeout(wait) {
            Ok(line) => vec![line],
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the system is not looked at any more; the deploy engine's message is above")
            }
        };
        lines.extend(self.lines.try_iter());
        lines.retain(|line| line.get("error").is_none());
        Ok(lines)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_look_is_read() {
        let line = json!({
            "at_ms": 5000,
            "mode": {"mode": "RED", "since_ms": 4000, "alarm": "cpu", "version": 3, "next": null},
            "alarms": [
                {"metric": "CPUUtilization", "value": 81.0, "threshold": 40.0},
                {"metric": "DatabaseConnections", "value": 4.0, "threshold": 10.0},
            ],
            "stages": [{"lag_records": 3.0}, {"lag_records": 40.0}],
            "lines": [
                {"_aws": {"Timestamp": 4500}, "instance": "a", "Limit": 1.0, "Records": 90.0, "Returned": 30.0,
                 "AgeMilliseconds": [100.0, 200.0]},
                {"_aws": {"Timestamp": 4600}, "Records": 50.0},
            ],
        });
        let seen = Seen::read(&line).unwrap();
        assert_eq!((seen.mode.clone(), seen.alarm.as_deref()), (Some(("RED".to_owned(), 4000)), Some("cpu")));
        assert_eq!((seen.cpu, seen.cpu_threshold, seen.connections), (Some(81.0), Some(40.0), Some(4.0)));
        assert_eq!((seen.lag(), seen.written(), seen.tellings.len()), (Some(43), 60, 2));
        assert_eq!(seen.tellings[0].ages, [0.1, 0.2]);
        assert_eq!(Seen::read(&json!({"at_ms": 1, "error": "busy"})), None);
        let unknown = Seen { lag: vec![Some(3), None], ..Seen::default() };
        assert_eq!(unknown.lag(), None);
    }

    #[test]
    fn a_writer_counts_with_what_it_told_last() {
        let telling = |writer: &str, at_ms, limit| Telling {
            at_ms,
            limit,
            writer: Some(writer.to_owned()),
            ..Telling::default()
        };
        let look = |at_ms, tellings| Seen { at_ms, tellings, ..Seen::default() };
        let mut limits = Limits::default();
        limits.hear(&look(1000, vec![telling("a", 900, 2), telling("b", 950, 2), telling("b", 800, 7)]));
        assert_eq!(limits.sum(), (2, 4));
        limits.hear(&look(10_905, vec![telling("b", 10_900, 1)]));
        assert_eq!(limits.sum(), (1, 1), "a told nothing for too long");
        assert_eq!(percentile(vec![3.0, 1.0, 2.0], 95.0), Some(3.0));
    }
}
