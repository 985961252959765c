//! The ledger's traffic: `ledger-load` sends events, and burns the database's processors as another service would.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cfn::assembly::StageEntry;
use serde_json::Value as Json;

use super::{
    Traffic,
    program::{Program, Started},
};
use crate::{
    observer::{Limits, Observer, Seen, percentile},
    programs, synth,
};

/// The system.
pub(crate) const SYSTEM: &str = "ledger";

/// How long the first look may take.
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// What is asked for.
pub(crate) struct Plan {
    /// Events per second; 0 for none.
    pub(crate) rate: f64,
    /// For how long.
    pub(crate) duration: Duration,
    /// Whether another service burns the database's processors.
    pub(crate) noisy_neighbour: bool,
}

/// The program's arguments for events at a rate, or for the neighbour where there is none.
pub(crate) fn arguments(rate: Option<f64>, duration: Duration) -> Vec<String> {
    let what = match rate {
        Some(rate) => vec!["--rate".to_owned(), rate.to_string()],
        None => vec!["--noisy-neighbour".to_owned()],
    };
    what.into_iter().chain(["--for".to_owned(), format!("{}s", duration.as_secs().max(1))]).collect()
}

/// What waits in the topics, as the broker has it.
pub(crate) struct Topics {
    root: PathBuf,
    environment: String,
    stages: Vec<StageEntry>,
}

impl Topics {
    /// Of the ledger of an environment.
    ///
    /// # Errors
    ///
    /// When the environment has no ledger.
    pub(crate) fn find(root: &Path, environment: &str) -> Result<Self> {
        let manifest = synth::synth(root, environment, 1)?.manifest;
        let flow = manifest.flows.get(SYSTEM).with_context(|| format!("{environment} has no ledger"))?;
        Ok(Self { root: root.to_owned(), environment: environment.to_owned(), stages: flow.stages.clone() })
    }

    /// Records that wait.
    ///
    /// # Errors
    ///
    /// When the broker does not answer.
    pub(crate) fn lag(&self) -> Result<u64> {
        let program = programs::target_directory(&self.root).join("debug/local-environment");
        let mut lag = 0;
        for stage in &self.stages {
            let arguments = ["lag", "--topic", &stage.topic, "--group", &stage.consumer_group];
            let told = programs::ask_local(&self.root, &self.environment, &program, &arguments)?;
            lag += told.get("lag_records").and_then(Json::as_u64).context("the lag is not a number")?;
        }
        Ok(lag)
    }
}

/// Events at a rate, and what becomes of them.
pub(crate) struct Events {
    program: Program,
    plan: Plan,
    options: Vec<String>,
    topics: Topics,
    observer: Observer,
    running: Vec<Started>,
    limits: Limits,
    /// When was looked last, and how many events had been sent.
    before: (Instant, f64),
    /// All ages that were told, in seconds.
    ages: Vec<f64>,
    connections: f64,
    dead_letters: u64,
    /// Events that had had their effect before, or were older than their row.
    refused: u64,
    last: Seen,
}

impl Events {
    /// Finds the program, and has the running environment looked at.
    ///
    /// # Errors
    ///
    /// When the environment is not local, has no ledger, or does not run.
    pub(crate) fn find(root: &Path, environment: &str, plan: Plan, options: &[String]) -> Result<Self> {
        ensure!(plan.rate > 0.0 || plan.noisy_neighbour, "--rate 0 makes sense with --noisy-neighbour alone");
        ensure!(plan.rate == 0.0 || plan.rate >= 0.1, "the ledger's --rate is 0, or from 0.1 to 100000");
        let program = Program::find(root, environment, SYSTEM)?;
        let mut observer = Observer::start(root, environment, SYSTEM)?;
        let last = observer.seen(FIRST_LOOK)?.pop().unwrap_or_default();
        Ok(Self {
            program,
            plan,
            options: options.to_vec(),
            topics: Topics::find(root, environment)?,
            observer,
            running: Vec::new(),
            limits: Limits::default(),
            before: (Instant::now(), 0.0),
            ages: Vec::new(),
            connections: 0.0,
            dead_letters: 0,
            refused: 0,
            last,
        })
    }
}

