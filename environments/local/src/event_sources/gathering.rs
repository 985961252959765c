//! Makes batches of what was read: which records go together, and when.
//!
//! Records wait in lanes. A lane is what has an order of its own: a Kafka partition, or a shard's share of partition keys
//! (`ParallelizationFactor`). A lane is in one batch in flight at most. Kafka lanes are spread over pollers; a poller makes
//! a batch of those of its lanes that are free, and has several in flight. A Kinesis lane is its own poller.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use capacity::ledger::POLLER_INVOCATIONS;

use super::{
    delivery::{ENVELOPE_BYTES, PAYLOAD_BYTES},
    record::Record,
};

/// How long pollers have nothing to do before there are fewer of them, in milliseconds.
const SHRINK_AFTER_MS: i64 = 60_000;

/// Batches that a poller has in flight, at most: what the sizing reckons with.
#[allow(clippy::cast_possible_truncation)]
const IN_FLIGHT_EACH: usize = POLLER_INVOCATIONS as usize;

/// What has an order of its own: a partition or shard, and which share of its keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane {
    /// `topic-partition`, or the shard's id.
    pub part: Arc<str>,
    /// From 0; below the parallelisation factor.
    pub share: u32,
}

/// How lanes become batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pollers {
    /// Every lane is its own.
    EachLane,
    /// Lanes are spread over as many pollers as the outstanding batches need, [`POLLER_INVOCATIONS`] each, within these
    /// bounds.
    Between(usize, usize),
}

/// When a batch is full or due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records, at most.
    pub batch_size: usize,
    /// How long the first record waits for others, in milliseconds.
    pub window_ms: i64,
}

/// A batch that was made.
#[derive(Clone, Debug)]
pub struct Batch {
    /// To tell its end with.
    pub id: u64,
    /// Its records: lane by lane, in each lane's order.
    pub records: Vec<Record>,
}

#[derive(Debug, Default)]
struct Shelf {
    waiting: VecDeque<(Record, i64)>,
    bytes: usize,
    in_flight: bool,
}

impl Shelf {
    fn waiting_since(&self) -> Option<i64> {
        self.waiting.front().map(|(_, since)| *since)
    }
}

/// The lanes with what waits in them.
#[derive(Debug)]
pub struct Gathering {
    limits: Limits,
    pollers: Pollers,
    shelves: BTreeMap<Lane, Shelf>,
    in_flight: BTreeMap<u64, (usize, Vec<Lane>)>,
    /// Pollers at present, where lanes are spread.
    count: usize,
    busy_ms: i64,
    next: u64,
}

impl Gathering {
    /// Without lanes.
    #[must_use]
    pub fn new(limits: Limits, pollers: Pollers) -> Self {
        let count = match pollers {
            Pollers::EachLane => 0,
            Pollers::Between(least, _) => least.max(1),
        };
        let (shelves, in_flight) = (BTreeMap::new(), BTreeMap::new());
        Self { limits, pollers, shelves, in_flight, count, busy_ms: i64::MIN, next: 0 }
    }

    /// A record was read, at a time in milliseconds since 1970.
    pub fn push(&mut self, lane: Lane, record: Record, now_ms: i64) {
        let shelf = self.shelves.entry(lane).or_default();
        shelf.bytes += record.bytes();
        shelf.waiting.push_back((record, now_ms));
    }

    /// Whether as much waits in a lane as two batches take: no more should be read.
    #[must_use]
    pub fn is_full(&self, lane: &Lane) -> bool {
        self.shelves.get(lane).is_some_and(|shelf| {
            shelf.waiting.len() >= 2 * self.limits.batch_size || shelf.bytes >= 2 * PAYLOAD_BYTES
        })
    }

    /// Batches in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Pollers at present.
    #[must_use]
    pub fn pollers(&self) -> usize {
        match self.pollers {
            Pollers::EachLane => self.shelves.len(),
            Pollers::Between(..) => self.count,
        }
    }

