//! Tags in a cache: for each channel a snapshot of its objects and a stream of deltas, which change together.
//!
//! A reader takes the snapshot, which says up to which sequence number it tells, and then the deltas after that
//! number: nothing is missing between the two and nothing comes twice. [`writer`] writes, [`reader`] reads,
//! [`connection`] reaches a cluster.

pub mod channel;
pub mod connection;
pub mod object;
pub mod reader;
pub mod writer;

pub use channel::Channel;
pub use connection::StoreError;
pub use object::{Object, Position, Update};
