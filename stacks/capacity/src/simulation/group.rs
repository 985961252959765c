//! The topic's partitions and the consumers that share them.
//!
//! A partition belongs to one lane of one consumer, a lane runs one batch at a time, a batch is run when it is full or its
//! first message has waited long enough, and offsets are committed when it is done: as in the worker kit.
//!
//! A lane is read ahead: up to so many batches wait in it, then its partitions are paused until half of them are left. Then
//! the client asks for all of them again, in the same order each time, and takes all that waits in one, as far as there is
//! room, before it comes to the next. So of a backlog not the oldest message is read first: a partition may wait until
//! those before it have nothing left, as was measured.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::{Rebalance, STEP, Scenario, Workload, outcome::Ages, scenario::LostZone};
use crate::scaling::{Milliseconds, keda::PartitionOffsets, seconds};

/// Messages of a partition that came in the same step.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    at: Milliseconds,
    messages: u64,
    /// Those of them that cannot be written.
    poison: u64,
}

impl Chunk {
    /// Takes up to so many messages off, the bad ones first.
    fn split(&mut self, at_most: u64) -> Chunk {
        let messages = self.messages.min(at_most);
        let poison = self.poison.min(messages);
        self.messages -= messages;
        self.poison -= poison;
        Chunk { at: self.at, messages, poison }
    }
}

#[derive(Debug, Default)]
struct Partition {
    waiting: VecDeque<Chunk>,
    waiting_messages: u64,
    latest: u64,
    committed: u64,
    /// Nobody reads it before.
    free_at: Milliseconds,
}

impl Partition {
    fn push(&mut self, chunk: Chunk) {
        self.waiting_messages += chunk.messages;
        self.latest += chunk.messages;
        self.waiting.push_back(chunk);
    }

    /// Takes up to so many messages of the oldest chunk.
    fn take(&mut self, at_most: u64) -> Option<Chunk> {
        let head = self.waiting.front_mut()?;
        let taken = head.split(at_most);
        if head.messages == 0 {
            self.waiting.pop_front();
        }
        self.waiting_messages -= taken.messages;
        Some(taken)
    }

    /// Puts back what was read but not committed.
    fn put_back(&mut self, chunk: Chunk) {
        self.waiting_messages += chunk.messages;
        self.waiting.push_front(chunk);
    }
}

/// Messages that were read and wait in a lane.
#[derive(Debug)]
struct Read {
    partition: usize,
    chunk: Chunk,
    /// When they could be read.
    at: Milliseconds,
}

#[derive(Debug, Default)]
struct Lane {
    /// In the order in which they are read on.
    partitions: Vec<usize>,
    /// When its batch is done.
    free_at: Milliseconds,
    in_flight: Vec<(usize, Chunk)>,
    /// What waits for a batch, in the order of reading.
    ahead: VecDeque<Read>,
    ahead_messages: u64,
    /// Its partitions are not read until half of what waits is done.
    paused: bool,
    /// When they were last read on.
    resumed_at: Milliseconds,
}

impl Lane {
    /// Reads what the partitions have, as far as there is room: what came first, and of what waited already all of a partition
    /// before the next, in the order of [`Lane::partitions`].
    fn read(&mut self, now: Milliseconds, partitions: &mut [Partition], room: u64) {
        if self.paused {
            if self.ahead_messages > room / 2 {
                return;
            }
            self.paused = false;
            self.resumed_at = self.free_at;
        }
        let resumed_at = self.resumed_at;
        let head = |partitions: &[Partition], (place, index): (usize, usize)| {
            let partition = partitions.get(index).filter(|partition| partition.free_at <= now)?;
            let at = partition.waiting.front()?.at.max(partition.free_at).max(resumed_at);
            Some(Reverse((at, place, index)))
        };
        let mut heads: BinaryHeap<_> = self
            .partitions
            .iter()
            .copied()
            .enumerate()
            .filter_map(|partition| head(partitions, partition))
            .collect();
        while self.ahead_messages < room {
            let Some(Reverse((at, place, index))) = heads.pop() else { return };
            let Some(chunk) = partitions.get_mut(index).and_then(|one| one.take(room - self.ahead_messages))
            else {
                return;
            };
            self.ahead_messages += chunk.messages;
            self.ahead.push_back(Read { partition: index, chunk, at });
            heads.extend(head(partitions, (place, index)));
        }
        self.paused = true;
    }

