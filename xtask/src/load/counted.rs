//! Traffic of a program that counts, at its end, what came out at the far end of the system.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

use super::{
    Traffic,
    program::{Ended, Program, Started},
};
use crate::observer::Observer;

/// How long the first look may take.
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// How long the program may need after its time: 30 s for what is not acknowledged yet, 120 s for what has not come out,
/// and what it takes to begin and to end.
const COUNTS_FOR: Duration = Duration::from_secs(180);

/// What a program can be asked for, in records per second.
const RATE_MIN: f64 = 0.1;

/// What is told of a system, of what is seen of it and of what its program counted. No I/O.
pub(crate) trait Account: Default {
    /// The system.
    const SYSTEM: &'static str;
    /// What the program makes, in its figures and in words.
    const RECORDS: &'static str;
    /// Takes in a look at the system.
    fn hear(&mut self, look: &Json);
    /// What was seen of the system of late, figure by figure; `seconds` since this was asked before.
    fn figures(&mut self, seconds: f64) -> Vec<String>;
    /// What was sent, and what the system's entrance took of it.
    fn sent(&self, report: &Json) -> String;
    /// What came of it. `None` where the program did not count.
    fn came(&self, report: &Json) -> Option<Counts>;
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Counts {
    /// In words.
    pub(crate) words: String,
    /// How long after the last record all was out; nothing where it never was.
    pub(crate) settled_seconds: Option<f64>,
}

/// What is asked for.
pub(crate) struct Asked<'a> {
    /// Records per second.
    pub(crate) rate: f64,
    /// For how long.
    pub(crate) duration: Duration,
    /// What the program is asked for beside that.
    pub(crate) options: &'a [String],
}

impl Asked<'_> {
    /// The program's arguments.
    fn arguments(&self) -> Vec<String> {
        let seconds = format!("{}s", self.duration.as_secs().max(1));
        let all = ["--rate", &self.rate.to_string(), "--for", &seconds, "--verify"].map(str::to_owned);
        all.into_iter().chain(self.options.iter().cloned()).collect()
    }
}

/// Such traffic.
pub(crate) struct Counted<A> {
    account: A,
    program: Program,
    arguments: Vec<String>,
    rate: f64,
    observer: Observer,
    running: Option<Started>,
    /// When was looked last, and how many records had been sent and were acknowledged.
    before: (Instant, f64, f64),
    ended: Ended,
}

impl<A: Account> Counted<A> {
    /// Finds the program, and has the running environment looked at.
    ///
    /// # Errors
    ///
    /// When the environment is not local, does not have the system, or does not run.
    pub(crate) fn find(root: &Path, environment: &str, asked: &Asked<'_>) -> Result<Self> {
        if asked.rate < RATE_MIN {
            bail!("the --rate of {} is from {RATE_MIN} to 100000", A::SYSTEM);
        }
        let program = Program::find(root, environment, A::SYSTEM)?;
        let mut observer = Observer::start(root, environment, A::SYSTEM)?;
        let mut account = A::default();
        observer.looks(FIRST_LOOK)?.iter().for_each(|look| account.hear(look));
        Ok(Self {
            account,
            program,
            arguments: asked.arguments(),
            rate: asked.rate,
            observer,
            running: None,
            before: (Instant::now(), 0.0, 0.0),
            ended: Ended::default(),
        })
    }

    fn hear(&mut self, wait: Duration) -> Result<()> {
        self.observer.looks(wait)?.iter().for_each(|look| self.account.hear(look));
        Ok(())
    }
}

/// A number among a program's figures.
pub(crate) fn number(report: &Json, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Json::as_f64).unwrap_or(0.0)
}

/// The alarms that ring, as a look names them.
pub(crate) fn ringing(look: &Json) -> Vec<String> {
    let alarms = look.pointer("/alarms/ringing").and_then(Json::as_array).into_iter().flatten();
    alarms.filter_map(|alarm| alarm.get("name")?.as_str()).map(str::to_owned).collect()
}

/// A figure that may not be known.
pub(crate) fn known<T: ToString>(figure: Option<T>) -> String {
    figure.map_or_else(|| "?".to_owned(), |figure| figure.to_string())
}

