//! The updates of a run. Repeatable: the same seed, run, shape and times make the same updates.

use rand::{Rng, SeedableRng, rngs::StdRng};
use tag_store::Channel;
use tag_worker::message::{Identifier, Message};
use worker_contract::tags::LoadShape;

/// The application that the channels belong to.
const APPLICATION: &str = "load";

/// Whose the objects are.
const SCOPE: &str = "application";

/// What pads data: as many as six bits tell apart, and none that JSON would escape.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Which updates are meant. Two runs with one seed write to the same channels; the later one has the greater `run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId {
    /// What chance begins with.
    pub seed: u64,
    /// Tells the runs with one seed apart: when it began, in milliseconds since the epoch.
    pub run: u64,
    /// Which of the pods of a run this is.
    pub number: u32,
}

/// Which object of a run: from 0 on, channel by channel.
pub type ObjectNumber = usize;

/// Where an object of a run is at: how many updates it had, and whether it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The number of its last update; 0 when it had none.
    pub version: u32,
    /// Whether that update deleted it.
    pub deleted: bool,
}

/// An update to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which object.
    pub object: ObjectNumber,
    /// What becomes of it.
    pub sent: Sent,
    /// The record's key: the channel, so that its updates have one order.
    pub key: String,
    /// The record's value.
    pub payload: Vec<u8>,
}

/// Makes updates.
#[derive(Debug)]
pub struct Traffic {
    id: RunId,
    shape: LoadShape,
    random: StdRng,
    /// Where each object is at.
    objects: Vec<Sent>,
    deletions: u64,
}

impl Traffic {
    /// Of that run and shape.
    #[must_use]
    pub fn new(id: RunId, shape: LoadShape) -> Self {
        let count = u64::from(shape.channels) * u64::from(shape.objects_per_channel);
        // Pods of one run do not make the same updates.
        let seed = id.seed.wrapping_add(u64::from(id.number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self {
            id,
            random: StdRng::seed_from_u64(seed),
            objects: vec![Sent::default(); usize::try_from(count).unwrap_or(usize::MAX)],
            shape,
            deletions: 0,
        }
    }

    /// The next update, made at `now_ms` (since the epoch): of any object, as likely of one as of another. Where chance says
    /// so and the object is there, it is deleted.
    ///
    /// # Errors
    ///
    /// When it cannot be written as JSON.
    pub fn change(&mut self, now_ms: u64) -> serde_json::Result<Change> {
        let object = self.random.random_range(0..self.objects.len().max(1));
        let deletes = self.random.random::<f64>() < self.shape.delete_share;
        let before = self.objects.get(object).copied().unwrap_or_default();
        let deleted = deletes && before.version > 0 && !before.deleted;
        let sent = Sent { version: before.version + 1, deleted };
        if let Some(state) = self.objects.get_mut(object) {
            *state = sent;
        }
        self.deletions += u64::from(deleted);
        let names = self.names();
        let (channel, name) = (names.channel(names.channel_number(object)), names.object(object));
        let key = format!("{}/{}/{}", channel.app_id, channel.tag, channel.scope);
        let mut message = Message {
            identifier: Identifier { app_id: channel.app_id, tag: channel.tag, scope: channel.scope, name },
            deleted,
            lifetime: u64::from(self.shape.lifetime_seconds),
            data: if deleted {
                String::new()
            } else {
                Data { run: self.id.run, version: sent.version, made_ms: now_ms }.text()
            },
        };
        let mut payload = serde_json::to_vec(&message)?;
        let wanted = usize::try_from(self.shape.message_bytes).unwrap_or(usize::MAX);
        if !deleted && payload.len() < wanted {
            let padding = wanted - payload.len();
            self.pad(&mut message.data, padding);
            payload = serde_json::to_vec(&message)?;
        }
        Ok(Change { object, sent, key, payload })
    }

    /// Random letters: what repeats itself would be compressed to nothing.
    fn pad(&mut self, text: &mut String, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let mut bits: u64 = self.random.random();
            for _ in 0..left.min(10) {
                let letter = LETTERS.get(usize::try_from(bits % 64).unwrap_or_default()).copied();
                text.push(char::from(letter.unwrap_or(b'A')));
                bits /= 64;
            }
            left = left.saturating_sub(10);
        }
    }

    /// Deletions so far.
    #[must_use]
    pub fn deletions(&self) -> u64 {
        self.deletions
    }

    /// What was sent last, object by object.
    #[must_use]
    pub fn sent(&self) -> &[Sent] {
        &self.objects
    }

    /// The names of this run's objects.
    #[must_use]
    pub fn names(&self) -> Names {
        Names {
            id: self.id,
            channels: self.shape.channels,
            objects_per_channel: self.shape.objects_per_channel,
        }
    }
}

/// How the channels and objects of a run are called.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    id: RunId,
    /// How many channels there are.
    pub channels: u32,
    /// How many objects each of them has.
    pub objects_per_channel: u32,
}

impl Names {
    /// Which run.
    #[must_use]
    pub fn run(&self) -> u64 {
        self.id.run
    }

    /// A channel by its number.
    #[must_use]
    pub fn channel(&self, number: u32) -> Channel {
        Channel {
            app_id: APPLICATION.to_owned(),
            tag: format!("{:016x}-{}-{number}", self.id.seed, self.id.number),
            scope: SCOPE.to_owned(),
        }
    }