    /// A batch that is full or due, if there is one for a poller that is free.
    pub fn next(&mut self, now_ms: i64) -> Option<Batch> {
        let mut due = self.due_groups(now_ms);
        if let Pollers::Between(least, most) = self.pollers {
            let wanted = (self.in_flight.len() + self.due_lanes(now_ms)).div_ceil(IN_FLIGHT_EACH);
            if wanted >= self.count {
                self.busy_ms = now_ms;
            }
            let bound = most.min(self.shelves.len()).max(least).max(1);
            if wanted > self.count && self.count < bound {
                self.count = wanted.min(bound);
                due = self.due_groups(now_ms);
            } else if self.count > least.max(1) && now_ms.saturating_sub(self.busy_ms) >= SHRINK_AFTER_MS {
                self.count -= 1;
                self.busy_ms = now_ms;
                due = self.due_groups(now_ms);
            }
            if self.in_flight.len() >= self.count * IN_FLIGHT_EACH {
                return None;
            }
        }
        let (poller, mut lanes) = due.into_iter().min_by_key(|(_, lanes)| self.oldest(lanes))?;
        lanes.sort_by_key(|lane| self.shelves.get(lane).and_then(Shelf::waiting_since));
        let (mut records, mut bytes, mut taken) = (Vec::new(), ENVELOPE_BYTES, Vec::new());
        for lane in lanes {
            let Some(shelf) = self.shelves.get_mut(&lane) else { continue };
            let before = records.len();
            while records.len() < self.limits.batch_size
                && let Some((record, _)) = shelf
                    .waiting
                    .pop_front_if(|(record, _)| records.is_empty() || bytes + record.bytes() <= PAYLOAD_BYTES)
            {
                bytes += record.bytes();
                shelf.bytes -= record.bytes();
                records.push(record);
            }
            if records.len() > before {
                shelf.in_flight = true;
                taken.push(lane);
            }
        }
        self.next += 1;
        self.in_flight.insert(self.next, (poller, taken));
        Some(Batch { id: self.next, records })
    }

    /// A batch has ended: its lanes may go on.
    pub fn ended(&mut self, id: u64) {
        for lane in self.in_flight.remove(&id).into_iter().flat_map(|(_, lanes)| lanes) {
            if let Some(shelf) = self.shelves.get_mut(&lane) {
                shelf.in_flight = false;
            }
        }
    }

    /// The lanes of each free poller that has a batch to send.
    fn due_groups(&self, now_ms: i64) -> Vec<(usize, Vec<Lane>)> {
        let mut groups: BTreeMap<usize, Vec<Lane>> = BTreeMap::new();
        for (index, (lane, shelf)) in self.shelves.iter().enumerate() {
            let poller = match self.pollers {
                Pollers::EachLane => index,
                Pollers::Between(..) => index % self.count,
            };
            // A Kinesis lane is free when it has nothing in flight; which number it had then does not matter.
            let busy = self.pollers != Pollers::EachLane
                && self.in_flight.values().filter(|(busy, _)| *busy == poller).count() >= IN_FLIGHT_EACH;
            if !shelf.in_flight && !shelf.waiting.is_empty() && !busy {
                groups.entry(poller).or_default().push(lane.clone());
            }
        }
        groups.into_iter().filter(|(_, lanes)| self.is_due(lanes, now_ms)).collect()
    }

    /// Lanes that wait for a poller although they could fill a batch or have waited for long enough.
    fn due_lanes(&self, now_ms: i64) -> usize {
        self.shelves
            .iter()
            .filter(|(lane, shelf)| {
                !shelf.in_flight && !shelf.waiting.is_empty() && self.is_due(&[(*lane).clone()], now_ms)
            })
            .count()
    }

    fn is_due(&self, lanes: &[Lane], now_ms: i64) -> bool {
        let shelves = || lanes.iter().filter_map(|lane| self.shelves.get(lane));
        let old = |since: i64| now_ms.saturating_sub(since) >= self.limits.window_ms;
        shelves().map(|shelf| shelf.waiting.len()).sum::<usize>() >= self.limits.batch_size
            || shelves().map(|shelf| shelf.bytes).sum::<usize>() >= PAYLOAD_BYTES - ENVELOPE_BYTES
            || shelves().filter_map(Shelf::waiting_since).min().is_some_and(old)
    }

