//! The ledger's demonstration: a noisy neighbour, and writers that slow down before the database does.

mod database;
mod figures;
mod report;
mod view;

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

use super::now_ms;
use crate::{
    live::Live,
    load::{
        interruption,
        ledger::{SYSTEM, Topics, arguments},
        program::{Program, Started},
    },
    observer::{Limits, Observer, Seen, percentile},
};
use database::{Counts, Database};
use figures::{Figures, Moments, Sample, Told, severity};
use report::Report;
use view::Scene;

/// How long the environment may take to come to rest before the course.
const REST_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the writers may take to begin.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the alarm may take to go off, in seconds.
const ALARM_SECONDS: f64 = 120.0;

/// How long the mode stays RED with the neighbour there, in seconds.
const RED_SECONDS: f64 = 25.0;

/// How long the recovery may take, in seconds.
const RECOVERY_SECONDS: f64 = 240.0;

/// How long the calm at the end is looked at, in seconds.
const CALM_SECONDS: f64 = 15.0;

/// How long what waits may take when nothing arrives any more.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(120);

/// The longest that events and the neighbour go on if nobody ends them.
const TRAFFIC_MAX: Duration = Duration::from_secs(900);

/// How long a look is waited for before it is seen whether to stop.
const PATIENCE: Duration = Duration::from_millis(300);

/// How the ledger's course is walked.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LedgerArgs {
    /// The ledger's events per second.
    #[arg(long, default_value_t = 300.0, value_parser = rate)]
    rate: f64,
    /// The happy path before the neighbour comes, in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(5..=600))]
    happy: u16,
    /// Sessions of the noisy neighbour.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    sessions: u32,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|rate| (1.0..=10_000.0).contains(rate))
        .ok_or_else(|| "a rate is 1 to 10000 events per second".to_owned())
}

/// Where the course is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Happy,
    Pressed,
    Recovering,
    Calm,
}

impl Step {
    fn words(self) -> &'static str {
        match self {
            Step::Happy => "happy path",
            Step::Pressed => "a noisy neighbour burns the database's processors",
            Step::Recovering => "the neighbour is gone: recovery",
            Step::Calm => "full speed again",
        }
    }
}

/// What the course is walked with.
struct Course<'a> {
    arguments: &'a LedgerArgs,
    program: Program,
    observer: Observer,
    topics: Topics,
    database: Database,
    interrupted: Arc<AtomicBool>,
    live: Live,
}

/// What was seen of it.
#[derive(Default)]
struct Walked {
    begun_ms: i64,
    samples: Vec<Sample>,
    told: Vec<Told>,
    limits: Limits,
    alarm: Option<String>,
    threshold: Option<f64>,
    moments: Moments,
    /// Events sent when was looked last, and when that was, in milliseconds since 1970.
    sent: Option<(f64, i64)>,
    /// Seconds that what waited took when nothing arrived any more.
    drained_seconds: f64,
}

/// Plays the story and writes its report.
///
/// # Errors
///
/// When the environment does not run, the alarm does not go off, or events were lost.
pub(super) fn run(
    arguments: &LedgerArgs,
    environment: &str,
    root: &Path,
    directory: &Path,
) -> Result<ExitCode> {
    let program = Program::find(root, environment, SYSTEM)?;
    let course = Course {
        arguments,
        program,
        observer: Observer::start(root, environment, SYSTEM)?,
        topics: Topics::find(root, environment)?,
        database: Database::new(root, environment),
        interrupted: interruption()?,
        live: Live::new(),
    };
    let Some((walked, counts)) = course.walk()? else {
        println!("interrupted: events and the neighbour have ended; there is no report of half a course");
        return Ok(ExitCode::from(130));
    };
    let figures = Figures::of(&walked.samples, &walked.told, &walked.moments, walked.threshold);
    let report = Report {
        environment: environment.to_owned(),
        rate: arguments.rate,
        begun_ms: walked.begun_ms,
        alarm: walked.alarm,
        threshold: walked.threshold,
        moments: walked.moments,
        drained_seconds: walked.drained_seconds,
        counts,
        figures,
        samples: walked.samples,
        told: walked.told,
    };
    report::write(directory, &report)?;
    println!("\n{}", report.text());
    println!("wrote {}", directory.join("report.html").display());
    if !report.counts.are_right() {
        bail!("events were lost, or counted twice, or rows have regressed: {}", report.counts);
    }
    Ok(ExitCode::SUCCESS)
}

