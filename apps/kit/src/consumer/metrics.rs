//! What a consumer tells of itself.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};
use rdkafka::Statistics;

use crate::{
    batch::Batch,
    dead_letters::Rejection,
    lanes::Progress,
    processing::{Outcome, ProcessingError},
    telemetry::{Health, RateWindow},
};

/// A poll that is this late means that the loop is stuck.
const POLL_LATE: Duration = Duration::from_secs(30);

/// The metrics of a consumer, and what its probes answer.
pub struct ConsumerMetrics {
    registry: Registry,
    processed: IntCounterVec,
    rate: Gauge,
    batch_seconds: Histogram,
    age_seconds: Histogram,
    dead_letters: IntCounterVec,
    retries: IntCounter,
    drain_timeouts: IntCounter,
    commit_failures: IntCounter,
    rebalances: IntCounter,
    start_seconds: GaugeVec,
    in_flight: IntGauge,
    lag_records: IntGaugeVec,
    lag_seconds: GaugeVec,
    window: Mutex<RateWindow>,
    started: Instant,
    last_poll_ms: AtomicU64,
    joined: AtomicBool,
    broker_up: AtomicBool,
    positions: Mutex<Positions>,
}

#[derive(Default)]
struct Positions {
    progress: BTreeMap<i32, Progress>,
    /// Partition -> (end offset, committed or earliest offset), as the client last heard.
    ends: BTreeMap<i32, (i64, i64)>,
    /// Partition -> when it was last known that all its records were done, in ms since the epoch.
    caught_up_ms: BTreeMap<i32, i64>,
}

impl Positions {
    fn lag(&self, partition: i32, progress: &Progress) -> Option<i64> {
        let (end, begin) = self.ends.get(&partition)?;
        Some((end - progress.next_offset.unwrap_or(*begin)).max(0))
    }

    fn note_caught_up(&mut self, now_ms: i64) {
        let caught_up: Vec<i32> = self
            .progress
            .iter()
            .filter(|(partition, progress)| self.lag(**partition, progress) == Some(0))
            .map(|(partition, _)| *partition)
            .collect();
        self.caught_up_ms.extend(caught_up.into_iter().map(|partition| (partition, now_ms)));
    }

    /// A record that waits is younger than the last one that is done, and came after the last time that none
    /// waited.
    fn oldest_ms(&self, partition: i32, progress: &Progress) -> Option<i64> {
        progress.timestamp_ms.max(self.caught_up_ms.get(&partition).copied())
    }
}

