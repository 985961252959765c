//! Load: records on a schedule that does not wait for anybody, and the count of what became of them. Where the brokers
//! or the machine are too slow, that shows as what was not sent.

use std::{
    fmt::Display,
    io::Write,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    client::OAuthToken,
    config::FromClientConfigAndContext,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use worker_contract::{
    KafkaConfiguration,
    load::{RATE_BOUNDS, SECONDS_BOUNDS},
};

use crate::{
    kafka::{TokenSource, producer_config},
    program,
    schedule::Schedule,
};

/// What became of records so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All in-sync replicas have them.
    pub acknowledged: u64,
    /// The client gave them up; nobody knows whether the brokers have them.
    pub failed: u64,
    /// They were not sent, because too many waited.
    pub refused: u64,
}

impl Counts {
    /// Those that are not known to be there.
    #[must_use]
    pub fn not_taken(self) -> u64 {
        self.failed + self.refused
    }
}

#[derive(Default)]
struct Counters {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

/// Hears of each acknowledged record, by what it was sent with.
type Heard<T> = Box<dyn Fn(&T) + Send + Sync>;

struct Deliveries<T> {
    counters: Arc<Counters>,
    heard: Heard<T>,
    tokens: TokenSource,
}

impl<T: Send + Sync + 'static> ClientContext for Deliveries<T> {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client");
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.tokens.token()
    }
}

impl<T: Send + Sync + 'static> ProducerContext for Deliveries<T> {
    type DeliveryOpaque = Box<T>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent_with: Box<T>) {
        if result.is_ok() {
            self.counters.acknowledged.fetch_add(1, Ordering::Relaxed);
            (self.heard)(&sent_with);
        } else {
            self.counters.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends and counts. Each record is sent with something of the sender's own, which is told again when the brokers have
/// the record.
pub struct LoadProducer<T: Send + Sync + 'static> {
    producer: ThreadedProducer<Deliveries<T>>,
    counters: Arc<Counters>,
}

impl<T: Send + Sync + 'static> LoadProducer<T> {
    /// For a cluster. Called inside a runtime, which signs the tokens; `heard` is called by the client's own thread.
    ///
    /// # Errors
    ///
    /// When the client refuses its settings.
    pub fn new(
        kafka: &KafkaConfiguration,
        client_id: &str,
        heard: impl Fn(&T) + Send + Sync + 'static,
    ) -> KafkaResult<Self> {
        let counters = Arc::new(Counters::default());
        let context = Deliveries {
            counters: counters.clone(),
            heard: Box::new(heard),
            tokens: TokenSource::new(kafka, tokio::runtime::Handle::current()),
        };
        let producer =
            ThreadedProducer::from_config_and_context(&producer_config(kafka, client_id), context)?;
        Ok(Self { producer, counters })
    }

    /// Hands a record to the client. Where too many wait already it is refused, counted, and no error.
    ///
    /// # Errors
    ///
    /// When the client does not take the record for another reason.
    pub fn send(&self, topic: &str, key: Option<&[u8]>, payload: &[u8], sent_with: T) -> KafkaResult<()> {
        let mut record: BaseRecord<'_, [u8], [u8], Box<T>> =
            BaseRecord::with_opaque_to(topic, Box::new(sent_with)).payload(payload);
        if let Some(key) = key {
            record = record.key(key);
        }
        match self.producer.send(record) {
            Ok(()) => Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err((error, _)) => Err(error),
        }
    }

    /// What became of the records so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            acknowledged: read(&self.counters.acknowledged),
            failed: read(&self.counters.failed),
            refused: read(&self.counters.refused),
        }
    }

    /// Waits for what is not acknowledged yet, for so long. What still waits then counts as failed.
    pub async fn finish(self, timeout: Duration) -> Counts {
        // A runtime that ends while this waits loses the counts as well.
        let waited = tokio::task::spawn_blocking(move || {
            let flushed = self.producer.flush(timeout);
            let waiting = u64::try_from(self.producer.in_flight_count()).unwrap_or(0);
            if let Err(error) = flushed {
                tracing::error!(%error, waiting, "not all records were acknowledged in time");
            }
            let counts = self.counts();
            Counts { failed: counts.failed + waiting, ..counts }
        });
        waited.await.unwrap_or_default()
    }
}

/// How far a load is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Times that something was made.
    pub made: u64,
    /// Since the beginning.
    pub seconds: f64,
}

impl Pace {
    /// Times a second, so far.
    #[must_use]
    pub fn per_second(self) -> f64 {
        if self.seconds > 0.0 { self.made as f64 / self.seconds } else { 0.0 }
    }
}

/// How a load goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// Times a second that something is made.
    pub per_second: f64,
    /// For how long.
    pub period: Duration,
    /// How often is told how far it is.
    pub tell_every: Duration,
}

