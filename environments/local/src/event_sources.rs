//! The runner of Lambda's event source mappings, for MSK and Kinesis.
//!
//! The emulator keeps the mappings and executes the functions; what lies between is here, with Lambda's semantics. The
//! decisions are pure: [`mapping`] reads what is configured, [`gathering`] makes batches, [`delivery`] sees a batch
//! through retries, splits and giving up, [`progress`] says what may be committed, [`filter`], [`event`] and
//! [`failure_record`] know the formats. [`kafka_source`], [`kinesis_source`], [`batches`], [`dispatch`] and [`aws_api`]
//! carry them out, a thread a mapping and a thread a batch in flight.

pub mod aws_api;
pub mod batches;
pub mod delivery;
pub mod dispatch;
pub mod event;
pub mod failure_record;
pub mod filter;
pub mod gathering;
pub mod kafka_source;
pub mod kinesis_source;
pub mod mapping;
pub mod progress;
pub mod record;
pub mod response;
pub mod runner;
pub mod status;
