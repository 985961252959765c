//! What a workload gets from its stack: the names and types of its configuration, declared once, written by
//! the stack and read by the app, so that the two cannot disagree. No I/O.

pub mod cache;
pub mod database;
mod environment;
pub mod kafka;
pub mod ledger;
pub mod lessons;
pub mod load;
pub mod tags;
pub mod trades;

pub use cache::{CacheAuthentication, CacheConfiguration};
pub use database::{DatabaseAuthentication, DatabaseConfiguration};
pub use environment::{ConfigurationError, Reader, Writer};
pub use kafka::{KafkaAuthentication, KafkaConfiguration};