    fn oldest(&self, lanes: &[Lane]) -> i64 {
        let shelves = lanes.iter().filter_map(|lane| self.shelves.get(lane));
        shelves.filter_map(Shelf::waiting_since).min().unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::event_sources::record::Position;

    fn lane(partition: usize) -> Lane {
        Lane { part: format!("trades-{partition}").into(), share: 0 }
    }

    fn record(partition: usize, offset: i64, bytes: usize) -> Record {
        Record {
            part: lane(partition).part,
            position: Position::from(offset),
            timestamp_ms: 0,
            key: None,
            json: "x".repeat(bytes),
        }
    }

    fn gathering(batch_size: usize, window_ms: i64, pollers: Pollers) -> Gathering {
        Gathering::new(Limits { batch_size, window_ms }, pollers)
    }

    #[test]
    fn a_batch_goes_when_it_is_full_or_its_first_record_has_waited() {
        let mut waiting = gathering(3, 500, Pollers::Between(1, 1));
        waiting.push(lane(0), record(0, 0, 1), 1_000);
        waiting.push(lane(1), record(1, 0, 1), 1_400);
        assert!(waiting.next(1_499).is_none());
        let due = waiting.next(1_500).unwrap();
        assert_eq!(due.records.len(), 2, "one poller, so one batch over both partitions");
        for offset in 1..5 {
            waiting.push(lane(0), record(0, offset, 1), 1_500);
        }
        assert!(waiting.next(9_000).is_none(), "a partition is in one batch in flight");
        waiting.ended(due.id);
        assert_eq!(waiting.next(1_501).unwrap().records.len(), 3, "full");
    }

    #[test]
    fn a_batch_is_no_larger_than_an_invocation_takes() {
        let mut waiting = gathering(100, 0, Pollers::Between(1, 1));
        (0..10).for_each(|offset| waiting.push(lane(0), record(0, offset, 1_000_000), 0));
        let batch = waiting.next(0).unwrap();
        assert_eq!(batch.records.len(), 6);
    }

    #[test]
    fn pollers_grow_with_what_is_outstanding_and_shrink_when_there_is_less() {
        let mut waiting = gathering(1, 0, Pollers::Between(1, 3));
        let few = IN_FLIGHT_EACH;
        (0..few).for_each(|partition| waiting.push(lane(partition), record(partition, 0, 1), 0));
        let first: Vec<Batch> = std::iter::from_fn(|| waiting.next(0)).collect();
        assert_eq!((first.len(), waiting.pollers()), (few, 1), "one poller has that many invocations out");
        first.iter().for_each(|batch| waiting.ended(batch.id));
        (0..4 * few).for_each(|partition| waiting.push(lane(partition), record(partition, 1, 1), 0));
        let first: Vec<Batch> = std::iter::from_fn(|| waiting.next(0)).collect();
        assert_eq!((first.len(), waiting.pollers()), (3 * few, 3), "no more than three");
        first.iter().for_each(|batch| waiting.ended(batch.id));
        while let Some(batch) = waiting.next(1) {
            waiting.ended(batch.id);
        }
        for minute in 1..4 {
            assert!(waiting.next(minute * SHRINK_AFTER_MS + 2).is_none());
        }
        assert_eq!(waiting.pollers(), 1);
    }

    proptest! {
        /// However records come and batches end: each record is in one batch, in its lane's order, and no lane is in
        /// two batches at once.
        #[test]
        fn lanes_keep_their_order_and_are_in_one_batch_at_a_time(
            steps in proptest::collection::vec((0usize..6, 0usize..4, any::<bool>()), 1..300),
            batch_size in 1usize..8,
            pollers in prop_oneof![Just(Pollers::EachLane), Just(Pollers::Between(1, 1)), Just(Pollers::Between(2, 4))],
        ) {
            let mut gathering = gathering(batch_size, 20, pollers);
            let (mut offsets, mut seen) = (BTreeMap::<usize, i64>::new(), BTreeMap::<Arc<str>, i64>::new());
            let mut open: Vec<(u64, BTreeSet<Arc<str>>)> = Vec::new();
            let (mut now, mut pushed, mut received) = (0, 0, 0);
            for (partition, ended, push) in steps {
                now += 5;
                if push {
                    let offset = offsets.entry(partition).or_default();
                    gathering.push(lane(partition), record(partition, *offset, 10), now);
                    *offset += 1;
                    pushed += 1;
                }
                while let Some(batch) = gathering.next(now) {
                    prop_assert!(!batch.records.is_empty() && batch.records.len() <= batch_size);
                    let parts: BTreeSet<Arc<str>> = batch.records.iter().map(|record| record.part.clone()).collect();
                    prop_assert!(open.iter().all(|(_, others)| others.is_disjoint(&parts)));
                    for record in &batch.records {
                        let expected = seen.entry(record.part.clone()).or_default();
                        prop_assert_eq!(record.position.offset(), Some(*expected));
                        *expected += 1;
                        received += 1;
                    }
                    open.push((batch.id, parts));
                    if let Pollers::Between(_, most) = pollers {
                        prop_assert!(gathering.in_flight() <= most * IN_FLIGHT_EACH);
                    }
                }
                if ended < open.len() {
                    gathering.ended(open.remove(ended).0);
                }
            }
            loop {
                open.drain(..).for_each(|(id, _)| gathering.ended(id));
                now += 100;
                let Some(batch) = gathering.next(now) else { break };
                received += batch.records.len();
                open.push((batch.id, BTreeSet::new()));
            }
            prop_assert_eq!(received, pushed, "nothing stays behind");
        }
    }
}
