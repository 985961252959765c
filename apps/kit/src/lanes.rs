//! The microbatch core: which records go together, which batch may run, which offsets may be committed.
//!
//! A lane takes the records of some partitions, makes batches of them and runs one batch at a time. So the
//! records of a partition, and with them those of a key, are processed in order, while as many batches are in
//! flight as there are lanes. An offset is committed only when its record and all before it in the partition
//! are done. Nothing here reads a clock or does I/O.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use crate::batch::{Batch, Record};

/// What bounds a batch, and how many are held.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records in a batch, at most.
    pub records: usize,
    /// Payload and key bytes in a batch, at most; a larger record is a batch of its own.
    pub bytes: usize,
    /// How long a batch waits for more, from its first record on.
    pub timeout: Duration,
    /// Batches in flight, at most: the number of lanes.
    pub in_flight: usize,
    /// Full batches that wait in a lane before it takes no more.
    pub waiting: usize,
}

/// A batch with what it takes to account for it.
#[derive(Debug)]
pub struct Dispatch {
    /// The lane that it occupies.
    pub lane: usize,
    /// Tells this batch from later ones of the lane.
    pub ticket: u64,
    /// The records.
    pub batch: Batch,
}

#[derive(Debug)]
struct Open {
    batch: Batch,
    deadline: Instant,
}

#[derive(Debug)]
struct InFlight {
    ticket: u64,
    /// Partition -> (first offset, next offset, timestamp of the last record in ms).
    covers: BTreeMap<i32, (i64, i64, Option<i64>)>,
}

#[derive(Debug, Default)]
struct Lane {
    open: Option<Open>,
    ready: VecDeque<Batch>,
    /// Bytes of what is ready.
    ready_bytes: usize,
    in_flight: Option<InFlight>,
}

/// What a lane may hold, as a multiple of its share in batches, while others have room: small batches take little of
/// the bytes that it may hold.
const BRIM: usize = 64;

/// What is known of an assigned partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The offset after the last record that is done.
    pub next_offset: Option<i64>,
    /// The timestamp of that record, in ms since the epoch.
    pub timestamp_ms: Option<i64>,
}

/// All lanes of a consumer, and the offsets of its partitions.
#[derive(Debug)]
pub struct Lanes {
    limits: Limits,
    lanes: Vec<Lane>,
    assigned: BTreeMap<i32, Progress>,
    /// The lanes of all partitions that are, or were, assigned.
    homes: BTreeMap<i32, usize>,
    uncommitted: BTreeSet<i32>,
    tickets: u64,
    /// Empty batches whose memory is used again.
    spare: Vec<Batch>,
}

