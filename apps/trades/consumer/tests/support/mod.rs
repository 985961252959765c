//! Consumers that note what they were given, and records to feed them.

#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, unreachable_pub)]

pub mod load;
pub mod recorders;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use worker_kit::{
    batch::Record,
    dead_letters::Rejection,
    processing::{BatchHandler, HandleError},
};

/// What a consumer was given: (partition, offset, key, value), in order.
pub type Seen = Arc<Mutex<Vec<(i32, i64, String, String)>>>;

/// Notes what it is given, after a while.
pub struct Recorder {
    pub seen: Seen,
    pub takes: Duration,
}

impl BatchHandler for Recorder {
    type Item = (i32, i64, String, String);

    fn decode(&self, record: Record<'_>) -> Result<Self::Item, Rejection> {
        let text = |part: Option<&[u8]>| String::from_utf8_lossy(part.unwrap_or_default()).into_owned();
        Ok((record.origin.partition, record.origin.offset, text(record.key), text(record.payload)))
    }

    async fn handle(&self, items: &[Self::Item]) -> Result<(), HandleError> {
        tokio::time::sleep(self.takes).await;
        self.seen.lock().unwrap().extend_from_slice(items);
        Ok(())
    }
}

/// Values 0..count of each of some keys, interleaved.
pub fn numbered(keys: usize, count: usize) -> impl Iterator<Item = (String, Option<Vec<u8>>)> {
    (0..count).flat_map(move |number| {
        (0..keys).map(move |key| (format!("key-{key}"), Some(number.to_string().into_bytes())))
    })
}
