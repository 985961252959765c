//! Writing: a script changes a channel's snapshot and its deltas together.

use redis::Script;

use crate::{Channel, StoreError, Update, connection::Store};

/// Deltas that a channel keeps, about: a reader that is further behind takes the snapshot again.
pub const DELTAS_KEPT: u32 = 1000;

/// What became of updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Those that changed something.
    pub applied: u64,
    /// Those that were there already, or that something newer had replaced.
    pub known: u64,
    /// The channel's sequence number now.
    pub sequence: u64,
}

/// Writes updates.
#[derive(Clone)]
pub struct Writer {
    store: Store,
    script: std::sync::Arc<Script>,
}

impl Writer {
    /// To a cluster.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, script: std::sync::Arc::new(Script::new(include_str!("update.lua"))) }
    }

    /// Applies updates to a channel, in their order, all or none. `now_ms` is milliseconds since the epoch.
    ///
    /// An update whose position is not after that of what is there changes nothing, so that updates may be written
    /// again when it is not known whether they were.
    ///
    /// # Errors
    ///
    /// When it is not known whether they were written.
    pub async fn write(
        &self,
        channel: &Channel,
        updates: &[Update],
        now_ms: u64,
    ) -> Result<Written, StoreError> {
        let [snapshot, deltas] = channel.keys();
        let mut call = self.script.key(snapshot);
        call.key(deltas).arg(now_ms).arg(DELTAS_KEPT);
        for update in updates {
            call.arg(&update.name)
                .arg(u8::from(update.data.is_none()))
                .arg(update.expires_at_ms)
                .arg(update.position.partition)
                .arg(update.position.offset)
                .arg(update.data.as_deref().unwrap_or_default());
        }
        let mut connection = self.store.connection();
        let (applied, known, sequence): (u64, u64, String) = call.invoke_async(&mut connection).await?;
        let sequence = sequence.parse().map_err(|_| StoreError::Form(format!("sequence `{sequence}`")))?;
        Ok(Written { applied, known, sequence })
    }
}
