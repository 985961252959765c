//! Which events go together in a request. A stream gives the records of a request no order, and takes some of them while it
//! refuses others: so of each user one event at most is under way. No I/O.

use std::collections::{HashSet, VecDeque};

use lessons_enricher::ports::{BYTES_MAX, RECORDS_MAX};

use crate::traffic::Made;

/// Events that wait, at most: what comes then is refused, as it must be where nobody waits for the stream.
pub const WAITING_MAX: usize = 20_000;

/// Events that wait to be sent, and whose events are under way.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<Made>,
    under_way: HashSet<usize>,
}

impl Outbox {
    /// Takes an event; whether there was room.
    pub fn push(&mut self, made: Made) -> bool {
        let room = self.waiting.len() < WAITING_MAX;
        if room {
            self.waiting.push_back(made);
        }
        room
    }

    /// Events for a request, the oldest first, none of a user who has one under way.
    pub fn take(&mut self) -> Vec<Made> {
        let (mut taken, mut left, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        while let Some(made) = self.waiting.pop_front() {
            let size = made.data.len() + made.key.len();
            if taken.len() == RECORDS_MAX || bytes + size > BYTES_MAX && !taken.is_empty() {
                left.push_back(made);
                break;
            }
            if self.under_way.insert(made.user) {
                bytes += size;
                taken.push(made);
            } else {
                left.push_back(made);
            }
        }
        // What was passed over comes before what was not looked at.
        left.append(&mut self.waiting);
        self.waiting = left;
        taken
    }

    /// What became of a request: what was not taken waits again, before all else. Gives what was taken.
    pub fn settle(&mut self, sent: Vec<Made>, taken: &[bool]) -> Vec<Made> {
        let mut there = Vec::with_capacity(sent.len());
        for (at, made) in sent.into_iter().enumerate().rev() {
            self.under_way.remove(&made.user);
            if taken.get(at).copied().unwrap_or(false) {
                there.push(made);
            } else {
                self.waiting.push_front(made);
            }
        }
        there.reverse();
        there
    }

    /// Events that wait or are under way.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.waiting.len() + self.under_way.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::traffic::Kind;

    fn made(number: u64, user: usize) -> Made {
        Made { number, kind: Kind::Lesson, user, key: user.to_string(), data: vec![b'x'; 100] }
    }

    proptest! {
        /// Whatever is refused, however requests overlap: all arrive, once, each user's in order.
        #[test]
        fn each_users_events_arrive_once_and_in_order(
            users in proptest::collection::vec(0usize..5, 1..80), refusals in proptest::collection::vec(any::<bool>(), 1..40),
        ) {
            let mut outbox = Outbox::default();
            for (number, user) in users.iter().enumerate() {
                prop_assert!(outbox.push(made(number as u64, *user)));
            }
            let mut refusals = refusals.into_iter();
            let mut arrived: Vec<Made> = Vec::new();
            while outbox.unsettled() > 0 {
                // Two requests at a time, answered in the other order.
                let (first, second) = (outbox.take(), outbox.take());
                for request in [second, first] {
                    let count = request.iter().map(|made| made.user).collect::<HashSet<_>>().len();
                    prop_assert_eq!(count, request.len(), "one of each user");
                    let taken: Vec<bool> = request.iter().map(|_| !refusals.next().unwrap_or(false)).collect();
                    arrived.extend(outbox.settle(request, &taken));
                }
            }
            prop_assert_eq!(arrived.len(), users.len());
            for user in 0..5 {
                let numbers: Vec<u64> = arrived.iter().filter(|made| made.user == user).map(|made| made.number).collect();
                prop_assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
            }
        }
    }

    #[test]
    fn requests_and_what_waits_are_bounded() {
        let mut outbox = Outbox::default();
        let mut refused = 0;
        for number in 0..WAITING_MAX + 10 {
            refused += usize::from(!outbox.push(made(number as u64, number)));
        }
        assert_eq!(refused, 10);
        assert_eq!(outbox.take().len(), RECORDS_MAX);
        let mut large = Outbox::default();
        for user in 0..3 {
            large.push(Made { data: vec![0; BYTES_MAX / 2], ..made(user as u64, user) });
        }
        assert_eq!(large.take().len(), 1);
        assert_eq!(large.unsettled(), 3);
    }
}