    /// The channel that an object is in.
    #[must_use]
    pub fn channel_number(&self, object: ObjectNumber) -> u32 {
        u32::try_from(object / self.per_channel()).unwrap_or(u32::MAX)
    }

    /// The objects of a channel.
    #[must_use]
    pub fn objects(&self, channel: u32) -> std::ops::Range<ObjectNumber> {
        let first = usize::try_from(channel).unwrap_or(usize::MAX).saturating_mul(self.per_channel());
        first..first.saturating_add(self.per_channel())
    }

    /// An object's name in its channel.
    #[must_use]
    pub fn object(&self, object: ObjectNumber) -> String {
        format!("object-{}", object % self.per_channel())
    }

    fn per_channel(&self) -> usize {
        usize::try_from(self.objects_per_channel).unwrap_or(usize::MAX).max(1)
    }
}

/// What the data of an object tells of the update that wrote it: `RUN:VERSION:TIME:` and padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Data {
    /// The run.
    pub run: u64,
    /// The number of the object's update in it.
    pub version: u32,
    /// When it was made, in milliseconds since the epoch.
    pub made_ms: u64,
}

impl Data {
    /// Reads it; `None` for what no run has written.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':');
        let (run, version) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let made_ms = parts.next()?.parse().ok()?;
        parts.next().map(|_| Self { run, version, made_ms })
    }

    fn text(self) -> String {
        format!("{}:{}:{}:", self.run, self.version, self.made_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn shape(channels: u32, objects_per_channel: u32, delete_share: f64) -> LoadShape {
        LoadShape { channels, objects_per_channel, message_bytes: 400, delete_share, lifetime_seconds: 60 }
    }

    const ID: RunId = RunId { seed: 7, run: 1_700_000_000_000, number: 0 };

    #[test]
    fn the_same_seed_makes_the_same_updates_and_another_number_others() {
        let some = |id| {
            let mut traffic = Traffic::new(id, shape(10, 4, 0.2));
            (0..200).map(|number| traffic.change(number).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(some(ID), some(ID));
        let other = some(RunId { number: 1, ..ID });
        assert!(some(ID).iter().zip(&other).all(|(one, other)| one.key != other.key), "its own channels");
        assert_ne!(
            some(ID).iter().map(|change| change.object).collect::<Vec<_>>(),
            other.iter().map(|change| change.object).collect::<Vec<_>>()
        );
    }

    proptest! {
        /// Every update is one that the workers take, of the size that was asked for, in the channel that its key
        /// names, and numbered by its object; what is deleted was there.
        #[test]
        fn updates_are_what_the_workers_take(
            seed in any::<u64>(), channels in 1u32..20, objects in 1u32..10, deletes in 0.0f64..=1.0,
        ) {
            let id = RunId { seed, ..ID };
            let mut traffic = Traffic::new(id, shape(channels, objects, deletes));
            let mut versions: HashMap<(String, String), Sent> = HashMap::new();
            let mut deletions = 0;
            for number in 0..200 {
                let change = traffic.change(number).unwrap();
                let message: Message = serde_json::from_slice(&change.payload).unwrap();
                let Identifier { app_id, tag, scope, name } = message.identifier;
                prop_assert_eq!(&change.key, &format!("{app_id}/{tag}/{scope}"));
                prop_assert_eq!((message.lifetime, message.deleted), (60, change.sent.deleted));
                let before = versions.insert((tag, name), change.sent).unwrap_or_default();
                prop_assert_eq!(change.sent.version, before.version + 1);
                if message.deleted {
                    deletions += 1;
                    prop_assert!(before.version > 0 && !before.deleted, "only what is there is deleted");
                } else {
                    prop_assert_eq!(change.payload.len(), 400);
                    let told = Data { run: ID.run, version: change.sent.version, made_ms: number };
                    prop_assert_eq!(Data::parse(&message.data), Some(told));
                }
            }
            prop_assert_eq!(traffic.deletions(), deletions);
            prop_assert_eq!(traffic.sent().len(), (channels * objects) as usize);
            prop_assert_eq!(traffic.sent().iter().map(|sent| u64::from(sent.version)).sum::<u64>(), 200);
            prop_assert!(versions.len() <= traffic.sent().len());
        }
    }

    #[test]
    fn a_message_is_no_shorter_than_it_must_be() {
        let mut traffic = Traffic::new(ID, LoadShape { message_bytes: 1, ..shape(1, 1, 0.0) });
        let change = traffic.change(0).unwrap();
        assert!((100..250).contains(&change.payload.len()), "{}", change.payload.len());
        assert_eq!(Data::parse("1:2:3"), None);
        assert_eq!(Data::parse("x:2:3:"), None);
        assert_eq!(Data::parse("1:2:3:4:5"), Some(Data { run: 1, version: 2, made_ms: 3 }));
    }

    #[test]
    fn objects_and_channels_belong_together() {
        let names = Traffic::new(ID, shape(3, 5, 0.0)).names();
        for channel in 0..3 {
            for object in names.objects(channel) {
                assert_eq!(names.channel_number(object), channel);
            }
        }
        assert_eq!(names.objects(2), 10..15);
        assert_eq!(names.object(12), "object-2");
    }
}
