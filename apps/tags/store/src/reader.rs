//! Reading: the snapshot, then the deltas after it.

use std::collections::{BTreeMap, HashMap};

use redis::streams::StreamRangeReply;

use crate::{Channel, Object, StoreError, connection::Store, object::Held};

/// Deltas that are read at once.
const DELTAS_AT_ONCE: usize = 256;

/// A channel's objects at some sequence number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The number of the last change that it tells; 0 when there is nothing.
    pub sequence: u64,
    /// The objects by name.
    pub objects: BTreeMap<String, Object>,
}

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Its number: one more than that of the change before.
    pub sequence: u64,
    /// The object's name.
    pub name: String,
    /// What it is now; `None` when it was deleted.
    pub data: Option<String>,
    /// When it ends, in milliseconds since the epoch.
    pub expires_at_ms: u64,
}

/// What comes after a sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Following {
    /// The next changes, without a gap; none when there are none yet.
    Deltas(Vec<Delta>),
    /// Changes are no longer there, or the channel has ended and begun anew: take the snapshot again.
    Gap,
}

impl Snapshot {
    /// Brings it on by a delta. What has been told already changes nothing.
    pub fn apply(&mut self, delta: &Delta) {
        if delta.sequence <= self.sequence {
            return;
        }
        self.sequence = delta.sequence;
        match &delta.data {
            None => {
                self.objects.remove(&delta.name);
            }
            Some(data) => {
                let object = Object {
                    data: data.clone(),
                    sequence: delta.sequence,
                    expires_at_ms: delta.expires_at_ms,
                };
                self.objects.insert(delta.name.clone(), object);
            }
        }
    }
}

impl Snapshot {
    /// Leaves out what has ended: the end of an object is known beforehand and is no delta.
    pub fn drop_ended(&mut self, now_ms: u64) {
        self.objects.retain(|_, object| object.expires_at_ms > now_ms);
    }
}

/// Reads channels.
#[derive(Clone)]
pub struct Reader {
    store: Store,
}

impl Reader {
    /// Of a cluster.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The objects of a channel that have not ended at `now_ms`, milliseconds since the epoch.
    ///
    /// # Errors
    ///
    /// When the cache does not answer, or holds what nobody here has written.
    pub async fn snapshot(&self, channel: &Channel, now_ms: u64) -> Result<Snapshot, StoreError> {
        let [snapshot, _] = channel.keys();
        let mut connection = self.store.connection();
        let fields: HashMap<String, String> =
            redis::cmd("HGETALL").arg(snapshot).query_async(&mut connection).await?;
        let mut read = Snapshot::default();
        for (field, text) in fields {
            if field == "@sequence" {
                read.sequence = text.parse().map_err(|_| StoreError::Form(format!("sequence `{text}`")))?;
            } else if let Some(name) = field.strip_prefix("o:") {
                let held = Held::parse(&text).ok_or_else(|| StoreError::Form(format!("object `{name}`")))?;
                if !held.deleted && held.expires_at_ms > now_ms {
                    let Held { sequence, expires_at_ms, data, .. } = held;
                    read.objects.insert(name.to_owned(), Object { data, sequence, expires_at_ms });
                }
            }
        }
        Ok(read)
    }

    /// The changes after a sequence number, at most some hundreds at once.
    ///
    /// # Errors
    ///
    /// When the cache does not answer, or holds what nobody here has written.
    pub async fn after(&self, channel: &Channel, sequence: u64) -> Result<Following, StoreError> {
        let [snapshot, deltas] = channel.keys();
        let mut connection = self.store.connection();
        // Both at one moment: that there are no deltas says something only together with the number.
        let (last, range): (Option<String>, StreamRangeReply) = redis::pipe()
            .atomic()
            .cmd("HGET")
            .arg(&snapshot)
            .arg("@sequence")
            .cmd("XRANGE")
            .arg(&deltas)
            .arg(format!("{}-0", sequence.saturating_add(1)))
            .arg("+")
            .arg("COUNT")
            .arg(DELTAS_AT_ONCE)
            .query_async(&mut connection)
            .await?;
        let last: u64 = match last {
            None => 0,
            Some(text) => text.parse().map_err(|_| StoreError::Form(format!("sequence `{text}`")))?,
        };
        if last == sequence {
            return Ok(Following::Deltas(Vec::new()));
        }
        let mut following = Vec::with_capacity(range.ids.len());
        for entry in &range.ids {
            let number = entry.id.split_once('-').and_then(|(number, _)| number.parse().ok());
            let text = |name: &str| entry.get::<String>(name);
            let (Some(sequence), Some(name), Some(deleted), Some(ends), Some(data)) =
                (number, text("name"), text("deleted"), text("ends"), text("data"))
            else {
                return Err(StoreError::Form(format!("delta {}", entry.id)));
            };
            let expires_at_ms = ends.parse().map_err(|_| StoreError::Form(format!("delta {}", entry.id)))?;
            following.push(Delta { sequence, name, data: (deleted != "1").then_some(data), expires_at_ms });
        }
        let expected = sequence.saturating_add(1);
        if last < sequence || following.first().is_none_or(|first| first.sequence != expected) {
            return Ok(Following::Gap);
        }
        Ok(Following::Deltas(following))
    }
}
