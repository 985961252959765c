//! `cargo xtask demo`.

pub(crate) mod figures;
mod journal;
mod ledger;
mod logs;
pub(crate) mod page;
pub(crate) mod report;
mod view;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ::capacity::simulation::{self, LoadUnit, Phase, Scenario, Workload};
use anyhow::{Result, bail};
use platform::Environment;
use serde_json::Value as Json;

use crate::{
    live::Live,
    load::interruption,
    running::{Offsets, Running},
    simulate,
};
use figures::{Figures, Moments, Sample};
use journal::{Batch, Handover, percentile, standstills};
use logs::Tail;
use report::{Calibration, Counted, Report};
use view::Scene;

/// How often the course is looked at.
const EVERY: Duration = Duration::from_millis(500);

/// How long the environment may take to come to rest before the course, and to zero after it.
const REST_TIMEOUT: Duration = Duration::from_secs(180);

/// Over which the ages of messages are told while the course runs, in milliseconds.
const AGE_WINDOW_MS: u64 = 3000;

/// A system's demonstration, live, with a report at its end.
///
/// A system's demonstration, live, with a report at its end.
///
/// trades: no consumer while nothing arrives, one for a trickle, as many as it takes for a spike, and none again after
/// the cooldown, beside what `simulate` predicts for the same course; about five minutes.
///
/// ledger: events flow, another service burns the database's processors, the alarm makes the mode RED and the writers
/// slow down, the other service ends, and the writers find their full speed again; about three minutes.
///
/// Ctrl-C leaves the environment as it was. Local environments only.
///
/// Example: cargo xtask demo trades
/// Example: cargo xtask demo ledger --rate 300
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct DemoArgs {
    /// The system.
    #[arg(value_parser = [TRADES, crate::load::ledger::SYSTEM])]
    system: String,
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// The trades' course: a scenario's name, or a file.
    #[arg(long, default_value = "demo", value_name = "NAME|FILE")]
    scenario: String,
    #[command(flatten)]
    ledger: ledger::LedgerArgs,
    /// Where the report goes; target/reports/SYSTEM unless told otherwise.
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
}

const TRADES: &str = "trades";

impl DemoArgs {
    fn directory(&self, root: &Path) -> PathBuf {
        let usual = || Path::new("target/reports").join(&self.system);
        root.join(self.output.clone().unwrap_or_else(usual))
    }
}

