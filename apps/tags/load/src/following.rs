//! Follows some channels while they are written to, as a reader of the library does: the snapshot, then the deltas after
//! it. Counts what the library promises that there is not: a change that is missing without being told, one that comes
//! out of order, and a view that is not what the snapshot says in the end.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use tag_store::{
    Channel, StoreError,
    reader::{Delta, Following, Reader, Snapshot},
};
use tag_worker::worker::machine_time_ms;
use tokio_util::sync::CancellationToken;
use worker_kit::ages::Ages;

use crate::traffic::{Data, Names};

/// Channels that are followed, at most: a reader looks at a few.
pub const CHANNELS_MAX: u32 = 16;

/// Between two looks at a channel.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long the end waits for a moment at which nothing is written.
const QUIET_WITHIN: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Followed {
    /// Channels that were followed.
    pub channels: u64,
    /// Changes that came.
    pub deltas: u64,
    /// Times that the reader was told to take the snapshot again, because it was too slow. No fault.
    pub gaps: u64,
    /// Changes that did not come, without a gap being told.
    pub missing: u64,
    /// Changes that came after later ones of their object, or twice.
    pub out_of_order: u64,
    /// Channels of which the deltas did not lead to what the snapshot says.
    pub diverged: u64,
    /// Times that the cache did not answer.
    pub unanswered: u64,
}

impl Followed {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            channels: self.channels + other.channels,
            deltas: self.deltas + other.deltas,
            gaps: self.gaps + other.gaps,
            missing: self.missing + other.missing,
            out_of_order: self.out_of_order + other.out_of_order,
            diverged: self.diverged + other.diverged,
            unanswered: self.unanswered + other.unanswered,
        }
    }

    /// Whether all came, in order.
    #[must_use]
    pub fn is_well(self) -> bool {
        self.missing + self.out_of_order + self.diverged == 0
    }
}

/// A channel as its reader knows it.
#[derive(Debug)]
struct View {
    run: u64,
    snapshot: Snapshot,
    /// The version that each object has, as far as that can be known: a deletion tells none.
    versions: HashMap<String, u32>,
    seen: Followed,
    /// How old changes were when they were read.
    ages: Ages,
}

impl View {
    fn new(run: u64, snapshot: Snapshot) -> Self {
        let mut view = Self {
            run,
            snapshot: Snapshot::default(),
            versions: HashMap::new(),
            seen: Followed { channels: 1, ..Followed::default() },
            ages: Ages::default(),
        };
        view.take(snapshot);
        view
    }

    /// Begins with a snapshot.
    fn take(&mut self, snapshot: Snapshot) {
        self.versions.clear();
        for (name, object) in &snapshot.objects {
            if let Some(data) = Data::parse(&object.data).filter(|data| data.run == self.run) {
                self.versions.insert(name.clone(), data.version);
            }
        }
        self.snapshot = snapshot;
    }

    fn gap(&mut self, snapshot: Snapshot) {
        // Before a channel begins there is nothing that could have been read.
        self.seen.gaps += u64::from(self.snapshot.sequence > 0);
        self.take(snapshot);
    }

    /// Takes in what was read at `now_ms`.
    fn follow(&mut self, deltas: &[Delta], now_ms: u64) {
        for delta in deltas {
            self.seen.deltas += 1;
            let known = self.versions.get(&delta.name).copied();
            match delta.data.as_deref().map(Data::parse) {
                // A deletion: what comes after it has the number after its own.
                None => {
                    if let Some(known) = known {
                        self.versions.insert(delta.name.clone(), known + 1);
                    }
                }
                Some(Some(data)) if data.run == self.run => {
                    match known {
                        Some(known) if data.version <= known => self.seen.out_of_order += 1,
                        Some(known) => self.seen.missing += u64::from(data.version - known - 1),
                        None => {}
                    }
                    self.versions.insert(delta.name.clone(), data.version);
                    self.ages.note(now_ms.saturating_sub(data.made_ms));
                }
                // What another run has written.
                Some(_) => {
                    self.versions.remove(&delta.name);
                }
            }
            self.snapshot.apply(delta);
        }
    }

    /// Compares with the snapshot, if both are of one moment; whether they are.
    fn compare(&mut self, mut held: Snapshot, now_ms: u64) -> bool {
        if held.sequence != self.snapshot.sequence {
            return false;
        }
        // The end of an object is no delta.
        held.drop_ended(now_ms);
        self.snapshot.drop_ended(now_ms);
        self.seen.diverged += u64::from(held != self.snapshot);
        true
    }
}