impl Events {
    /// Takes in what was seen; how many events were written, and how old they were.
    fn hear(&mut self, all: Vec<Seen>) -> (u64, Vec<f64>) {
        let (mut written, mut ages) = (0, Vec::new());
        for seen in all {
            self.limits.hear(&seen);
            written += seen.written();
            ages.extend(seen.writers().flat_map(|telling| telling.ages.iter().copied()));
            self.dead_letters += seen.tellings.iter().map(|telling| telling.dead_letters).sum::<u64>();
            self.refused += seen.writers().map(|telling| telling.refused).sum::<u64>();
            self.connections = self.connections.max(seen.connections.unwrap_or(0.0));
            self.last = seen;
        }
        self.ages.extend(&ages);
        (written, ages)
    }
}

impl Traffic for Events {
    fn begin(&mut self) -> Result<String> {
        let Plan { rate, duration, noisy_neighbour } = self.plan;
        let mut words = Vec::new();
        if rate > 0.0 {
            let mut arguments = arguments(Some(rate), duration);
            arguments.extend(self.options.iter().cloned());
            self.running.push(self.program.start(&arguments)?);
            words.push(format!("{rate} events/s"));
        }
        if noisy_neighbour {
            self.running.push(self.program.start(&arguments(None, duration))?);
            words.push("a noisy neighbour".to_owned());
        }
        self.before.0 = Instant::now();
        Ok(format!("{SYSTEM}: {}", words.join(" and ")))
    }

    fn look(&mut self) -> Result<Vec<String>> {
        let seen = self.observer.seen(Duration::ZERO)?;
        let (written, ages) = self.hear(seen);
        let told = |started: &Started| started.told()?.get("events")?.as_f64();
        let sent = self.running.iter().find_map(told).unwrap_or(self.before.1);
        let (at, sent_before) = std::mem::replace(&mut self.before, (Instant::now(), sent));
        let seconds = at.elapsed().as_secs_f64().max(1e-3);
        let known = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "?".to_owned(), |value| format!("{value:.digits$}"))
        };
        let (writers, limit) = self.limits.sum();
        let mode = self.last.mode.as_ref().map_or("?", |(mode, _)| mode.as_str());
        Ok(vec![
            format!("produced {:>6.1}/s", (sent - sent_before).max(0.0) / seconds),
            format!("written {:>6.1}/s", written as f64 / seconds),
            format!("mode {mode:<6}"),
            format!("lag {:>5}", known(self.last.lag().map(|lag| lag as f64), 0)),
            format!("age p95 {:>5} s", known(percentile(ages, 95.0), 2)),
            format!("{limit} chunks at once in {writers} writers"),
            format!("connections {}", known(self.last.connections, 0)),
            format!("CPU {}%", known(self.last.cpu, 0)),
        ])
    }

    /// One that has ended in the middle has failed: its end says so.
    fn goes(&mut self) -> Result<bool> {
        for program in &mut self.running {
            if !program.runs()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn end(&mut self) -> Result<String> {
        // All are ended, also where one of them has failed.
        let ended: Vec<Result<Json>> = self.running.drain(..).map(|mut program| program.end()).collect();
        let mut words = Vec::new();
        for told in ended {
            let told = told?;
            let number = |key: &str| told.get(key).and_then(Json::as_f64);
            words.push(match (number("events"), number("queries")) {
                (Some(events), _) => {
                    format!("{events} events sent, {:.1}/s", number("events_per_second").unwrap_or_default())
                }
                (_, Some(queries)) => format!("{queries} queries of the neighbour"),
                _ => told.to_string(),
            });
        }
        Ok(words.join("; "))
    }

    fn caught_up(&mut self) -> Result<Option<String>> {
        if self.topics.lag()? > 0 {
            return Ok(None);
        }
        // What the last invocations told is seen by the look after the next.
        for _ in 0..2 {
            let seen = self.observer.seen(FIRST_LOOK)?;
            self.hear(seen);
        }
        let age = |percent| percentile(self.ages.clone(), percent);
        let seconds =
            |age: Option<f64>| age.map_or_else(|| "unknown".to_owned(), |age| format!("{age:.2} s"));
        Ok(Some(format!(
            "lag 0 records; of {} ages that were told p50 {}, p95 {}, p99 {}; at most {} connections of the writers; {} dead \
             letters, {} events refused as repeated or late",
            self.ages.len(),
            seconds(age(50.0)),
            seconds(age(95.0)),
            seconds(age(99.0)),
            self.connections,
            self.dead_letters,
            self.refused
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_asked_for_what_was_asked_for() {
        let minute = Duration::from_secs(60);
        assert_eq!(arguments(Some(500.0), minute), ["--rate", "500", "--for", "60s"]);
        assert_eq!(arguments(None, minute), ["--noisy-neighbour", "--for", "60s"]);
    }
}
