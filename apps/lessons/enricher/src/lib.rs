//! Enriches lessons by user and subscription: a batch of a stream's records becomes writes to two tables and
//! records of two other streams.
//!
//! What happens to a batch is decided in [`plan`] without I/O; [`enricher`] carries it out through the ports of
//! [`ports`], which [`tables`] and [`stream`] implement with the AWS SDK.

mod call_error;
pub mod enricher;
pub mod failed;
pub mod function;
pub mod metrics;
pub mod plan;
pub mod ports;
pub mod stream;
pub mod tables;