/// Ages, as a program tells them.
pub(crate) fn ages(report: &Json, pointer: &str) -> String {
    match report.pointer(pointer).filter(|ages| ages.is_object()) {
        None => "no ages were told".to_owned(),
        Some(ages) => format!(
            "of {} ages p50 {:.2} s, p95 {:.2} s, p99 {:.2} s",
            number(ages, "/count"),
            number(ages, "/p50_seconds"),
            number(ages, "/p95_seconds"),
            number(ages, "/p99_seconds")
        ),
    }
}

impl<A: Account> Traffic for Counted<A> {
    fn begin(&mut self) -> Result<String> {
        self.running = Some(self.program.start(&self.arguments)?);
        self.before = (Instant::now(), 0.0, 0.0);
        Ok(format!("{}: {} {}/s", A::SYSTEM, self.rate, A::RECORDS))
    }

    fn look(&mut self) -> Result<Vec<String>> {
        self.hear(Duration::ZERO)?;
        let told = self.running.as_ref().and_then(Started::told).unwrap_or_default();
        let (sent, taken) =
            (number(&told, &format!("/{}", A::RECORDS)), number(&told, "/records_acknowledged"));
        let (at, sent_before, taken_before) =
            std::mem::replace(&mut self.before, (Instant::now(), sent, taken));
        let seconds = at.elapsed().as_secs_f64().max(1e-3);
        let per_second = |before: f64, now: f64| (now - before).max(0.0) / seconds;
        let mut figures = vec![
            format!("sent {:>6.1}/s", per_second(sent_before, sent)),
            format!("acknowledged {:>6.1}/s", per_second(taken_before, taken)),
        ];
        figures.extend(self.account.figures(seconds));
        Ok(figures)
    }

    fn goes(&mut self) -> Result<bool> {
        self.running.as_mut().map_or(Ok(false), Started::runs)
    }

    fn end(&mut self) -> Result<String> {
        let Some(mut running) = self.running.take() else { return Ok("nothing was sent".to_owned()) };
        self.ended = running.finish()?;
        match (&self.ended.figures, &self.ended.complaint) {
            // One that could not begin has no figures but those of before.
            (Some(report), _) if report.get("seconds").is_some() => Ok(self.account.sent(report)),
            (_, Some(complaint)) => bail!("{complaint}"),
            (_, None) => bail!("the program tells no figures"),
        }
    }

    fn caught_up(&mut self) -> Result<Option<String>> {
        // What the last of it left behind is seen by the look after the next.
        for _ in 0..2 {
            self.hear(FIRST_LOOK)?;
        }
        let report = self.ended.figures.as_ref().context("the program tells no figures")?;
        let counts = self.account.came(report);
        if let Some(complaint) = &self.ended.complaint {
            let words = counts.map(|counts| format!(": {}", counts.words)).unwrap_or_default();
            bail!("{complaint}{words}");
        }
        let counts = counts.context("the program did not count what came out")?;
        Ok(Some(counts.words))
    }

    fn counts_for(&self) -> Duration {
        COUNTS_FOR
    }

    fn settled_seconds(&self) -> Option<f64> {
        self.account.came(self.ended.figures.as_ref()?)?.settled_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_asked_for_what_was_asked_for_and_to_count() {
        let options = ["--malformed".to_owned(), "0.1".to_owned()];
        let asked = Asked { rate: 200.0, duration: Duration::from_secs(30), options: &options };
        assert_eq!(asked.arguments(), ["--rate", "200", "--for", "30s", "--verify", "--malformed", "0.1"]);
    }

    #[test]
    fn ages_are_told_or_that_there_are_none() {
        let report = serde_json::json!({
            "ages": {"count": 3, "p50_seconds": 0.5, "p95_seconds": 1.25, "p99_seconds": 2.0}, "none": null,
        });
        assert_eq!(ages(&report, "/ages"), "of 3 ages p50 0.50 s, p95 1.25 s, p99 2.00 s");
        assert_eq!(ages(&report, "/none"), "no ages were told");
    }
}
