//! How many consumers there should be: KEDA's Kafka scaler and the Kubernetes autoscaler behind it, as published, and
//! a target that follows the arrival rate. Time comes in as a number, so that a test and a simulation can hold it.

pub mod hpa;
pub mod keda;
pub mod manifest;
pub mod rate;
pub mod scaled_object;
pub mod stepper;

/// A moment or a span of virtual time, in milliseconds.
pub type Milliseconds = u64;

/// Whole seconds as milliseconds.
pub(crate) fn seconds(seconds: u32) -> Milliseconds {
    u64::from(seconds) * 1000
}
