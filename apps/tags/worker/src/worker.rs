//! Writes batches of changes to the cache.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{StreamExt, TryStreamExt, stream};
use tag_store::{Channel, StoreError, Update, writer::Writer};
use worker_contract::tags::WorkerConfiguration;
use worker_kit::{
    batch::Record,
    consumer::ConsumerSettings,
    dead_letters::Rejection,
    lanes::Limits,
    processing::{BatchHandler, HandleError},
    retry::RetryPolicy,
};

use crate::message::{Bounds, TagChange, read};

/// Channels of a batch that are written at once.
const CHANNELS_AT_ONCE: usize = 32;

/// Changes of a channel that are written by one call: the cache does nothing else meanwhile.
const CHANGES_AT_ONCE: usize = 100;

/// Payload bytes in a batch, at most.
const BATCH_BYTES: usize = 1 << 20;

/// Full batches that wait in a lane.
const BATCHES_WAITING: usize = 4;

/// Writes changes to the cache, those of a channel in their order.
pub struct TagWriter {
    writer: Writer,
    bounds: Bounds,
    now_ms: fn() -> u64,
    applied: AtomicU64,
    known: AtomicU64,
}

impl TagWriter {
    /// To a cache. `now_ms` gives milliseconds since the epoch.
    #[must_use]
    pub fn new(writer: Writer, bounds: Bounds, now_ms: fn() -> u64) -> Self {
        Self { writer, bounds, now_ms, applied: AtomicU64::new(0), known: AtomicU64::new(0) }
    }

    /// Changes that changed something so far.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Changes so far that were there already.
    #[must_use]
    pub fn known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    async fn write(&self, channel: &Channel, updates: &[Update]) -> Result<(), StoreError> {
        for part in updates.chunks(CHANGES_AT_ONCE) {
            let written = self.writer.write(channel, part, (self.now_ms)()).await?;
            self.applied.fetch_add(written.applied, Ordering::Relaxed);
            self.known.fetch_add(written.known, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl BatchHandler for TagWriter {
    type Item = TagChange;

    fn decode(&self, record: Record<'_>) -> Result<TagChange, Rejection> {
        read(record, &self.bounds, (self.now_ms)())
    }

    async fn handle(&self, changes: &[TagChange]) -> Result<(), HandleError> {
        let mut places: HashMap<&Channel, usize> = HashMap::new();
        let mut channels: Vec<(&Channel, Vec<Update>)> = Vec::new();
        for change in changes {
            let place = *places.entry(&change.channel).or_insert(channels.len());
            if place == channels.len() {
                channels.push((&change.channel, Vec::new()));
            }
            if let Some((_, updates)) = channels.get_mut(place) {
                updates.push(change.update.clone());
            }
        }
        // Collected first: a stream over borrowed channels would not be `Send`.
        let writes: Vec<_> = channels.iter().map(|(channel, updates)| self.write(channel, updates)).collect();
        stream::iter(writes).buffer_unordered(CHANNELS_AT_ONCE).try_collect::<()>().await.map_err(|error| {
            match error {
                StoreError::Busy(_) => HandleError::Retriable(error.to_string()),
                StoreError::Refused(_) | StoreError::Form(_) => HandleError::Fatal(error.to_string()),
            }
        })
    }
}

/// Milliseconds since the epoch by the machine's clock.
#[must_use]
pub fn machine_time_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The bounds of messages, as the configuration says.
#[must_use]
pub fn bounds(configuration: &WorkerConfiguration) -> Bounds {
    Bounds {
        message_bytes_max: usize::try_from(configuration.message_bytes_max).unwrap_or(usize::MAX),
        expiry_seconds: configuration.expiry_seconds,
    }
}

/// The consumer's settings, as the configuration says.
#[must_use]
pub fn settings(configuration: &WorkerConfiguration, client_id: &str) -> ConsumerSettings {
    ConsumerSettings {
        kafka: configuration.kafka.clone(),
        topic: configuration.topic.clone(),
        group: configuration.consumer_group.clone(),
        client_id: client_id.to_owned(),
        limits: Limits {
            records: configuration.batch_size as usize,
            bytes: BATCH_BYTES,
            timeout: Duration::from_secs_f64(configuration.batch_timeout_seconds),
            in_flight: configuration.batches_in_flight as usize,
            waiting: BATCHES_WAITING,
        },
        retry: RetryPolicy::within(Duration::from_secs_f64(configuration.retry_budget_seconds)),
        drain_timeout: Duration::from_secs_f64(configuration.drain_timeout_seconds),
    }
}