    /// Takes a batch of what was read until then.
    fn fill(&mut self, size: u64, until: Milliseconds) -> (u64, u64, Milliseconds) {
        let (mut messages, mut poison, mut last) = (0, 0, 0);
        while messages < size {
            let Some(first) = self.ahead.front_mut().filter(|read| read.at <= until) else { break };
            let chunk = first.chunk.split(size - messages);
            let (partition, at) = (first.partition, first.at);
            if first.chunk.messages == 0 {
                self.ahead.pop_front();
            }
            messages += chunk.messages;
            poison += chunk.poison;
            last = last.max(at);
            self.in_flight.push((partition, chunk));
        }
        self.ahead_messages -= messages;
        (messages, poison, last)
    }

    /// Puts what was read of some partitions back, to be read by whoever has them next.
    fn give_back(&mut self, partitions: &mut [Partition], gives: impl Fn(usize) -> bool) {
        let (given, kept): (Vec<Read>, Vec<Read>) =
            std::mem::take(&mut self.ahead).into_iter().partition(|read| gives(read.partition));
        self.ahead = kept.into();
        for read in given.into_iter().rev() {
            self.ahead_messages -= read.chunk.messages;
            if let Some(partition) = partitions.get_mut(read.partition) {
                partition.put_back(read.chunk);
            }
        }
    }
}

#[derive(Debug)]
struct Consumer {
    id: u32,
    joins_at: Milliseconds,
    joined: bool,
    /// It was told to end, takes no more and drains.
    leaving: bool,
    lanes: Vec<Lane>,
}

impl Consumer {
    fn is_idle(&self, now: Milliseconds) -> bool {
        self.lanes.iter().all(|lane| lane.free_at <= now)
    }
}

/// Partitions of consumers that ended without a word, until the group misses them.
#[derive(Debug)]
struct Missing {
    until: Milliseconds,
    partitions: Vec<usize>,
}

/// The group with its topic.
#[derive(Debug)]
pub(super) struct Group {
    partitions: Vec<Partition>,
    consumers: Vec<Consumer>,
    /// Which consumer has which partition.
    owners: Vec<Option<u32>>,
    missing: Vec<Missing>,
    next_id: u32,
    /// The partition that gets the next message.
    cursor: usize,
    /// Where bad messages go next.
    bad_cursor: usize,
    hot_fraction: f64,
    dead_letters: u64,
    rebalances: u64,
    no_node_before: Milliseconds,
    /// Of the scenario and the workload.
    startup: Milliseconds,
    standstill: Milliseconds,
    rebalance: Rebalance,
    session_timeout: Milliseconds,
    hot_key_share: f64,
    lanes: usize,
    batch_size: u64,
    /// Messages that wait in a lane, at most.
    read_ahead: u64,
    batch_timeout: Milliseconds,
    write_seconds: f64,
    overhead_seconds: f64,
}

/// How often a batch is written until its bad messages are alone: it is halved wherever one is in it. They are
/// taken as evenly spread, which is the worst.
fn writes(messages: u64, poison: u64) -> u64 {
    let levels = messages.max(1).next_power_of_two().trailing_zeros();
    if poison == 0 { 1 } else { 1 + (0..levels).map(|level| 2 * (1u64 << level).min(poison)).sum::<u64>() }
}

impl Group {
    pub(super) fn new(workload: &Workload, scenario: &Scenario) -> Self {
        let count = workload.partitions as usize;
        let milliseconds = |seconds: f64| (seconds * 1000.0).round() as Milliseconds;
        Self {
            partitions: (0..count).map(|_| Partition::default()).collect(),
            consumers: Vec::new(),
            owners: vec![None; count],
            missing: Vec::new(),
            next_id: 0,
            cursor: 0,
            bad_cursor: 0,
            hot_fraction: 0.0,
            dead_letters: 0,
            rebalances: 0,
            no_node_before: 0,
            startup: milliseconds(scenario.startup_seconds),
            standstill: milliseconds(scenario.rebalance_seconds),
            rebalance: scenario.rebalance,
            session_timeout: milliseconds(scenario.session_timeout_seconds),
            hot_key_share: scenario.hot_key_share,
            lanes: workload.batches_in_flight as usize,
            batch_size: u64::from(workload.batch_size),
            read_ahead: u64::from(workload.batch_size) * u64::from(workload.batches_waiting),
            batch_timeout: milliseconds(workload.batch_timeout_seconds),
            write_seconds: workload.batch_processing_seconds,
            overhead_seconds: workload.batch_seconds() - workload.batch_processing_seconds,
        }
    }

