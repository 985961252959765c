//! What a run came to.

use crate::scaling::Milliseconds;

/// The width of a bucket of ages, in milliseconds.
const BUCKET: u64 = 10;

/// How old messages were when their effect was there, counted to 10 ms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ages {
    buckets: Vec<u64>,
    count: u64,
}

impl Ages {
    /// Counts messages of an age in milliseconds.
    pub fn record(&mut self, age: u64, messages: u64) {
        let bucket = (age / BUCKET) as usize;
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += messages;
            self.count += messages;
        }
    }

    /// Counts what others counted as well.
    pub fn add(&mut self, others: &Ages) {
        for (bucket, messages) in (0u64..).zip(&others.buckets).filter(|(_, messages)| **messages > 0) {
            self.record(bucket * BUCKET, *messages);
        }
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The age in seconds that so many per cent did not exceed; 0 where there was none.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> f64 {
        let wanted = (self.count as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in (1u64..).zip(&self.buckets) {
            seen += count;
            if seen >= wanted {
                return (bucket * BUCKET) as f64 / 1000.0;
            }
        }
        0.0
    }

    /// Per cent that were not older than so many seconds; 100 where there was none.
    #[must_use]
    pub fn percent_within(&self, seconds: f64) -> f64 {
        if self.count == 0 {
            return 100.0;
        }
        let buckets = (seconds * 1000.0 / BUCKET as f64).floor().max(0.0) as usize;
        let within: u64 = self.buckets.iter().take(buckets).sum();
        within as f64 * 100.0 / self.count as f64
    }
}

/// The state at a moment, with rates since the sample before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Seconds from the beginning.
    pub at_seconds: u64,
    /// Messages per second that arrived.
    pub messages_per_second: f64,
    /// Messages per second whose effect came to be.
    pub processed_per_second: f64,
    /// Messages whose offsets are not committed.
    pub lag: u64,
    /// Replicas that are wanted.
    pub replicas: u32,
    /// Replicas in the group.
    pub ready: u32,
    /// The greatest age of a message that no batch had taken, since the sample before, in seconds.
    pub oldest_seconds: f64,
    /// The age that half of the messages did not exceed whose effect came to be since the sample before, in seconds; 0
    /// without any.
    pub age_p50: f64,
    /// The same of 95 in a hundred.
    pub age_p95: f64,
    /// The same of 99 in a hundred.
    pub age_p99: f64,
    /// Replicas times seconds since the beginning.
    pub replica_seconds: f64,
}

/// A change of the replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Seconds from the beginning.
    pub at_seconds: u64,
    /// Replicas before.
    pub from: u32,
    /// Replicas after.
    pub to: u32,
    /// Why, in words.
    pub reason: String,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// How long it lasted, in seconds.
    pub seconds: u64,
    /// Messages that arrived.
    pub sent: u64,
    /// Messages whose effect came to be, dead letters with them.
    pub processed: u64,
    /// Messages that became dead letters.
    pub dead_letters: u64,
    /// Ages of all messages; those that still wait count with their age at the end.
    pub ages: Ages,
    /// The most messages that waited.
    pub max_lag: u64,
    /// The most replicas that were wanted.
    pub max_replicas: u32,
    /// Replicas times milliseconds, from their creation to their end.
    pub replica_milliseconds: u64,
    /// How often partitions were distributed anew.
    pub rebalances: u64,
    /// The state over time.
    pub samples: Vec<Sample>,
    /// Changes of the replicas.
    pub changes: Vec<Change>,
    /// The replicas in the group whenever their number changed, with the moment.
    pub ready: Vec<(Milliseconds, u32)>,
}

impl Outcome {
    /// Replicas times seconds.
    #[must_use]
    pub fn replica_seconds(&self) -> f64 {
        self.replica_milliseconds as f64 / 1000.0
    }

    /// When, from a moment on, so many replicas are in the group for the first time.
    #[must_use]
    pub fn ready_at_least(&self, replicas: u32, from: Milliseconds) -> Option<Milliseconds> {
        let before =
            self.ready.iter().take_while(|(at, _)| *at <= from).last().map_or(0, |(_, ready)| *ready);
        if before >= replicas {
            return Some(from);
        }
        self.ready.iter().find(|(at, ready)| *at > from && *ready >= replicas).map(|(at, _)| *at)
    }

    /// When, from a moment on, no replica is wanted for the first time.
    #[must_use]
    pub fn none_wanted(&self, from: Milliseconds) -> Option<Milliseconds> {
        self.changes
            .iter()
            .find(|change| change.to == 0 && change.at_seconds * 1000 >= from)
            .map(|change| change.at_seconds * 1000)
    }
}
