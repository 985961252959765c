//! The workload that is simulated, and scalers for it: the published one and ours.

use crate::{
    figure::CapacityError,
    scaling::{
        hpa::{Behavior, Policy, PolicyType, Rules, SelectPolicy},
        keda::KafkaTrigger,
        keda::OffsetResetPolicy,
        rate::RateTarget,
        scaled_object::{Fallback, FallbackBehavior, ScaledObject},
        stepper::{Scaling, Target},
    },
    trades::BATCH_OVERHEAD_SECONDS,
};

/// The trades system as its service level sizes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workload {
    /// Partitions of the topic.
    pub partitions: u32,
    /// Messages in a batch, at most.
    pub batch_size: u32,
    /// How long a batch waits for more, from its first message on, in seconds.
    pub batch_timeout_seconds: f64,
    /// How long the write of a batch takes, in seconds.
    pub batch_processing_seconds: f64,
    /// Batches that a consumer has in flight.
    pub batches_in_flight: u32,
    /// Batches that wait in a lane, at most, before its partitions are paused.
    pub batches_waiting: u32,
    /// The peak, in messages per second.
    pub peak_messages_per_second: f64,
    /// What the peak is multiplied with.
    pub safety_factor: f64,
    /// Consumers, at least.
    pub consumers_min: u32,
}

impl Workload {
    /// Checks what cannot be run.
    ///
    /// # Errors
    ///
    /// With what is wrong.
    pub fn check(&self) -> Result<(), CapacityError> {
        let seconds = self.batch_processing_seconds.min(self.batch_timeout_seconds);
        let counts = [self.partitions, self.batch_size, self.batches_in_flight, self.batches_waiting];
        if counts.contains(&0) || seconds < 0.0 {
            return Err(CapacityError::new(
                "partitions, batch_size, batches_in_flight and batches_waiting are at least 1, times at least 0",
            ));
        }
        Ok(())
    }

    /// How long a batch takes, in seconds, without bisection.
    #[must_use]
    pub fn batch_seconds(&self) -> f64 {
        self.batch_processing_seconds + BATCH_OVERHEAD_SECONDS
    }

    /// Messages per second that a consumer carries.
    #[must_use]
    pub fn messages_per_second_per_replica(&self) -> f64 {
        f64::from(self.batches_in_flight) * f64::from(self.batch_size) / self.batch_seconds()
    }

    /// Replicas that carry a rate, with the safety factor.
    #[must_use]
    pub fn replicas_for(&self, messages_per_second: f64) -> u32 {
        let needed = messages_per_second * self.safety_factor / self.messages_per_second_per_replica();
        (needed.ceil() as u32).clamp(1, self.replicas_max())
    }

    /// Replicas of which each lane has a partition; more would have lanes without.
    #[must_use]
    pub fn replicas_max(&self) -> u32 {
        (self.partitions / self.batches_in_flight.max(1)).max(1)
    }
}

fn policy(kind: PolicyType, value: u32, period_seconds: u32) -> Policy {
    Policy { kind, value, period_seconds }
}

/// The published system's ScaledObject, at its newest revision.
#[must_use]
pub fn published() -> Scaling {
    let rules = |stabilization_window_seconds, select_policy, policies| Rules {
        stabilization_window_seconds,
        select_policy,
        policies,
        tolerance: 0.1,
    };
    Scaling {
        object: ScaledObject {
            behavior: Behavior {
                scale_up: rules(
                    60,
                    SelectPolicy::Min,
                    vec![policy(PolicyType::Pods, 10, 60), policy(PolicyType::Percent, 500, 60)],
                ),
                scale_down: rules(120, SelectPolicy::Max, vec![policy(PolicyType::Percent, 50, 120)]),
            },
            ..ScaledObject::default()
        },
        trigger: KafkaTrigger { lag_threshold: 10_000, ..KafkaTrigger::default() },
        target: Target::Lag,
    }
}

/// What our scalers have in common: up at once, down by a quarter a minute.
fn scaled_object(workload: &Workload, min: u32, up_window: u32, down_window: u32) -> ScaledObject {
    let mut behavior = Behavior::default();
    behavior.scale_up.stabilization_window_seconds = up_window;
    behavior.scale_down.stabilization_window_seconds = down_window;
    behavior.scale_down.policies = vec![policy(PolicyType::Percent, 25, 60), policy(PolicyType::Pods, 1, 60)];
    let max = workload.replicas_max();
    let min = min.clamp(1, max);
    ScaledObject {
        polling_interval_seconds: 15,
        min_replica_count: min,
        max_replica_count: max,
        // Blind, it keeps what there is and at least what carries the peak.
        fallback: Some(Fallback {
            failure_threshold: 3,
            replicas: workload.replicas_for(workload.peak_messages_per_second),
            behavior: FallbackBehavior::CurrentReplicasIfHigher,
        }),
        behavior,
        ..ScaledObject::default()
    }
}

/// A scaler by a threshold of lag.
#[must_use]
pub fn by_lag(workload: &Workload, threshold: u64, min: u32, up_window: u32, down_window: u32) -> Scaling {
    Scaling {
        object: scaled_object(workload, min, up_window, down_window),
        trigger: KafkaTrigger {
            lag_threshold: threshold.max(1),
            offset_reset_policy: OffsetResetPolicy::Earliest,
            ..KafkaTrigger::default()
        },
        target: Target::Lag,
    }
}

/// A scaler by the arrival rate and the time to drain.
///
/// # Errors
///
/// When a replica carries less than one message per second.
pub fn ours(
    workload: &Workload,
    drain_seconds: u32,
    min: u32,
    down_window: u32,
) -> Result<Scaling, CapacityError> {
    let target =
        RateTarget::new(workload.messages_per_second_per_replica(), workload.safety_factor, drain_seconds)?;
    Ok(Scaling {
        object: scaled_object(workload, min, 0, down_window),
        trigger: KafkaTrigger {
            lag_threshold: target.messages_per_second_per_replica,
            offset_reset_policy: OffsetResetPolicy::Earliest,
            // The bound of the partitions would cut the lag before it reaches the formula.
            allow_idle_consumers: true,
            ..KafkaTrigger::default()
        },
        target: Target::Rate(target),
    })
}