impl Lanes {
    /// Lanes without records.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let lanes = (0..limits.in_flight.max(1)).map(|_| Lane::default()).collect();
        Self {
            limits,
            lanes,
            assigned: BTreeMap::new(),
            homes: BTreeMap::new(),
            uncommitted: BTreeSet::new(),
            tickets: 0,
            spare: Vec::new(),
        }
    }

    /// Takes partitions over, each into the lane that has the fewest. One that comes back while its old lane is busy goes there
    /// again: a batch that was given up may still run, and nothing of the partition may overtake it.
    pub fn assign(&mut self, partitions: &[i32]) {
        let new: BTreeSet<i32> =
            partitions.iter().copied().filter(|partition| !self.assigned.contains_key(partition)).collect();
        for partition in new {
            let busy = |lane: &usize| self.lanes.get(*lane).is_some_and(|lane| lane.in_flight.is_some());
            let lane = self.homes.get(&partition).copied().filter(busy).unwrap_or_else(|| self.emptiest());
            self.homes.insert(partition, lane);
            self.assigned.insert(partition, Progress::default());
        }
    }

    /// The lane with the fewest partitions, the first of equals.
    fn emptiest(&self) -> usize {
        let mut partitions = vec![0usize; self.lanes.len()];
        for partition in self.assigned.keys() {
            if let Some(count) = partitions.get_mut(self.lane_of(*partition)) {
                *count += 1;
            }
        }
        let fewest = partitions.iter().enumerate().min_by_key(|(_, count)| **count);
        fewest.map_or(0, |(lane, _)| lane)
    }

    /// The partitions and how far each is done.
    #[must_use]
    pub fn assigned(&self) -> &BTreeMap<i32, Progress> {
        &self.assigned
    }

    fn lane_of(&self, partition: i32) -> usize {
        self.homes.get(&partition).copied().unwrap_or(0)
    }

    /// Takes a record; whether that made a batch full. A record of a partition that is not assigned is left out: its
    /// new owner reads it.
    pub fn offer(&mut self, record: Record<'_>, now: Instant) -> bool {
        if !self.assigned.contains_key(&record.origin.partition) {
            return false;
        }
        let limits = self.limits;
        let index = self.lane_of(record.origin.partition);
        let Some(lane) = self.lanes.get_mut(index) else { return false };
        let before = lane.ready.len();
        let size = record.key.map_or(0, <[u8]>::len) + record.payload.map_or(0, <[u8]>::len);
        if lane.open.as_ref().is_some_and(|open| open.batch.bytes() + size > limits.bytes) {
            lane.close();
        }
        let open = lane.open.get_or_insert_with(|| Open {
            batch: self.spare.pop().unwrap_or_default(),
            deadline: now + limits.timeout,
        });
        open.batch.push(record);
        if open.batch.len() >= limits.records || open.batch.bytes() >= limits.bytes {
            lane.close();
        }
        lane.ready.len() > before
    }

    /// How many full batches a lane holds before it takes no more.
    #[must_use]
    pub fn waiting_limit(&self) -> usize {
        self.limits.waiting.max(1)
    }

    /// How many batches wait in a lane.
    #[must_use]
    pub fn waiting(&self, lane: usize) -> usize {
        self.lanes.get(lane).map_or(0, |lane| lane.ready.len())
    }

    /// How many batches wait in the lane of a partition.
    #[must_use]
    pub fn waiting_of(&self, partition: i32) -> usize {
        self.waiting(self.lane_of(partition))
    }

    /// Whether the lane of a partition holds all that it may: reading on would buffer without bound. While others have
    /// room it may hold more, up to half of its bytes: what comes for them is behind what comes for it.
    #[must_use]
    pub fn is_full(&self, partition: i32) -> bool {
        let Some(lane) = self.lanes.get(self.lane_of(partition)) else { return false };
        let share = self.waiting_limit();
        let brims = lane.ready.len() >= share * BRIM || lane.ready_bytes >= self.limits.bytes * share / 2;
        lane.ready.len() >= share && (brims || !self.have_room())
    }

    /// Whether a lane that has partitions holds less than its share.
    fn have_room(&self) -> bool {
        self.assigned.keys().any(|partition| self.waiting_of(*partition) < self.waiting_limit())
    }

    /// Whether the lane of a partition holds no more than half of what it may.
    #[must_use]
    pub fn is_half_empty(&self, partition: i32) -> bool {
        self.waiting_of(partition) <= self.waiting_limit() / 2
    }

    /// The assigned partitions whose lanes are full.
    #[must_use]
    pub fn full_partitions(&self) -> BTreeSet<i32> {
        self.assigned.keys().copied().filter(|partition| self.is_full(*partition)).collect()
    }

    /// When the oldest open batch is due of the lanes that are free; a busy one goes on to it by itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let free = self.lanes.iter().filter(|lane| lane.in_flight.is_none());
        free.filter_map(|lane| lane.open.as_ref().map(|open| open.deadline)).min()
    }

    /// How many batches are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.in_flight.is_some()).count()
    }

    /// The batches that may start now.
    pub fn dispatch(&mut self, now: Instant) -> Vec<Dispatch> {
        (0..self.lanes.len()).filter_map(|lane| self.dispatch_lane(lane, now)).collect()
    }

    /// The batch that may start now in a lane.
    pub fn dispatch_lane(&mut self, index: usize, now: Instant) -> Option<Dispatch> {
        let lane = self.lanes.get_mut(index)?;
        if lane.in_flight.is_some() {
            return None;
        }
        // A batch goes on filling while its lane is busy: closed when it is due, small batches would queue up, and a
        // lane that has half of what it can do would fall behind.
        if lane.ready.is_empty() && lane.open.as_ref().is_some_and(|open| open.deadline <= now) {
            lane.close();
        }
        let batch = lane.ready.pop_front()?;
        lane.ready_bytes -= batch.bytes();
        self.tickets += 1;
        let mut covers = BTreeMap::new();
        for origin in batch.origins() {
            covers
                .entry(origin.partition)
                .and_modify(|(_, next, timestamp)| {
                    *next = origin.offset + 1;
                    *timestamp = origin.timestamp_ms;
                })
                .or_insert((origin.offset, origin.offset + 1, origin.timestamp_ms));
        }
        lane.in_flight = Some(InFlight { ticket: self.tickets, covers });
        Some(Dispatch { lane: index, ticket: self.tickets, batch })
    }

    /// Accounts for a batch whose effects are there. One that was given up in the meantime counts for
    /// nothing.
    pub fn complete(&mut self, lane: usize, ticket: u64) {
        let Some(occupied) = self.lanes.get_mut(lane) else { return };
        if occupied.in_flight.as_ref().is_none_or(|in_flight| in_flight.ticket != ticket) {
            return;
        }
        let Some(done) = occupied.in_flight.take() else { return };
        for (partition, (_, next, timestamp_ms)) in done.covers {
            if let Some(progress) = self.assigned.get_mut(&partition) {
                *progress = Progress { next_offset: Some(next), timestamp_ms };
                self.uncommitted.insert(partition);
            }
        }
    }

    /// Takes a batch back that is no longer needed, for its memory. One that was unusually large is let go.
    pub fn recycle(&mut self, mut batch: Batch) {
        if self.spare.len() <= self.lanes.len() && batch.bytes() <= self.limits.bytes {
            batch.clear();
            self.spare.push(batch);
        }
    }

    /// The offsets to commit, each the next to be read, and forgets that they are to be committed.
    pub fn take_commits(&mut self) -> Vec<(i32, i64)> {
        std::mem::take(&mut self.uncommitted)
            .into_iter()
            .filter_map(|partition| Some((partition, self.assigned.get(&partition)?.next_offset?)))
            .collect()
    }

    /// Puts offsets back whose commit failed, for the next try.
    pub fn commit_failed(&mut self, partitions: impl IntoIterator<Item = i32>) {
        self.uncommitted
            .extend(partitions.into_iter().filter(|partition| self.assigned.contains_key(partition)));
    }

    /// Begins to give partitions up: what has not started is dropped. Whether batches in flight still hold
    /// some of them.
    pub fn begin_revoke(&mut self, partitions: &[i32]) -> bool {
        // Also those that seem committed: a commit under way may yet fail, and this is the last one for them.
        self.uncommitted.extend(partitions.iter().filter(|partition| self.assigned.contains_key(partition)));
        for lane in &mut self.lanes {
            if let Some(open) = &mut lane.open {
                open.batch.drop_partitions(partitions);
            }
            lane.open.take_if(|open| open.batch.is_empty());
            for batch in &mut lane.ready {
                batch.drop_partitions(partitions);
            }
            lane.ready.retain(|batch| !batch.is_empty());
            lane.ready_bytes = lane.ready.iter().map(Batch::bytes).sum();
        }
        self.holds(partitions)
    }

    /// Whether batches in flight hold records of these partitions.
    #[must_use]
    pub fn holds(&self, partitions: &[i32]) -> bool {
        self.lanes
            .iter()
            .filter_map(|lane| lane.in_flight.as_ref())
            .any(|in_flight| partitions.iter().any(|partition| in_flight.covers.contains_key(partition)))
    }

    /// Gives partitions up. A batch in flight that holds some of them will not count for them.
    pub fn finish_revoke(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.assigned.remove(partition);
            self.uncommitted.remove(partition);
        }
        for lane in &mut self.lanes {
            if let Some(in_flight) = &mut lane.in_flight {
                in_flight.covers.retain(|partition, _| !partitions.contains(partition));
            }
        }
    }
}

