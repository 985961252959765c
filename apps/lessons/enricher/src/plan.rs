//! What is to be done about a batch, without I/O.

use std::collections::{BTreeMap, HashMap, HashSet};

use lesson_events::{Accounts, EntityKey, Event, Received};

use crate::ports::{BYTES_MAX, Outgoing, RECORDS_MAX};

/// A record of the batch, as it was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An event.
    Event(Box<Received>),
    /// None; it goes to the failed ones.
    Refused(Failure),
}

/// Why a record cannot be processed, now or ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A word: `malformed`, `user_unknown`, `subscription_unknown` or `subscription_expired`.
    pub cause: &'static str,
    /// What exactly is wrong.
    pub error: String,
}

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Result {
    /// A user or subscription: it goes out as it came.
    Passed,
    /// A lesson, enriched.
    Enriched(Vec<u8>),
    /// It goes to the failed ones.
    Failed(Failure),
}

/// Understands the records of a batch.
pub fn understand<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> Vec<Entry> {
    payloads
        .map(|payload| match Received::parse(payload) {
            Ok(received) => Entry::Event(Box::new(received)),
            Err(invalid) => Entry::Refused(Failure { cause: "malformed", error: invalid.to_string() }),
        })
        .collect()
}

/// What has to be read before the batch can be worked through: each key once.
#[must_use]
pub fn keys_to_read(entries: &[Entry]) -> Vec<EntityKey> {
    let mut seen = HashSet::new();
    entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Event(received) => match &received.event {
                Event::Lesson(lesson) => Some(EntityKey::of_lesson(lesson)),
                Event::User(_) | Event::Subscription(_) => None,
            },
            Entry::Refused(_) => None,
        })
        .flatten()
        .filter(|key| seen.insert(key.clone()))
        .collect()
}

/// The first record that cannot be worked on, because what it needs could not be read.
#[must_use]
pub fn first_without(entries: &[Entry], unread: &HashSet<EntityKey>) -> usize {
    let needs_unread = |entry: &Entry| match entry {
        Entry::Event(received) => match &received.event {
            Event::Lesson(lesson) => EntityKey::of_lesson(lesson).iter().any(|key| unread.contains(key)),
            Event::User(_) | Event::Subscription(_) => false,
        },
        Entry::Refused(_) => false,
    };
    entries.iter().position(needs_unread).unwrap_or(entries.len())
}

/// Works through the entries in order: what a user or subscription event tells is seen by the lessons after it
/// and not by those before.
#[must_use]
pub fn work_through(entries: &[Entry], mut accounts: Accounts) -> Vec<Result> {
    entries
        .iter()
        .map(|entry| match entry {
            Entry::Refused(failure) => Result::Failed(failure.clone()),
            Entry::Event(received) => match &received.event {
                Event::Lesson(lesson) => match accounts.enrich(received, lesson) {
                    Ok(enriched) => Result::Enriched(enriched.to_json(received).to_string().into_bytes()),
                    Err(missing) => {
                        Result::Failed(Failure { cause: missing.cause(), error: missing.to_string() })
                    }
                },
                Event::User(_) | Event::Subscription(_) => {
                    accounts.apply(received);
                    Result::Passed
                }
            },
        })
        .collect()
}

/// What is written of one user or subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The newest of the batch's events about it.
    pub newest: usize,
    /// All of the batch's events about it.
    pub events: Vec<usize>,
}

/// One write for each user or subscription that the entries tell about: of several events the newest alone, the
/// first of those that are equally new.
#[must_use]
pub fn writes(entries: &[Entry]) -> Vec<Write> {
    let mut order: Vec<(u64, Write)> = Vec::new();
    let mut places: HashMap<EntityKey, usize> = HashMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let Entry::Event(received) = entry else { continue };
        let Some(key) = EntityKey::told_by(&received.event) else { continue };
        let place = *places.entry(key).or_insert_with(|| {
            order.push((received.sequence, Write { newest: index, events: Vec::new() }));
            order.len() - 1
        });
        if let Some((version, write)) = order.get_mut(place) {
            if received.sequence > *version {
                (*version, write.newest) = (received.sequence, index);
            }
            write.events.push(index);
        }
    }
    order.into_iter().map(|(_, write)| write).collect()
}

/// Divides records into requests to be made one after another. A stream gives the records of a request no order,
/// and may take the later of two and not the earlier; so no request has two records of one partition key, and the
/// n-th record of a key goes before the (n+1)-th.
#[must_use]
pub fn requests(records: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let mut rounds: BTreeMap<usize, Vec<Outgoing>> = BTreeMap::new();
    let mut of_key: HashMap<String, usize> = HashMap::new();
    for record in records {
        let round = of_key.entry(record.partition_key.clone()).or_default();
        rounds.entry(*round).or_default().push(record);
        *round += 1;
    }
    rounds.into_values().flat_map(chunks).collect()
}

fn chunks(records: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let mut chunks: Vec<Vec<Outgoing>> = Vec::new();
    let mut bytes = 0;
    for record in records {
        let size = record.data.len() + record.partition_key.len();
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < RECORDS_MAX && bytes + size <= BYTES_MAX => {
                bytes += size;
                chunk.push(record);
            }
            _ => {
                bytes = size;
                chunks.push(vec![record]);
            }
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Requests keep the limits, hold each record once, and keep the order of each key.
        #[test]
        fn requests_keep_limits_and_order(keys in proptest::collection::vec((0u8..30, 0usize..200_000), 0..700)) {
            let records: Vec<Outgoing> = keys
                .iter()
                .enumerate()
                .map(|(index, (key, bytes))| Outgoing {
                    index, partition_key: key.to_string(), data: vec![0; *bytes],
                })
                .collect();
            let requests = requests(records);
            let mut last: HashMap<String, usize> = HashMap::new();
            let mut count = 0;
            for request in &requests {
                prop_assert!(!request.is_empty() && request.len() <= RECORDS_MAX);
                let bytes: usize = request.iter().map(|record| record.data.len() + record.partition_key.len()).sum();
                prop_assert!(bytes <= BYTES_MAX);
                let distinct: HashSet<&str> = request.iter().map(|record| record.partition_key.as_str()).collect();
                prop_assert_eq!(distinct.len(), request.len());
                for record in request {
                    let before = last.insert(record.partition_key.clone(), record.index);
                    prop_assert!(before.is_none_or(|before| before < record.index));
                    count += 1;
                }
            }
            prop_assert_eq!(count, keys.len());
        }
    }
}