impl Course<'_> {
    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Walks it; nothing where it was interrupted. What it has started ends with it in any case.
    fn walk(mut self) -> Result<Option<(Walked, Counts)>> {
        if !self.rest()? {
            return Ok(None);
        }
        let before = self.database.tally()?;
        let mut events = self.program.start(&arguments(Some(self.arguments.rate), TRAFFIC_MAX))?;
        let mut walked = Walked::default();
        if !self.begin(&mut events, &mut walked)? {
            return Ok(None);
        }
        let mut neighbour = None;
        let mut step = Step::Happy;
        self.live.step(step.words());
        loop {
            if self.is_interrupted() {
                return Ok(None);
            }
            if !events.runs()? {
                events.end()?;
                bail!("the events have ended early");
            }
            for seen in self.observer.seen(PATIENCE)? {
                walked.take(&seen, &events, step);
                self.live.show(&Scene { step: step.words(), walked: &walked });
            }
            let at = (now_ms().cast_signed() - walked.begun_ms) as f64 / 1000.0;
            let next = match step {
                Step::Happy if at >= f64::from(self.arguments.happy) => {
                    walked.moments.neighbour = at;
                    let mut asked = arguments(None, TRAFFIC_MAX);
                    asked.extend(["--sessions".to_owned(), self.arguments.sessions.to_string()]);
                    neighbour = Some(self.program.start(&asked)?);
                    Step::Pressed
                }
                Step::Pressed if walked.red_for(at) >= RED_SECONDS => {
                    self.end_neighbour(neighbour.take())?;
                    walked.moments.calm = at;
                    Step::Recovering
                }
                Step::Pressed
                    if at > walked.moments.neighbour + ALARM_SECONDS && walked.red_for(at) <= 0.0 =>
                {
                    let most = walked.samples.iter().filter_map(|sample| sample.cpu).fold(0.0, f64::max);
                    bail!(
                        "the mode has not become RED in {ALARM_SECONDS} s: the database took at most {most:.0}% of the \
                         processors; --sessions makes the neighbour noisier"
                    );
                }
                Step::Recovering if walked.has_recovered() => Step::Calm,
                Step::Recovering if at > walked.moments.calm + RECOVERY_SECONDS => {
                    bail!("the writers have not come back to full speed in {RECOVERY_SECONDS} s")
                }
                Step::Calm if at > walked.moments.recovered + CALM_SECONDS => break,
                same => same,
            };
            if next != step {
                if next == Step::Calm {
                    walked.moments.recovered = at;
                }
                step = next;
                self.live.step(step.words());
            }
        }
        walked.moments.end = (now_ms().cast_signed() - walked.begun_ms) as f64 / 1000.0;
        let sent = events.end()?;
        if !self.drain(&mut walked)? {
            return Ok(None);
        }
        let produced = sent.get("events").and_then(Json::as_u64).context("the events were not counted")?;
        let acknowledged = sent.get("records_acknowledged").and_then(Json::as_u64).unwrap_or(0);
        let after = self.database.tally()?;
        Ok(Some((walked, Counts::of(produced, acknowledged, &before, &after))))
    }

    fn end_neighbour(&mut self, neighbour: Option<Started>) -> Result<()> {
        neighbour.context("there is no neighbour")?.end().map(drop)
    }

    /// Waits until nothing waits and the mode is GREEN; whether it came to that.
    fn rest(&mut self) -> Result<bool> {
        println!("waiting until nothing waits and the mode is GREEN");
        let begun = Instant::now();
        let mut mode = None;
        loop {
            if self.is_interrupted() {
                return Ok(false);
            }
            if let Some(seen) = self.observer.seen(PATIENCE)?.pop() {
                mode = seen.mode.map(|(mode, _)| mode);
            }
            let lag = self.topics.lag()?;
            if lag == 0 && mode.as_deref() == Some("GREEN") {
                return Ok(true);
            }
            if begun.elapsed() > REST_TIMEOUT {
                bail!(
                    "the ledger does not come to rest: {lag} records wait, the mode is {}",
                    mode.unwrap_or_else(|| "unknown".to_owned())
                );
            }
        }
    }

    /// Waits until writers tell of themselves; whether it came to that. The course begins then.
    fn begin(&mut self, events: &mut Started, walked: &mut Walked) -> Result<bool> {
        println!("{} events/s begin", self.arguments.rate);
        let begun = Instant::now();
        let mut first = None;
        loop {
            if self.is_interrupted() {
                return Ok(false);
            }
            for seen in self.observer.seen(PATIENCE)? {
                first = first.or_else(|| (seen.written() > 0).then(Instant::now));
                walked.limits.hear(&seen);
                walked.sent = sent(events).map(|sent| (sent, seen.at_ms));
            }
            // Functions start in the first seconds.
            if first.is_some_and(|first| first.elapsed() > Duration::from_secs(5)) {
                walked.begun_ms = now_ms().cast_signed();
                return Ok(true);
            }
            if begun.elapsed() > BEGIN_TIMEOUT {
                bail!(
                    "no event was written in {} s; see target/local/logs/event-sources.log",
                    BEGIN_TIMEOUT.as_secs()
                );
            }
        }
    }

    /// Waits until nothing waits any more; whether it came to that.
    fn drain(&mut self, walked: &mut Walked) -> Result<bool> {
        let begun = Instant::now();
        loop {
            let lag = self.topics.lag()?;
            if lag == 0 {
                walked.drained_seconds = begun.elapsed().as_secs_f64();
                return Ok(true);
            }
            if self.is_interrupted() {
                return Ok(false);
            }
            if begun.elapsed() > DRAIN_TIMEOUT {
                bail!("{lag} records wait {} s after the last event", DRAIN_TIMEOUT.as_secs());
            }
            std::thread::sleep(PATIENCE);
        }
    }
}