impl Lane {
    fn close(&mut self) {
        if let Some(open) = self.open.take().filter(|open| !open.batch.is_empty()) {
            self.ready_bytes += open.batch.bytes();
            self.ready.push_back(open.batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Origin;
    use proptest::prelude::*;

    fn limits(records: usize, in_flight: usize) -> Limits {
        Limits { records, bytes: 1 << 20, timeout: Duration::from_millis(100), in_flight, waiting: 2 }
    }

    fn record(partition: i32, offset: i64) -> Record<'static> {
        Record {
            origin: Origin { partition, offset, timestamp_ms: Some(offset) },
            key: None,
            payload: Some(b"12345"),
        }
    }

    #[test]
    fn the_timer_runs_from_the_first_record_of_a_batch() {
        let start = Instant::now();
        let mut lanes = Lanes::new(limits(100, 1));
        lanes.assign(&[0]);
        // A long time after the last batch, a lone record still waits no longer than its own timeout.
        let arrival = start + Duration::from_secs(60);
        lanes.offer(record(0, 7), arrival);
        assert_eq!(lanes.deadline(), Some(arrival + Duration::from_millis(100)));
        assert!(lanes.dispatch(arrival + Duration::from_millis(99)).is_empty());
        lanes.offer(record(0, 8), arrival + Duration::from_millis(99));
        let started = lanes.dispatch(arrival + Duration::from_millis(100));
        assert_eq!(started[0].batch.len(), 2);
    }

    #[test]
    fn a_batch_goes_on_filling_while_its_lane_is_busy() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut lanes = Lanes::new(limits(4, 1));
        lanes.assign(&[0]);
        lanes.offer(record(0, 0), start);
        let first = lanes.dispatch(at(100)).remove(0);
        for offset in 1..4 {
            lanes.offer(record(0, offset), at(100 + 110 * u64::try_from(offset).unwrap()));
            assert!(lanes.dispatch(at(1000)).is_empty(), "one batch at a time");
        }
        assert_eq!(lanes.deadline(), None, "the lane goes on by itself");
        assert_eq!(lanes.waiting(0), 0, "what is due does not queue up as small batches");
        lanes.complete(first.lane, first.ticket);
        let second = lanes.dispatch_lane(0, at(1000)).unwrap();
        assert_eq!(second.batch.len(), 3, "all that came meanwhile, at once");
        // What is full waits, and what comes after it keeps its place.
        (4..10).for_each(|offset| {
            lanes.offer(record(0, offset), at(1000));
        });
        assert_eq!(lanes.waiting(0), 1);
        lanes.complete(second.lane, second.ticket);
        let third = lanes.dispatch_lane(0, at(1200)).unwrap();
        assert_eq!(third.batch.origins().map(|origin| origin.offset).collect::<Vec<_>>(), [4, 5, 6, 7]);
        lanes.complete(third.lane, third.ticket);
        assert_eq!(lanes.dispatch_lane(0, at(1200)).unwrap().batch.len(), 2);
    }

    #[test]
    fn partitions_spread_over_lanes_whatever_their_numbers() {
        let mut lanes = Lanes::new(limits(1, 2));
        lanes.assign(&[4, 0, 2, 6]);
        let lane = |lanes: &Lanes, partition| lanes.lane_of(partition);
        assert_eq!([0, 2, 4, 6].map(|partition| lane(&lanes, partition)), [0, 1, 0, 1]);
        lanes.begin_revoke(&[0, 4]);
        lanes.finish_revoke(&[0, 4]);
        lanes.assign(&[8, 2]);
        assert_eq!((lane(&lanes, 8), lane(&lanes, 2)), (0, 1), "who is there stays where it is");
    }

    #[test]
    fn a_partition_that_comes_back_does_not_overtake_its_own_batch() {
        let now = Instant::now();
        let mut lanes = Lanes::new(limits(1, 2));
        lanes.assign(&[0, 1]);
        lanes.offer(record(1, 0), now);
        let lost = lanes.dispatch(now).remove(0);
        lanes.begin_revoke(&[0, 1]);
        lanes.finish_revoke(&[0, 1]);
        lanes.assign(&[1]);
        lanes.offer(record(1, 0), now);
        assert!(lanes.dispatch(now).is_empty(), "its lane is busy with what was given up");
        lanes.complete(lost.lane, lost.ticket);
        assert_eq!(lanes.dispatch(now).len(), 1);
    }

    #[test]
    fn bytes_bound_a_batch_and_a_large_record_stands_alone() {
        let now = Instant::now();
        let mut lanes = Lanes::new(Limits { bytes: 10, waiting: 10, ..limits(100, 1) });
        lanes.assign(&[0]);
        lanes.offer(record(0, 0), now);
        let large = [0u8; 64];
        let origin = Origin { partition: 0, offset: 1, timestamp_ms: None };
        lanes.offer(Record { origin, key: None, payload: Some(&large) }, now);
        lanes.offer(record(0, 2), now);
        lanes.offer(record(0, 3), now);
        let mut sizes = Vec::new();
        while let Some(dispatch) = lanes.dispatch(now).pop() {
            sizes.push(dispatch.batch.len());
            lanes.complete(dispatch.lane, dispatch.ticket);
        }
        assert_eq!(sizes, [1, 1, 2]);
    }

    #[test]
    fn a_revoked_partition_is_drained_then_given_up() {
        let now = Instant::now();
        let mut lanes = Lanes::new(limits(2, 1));
        lanes.assign(&[0, 1]);
        for offset in 0..2 {
            lanes.offer(record(0, offset), now);
        }
        let dispatch = lanes.dispatch(now).remove(0);
        lanes.offer(record(0, 2), now);
        lanes.offer(record(1, 0), now);
        assert!(lanes.begin_revoke(&[0]), "the batch in flight holds partition 0");
        lanes.complete(dispatch.lane, dispatch.ticket);
        assert!(!lanes.holds(&[0]));
        assert_eq!(lanes.take_commits(), [(0, 2)]);
        lanes.finish_revoke(&[0]);
        lanes.offer(record(0, 3), now);
        let rest = lanes.dispatch(now + Duration::from_secs(1)).remove(0);
        assert_eq!(rest.batch.origins().map(|origin| origin.partition).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_revocation_commits_again_what_a_commit_under_way_may_not_have_brought() {
        let now = Instant::now();
        let mut lanes = Lanes::new(limits(1, 1));
        lanes.assign(&[0]);
        lanes.offer(record(0, 4), now);
        let dispatch = lanes.dispatch(now).remove(0);
        lanes.complete(dispatch.lane, dispatch.ticket);
        assert_eq!(lanes.take_commits(), [(0, 5)], "sent, and not answered yet");
        lanes.begin_revoke(&[0]);
        assert_eq!(lanes.take_commits(), [(0, 5)]);
    }

    #[test]
    fn a_lost_partition_is_never_committed() {
        let now = Instant::now();
        let mut lanes = Lanes::new(limits(1, 1));
        lanes.assign(&[0]);
        lanes.offer(record(0, 0), now);
        let dispatch = lanes.dispatch(now).remove(0);
        lanes.begin_revoke(&[0]);
        lanes.finish_revoke(&[0]);
        // Assigned again before the old batch ends: its end says nothing about the new assignment.
        lanes.assign(&[0]);
        lanes.complete(dispatch.lane, dispatch.ticket);
        assert!(lanes.take_commits().is_empty());
    }

    #[test]
    fn a_lane_takes_more_than_its_share_while_others_have_room_and_no_more_than_it_may() {
        let now = Instant::now();
        let mut lanes = Lanes::new(limits(1, 2));
        lanes.assign(&[0, 1]);
        let fill = |lanes: &mut Lanes, partition| {
            (0..)
                .take_while(|offset| {
                    !lanes.is_full(partition) && lanes.offer(record(partition, *offset), now)
                })
                .count()
        };
        assert_eq!(fill(&mut lanes, 0), 2 * BRIM, "what comes for the other lane is behind it");
        assert_eq!(fill(&mut lanes, 1), 2, "nobody waits for anything: two batches are a lane's share");
        assert_eq!(lanes.full_partitions(), BTreeSet::from([0, 1]));
        // Half of its bytes are a bound as well.
        let mut lanes = Lanes::new(Limits { bytes: 50, ..limits(1, 2) });
        lanes.assign(&[0, 1]);
        assert_eq!(fill(&mut lanes, 0), 10, "of five bytes each");
    }

    #[test]
    fn a_failed_commit_is_tried_again() {
        let now = Instant::now();
        let mut lanes = Lanes::new(limits(1, 1));
        lanes.assign(&[3]);
        lanes.offer(record(3, 9), now);
        let dispatch = lanes.dispatch(now).remove(0);
        lanes.complete(dispatch.lane, dispatch.ticket);
        assert_eq!(lanes.take_commits(), [(3, 10)]);
        assert!(lanes.take_commits().is_empty());
        lanes.commit_failed([3, 4]);
        assert_eq!(lanes.take_commits(), [(3, 10)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Read(i32),
        Wait(u64),
        Dispatch,
        Complete(usize),
        Commit,
        Revoke(i32),
        Assign(i32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..4i32).prop_map(Step::Read),
            2 => (1..200u64).prop_map(Step::Wait),
            4 => Just(Step::Dispatch),
            4 => (0..4usize).prop_map(Step::Complete),
            2 => Just(Step::Commit),
            1 => (0..4i32).prop_map(Step::Revoke),
            1 => (0..4i32).prop_map(Step::Assign),
        ]
    }

    proptest! {
        /// Whatever happens: a partition's records are processed in order, one batch at a time, never more
        /// batches than allowed; a batch keeps its bounds; and a committed offset has all records before it
        /// processed.
        #[test]
        fn order_bounds_and_commits_hold(steps in proptest::collection::vec(step(), 1..300), in_flight in 1usize..4) {
            let mut now = Instant::now();
            let mut lanes = Lanes::new(limits(5, in_flight));
            lanes.assign(&[0, 1, 2, 3]);
            // The broker's side: the next offset to read, and what the group has committed.
            let mut position = BTreeMap::from([(0, 0i64), (1, 0), (2, 0), (3, 0)]);
            let mut committed = BTreeMap::from([(0, 0i64), (1, 0), (2, 0), (3, 0)]);
            let mut processed: BTreeMap<i32, BTreeSet<i64>> = BTreeMap::new();
            let mut running: Vec<Dispatch> = Vec::new();
            for step in steps {
                for lane in &lanes.lanes {
                    prop_assert_eq!(lane.ready_bytes, lane.ready.iter().map(Batch::bytes).sum::<usize>());
                    prop_assert!(lane.ready.len() <= lanes.waiting_limit() * BRIM + 1);
                }
                match step {
                    Step::Read(partition) => {
                        if lanes.assigned().contains_key(&partition) && !lanes.is_full(partition) {
                            let offset = position[&partition];
                            lanes.offer(record(partition, offset), now);
                            position.insert(partition, offset + 1);
                        }
                    }
                    Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                    Step::Dispatch => {
                        for dispatch in lanes.dispatch(now) {
                            prop_assert!(dispatch.batch.len() <= 5 && !dispatch.batch.is_empty());
                            for other in &running {
                                let busy: BTreeSet<i32> = other.batch.origins().map(|o| o.partition).collect();
                                prop_assert!(dispatch.batch.origins().all(|o| !busy.contains(&o.partition)));
                            }
                            running.push(dispatch);
                        }
                        prop_assert!(lanes.in_flight() <= in_flight);
                    }
                    Step::Complete(index) => {
                        if !running.is_empty() {
                            let dispatch = running.remove(index % running.len());
                            let mut last: BTreeMap<i32, i64> = BTreeMap::new();
                            for origin in dispatch.batch.origins() {
                                if let Some(before) = last.insert(origin.partition, origin.offset) {
                                    prop_assert_eq!(before + 1, origin.offset);
                                }
                                processed.entry(origin.partition).or_default().insert(origin.offset);
                            }
                            lanes.complete(dispatch.lane, dispatch.ticket);
                        }
                    }
                    Step::Commit => {
                        for (partition, next) in lanes.take_commits() {
                            let done = processed.get(&partition).cloned().unwrap_or_default();
                            prop_assert!((0..next).all(|offset| done.contains(&offset)), "{partition} {next}");
                            prop_assert!(next >= committed[&partition]);
                            committed.insert(partition, next);
                        }
                    }
                    Step::Revoke(partition) => {
                        if lanes.assigned().contains_key(&partition) {
                            lanes.begin_revoke(&[partition]);
                            while let Some(at) = running.iter().position(|d| d.batch.origins().any(|o| o.partition == partition)) {
                                let dispatch = running.remove(at);
                                for origin in dispatch.batch.origins() {
                                    processed.entry(origin.partition).or_default().insert(origin.offset);
                                }
                                lanes.complete(dispatch.lane, dispatch.ticket);
                            }
                            prop_assert!(!lanes.holds(&[partition]));
                            for (partition, next) in lanes.take_commits() {
                                committed.insert(partition, next);
                            }
                            lanes.finish_revoke(&[partition]);
                        }
                    }
                    Step::Assign(partition) => {
                        if !lanes.assigned().contains_key(&partition) {
                            lanes.assign(&[partition]);
                            position.insert(partition, committed[&partition]);
                        }
                    }
                }
            }
        }
    }
}