/// Calls `make` as a course says until it is over or `stop` is cancelled, and `tell` meanwhile. It does not wait for what it makes; what it was late with for more than a second it leaves out.
///
/// # Errors
///
/// The first of `make`.
pub async fn at_rate<E>(
    course: Course,
    stop: &CancellationToken,
    mut make: impl FnMut() -> Result<(), E>,
    tell: impl Fn(Pace),
) -> Result<Pace, E> {
    let begun = Instant::now();
    let end = begun + course.period;
    // What is due at the end itself is no longer within the period.
    let last = end - Duration::from_nanos(1);
    let mut schedule = Schedule::new(course.per_second, begun);
    let (mut made, mut told) = (0, begun);
    let pace = |made| Pace { made, seconds: begun.elapsed().as_secs_f64() };
    while let Some(due) = schedule.next().filter(|due| *due < end) {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(due.into()) => {}
        }
        let now = Instant::now().min(last);
        while schedule.take(now) {
            make()?;
            made += 1;
        }
        if told.elapsed() >= course.tell_every {
            told = Instant::now();
            tell(pace(made));
        }
    }
    Ok(pace(made))
}

/// Says how far a load is, as a line of JSON; the line of its end is [`program`]'s. Whether somebody reads: what somebody
/// started who is gone makes no more load.
pub fn tell(figures: &impl Serialize) -> bool {
    let Ok(text) = serde_json::to_string(figures) else { return true };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// Runs a program that makes load to its end. Prints what it did as one line of JSON; the exit code is 0 unless it
/// fails or there is something to complain of.
pub fn program<R: Serialize, E: Display>(
    load: impl Future<Output = Result<R, E>>,
    complaint: impl FnOnce(&R) -> Option<String>,
) -> ExitCode {
    let Some(report) = program::run(load) else { return ExitCode::FAILURE };
    match serde_json::to_string(&report) {
        // Where nobody reads any more, the exit code still tells.
        Ok(text) => drop(writeln!(std::io::stdout(), "{text}")),
        Err(error) => tracing::error!(%error, "the report cannot be written"),
    }
    match complaint(&report) {
        Some(complaint) => {
            tracing::error!("{complaint}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

/// A rate within [`RATE_BOUNDS`], for a command line.
///
/// # Errors
///
/// What a rate is.
pub fn rate(text: &str) -> Result<f64, String> {
    let bounds = RATE_BOUNDS;
    text.parse()
        .ok()
        .filter(|rate| bounds.contains(rate))
        .ok_or_else(|| format!("a rate is from {} to {} per second", bounds.start(), bounds.end()))
}

/// A share, for a command line.
///
/// # Errors
///
/// What a share is.
pub fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share is from 0 to 1".to_owned())
}

/// How long a load is to last, in seconds within [`SECONDS_BOUNDS`], for a command line: a number with `s`, `m` or `h`;
/// without one, seconds.
///
/// # Errors
///
/// What such a time is.
pub fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let unit = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let seconds = unit.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit));
    seconds
        .filter(|seconds| SECONDS_BOUNDS.contains(seconds))
        .ok_or_else(|| format!("`{text}` is no time such as 60s, 10m or 12h, up to a day"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_bounded() {
        assert_eq!(["90", "90s", "10m", "12h"].map(seconds), [90, 90, 600, 43_200].map(Ok));
        for wrong in
            ["", "s", "0s", "25h", "1d", "-1s", "1.5s", "99999999999999999999s", "9999999999999999999h"]
        {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!((rate("500"), share("0.5")), (Ok(500.0), Ok(0.5)));
        assert!(rate("0").is_err() && rate("NaN").is_err() && rate("1e9").is_err() && share("1.1").is_err());
    }

    fn course(per_second: f64, period: Duration) -> Course {
        Course { per_second, period, tell_every: Duration::from_secs(5) }
    }

    async fn made(rate: f64, period: Duration, stop: &CancellationToken) -> u64 {
        at_rate(course(rate, period), stop, || Ok::<(), ()>(()), |_| ())
            .await
            .expect("making does not fail")
            .made
    }

    #[tokio::test]
    async fn a_period_has_as_many_as_the_rate_says_however_the_machine_stalls() {
        let stop = CancellationToken::new();
        for (rate, period_ms, expected) in [(1000.0, 300, 300), (7.0, 500, 4), (0.5, 100, 1)] {
            let count = made(rate, Duration::from_millis(period_ms), &stop).await;
            // The interval is a whole number of nanoseconds: one more may fit in.
            assert!((expected..=expected + 1).contains(&count), "{count} of {expected} at {rate}");
        }
    }

    #[tokio::test]
    async fn a_stop_ends_it_and_an_error_does() {
        let stop = CancellationToken::new();
        let stopped = at_rate(
            course(100.0, Duration::from_secs(3600)),
            &stop,
            || {
                stop.cancel();
                Ok::<(), ()>(())
            },
            |_| (),
        );
        assert!(stopped.await.expect("stopped").made < 100);
        let unstopped = CancellationToken::new();
        let failed = at_rate(course(100.0, Duration::from_secs(3600)), &unstopped, || Err("full"), |_| ());
        assert_eq!(failed.await.expect_err("it fails"), "full");
    }
}
