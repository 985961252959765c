//! Carries out what [`plan`](crate::plan) decides, inside a budget of time.
//!
//! Every effect is idempotent (conditional writes, records with ids that follow from their event), so that a batch
//! can come again. What was not done in time is told as the first record from which the stream sends again; nothing
//! behind it counts as done. A lesson that comes again may be enriched by what was told since.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::{StreamExt, future::join};
use lesson_events::{Accounts, Applied, EntityKey};
use worker_kit::{processing::Surroundings, retry::RetryPolicy};

use crate::{
    failed,
    metrics::Counts,
    plan::{self, Entry, Result as Processed},
    ports::{CallError, KEYS_MAX, Known, Outgoing, Stream, Tables},
};

/// Writes to tables at once: each is a call of its own, because a condition is of one item.
const WRITES_AT_ONCE: usize = 16;

/// A record of the stream that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The stream.
    pub stream_arn: String,
    /// The shard.
    pub shard_id: String,
    /// Its place in the shard.
    pub sequence_number: String,
    /// Its partition key.
    pub partition_key: String,
    /// When the stream took it.
    pub arrived_at: DateTime<Utc>,
    /// What it says.
    pub data: Vec<u8>,
}

/// What became of the records of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How many of the first are done; the stream has to send the others again.
    pub done: usize,
    /// What was done.
    pub counts: Counts,
}

/// Enriches lessons.
pub struct Enricher<T, S, E> {
    /// The tables of users and subscriptions.
    pub tables: T,
    /// Where events go out.
    pub output: S,
    /// Where records go that cannot be processed.
    pub failed: S,
    /// Time and chance.
    pub surroundings: E,
}

/// The time that is left, and how often it was used for another try.
struct Budget<'a, E> {
    surroundings: &'a E,
    deadline: Instant,
    retries: AtomicU64,
}

impl<E: Surroundings> Budget<'_, E> {
    /// Waits before try number `attempt` (the first repetition is 1); `false` when there is no time for one.
    async fn wait(&self, attempt: u32) -> bool {
        let left = self.deadline.saturating_duration_since(self.surroundings.now());
        let policy = RetryPolicy {
            base: Duration::from_millis(50),
            cap: Duration::from_secs(2),
            budget: left,
            deadline: None,
        };
        let Some(wait) = policy.wait(attempt, Duration::ZERO, self.surroundings.random()) else {
            return false;
        };
        self.retries.fetch_add(1, Ordering::Relaxed);
        self.surroundings.sleep(wait).await;
        true
    }

    /// A call, cut off at the deadline.
    async fn call<O: Send>(
        &self,
        call: impl Future<Output = Result<O, CallError>> + Send,
    ) -> Result<O, CallError> {
        let left = self.deadline.saturating_duration_since(self.surroundings.now());
        let late = || CallError::Retriable("the time for the batch is over".to_owned());
        if left.is_zero() {
            return Err(late());
        }
        self.surroundings.within(left, call).await.unwrap_or_else(|| Err(late()))
    }
}

impl<T: Tables, S: Stream, E: Surroundings> Enricher<T, S, E> {
    /// Processes records of one shard, in their order, until the deadline.
    pub async fn process(&self, records: &[Incoming], deadline: Instant) -> Outcome {
        let budget = Budget { surroundings: &self.surroundings, deadline, retries: AtomicU64::new(0) };
        let entries = plan::understand(records.iter().map(|record| record.data.as_slice()));
        let (accounts, unread) = self.read(plan::keys_to_read(&entries), &budget).await;
        let mut done = plan::first_without(&entries, &unread);
        let results = plan::work_through(entries.get(..done).unwrap_or_default(), accounts);

        let (undone, versions) = self.write(entries.get(..done).unwrap_or_default(), &budget).await;
        done = done.min(undone);
        let (output, failed) = outgoing(records, &entries, results.get(..done).unwrap_or_default());
        let (unsent, unkept) =
            join(publish(&self.output, output, &budget), publish(&self.failed, failed, &budget)).await;
        done = done.min(unsent).min(unkept);

        let mut counts = Counts {
            received: records.len() as u64,
            returned: (records.len() - done) as u64,
            retries: budget.retries.load(Ordering::Relaxed),
            ..Counts::default()
        };
        for result in results.iter().take(done) {
            match result {
                Processed::Passed => counts.passed += 1,
                Processed::Enriched(_) => counts.enriched += 1,
                Processed::Failed(failure) => *counts.failed.entry(failure.cause).or_default() += 1,
            }
        }
        for (_, applied) in versions.iter().filter(|(index, _)| *index < done) {
            match applied {
                Applied::Newer => {}
                Applied::Known => counts.known += 1,
                Applied::Older => counts.older += 1,
            }
        }
        Outcome { done, counts }
    }