fn sent(events: &Started) -> Option<f64> {
    events.told()?.get("events")?.as_f64()
}

impl Walked {
    /// Takes in what was seen.
    fn take(&mut self, seen: &Seen, events: &Started, step: Step) {
        self.limits.hear(seen);
        let at = |at_ms: i64| (at_ms - self.begun_ms) as f64 / 1000.0;
        let at_seconds = at(seen.at_ms).max(0.0);
        let told = |telling: &crate::observer::Telling| Told {
            at_seconds: at(telling.at_ms),
            limit: telling.limit,
            writer: telling.writer.clone().unwrap_or_default(),
        };
        let tellings: Vec<Told> = seen.writers().map(told).collect();
        let ages: Vec<f64> = seen.writers().flat_map(|telling| telling.ages.iter().copied()).collect();
        let now = sent(events).unwrap_or(0.0);
        let (sent_before, before_ms) = self.sent.unwrap_or((now, seen.at_ms - 1000));
        let span = ((seen.at_ms - before_ms) as f64 / 1000.0).max(0.1);
        let before = self.samples.last().copied().unwrap_or_default();
        let (writers, limit) = self.limits.sum();
        let mode = seen.mode.as_ref();
        self.samples.push(Sample {
            at_seconds,
            cpu: seen.cpu,
            mode: mode.map_or(before.mode, |(mode, _)| severity(mode)),
            mode_since_seconds: mode.map_or(before.mode_since_seconds, |(_, since_ms)| at(*since_ms)),
            writers,
            limit,
            in_per_second: (now - sent_before).max(0.0) / span,
            out_per_second: seen.written() as f64 / span,
            lag: seen.lag().map_or(before.lag, |lag| lag as f64),
            age_p95: percentile(ages, 95.0).unwrap_or(before.age_p95),
            connections: seen.connections.unwrap_or(before.connections),
        });
        self.sent = Some((now, seen.at_ms));
        self.told.extend(tellings);
        self.threshold = seen.cpu_threshold.or(self.threshold);
        if step == Step::Pressed && seen.alarm.is_some() {
            self.alarm.clone_from(&seen.alarm);
        }
    }

    /// How long the mode has been RED, in seconds; 0 where it is not.
    fn red_for(&self, at: f64) -> f64 {
        match self.samples.last() {
            Some(sample) if sample.mode == severity("RED") => {
                (at - sample.mode_since_seconds.max(self.moments.neighbour)).max(0.001)
            }
            _ => 0.0,
        }
    }

    /// Whether all is as it was before the neighbour came.
    fn has_recovered(&self) -> bool {
        let figures = Figures::of(&self.samples, &self.told, &self.moments, self.threshold);
        figures.seconds_to_green.is_some()
            && figures.seconds_to_full_limit.is_some()
            && figures.seconds_to_lag.is_some()
    }
}
