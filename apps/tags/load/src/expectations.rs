//! What the cache must hold after a run, and what it means when it holds something else. No I/O.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::traffic::{Data, ObjectNumber, Sent};

/// The last acknowledged update of each object. Noted by the client's thread, while others read.
#[derive(Debug)]
pub struct Acknowledged {
    /// The version times two, and one more where it deleted the object: the greatest is the last.
    objects: Vec<AtomicU64>,
}

impl Acknowledged {
    /// Of so many objects, none of which has had an update.
    #[must_use]
    pub fn of(objects: usize) -> Self {
        Self { objects: (0..objects).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The brokers have an update.
    pub fn note(&self, object: ObjectNumber, sent: Sent) {
        if let Some(known) = self.objects.get(object) {
            known.fetch_max(u64::from(sent.version) * 2 + u64::from(sent.deleted), Ordering::Relaxed);
        }
    }

    /// The last one of an object.
    #[must_use]
    pub fn last(&self, object: ObjectNumber) -> Sent {
        let known = self.objects.get(object).map_or(0, |known| known.load(Ordering::Relaxed));
        Sent { version: u32::try_from(known / 2).unwrap_or(u32::MAX), deleted: known % 2 == 1 }
    }
}

/// What the cache holds of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// What a run has written.
    Written(Data),
    /// What no run has written.
    Other,
}

/// What that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is what the last update says.
    Right,
    /// The brokers were not heard of the last updates; it is what one of them says, or the last one that was heard of.
    Uncertain,
    /// It is not there, though the last update wrote it.
    Lost,
    /// It is what an earlier update says, or there although the last update deleted it.
    Stale,
    /// Somebody else has written it.
    Foreign,
}

/// Judges an object that had updates in a run.
#[must_use]
pub fn judge(run: u64, sent: Sent, acknowledged: Sent, held: Held) -> Verdict {
    let all_heard_of = sent == acknowledged;
    match held {
        Held::Other => Verdict::Foreign,
        Held::Written(data) if data.run > run => Verdict::Foreign,
        // What an earlier run left is nothing of this one, as long as nothing of this one must be there.
        Held::Written(data) if data.run < run && acknowledged.version == 0 => Verdict::Uncertain,
        Held::Written(data) if data.run < run || data.version < acknowledged.version => Verdict::Stale,
        Held::Written(data) if data.version > sent.version => Verdict::Foreign,
        Held::Written(data) if data.version == acknowledged.version => {
            if acknowledged.deleted {
                Verdict::Stale
            } else if all_heard_of {
                Verdict::Right
            } else {
                Verdict::Uncertain
            }
        }
        Held::Written(_) => Verdict::Uncertain,
        Held::Nothing if all_heard_of && acknowledged.deleted => Verdict::Right,
        Held::Nothing if all_heard_of => Verdict::Lost,
        // One of those that nobody has heard of may have deleted it.
        Held::Nothing => Verdict::Uncertain,
    }
}

/// How many objects of a run are what they should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Objects that had updates.
    pub objects: u64,
    /// See [`Verdict::Right`].
    pub right: u64,
    /// See [`Verdict::Uncertain`].
    pub uncertain: u64,
    /// See [`Verdict::Lost`].
    pub lost: u64,
    /// See [`Verdict::Stale`].
    pub stale: u64,
    /// See [`Verdict::Foreign`].
    pub foreign: u64,
}

impl Tally {
    /// Counts one.
    pub fn add(&mut self, verdict: Verdict) {
        self.objects += 1;
        *match verdict {
            Verdict::Right => &mut self.right,
            Verdict::Uncertain => &mut self.uncertain,
            Verdict::Lost => &mut self.lost,
            Verdict::Stale => &mut self.stale,
            Verdict::Foreign => &mut self.foreign,
        } += 1;
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            objects: self.objects + other.objects,
            right: self.right + other.right,
            uncertain: self.uncertain + other.uncertain,
            lost: self.lost + other.lost,
            stale: self.stale + other.stale,
            foreign: self.foreign + other.foreign,
        }
    }

    /// Whether nothing is missing or old.
    #[must_use]
    pub fn is_well(self) -> bool {
        self.lost + self.stale + self.foreign == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RUN: u64 = 1000;

    fn written(run: u64, version: u32) -> Held {
        Held::Written(Data { run, version, made_ms: 0 })
    }

    fn sent(version: u32, deleted: bool) -> Sent {
        Sent { version, deleted }
    }

    #[test]
    fn what_was_acknowledged_last_must_be_there() {
        let last = sent(5, false);
        for (held, verdict) in [
            (written(RUN, 5), Verdict::Right),
            (written(RUN, 4), Verdict::Stale),
            (written(RUN, 6), Verdict::Foreign),
            (written(RUN - 1, 9), Verdict::Stale),
            (written(RUN + 1, 1), Verdict::Foreign),
            (Held::Other, Verdict::Foreign),
            (Held::Nothing, Verdict::Lost),
        ] {
            assert_eq!(judge(RUN, last, last, held), verdict, "{held:?}");
        }
    }

    #[test]
    fn what_was_deleted_last_must_be_gone() {
        let last = sent(5, true);
        assert_eq!(judge(RUN, last, last, Held::Nothing), Verdict::Right);
        assert_eq!(judge(RUN, last, last, written(RUN, 4)), Verdict::Stale);
        assert_eq!(judge(RUN, last, last, written(RUN - 1, 4)), Verdict::Stale);
    }

    #[test]
    fn of_what_nobody_has_heard_each_end_is_possible_but_none_before_the_last_that_was() {
        let (last, heard) = (sent(7, false), sent(5, false));
        for (held, verdict) in [
            (written(RUN, 7), Verdict::Uncertain),
            (written(RUN, 6), Verdict::Uncertain),
            (written(RUN, 5), Verdict::Uncertain),
            (written(RUN, 4), Verdict::Stale),
            (Held::Nothing, Verdict::Uncertain),
        ] {
            assert_eq!(judge(RUN, last, heard, held), verdict, "{held:?}");
        }
        assert_eq!(judge(RUN, last, sent(0, false), written(RUN - 1, 3)), Verdict::Uncertain);
    }

    proptest! {
        /// In whatever order updates are acknowledged, the last one is remembered; and a cache that holds it is right.
        #[test]
        fn the_last_update_is_remembered(order in Just((1u32..20).collect::<Vec<_>>()).prop_shuffle(), deletes in any::<u32>()) {
            let acknowledged = Acknowledged::of(2);
            for version in &order {
                acknowledged.note(1, sent(*version, deletes & (1 << version) != 0));
            }
            let last = sent(19, deletes & (1 << 19) != 0);
            prop_assert_eq!((acknowledged.last(1), acknowledged.last(0)), (last, sent(0, false)));
            let held = if last.deleted { Held::Nothing } else { written(RUN, 19) };
            prop_assert_eq!(judge(RUN, last, acknowledged.last(1), held), Verdict::Right);
        }
    }
}