    /// What the tables know of these keys, and of which they did not tell in time.
    async fn read(&self, mut keys: Vec<EntityKey>, budget: &Budget<'_, E>) -> (Accounts, HashSet<EntityKey>) {
        let mut accounts = Accounts::default();
        let mut attempt = 0;
        while !keys.is_empty() {
            let mut left = Vec::new();
            for chunk in keys.chunks(KEYS_MAX) {
                match budget.call(self.tables.read(chunk)).await {
                    Ok(read) => {
                        for known in read.known {
                            learn(&mut accounts, known);
                        }
                        left.extend(read.unprocessed);
                    }
                    Err(CallError::Retriable(error)) => {
                        tracing::warn!(error, keys = chunk.len(), "the tables were not read");
                        left.extend_from_slice(chunk);
                    }
                    Err(CallError::Fatal(error)) => {
                        tracing::error!(error, "the tables cannot be read; the records go back");
                        return (accounts, keys.into_iter().collect());
                    }
                }
            }
            // A read that got on is not one that failed.
            attempt = if left.len() < keys.len() { 1 } else { attempt + 1 };
            keys = left;
            if !keys.is_empty() && !budget.wait(attempt).await {
                break;
            }
        }
        (accounts, keys.into_iter().collect())
    }

    /// Writes what the entries tell; the first entry that was not written, and what became of each event that
    /// was.
    async fn write(&self, entries: &[Entry], budget: &Budget<'_, E>) -> (usize, Vec<(usize, Applied)>) {
        let mut undone = entries.len();
        let mut versions = Vec::new();
        // Collected first: a stream over borrowed events would not be `Send`.
        let writes: Vec<_> = plan::writes(entries)
            .into_iter()
            .map(|write| async move {
                let newest = entries.get(write.newest);
                let Some(Entry::Event(event)) = newest else { return (write, None) };
                let applied = self.write_one(event, budget).await;
                (write, applied)
            })
            .collect();
        let mut results = futures::stream::iter(writes).buffer_unordered(WRITES_AT_ONCE);
        while let Some((write, applied)) = results.next().await {
            let version_of = |index: usize| match entries.get(index) {
                Some(Entry::Event(event)) => Some(event.sequence),
                _ => None,
            };
            match applied {
                None => undone = undone.min(write.events.first().copied().unwrap_or(0)),
                Some(applied) => versions.extend(write.events.iter().map(|index| {
                    let same = *index == write.newest;
                    let equal = version_of(*index) == version_of(write.newest);
                    let of_batch = if equal { Applied::Known } else { Applied::Older };
                    (*index, if same { applied } else { of_batch })
                })),
            }
        }
        (undone, versions)
    }

    /// `None` when it was not written in time.
    async fn write_one(&self, event: &lesson_events::Received, budget: &Budget<'_, E>) -> Option<Applied> {
        for attempt in 1.. {
            match budget.call(self.tables.write(event)).await {
                Ok(applied) => return Some(applied),
                Err(CallError::Retriable(error)) => {
                    tracing::warn!(error, event = event.id, "not written");
                }
                Err(CallError::Fatal(error)) => {
                    tracing::error!(error, event = event.id, "cannot be written; the records go back");
                    return None;
                }
            }
            if !budget.wait(attempt).await {
                return None;
            }
        }
        None
    }
}

fn learn(accounts: &mut Accounts, known: Known) {
    match known {
        Known::User(user_uuid, user) => accounts.learn_user(&user_uuid, user),
        Known::Subscription(user_uuid, language, subscription) => {
            accounts.learn_subscription(&user_uuid, &language, subscription)
        }
    };
}

/// The records that go out, and those that go to the failed ones.
fn outgoing(
    records: &[Incoming],
    entries: &[Entry],
    results: &[Processed],
) -> (Vec<Outgoing>, Vec<Outgoing>) {
    let (mut output, mut failed) = (Vec::new(), Vec::new());
    for (index, ((record, entry), result)) in records.iter().zip(entries).zip(results).enumerate() {
        let of_user = |data: Vec<u8>| Outgoing {
            index,
            partition_key: match entry {
                Entry::Event(received) => received.event.user_uuid().to_owned(),
                Entry::Refused(_) => record.partition_key.clone(),
            },
            data,
        };
        match result {
            Processed::Passed => output.push(of_user(record.data.clone())),
            Processed::Enriched(data) => output.push(of_user(data.clone())),
            // Failed ones have no order; spread over the shards they are taken sooner.
            Processed::Failed(failure) => failed.push(Outgoing {
                index,
                partition_key: record.sequence_number.clone(),
                data: failed::record(record, failure),
            }),
        }
    }
    (output, failed)
}

/// Puts records into a stream; the lowest index of those that it did not take in time.
async fn publish<S: Stream, E: Surroundings>(
    stream: &S,
    records: Vec<Outgoing>,
    budget: &Budget<'_, E>,
) -> usize {
    let mut requests = plan::requests(records).into_iter();
    while let Some(mut left) = requests.next() {
        let mut attempt = 0;
        while !left.is_empty() {
            attempt += 1;
            match budget.call(stream.put(&left)).await {
                Ok(taken) => {
                    let before = left.len();
                    let mut taken = taken.into_iter();
                    left.retain(|_| !taken.next().unwrap_or(false));
                    if left.len() < before {
                        attempt = 1;
                    }
                }
                Err(CallError::Retriable(error)) => {
                    tracing::warn!(error, records = left.len(), "the stream did not take records");
                }
                Err(CallError::Fatal(error)) => {
                    tracing::error!(error, "the stream cannot be written to; the records go back");
                    return lowest(left.iter().chain(requests.as_slice().iter().flatten()));
                }
            }
            if !left.is_empty() && !budget.wait(attempt).await {
                return lowest(left.iter().chain(requests.as_slice().iter().flatten()));
            }
        }
    }
    usize::MAX
}

fn lowest<'a>(records: impl Iterator<Item = &'a Outgoing>) -> usize {
    records.map(|record| record.index).min().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