    /// Begins with consumers that have been there for long.
    pub(super) fn start_with(&mut self, replicas: u32) {
        for _ in 0..replicas {
            self.create(0);
        }
        self.join(0);
        for partition in &mut self.partitions {
            partition.free_at = 0;
        }
        self.rebalances = 0;
    }

    fn create(&mut self, joins_at: Milliseconds) {
        let lanes = (0..self.lanes).map(|_| Lane::default()).collect();
        self.consumers.push(Consumer { id: self.next_id, joins_at, joined: false, leaving: false, lanes });
        self.next_id += 1;
    }

    /// Messages of the step that begins at `begin`, spread over the partitions and over the step.
    pub(super) fn produce(&mut self, begin: Milliseconds, messages: u64, poison: u64) {
        let count = self.partitions.len();
        if messages == 0 || count == 0 {
            return;
        }
        self.hot_fraction += messages as f64 * self.hot_key_share;
        let hot = (self.hot_fraction.floor() as u64).min(messages);
        self.hot_fraction -= hot as f64;
        let spread = messages - hot;
        let each = spread / count as u64;
        let rest = (spread % count as u64) as usize;
        let touched = if each > 0 { count } else { rest.max(1) };
        // Bad messages begin at another partition each time, so that none has all of them.
        let first_bad = self.bad_cursor % touched;
        self.bad_cursor += usize::from(poison > 0);
        let mut bad_left = poison;
        for turn in (first_bad..touched).chain(0..first_bad) {
            let index = (self.cursor + turn) % count;
            let messages = each + u64::from(turn < rest);
            let bad = bad_left.min(messages);
            bad_left -= bad;
            let at = begin + STEP * turn as u64 / touched as u64;
            if let Some(partition) = self.partitions.get_mut(index).filter(|_| messages > 0) {
                partition.push(Chunk { at, messages, poison: bad });
            }
        }
        if let Some(partition) = self.partitions.first_mut().filter(|_| hot > 0) {
            partition.push(Chunk { at: begin, messages: hot, poison: bad_left.min(hot) });
        }
        self.cursor = (self.cursor + rest) % count;
    }

    /// Brings the group to `now`: batches are taken and done, consumers come and go.
    pub(super) fn run(&mut self, now: Milliseconds, ages: &mut Ages) {
        let mut consumers = std::mem::take(&mut self.consumers);
        for consumer in consumers.iter_mut().filter(|consumer| consumer.joined) {
            for lane in &mut consumer.lanes {
                self.run_lane(now, lane, consumer.leaving, ages);
            }
        }
        let before = consumers.len();
        consumers.retain(|consumer| !(consumer.leaving && consumer.is_idle(now)));
        let left = consumers.len() < before;
        self.consumers = consumers;
        let missed = self.missing.iter().any(|missing| missing.until <= now);
        self.missing.retain(|missing| missing.until > now);
        let due = |consumer: &Consumer| !consumer.joined && consumer.joins_at <= now;
        if left || missed || self.consumers.iter().any(due) {
            self.join(now);
        }
    }

    fn commit(&mut self, lane: &mut Lane, ages: &mut Ages) {
        for (index, chunk) in lane.in_flight.drain(..) {
            if let Some(partition) = self.partitions.get_mut(index) {
                partition.committed += chunk.messages;
            }
            self.dead_letters += chunk.poison;
            ages.record(lane.free_at.saturating_sub(chunk.at), chunk.messages);
        }
    }

    fn run_lane(&mut self, now: Milliseconds, lane: &mut Lane, leaving: bool, ages: &mut Ages) {
        while lane.free_at <= now {
            self.commit(lane, ages);
            if leaving {
                return;
            }
            lane.read(now, &mut self.partitions, self.read_ahead);
            let Some(first) = lane.ahead.front() else { return };
            let full = lane.ahead_messages >= self.batch_size;
            let mut begin = lane.free_at;
            if !full {
                begin = begin.max(first.at + self.batch_timeout);
                if begin > now {
                    return;
                }
            }
            let until = if full { Milliseconds::MAX } else { begin };
            let (messages, poison, last) = lane.fill(self.batch_size, until);
            let writes = writes(messages, poison) as f64;
            let milliseconds = (writes * self.write_seconds + self.overhead_seconds) * 1000.0;
            lane.free_at = begin.max(last) + (milliseconds.round() as Milliseconds).max(1);
        }
    }

