//! What every worker shares: telemetry, shutdown, the Kafka client, and the microbatch engine.
//!
//! The decisions (batching, order, offsets, retries, bisection) are plain functions on plain data in
//! [`batch`], [`lanes`], [`retry`] and [`processing`]; [`consumer`] carries them out on a Kafka client.

pub mod ages;
pub mod aws;
pub mod batch;
pub mod concurrency;
pub mod consumer;
pub mod database;
pub mod dead_letters;
pub mod emf;
pub mod function;
pub mod kafka;
pub mod kafka_event;
pub mod lanes;
pub mod load;
pub mod processing;
mod program;
pub mod redrive;
pub mod retry;
pub mod schedule;
pub mod shutdown;
pub mod telemetry;
pub mod worker;
