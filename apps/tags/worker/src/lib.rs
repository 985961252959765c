//! Brings tags from a topic to the cache: what a tag must be, and the batches that the cache takes.

pub mod cache;
pub mod message;
pub mod token;
pub mod worker;