    /// The replicas that there are to be: creates those that lack, tells those that are too many to end.
    pub(super) fn want(&mut self, now: Milliseconds, replicas: u32) {
        let staying = self.consumers.iter().filter(|consumer| !consumer.leaving).count();
        for _ in staying..replicas as usize {
            self.create(now.max(self.no_node_before) + self.startup);
        }
        for _ in replicas as usize..staying {
            // Those that have not joined go first, then the newest: as a ReplicaSet chooses.
            let candidates = self.consumers.iter().filter(|consumer| !consumer.leaving);
            let chosen = candidates.max_by_key(|consumer| (!consumer.joined, consumer.id)).map(|one| one.id);
            for consumer in self.consumers.iter_mut().filter(|consumer| Some(consumer.id) == chosen) {
                consumer.leaving = true;
                for lane in &mut consumer.lanes {
                    lane.give_back(&mut self.partitions, |_| true);
                }
            }
        }
        self.consumers.retain(|consumer| consumer.joined || !consumer.leaving);
    }

    /// One zone's consumers end: what they have in flight is read again by others, after the session's timeout.
    pub(super) fn lose_zone(&mut self, now: Milliseconds, lost: LostZone) {
        self.no_node_before = now + seconds(lost.node_seconds);
        let (gone, staying) = std::mem::take(&mut self.consumers)
            .into_iter()
            .partition(|consumer: &Consumer| consumer.id.is_multiple_of(lost.zones.max(1)));
        self.consumers = staying;
        for mut consumer in gone {
            for lane in &mut consumer.lanes {
                lane.give_back(&mut self.partitions, |_| true);
            }
            for (index, chunk) in consumer.lanes.iter_mut().flat_map(|lane| lane.in_flight.drain(..).rev()) {
                if let Some(partition) = self.partitions.get_mut(index) {
                    partition.put_back(chunk);
                }
            }
            let until = now + self.session_timeout;
            let mut partitions = Vec::new();
            for (index, owner) in self.owners.iter_mut().enumerate() {
                if *owner == Some(consumer.id) {
                    *owner = None;
                    partitions.push(index);
                }
            }
            self.missing.push(Missing { until, partitions });
        }
    }

    /// Takes in who is due and distributes the partitions, moving as few as it can.
    fn join(&mut self, now: Milliseconds) {
        self.rebalances += 1;
        for consumer in &mut self.consumers {
            consumer.joined |= consumer.joins_at <= now;
        }
        let missing: Vec<usize> =
            self.missing.iter().flat_map(|missing| missing.partitions.iter().copied()).collect();
        let assignable: Vec<usize> =
            (0..self.partitions.len()).filter(|index| !missing.contains(index)).collect();
        let next = self.distribution(&assignable);
        for (index, owner) in next {
            let moved = self.owners.get(index).copied().flatten() != owner;
            if !moved && self.rebalance == Rebalance::Cooperative {
                continue;
            }
            let drained = self.drained(index).unwrap_or(now);
            if let Some(partition) = self.partitions.get_mut(index) {
                partition.free_at = (now + self.standstill).max(drained);
            }
            if let Some(slot) = self.owners.get_mut(index) {
                *slot = owner;
            }
        }
        self.fill_lanes();
    }

    /// When the batch that holds messages of a partition is done.
    fn drained(&self, index: usize) -> Option<Milliseconds> {
        self.lanes()
            .filter(|lane| lane.in_flight.iter().any(|(partition, _)| *partition == index))
            .map(|lane| lane.free_at)
            .max()
    }