impl ConsumerMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// When the registry has metrics of these names already.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let processed = IntCounterVec::new(
            Opts::new("kafka_messages_processed_total", "Records done, by status: success or dead_letter."),
            &["status"],
        )?;
        let rate = Gauge::new("kafka_messages_per_second", "Records done per second, over the last 10 s.")?;
        let batch_seconds = Histogram::with_opts(
            HistogramOpts::new("kafka_batch_processing_seconds", "Time from a batch's start to its effect.")
                .buckets(vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
        )?;
        let age_seconds = Histogram::with_opts(
            HistogramOpts::new("kafka_message_age_seconds", "Age of a record when its batch starts.")
                .buckets(vec![0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0]),
        )?;
        let dead_letters =
            IntCounterVec::new(Opts::new("kafka_dead_letters_total", "Dead letters, by cause."), &["cause"])?;
        let retries = IntCounter::new("kafka_batch_retries_total", "Times that a batch was tried again.")?;
        let drain_timeouts =
            IntCounter::new("kafka_drain_timeouts_total", "Revocations that did not wait for all batches.")?;
        let commit_failures =
            IntCounter::new("kafka_commit_failures_total", "Commits that failed; each is tried again.")?;
        let rebalances = IntCounter::new(
            "kafka_rebalances_total",
            "Rebalances that ended with a new assignment for this member.",
        )?;
        let start_seconds = GaugeVec::new(
            Opts::new(
                "kafka_consumer_start_seconds",
                "Time from the start of the consumer until it was connected, and until it had partitions.",
            ),
            &["phase"],
        )?;
        let in_flight = IntGauge::new("kafka_batches_in_flight", "Batches that are being processed.")?;
        let lag_records = IntGaugeVec::new(
            Opts::new("kafka_consumer_lag_records", "Records that are not done, by partition."),
            &["partition"],
        )?;
        let lag_seconds = GaugeVec::new(
            Opts::new(
                "kafka_consumer_lag_seconds",
                "Age that the oldest record not done has at most, by partition; 0 where all are done.",
            ),
            &["partition"],
        )?;
        registry.register(Box::new(processed.clone()))?;
        registry.register(Box::new(rate.clone()))?;
        registry.register(Box::new(batch_seconds.clone()))?;
        registry.register(Box::new(age_seconds.clone()))?;
        registry.register(Box::new(dead_letters.clone()))?;
        registry.register(Box::new(retries.clone()))?;
        registry.register(Box::new(drain_timeouts.clone()))?;
        registry.register(Box::new(commit_failures.clone()))?;
        registry.register(Box::new(rebalances.clone()))?;
        registry.register(Box::new(start_seconds.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        registry.register(Box::new(lag_records.clone()))?;
        registry.register(Box::new(lag_seconds.clone()))?;
        processed.with_label_values(&["success"]);
        processed.with_label_values(&["dead_letter"]);
        Ok(Self {
            registry,
            processed,
            rate,
            batch_seconds,
            age_seconds,
            dead_letters,
            retries,
            drain_timeouts,
            commit_failures,
            rebalances,
            start_seconds,
            in_flight,
            lag_records,
            lag_seconds,
            window: Mutex::new(RateWindow::new(Duration::from_secs(10))),
            started: Instant::now(),
            last_poll_ms: AtomicU64::new(0),
            joined: AtomicBool::new(false),
            broker_up: AtomicBool::new(false),
            positions: Mutex::default(),
        })
    }

    /// Where the metrics are registered.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// Records done so far: processed and dead-lettered.
    #[must_use]
    pub fn done_total(&self) -> u64 {
        self.processed.with_label_values(&["success"]).get()
            + self.processed.with_label_values(&["dead_letter"]).get()
    }

    /// Dead letters so far.
    #[must_use]
    pub fn dead_letters_total(&self) -> u64 {
        self.processed.with_label_values(&["dead_letter"]).get()
    }

    /// Commits that failed so far; what they were for was committed later or is read again.
    #[must_use]
    pub fn commit_failures_total(&self) -> u64 {
        self.commit_failures.get()
    }

    /// Rebalances so far that ended with a new assignment for this member.
    #[must_use]
    pub fn rebalances_total(&self) -> u64 {
        self.rebalances.get()
    }

    /// How long the start took, in seconds: until the client had the topic's metadata, and until the group gave
    /// it partitions. `None` as long as that has not come.
    #[must_use]
    pub fn start_seconds(&self) -> Option<(f64, f64)> {
        let [connected, joined] =
            ["connected", "joined"].map(|phase| self.start_seconds.with_label_values(&[phase]).get());
        (joined > 0.0).then_some((connected, joined))
    }

    fn since_start_ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn polled(&self, now: Instant) {
        self.last_poll_ms.store(self.since_start_ms(now), Ordering::Relaxed);
    }

    pub(super) fn connected(&self, now: Instant) {
        self.started_until("connected", now);
    }

    pub(super) fn rebalanced(&self, now: Instant) {
        self.rebalances.inc();
        if !self.joined.swap(true, Ordering::Relaxed) {
            self.started_until("joined", now);
        }
    }

    fn started_until(&self, phase: &str, now: Instant) {
        let seconds = now.saturating_duration_since(self.started).as_secs_f64();
        self.start_seconds.with_label_values(&[phase]).set(seconds);
    }

    pub(super) fn commit_failed(&self) {
        self.commit_failures.inc();
    }

    pub(super) fn retried(&self) {
        self.retries.inc();
    }

    pub(super) fn in_flight(&self, batches: usize) {
        self.in_flight.set(i64::try_from(batches).unwrap_or(i64::MAX));
    }

    pub(super) fn drain_timed_out(&self) {
        self.drain_timeouts.inc();
    }

    pub(super) fn dead_letter(&self, rejection: &Rejection) {
        self.dead_letters.with_label_values(&[rejection.cause]).inc();
    }

    pub(super) fn batch_begun(&self, batch: &Batch) {
        let now_ms = now_ms();
        let ages = self.age_seconds.local();
        for timestamp in batch.origins().filter_map(|origin| origin.timestamp_ms) {
            ages.observe((now_ms - timestamp).max(0) as f64 / 1000.0);
        }
        ages.flush();
    }

    pub(super) fn batch_ended(&self, took: Duration, result: &Result<Outcome, ProcessingError>) {
        self.batch_seconds.observe(took.as_secs_f64());
        if let Ok(outcome) = result {
            self.processed.with_label_values(&["success"]).inc_by(outcome.processed as u64);
            self.processed.with_label_values(&["dead_letter"]).inc_by(outcome.dead_letters as u64);
        }
    }

    pub(super) fn progress(&self, assigned: &BTreeMap<i32, Progress>) {
        let mut positions = lock(&self.positions);
        if positions.progress != *assigned {
            positions.progress.clone_from(assigned);
        }
    }

    pub(super) fn statistics(&self, statistics: &Statistics) {
        let up = statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP");
        self.broker_up.store(up, Ordering::Relaxed);
        let mut positions = lock(&self.positions);
        for (partition, facts) in statistics.topics.values().flat_map(|topic| &topic.partitions) {
            if *partition >= 0 && facts.hi_offset >= 0 {
                let begin =
                    if facts.committed_offset >= 0 { facts.committed_offset } else { facts.lo_offset.max(0) };
                positions.ends.insert(*partition, (facts.hi_offset, begin));
            }
        }
        positions.note_caught_up(now_ms());
    }
}

impl Health for ConsumerMetrics {
    fn live(&self, now: Instant) -> Result<(), String> {
        let late = self.since_start_ms(now).saturating_sub(self.last_poll_ms.load(Ordering::Relaxed));
        if u128::from(late) <= POLL_LATE.as_millis() {
            Ok(())
        } else {
            Err(format!("the last poll was {} s ago", late / 1000))
        }
    }

    fn ready(&self, now: Instant) -> Result<(), String> {
        self.live(now)?;
        if !self.joined.load(Ordering::Relaxed) {
            return Err("has not joined its consumer group yet".to_owned());
        }
        if !self.broker_up.load(Ordering::Relaxed) {
            return Err("no broker is reachable".to_owned());
        }
        Ok(())
    }

    fn refresh(&self, now: Instant) {
        self.rate.set(lock(&self.window).rate(self.done_total(), now));
        let positions = lock(&self.positions);
        self.lag_records.reset();
        self.lag_seconds.reset();
        let now_ms = now_ms();
        for (partition, progress) in &positions.progress {
            let Some(lag) = positions.lag(*partition, progress) else { continue };
            let waits_ms = match positions.oldest_ms(*partition, progress) {
                Some(oldest) if lag > 0 => (now_ms - oldest).max(0),
                _ => 0,
            };
            let label = partition.to_string();
            self.lag_records.with_label_values(&[&label]).set(lag);
            self.lag_seconds.with_label_values(&[&label]).set(waits_ms as f64 / 1000.0);
        }
    }
}

/// A panic elsewhere does not make these unusable: they are plain data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since the epoch.
fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After an idle hour a new record has waited for seconds, not for the hour.
    #[test]
    fn an_idle_partition_does_not_look_late() {
        let hour_ms = 3_600_000;
        let done = Progress { next_offset: Some(10), timestamp_ms: Some(0) };
        let mut positions = Positions { progress: BTreeMap::from([(0, done)]), ..Positions::default() };
        positions.ends.insert(0, (10, 0));
        positions.note_caught_up(hour_ms);
        positions.ends.insert(0, (11, 0));
        positions.note_caught_up(hour_ms + 1000);
        assert_eq!(positions.lag(0, &done), Some(1));
        assert_eq!(positions.oldest_ms(0, &done), Some(hour_ms));
        // Where records always wait, the last done one bounds the age.
        let later = Progress { next_offset: Some(10), timestamp_ms: Some(hour_ms + 500) };
        assert_eq!(positions.oldest_ms(0, &later), Some(hour_ms + 500));
    }
}