/// Follows a channel until `ended`, and then until it has read all that there is.
async fn follow_one(
    reader: Reader,
    channel: Channel,
    run: u64,
    ended: CancellationToken,
) -> (Followed, Ages) {
    let mut view = View::new(run, Snapshot::default());
    let mut quiet_until = None;
    loop {
        let is_last = ended.is_cancelled();
        let deadline = if is_last {
            Some(*quiet_until.get_or_insert_with(|| Instant::now() + QUIET_WITHIN))
        } else {
            None
        };
        match look(&reader, &channel, &mut view, is_last).await {
            Ok(true) => return (view.seen, view.ages),
            Ok(false) => {}
            Err(error) => {
                view.seen.unanswered += 1;
                tracing::warn!(%error, channel = channel.tag, "the channel cannot be read");
            }
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            view.seen.diverged += 1;
            return (view.seen, view.ages);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Reads what is new; with `compares`, whether view and snapshot could be compared.
async fn look(
    reader: &Reader,
    channel: &Channel,
    view: &mut View,
    compares: bool,
) -> Result<bool, StoreError> {
    loop {
        match reader.after(channel, view.snapshot.sequence).await? {
            Following::Deltas(deltas) if deltas.is_empty() => break,
            Following::Deltas(deltas) => view.follow(&deltas, machine_time_ms()),
            Following::Gap => view.gap(reader.snapshot(channel, machine_time_ms()).await?),
        }
    }
    if !compares {
        return Ok(false);
    }
    let now_ms = machine_time_ms();
    Ok(view.compare(reader.snapshot(channel, now_ms).await?, now_ms))
}

/// Follows some of a run's channels until `ended`; with how old changes were when they were read.
pub async fn follow(reader: &Reader, names: Names, ended: &CancellationToken) -> (Followed, Ages) {
    let count = names.channels.clamp(1, CHANNELS_MAX);
    let channels = (0..count).map(|number| names.channel(number * (names.channels / count)));
    let following = channels.map(|channel| follow_one(reader.clone(), channel, names.run(), ended.clone()));
    let all = futures::future::join_all(following).await.into_iter();
    all.fold((Followed::default(), Ages::default()), |(seen, ages), (more, others)| {
        (seen.and(more), ages.and(&others))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u64 = 5;

    fn delta(sequence: u64, name: &str, version: Option<u32>) -> Delta {
        Delta {
            sequence,
            name: name.to_owned(),
            data: version.map(|version| format!("{RUN}:{version}:{}:x", 10 * sequence)),
            expires_at_ms: 100,
        }
    }

    fn seen(deltas: &[Delta]) -> Followed {
        let mut view = View::new(RUN, Snapshot::default());
        view.follow(deltas, 100);
        view.seen
    }

    #[test]
    fn changes_are_as_old_as_when_they_are_read() {
        let mut view = View::new(RUN, Snapshot::default());
        view.follow(&[delta(1, "a", Some(1)), delta(2, "b", None), delta(3, "b", Some(4))], 50);
        let told = view.ages.told().unwrap();
        // Made at 10 and 30; a deletion does not say when it was made.
        assert_eq!((told.count, told.p50_seconds, told.p95_seconds), (2, 0.02, 0.04));
    }

    #[test]
    fn what_is_missing_or_out_of_order_is_seen_and_deletions_count() {
        let well = [
            delta(1, "a", Some(1)),
            delta(2, "b", Some(1)),
            delta(3, "a", None),
            delta(4, "a", Some(3)),
            delta(5, "b", Some(2)),
        ];
        assert!(seen(&well).is_well());
        assert_eq!(seen(&well).deltas, 5);
        let missing = [delta(1, "a", Some(1)), delta(2, "a", Some(4))];
        assert_eq!(seen(&missing).missing, 2);
        let back = [delta(1, "a", Some(2)), delta(2, "a", Some(1)), delta(3, "a", Some(1))];
        assert_eq!(seen(&back).out_of_order, 2);
    }

    #[test]
    fn a_gap_is_counted_but_for_the_first_and_what_was_known_before_it_is_forgotten() {
        let mut view = View::new(RUN, Snapshot::default());
        let mut later = Snapshot { sequence: 7, ..Snapshot::default() };
        later.apply(&delta(8, "a", Some(4)));
        view.gap(later.clone());
        assert_eq!(view.seen.gaps, 0, "the channel has begun");
        view.follow(&[delta(9, "a", Some(5))], 100);
        later.apply(&delta(12, "a", Some(9)));
        view.gap(later);
        view.follow(&[delta(13, "a", Some(10))], 200);
        assert_eq!((view.seen.gaps, view.seen.missing, view.seen.deltas), (1, 0, 2));
    }

    #[test]
    fn a_view_is_compared_at_its_own_moment_and_without_what_has_ended() {
        let mut view = View::new(RUN, Snapshot::default());
        view.follow(&[delta(1, "a", Some(1)), delta(2, "b", Some(1))], 20);
        let mut held = view.snapshot.clone();
        assert!(view.compare(held.clone(), 50) && view.seen.is_well());
        held.objects.remove("a");
        assert!(view.compare(held.clone(), 50));
        assert_eq!(view.seen.diverged, 1, "an object is not there");
        assert!(view.compare(Snapshot { sequence: 2, ..Snapshot::default() }, 100), "all have ended");
        assert_eq!(view.seen.diverged, 1);
        held.sequence = 3;
        assert!(!view.compare(held, 50), "there is more to read first");
    }
}