    /// The next owner of each partition. Who is leaving keeps its own until it is gone.
    fn distribution(&self, assignable: &[usize]) -> Vec<(usize, Option<u32>)> {
        let mut owned: Vec<(u32, Vec<usize>)> = self
            .consumers
            .iter()
            .filter(|consumer| consumer.joined && !consumer.leaving)
            .map(|consumer| (consumer.id, Vec::new()))
            .collect();
        let mut next = Vec::new();
        let mut pool = Vec::new();
        for index in assignable {
            let owner = self.owners.get(*index).copied().flatten();
            let leaving = |id| self.consumers.iter().any(|consumer| consumer.id == id && consumer.leaving);
            match owner.and_then(|id| owned.iter_mut().find(|(known, _)| *known == id)) {
                Some((_, partitions)) => partitions.push(*index),
                None if owner.is_some_and(leaving) => next.push((*index, owner)),
                None => pool.push(*index),
            }
        }
        let count = owned.len().max(1);
        let to_share = assignable.len() - next.len();
        // Who has the most keeps the one more that is left over.
        owned.sort_by_key(|(id, partitions)| (Reverse(partitions.len()), *id));
        let quota = |place: usize| to_share / count + usize::from(place < to_share % count);
        for (place, (_, partitions)) in owned.iter_mut().enumerate() {
            let surplus = partitions.split_off(partitions.len().min(quota(place)));
            pool.extend(surplus);
        }
        for (place, (_, partitions)) in owned.iter_mut().enumerate() {
            while partitions.len() < quota(place) {
                let Some(index) = pool.pop() else { break };
                partitions.push(index);
            }
        }
        next.extend(pool.into_iter().map(|index| (index, None)));
        next.extend(
            owned
                .into_iter()
                .flat_map(|(id, partitions)| partitions.into_iter().map(move |index| (index, Some(id)))),
        );
        next
    }

    /// A partition that stays keeps its lane; one that comes goes to the lane with the fewest.
    fn fill_lanes(&mut self) {
        let (owners, eager) = (&self.owners, self.rebalance == Rebalance::Eager);
        for consumer in &mut self.consumers {
            let owned = |index: usize| owners.get(index).copied().flatten() == Some(consumer.id);
            let mut new: Vec<usize> = (0..self.partitions.len()).filter(|index| owned(*index)).collect();
            for lane in &mut consumer.lanes {
                lane.give_back(&mut self.partitions, |index| eager || !owned(index));
                lane.partitions.retain(|index| owned(*index));
                new.retain(|index| !lane.partitions.contains(index));
            }
            for index in new {
                if let Some(lane) = consumer.lanes.iter_mut().min_by_key(|lane| lane.partitions.len()) {
                    lane.partitions.push(index);
                }
            }
        }
    }

    /// The offsets by partition, as the brokers tell them.
    pub(super) fn offsets(&self) -> Vec<PartitionOffsets> {
        (0..)
            .zip(&self.partitions)
            .map(|(partition, state)| PartitionOffsets {
                partition,
                committed: Some(state.committed),
                latest: Some(state.latest),
            })
            .collect()
    }

    /// Messages whose offsets are not committed.
    pub(super) fn lag(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.latest - partition.committed).sum()
    }

    /// The age of the oldest message that no batch has taken.
    pub(super) fn oldest(&self, now: Milliseconds) -> Milliseconds {
        let heads = self.partitions.iter().filter_map(|partition| partition.waiting.front());
        let read = self.lanes().flat_map(|lane| &lane.ahead).map(|read| &read.chunk);
        heads.chain(read).map(|chunk| now.saturating_sub(chunk.at)).max().unwrap_or(0)
    }

    fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.consumers.iter().flat_map(|consumer| &consumer.lanes)
    }

    /// Consumers in the group that are to stay.
    pub(super) fn ready(&self) -> u32 {
        let ready = self.consumers.iter().filter(|consumer| consumer.joined && !consumer.leaving).count();
        u32::try_from(ready).unwrap_or(u32::MAX)
    }

    /// Consumers that exist: starting, working or draining.
    pub(super) fn paid_for(&self) -> u64 {
        self.consumers.len() as u64
    }

    pub(super) fn dead_letters(&self) -> u64 {
        self.dead_letters
    }

    pub(super) fn rebalances(&self) -> u64 {
        self.rebalances
    }

    /// Counts what is not done with the age that it has now.
    pub(super) fn count_waiting(&self, now: Milliseconds, ages: &mut Ages) {
        let in_flight = self.lanes().flat_map(|lane| lane.in_flight.iter().map(|(_, chunk)| chunk));
        let read = self.lanes().flat_map(|lane| lane.ahead.iter().map(|read| &read.chunk));
        let waiting = self.partitions.iter().flat_map(|partition| &partition.waiting);
        for chunk in waiting.chain(read).chain(in_flight) {
            ages.record(now.saturating_sub(chunk.at), chunk.messages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::writes;

    #[test]
    fn a_bad_message_is_found_by_halving() {
        assert_eq!(writes(100, 0), 1);
        assert_eq!(writes(1, 1), 1);
        assert_eq!(writes(2, 1), 3, "the pair, then either");
        assert_eq!(writes(100, 1), 15, "7 halvings of two writes each");
        assert_eq!(writes(4, 4), 7, "every message and every half");
    }
}
