//! What every worker shares: telemetry, shutdown, the Kafka client, and the microbatch engine.
//!
//! The decisions (batching, order, offsets, retries, bisection) are plain functions on plain data in
//! [`batch`], [`lanes`], [`retry`] and [`processing`]; [`consumer`] carries them out on a Kafka client.

pub mod batch;
pub mod consumer;
pub mod dead_letters;
pub mod kafka;
pub mod lanes;
pub mod processing;
pub mod redrive;
pub mod retry;
pub mod shutdown;
pub mod telemetry;