/// A phase's rate in words.
fn rate_words(phase: &Phase, scenario: &Scenario, peak: f64) -> String {
    let unit = match scenario.unit {
        LoadUnit::MessagesPerSecond => 1.0,
        LoadUnit::Peak => peak,
    };
    match phase.to {
        None => format!("{}/s", phase.rate * unit),
        Some(to) => format!("{} to {}/s", phase.rate * unit, to * unit),
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What is needed to walk a course.
struct Course<'a> {
    running: &'a Running<'a>,
    scenario: &'a Scenario,
    workload: &'a Workload,
    interrupted: &'a AtomicBool,
    view: Live,
}

/// What was seen of it.
#[derive(Default)]
struct Walked {
    begun_ms: u64,
    first: Offsets,
    last: Offsets,
    samples: Vec<Sample>,
    batches: Vec<Batch>,
    handovers: Vec<Handover>,
    decisions: Vec<Json>,
}

pub(crate) fn run(arguments: &DemoArgs, root: &Path) -> Result<ExitCode> {
    if arguments.system == TRADES {
        return trades(arguments, root);
    }
    ledger::run(&arguments.ledger, &arguments.env, root, &arguments.directory(root))
}

fn trades(arguments: &DemoArgs, root: &Path) -> Result<ExitCode> {
    let environment = Environment::load(root, &arguments.env)?;
    let scenario = simulate::scenario(&arguments.scenario)?;
    let workload = simulate::workload(&environment, &platform::sizes(&environment)?);
    let scaling = simulate::rendered_scaling(&environment)?;
    let outcome = simulation::simulate_sampled(&workload, &scenario, &scaling, 1000)?;
    let running = Running::find(root, &arguments.env, &arguments.system)?;
    if running.consumer()?.scaling.is_null() {
        bail!(
            "nothing scales the consumers that run; `cargo xtask deploy --env {}` sees to that",
            arguments.env
        );
    }
    let interrupted = interruption()?;
    let before = running.rate()?;
    let course = Course {
        running: &running,
        scenario: &scenario,
        workload: &workload,
        interrupted: &interrupted,
        view: Live::new(),
    };
    let walked = course.walk();
    let restored = running.set_rate(before);
    println!("the producer is back at {before} messages/s");
    let walked = walked?;
    restored?;
    let Some(walked) = walked else {
        println!("interrupted; there is no report of half a course");
        return Ok(ExitCode::from(130));
    };
    let moments =
        Moments::of(&scenario, workload.peak_messages_per_second, workload.messages_per_second_per_replica());
    let ages = [50.0, 95.0, 99.0].map(|percent| percentile(walked.batches.iter(), percent).unwrap_or(0.0));
    let produced = walked.last.written.saturating_sub(walked.first.written);
    let report = Report {
        environment: arguments.env.clone(),
        scenario: arguments.scenario.clone(),
        target: simulate::setting(&scaling),
        begun_ms: walked.begun_ms,
        counted: Counted::new(produced, journal::count(&walked.batches)),
        measured: Figures::measured(&walked.samples, &moments, ages),
        predicted: Figures::predicted(&outcome, &moments),
        calibration: calibration(&walked),
        decisions: walked.decisions,
        samples: walked.samples,
    };
    let directory = arguments.directory(root);
    report::write(&directory, &report, &scenario, &workload, &outcome)?;
    tell(&report, &directory)
}

fn tell(report: &Report, directory: &Path) -> Result<ExitCode> {
    let Counted { produced, distinct, lost, duplicates, out_of_order, moves, .. } = report.counted;
    println!(
        "\n{produced} produced, {distinct} processed, {lost} lost, {duplicates} processed again, {out_of_order} out of \
         order; partitions moved {moves} times\n"
    );
    print!("{}", figures::table(&figures::compare(&report.measured, &report.predicted)));
    println!("\nwrote {}", directory.join("report.html").display());
    if lost > 0 || out_of_order > 0 {
        bail!("{lost} records were lost and {out_of_order} were out of order");
    }
    Ok(ExitCode::SUCCESS)
}

/// What the simulator cannot know.
fn calibration(walked: &Walked) -> Calibration {
    let number = |decision: &Json, key: &str| decision.get(key).and_then(Json::as_u64).unwrap_or(0);
    let grows = |decision: &Json| number(decision, "desired").saturating_sub(number(decision, "current"));
    let largest = walked.decisions.iter().max_by_key(|decision| grows(decision));
    let startup_seconds = largest.filter(|decision| grows(decision) > 0).and_then(|decision| {
        let at = number(decision, "at_ms").saturating_sub(walked.begun_ms) as f64 / 1000.0;
        let half = number(decision, "current") + grows(decision).div_ceil(2);
        let ready = |sample: &&Sample| sample.at_seconds >= at && u64::from(sample.ready) >= half;
        walked.samples.iter().find(ready).map(|sample| sample.at_seconds - at)
    });
    let mut stood = standstills(&walked.handovers);
    stood.sort_by(f64::total_cmp);
    Calibration {
        startup_seconds,
        rebalance_seconds: stood.get(stood.len() / 2).copied(),
        moves: stood.len(),
    }
}

impl Course<'_> {
    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Walks it; nothing where it was interrupted.
    fn walk(mut self) -> Result<Option<Walked>> {
        println!("the producer stops until no consumer is left");
        self.running.set_rate(0.0)?;
        if !self.rest()? {
            return Ok(None);
        }
        let mut walked = Walked { begun_ms: now_ms(), first: self.running.offsets()?, ..Walked::default() };
        let mut tail = Tail::from_now(&self.running.logs(), &self.running.entry.consumer)?;
        let begun = Instant::now();
        walked.begun_ms = now_ms();
        walked.last = walked.first;
        let seconds = self.scenario.seconds() as f64;
        let (mut phase, mut target) = (usize::MAX, -1.0);
        loop {
            let at = begun.elapsed().as_secs_f64();
            if self.is_interrupted() {
                return Ok(None);
            }
            let now = self.phase(at);
            if now != phase && at < seconds {
                phase = now;
                self.view.step(&self.step(phase));
            }
            let wanted = if at < seconds {
                self.scenario.rate_at(at, self.workload.peak_messages_per_second)
            } else {
                0.0
            };
            if wanted != target {
                self.running.set_rate(wanted)?;
                target = wanted;
            }
            let desired = self.look(&mut walked, &mut tail, begun, target, phase)?;
            let rests = desired == 0 && walked.last.lag == 0;
            if at >= seconds && (rests || at >= seconds + REST_TIMEOUT.as_secs_f64()) {
                break;
            }
            let next = EVERY.saturating_sub(begun.elapsed().saturating_sub(Duration::from_secs_f64(at)));
            // A change of the rate is not slept over.
            let change = self.next_change(begun.elapsed().as_secs_f64());
            std::thread::sleep(next.min(change));
        }
        tail.read(&mut walked.batches, &mut walked.handovers)?;
        Ok(Some(walked))
    }

    /// Waits until there is no consumer, and for a moment at which the autoscaler looks: the simulation begins with
    /// one, too. Whether it came to that.
    fn rest(&mut self) -> Result<bool> {
        let begun = Instant::now();
        loop {
            if self.is_interrupted() {
                return Ok(false);
            }
            let consumer = self.running.consumer()?;
            if let Some(paused) = consumer.scaling.get("paused").and_then(Json::as_u64) {
                bail!(
                    "scaling is paused at {paused}; `target/debug/local-environment resume {}` lets it go on",
                    self.running.entry.consumer
                );
            }
            let sync = consumer.scaling.get("next_sync_at_ms").and_then(Json::as_u64).unwrap_or(0);
            let wait = Duration::from_millis(sync.saturating_sub(now_ms()));
            if consumer.desired == 0 && consumer.ready == 0 && !wait.is_zero() {
                if wait <= EVERY {
                    std::thread::sleep(wait);
                    return Ok(true);
                }
            } else if begun.elapsed() > REST_TIMEOUT {
                bail!(
                    "{} of {} consumers are left after {} s",
                    consumer.ready,
                    consumer.desired,
                    REST_TIMEOUT.as_secs()
                );
            }
            std::thread::sleep(EVERY.min(wait).max(Duration::from_millis(20)) / 2);
        }
    }

    fn phase(&self, at: f64) -> usize {
        let mut end = 0.0;
        for (place, phase) in self.scenario.load.iter().enumerate() {
            end += f64::from(phase.seconds);
            if at < end {
                return place;
            }
        }
        self.scenario.load.len().saturating_sub(1)
    }

    fn next_change(&self, at: f64) -> Duration {
        let mut end = 0.0;
        for phase in &self.scenario.load {
            end += f64::from(phase.seconds);
            if end > at {
                return Duration::from_secs_f64(end - at);
            }
        }
        EVERY
    }

    fn step(&self, phase: usize) -> String {
        let all = self.scenario.load.len();
        let peak = self.workload.peak_messages_per_second;
        let words = self.scenario.load.get(phase).map(|phase| rate_words(phase, self.scenario, peak));
        format!("step {} of {all}: {}", phase + 1, words.unwrap_or_default())
    }

    /// Looks once; how many consumers are wanted.
    fn look(
        &mut self,
        walked: &mut Walked,
        tail: &mut Tail,
        begun: Instant,
        target: f64,
        phase: usize,
    ) -> Result<u64> {
        let offsets = self.running.offsets()?;
        let at_seconds = begun.elapsed().as_secs_f64();
        let consumer = self.running.consumer()?;
        tail.read(&mut walked.batches, &mut walked.handovers)?;
        let decisions =
            consumer.scaling.get("decisions").and_then(Json::as_array).cloned().unwrap_or_default();
        note_decisions(&mut walked.decisions, decisions, walked.begun_ms);
        let before = walked.samples.last().map_or(0.0, |sample| sample.at_seconds);
        let span = (at_seconds - before).max(1e-3);
        let since = now_ms().saturating_sub(AGE_WINDOW_MS);
        let recent = walked.batches.iter().rev().take_while(|batch| batch.at_ms + AGE_WINDOW_MS >= since);
        let recent: Vec<&Batch> = recent.filter(|batch| batch.at_ms >= since).collect();
        let age = |percent| percentile(recent.iter().copied(), percent).unwrap_or(0.0);
        let count = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let sample = Sample {
            at_seconds,
            target_per_second: target,
            in_per_second: offsets.written.saturating_sub(walked.last.written) as f64 / span,
            out_per_second: offsets.committed().saturating_sub(walked.last.committed()) as f64 / span,
            lag: offsets.lag as f64,
            desired: count(consumer.desired),
            ready: count(consumer.ready),
            age_p50: age(50.0),
            age_p99: age(99.0),
        };
        walked.samples.push(sample);
        walked.last = offsets;
        let reason =
            walked.decisions.last().and_then(|decision| decision.get("reason")?.as_str()).unwrap_or_default();
        self.view.show(&Scene {
            step: &self.step(phase),
            seconds: self.scenario.seconds() as f64,
            samples: &walked.samples,
            reason,
        });
        Ok(consumer.desired)
    }
}

/// Adds the decisions that were not known yet. Of those that leave the replicas only the last time is known.
fn note_decisions(known: &mut Vec<Json>, told: Vec<Json>, from_ms: u64) {
    let number = |decision: &Json, key: &str| decision.get(key).and_then(Json::as_u64).unwrap_or(0);
    for decision in told {
        let at = number(&decision, "at_ms");
        if at < from_ms || known.iter().any(|one| number(one, "at_ms") == at) {
            continue;
        }
        let goes_on = |one: &&mut Json| {
            number(&decision, "times") > 1 && number(one, "current") == number(one, "desired")
        };
        match known.last_mut().filter(goes_on) {
            Some(last) => *last = decision,
            None => known.push(decision),
        }
    }
}

#[cfg(test)]
mod tests;
