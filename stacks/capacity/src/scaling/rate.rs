//! A target that follows the load: as many replicas as carry what arrives and drain what waits within a given time.
//! A threshold of lag a replica holds a standing backlog instead, threshold / rate of a replica seconds of it
//! at any load.

use crate::figure::CapacityError;

/// Replicas = ceil((arrival rate + lag / drain seconds) / rate of a replica).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateTarget {
    /// Messages per second that are asked of a replica: what it carries, less what is kept in reserve. A whole number,
    /// because KEDA reads the target of a formula so where there is a fallback.
    pub messages_per_second_per_replica: u64,
    /// Seconds within which what waits is to be gone.
    pub drain_seconds: u32,
}

impl RateTarget {
    /// A target from what a replica carries and what of that is kept in reserve.
    ///
    /// # Errors
    ///
    /// When a replica would be asked for less than one message per second, or the drain time is 0.
    pub fn new(per_replica: f64, safety_factor: f64, drain_seconds: u32) -> Result<Self, CapacityError> {
        let rate = (per_replica / safety_factor.max(1.0)).floor();
        if rate.is_nan() || rate < 1.0 || drain_seconds == 0 {
            return Err(CapacityError::new(
                "a replica is asked for less than one message per second, or the drain time is 0; raise one of them",
            ));
        }
        Ok(Self { messages_per_second_per_replica: rate as u64, drain_seconds })
    }

    /// What all replicas together are asked for, in thousandths of a message per second, as the autoscaler
    /// reckons. The arrival rate is in the same unit.
    #[must_use]
    pub fn metric_thousandths(&self, arrival_thousandths: u64, lag: u64) -> u64 {
        let drain = u128::from(lag) * 1000 / u128::from(self.drain_seconds.max(1));
        u64::try_from(u128::from(arrival_thousandths) + drain).unwrap_or(u64::MAX)
    }

    /// The replicas that this asks for, before bounds, tolerances and policies.
    #[must_use]
    pub fn replicas(&self, arrival_thousandths: u64, lag: u64) -> u64 {
        let target = self.messages_per_second_per_replica.max(1).saturating_mul(1000);
        self.metric_thousandths(arrival_thousandths, lag).div_ceil(target)
    }

    /// The formula of KEDA's `scalingModifiers`, over triggers named `arrival_rate` and `lag`.
    #[must_use]
    pub fn formula(&self) -> String {
        format!("arrival_rate + lag / {}", self.drain_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TARGET: RateTarget = RateTarget { messages_per_second_per_replica: 90, drain_seconds: 30 };

    #[test]
    fn what_arrives_and_what_waits_are_added() {
        assert_eq!(TARGET.replicas(0, 0), 0);
        assert_eq!(TARGET.replicas(1_000_000, 0), 12, "1000 / 90");
        assert_eq!(TARGET.replicas(1_000_000, 30_000), 23, "(1000 + 1000) / 90");
        assert_eq!(TARGET.replicas(0, 1), 1, "the last record has a replica");
        assert_eq!(RateTarget::new(99.8, 1.1, 30).unwrap(), TARGET);
        assert!(RateTarget::new(0.5, 1.0, 30).is_err() && RateTarget::new(10.0, 1.0, 0).is_err());
    }

    proptest! {
        #[test]
        fn what_is_asked_for_carries_the_load_and_no_replica_is_too_many(
            arrival in 0u64..100_000_000, lag in 0u64..10_000_000, rate in 1u64..10_000, drain in 1u32..600
        ) {
            let target = RateTarget { messages_per_second_per_replica: rate, drain_seconds: drain };
            let replicas = target.replicas(arrival, lag);
            let metric = target.metric_thousandths(arrival, lag);
            prop_assert!(replicas * rate * 1000 >= metric);
            prop_assert!(replicas == 0 || (replicas - 1) * rate * 1000 < metric);
            prop_assert!(target.replicas(arrival + 1, lag + 1) >= replicas);
        }
    }
}
