//! What the enricher needs of tables and streams: one call each, which may fail.

use std::future::Future;

use lesson_events::{
    Applied, EntityKey, Received,
    enrichment::{KnownSubscription, KnownUser},
};

/// Keys that one read of tables takes (`BatchGetItem`).
pub const KEYS_MAX: usize = 100;

/// Records that one write to a stream takes (`PutRecords`).
pub const RECORDS_MAX: usize = 500;

/// Bytes that one write to a stream takes, partition keys included (`PutRecords`).
pub const BYTES_MAX: usize = 5 << 20;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// It may succeed later.
    Retriable(String),
    /// It will not: permissions, names.
    Fatal(String),
}

/// What a table knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Of a user.
    User(String, KnownUser),
    /// Of a user's subscription to a language.
    Subscription(String, String, KnownSubscription),
}

/// What one read gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// What is known. Keys of which nothing is known are not there.
    pub known: Vec<Known>,
    /// Keys that the tables had no capacity for.
    pub unprocessed: Vec<EntityKey>,
}

/// The tables of users and subscriptions.
pub trait Tables: Send + Sync {
    /// Reads at most [`KEYS_MAX`] different keys, as last written.
    ///
    /// # Errors
    ///
    /// When nothing was read.
    fn read(&self, keys: &[EntityKey]) -> impl Future<Output = Result<Read, CallError>> + Send;

    /// Writes what an event tells, unless the table holds what is as new or newer.
    ///
    /// # Errors
    ///
    /// When it is not known whether it was written.
    fn write(&self, event: &Received) -> impl Future<Output = Result<Applied, CallError>> + Send;
}

/// A record on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The place in its batch of the record that it is made of.
    pub index: usize,
    /// Records of one partition key keep their order.
    pub partition_key: String,
    /// What it says.
    pub data: Vec<u8>,
}

/// A stream to write to.
pub trait Stream: Send + Sync {
    /// Writes at most [`RECORDS_MAX`] records of at most [`BYTES_MAX`]; for each, whether it was taken.
    ///
    /// # Errors
    ///
    /// When none was taken, as far as is known.
    fn put(&self, records: &[Outgoing]) -> impl Future<Output = Result<Vec<bool>, CallError>> + Send;
}
