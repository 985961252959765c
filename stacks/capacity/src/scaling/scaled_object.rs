//! KEDA's ScaledObject: the step between zero and some replicas, pauses, and what happens when the metric cannot be
//! read. It follows `pkg/scaling/executor/scale_scaledobjects.go` and `pkg/fallback/fallback.go` of kedacore/keda.

use super::{Milliseconds, hpa::Behavior, seconds};
use crate::figure::CapacityError;

/// What the replicas are while the metric cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FallbackBehavior {
    /// `replicas`.
    #[default]
    Static,
    /// Those that there are.
    CurrentReplicas,
    /// The larger of both.
    CurrentReplicasIfHigher,
    /// The smaller of both.
    CurrentReplicasIfLower,
}

/// What to do while the metric cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// Failures in a row that are borne; the next one falls back.
    pub failure_threshold: u32,
    /// Replicas to fall back to.
    pub replicas: u32,
    /// Whether those that there are count as well.
    pub behavior: FallbackBehavior,
}

impl Fallback {
    /// The replicas that the metric is made to ask for.
    #[must_use]
    pub fn replicas(&self, current: u32) -> u32 {
        match self.behavior {
            FallbackBehavior::Static => self.replicas,
            FallbackBehavior::CurrentReplicas => current,
            FallbackBehavior::CurrentReplicasIfHigher => current.max(self.replicas),
            FallbackBehavior::CurrentReplicasIfLower => current.min(self.replicas),
        }
    }
}

/// The annotations `autoscaling.keda.sh/...` that operations set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// `paused`: nothing is scaled.
    pub paused: bool,
    /// `paused-replicas`: nothing is scaled after going to this number.
    pub paused_replicas: Option<u32>,
    /// `paused-scale-in`: nothing is taken away.
    pub paused_scale_in: bool,
    /// `paused-scale-out`: nothing is added.
    pub paused_scale_out: bool,
    /// `force-activation`: active whatever the trigger says.
    pub force_activation: bool,
}

/// The settings, with KEDA's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaledObject {
    /// Seconds between KEDA's own queries, which decide between zero and some. The autoscaler queries through
    /// KEDA at each of its syncs besides.
    pub polling_interval_seconds: u32,
    /// Seconds without activity before the step to zero or idle; no other step knows it.
    pub cooldown_period_seconds: u32,
    /// The same, from the creation on, where nothing was ever active.
    pub initial_cooldown_period_seconds: u32,
    /// Replicas while inactive, below the minimum. KEDA's documentation supports 0 alone.
    pub idle_replica_count: Option<u32>,
    /// Replicas, at least.
    pub min_replica_count: u32,
    /// Replicas, at most.
    pub max_replica_count: u32,
    /// What to do while the metric cannot be read.
    pub fallback: Option<Fallback>,
    /// What operations have set.
    pub annotations: Annotations,
    /// How the autoscaler behaves.
    pub behavior: Behavior,
}

impl Default for ScaledObject {
    fn default() -> Self {
        Self {
            polling_interval_seconds: 30,
            cooldown_period_seconds: 300,
            initial_cooldown_period_seconds: 0,
            idle_replica_count: None,
            min_replica_count: 0,
            max_replica_count: 100,
            fallback: None,
            annotations: Annotations::default(),
            behavior: Behavior::default(),
        }
    }
}

impl ScaledObject {
    /// Checks what KEDA's admission webhook checks.
    ///
    /// # Errors
    ///
    /// With what it refuses.
    pub fn check(&self) -> Result<(), CapacityError> {
        let refused = |why: String| Err(CapacityError::new(format!("KEDA refuses the ScaledObject: {why}")));
        let (min, max) = (self.min_replica_count, self.max_replica_count);
        if max == 0 || min > max {
            return refused(format!("minReplicaCount {min} and maxReplicaCount {max}"));
        }
        if self.polling_interval_seconds == 0 {
            return refused("pollingInterval is 0".to_owned());
        }
        match self.idle_replica_count {
            Some(idle) if idle >= min => {
                refused(format!("idleReplicaCount {idle} must be less than minReplicaCount {min}"))
            }
            _ => Ok(()),
        }
    }

    /// `minReplicas` of the autoscaler that KEDA makes: it takes no 0.
    #[must_use]
    pub fn autoscaler_min(&self) -> u32 {
        self.min_replica_count.max(1)
    }
}

/// What a query of the trigger came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// There is work.
    Active,
    /// There is none.
    Inactive,
    /// It failed.
    Failed,
}

/// The part of KEDA that goes between zero and some.
#[derive(Clone, Debug)]
pub struct Executor {
    created: Milliseconds,
    last_active: Option<Milliseconds>,
}

impl Executor {
    /// The executor of an object that was created then.
    #[must_use]
    pub fn new(created: Milliseconds) -> Self {
        Self::resume(created, None)
    }

    /// The executor of an object whose status says when it was last active.
    #[must_use]
    pub fn resume(created: Milliseconds, last_active: Option<Milliseconds>) -> Self {
        Self { created, last_active }
    }

    /// When the trigger was last active.
    #[must_use]
    pub fn last_active(&self) -> Option<Milliseconds> {
        self.last_active
    }

    /// What KEDA's own loop sets the replicas to, with its reason; nothing where it leaves them.
    pub fn poll(
        &mut self,
        object: &ScaledObject,
        now: Milliseconds,
        current: u32,
        activity: Activity,
    ) -> Option<(u32, String)> {
        let min = object.min_replica_count;
        if activity == Activity::Active || object.annotations.force_activation {
            let idle = object.idle_replica_count.is_some() && current < min;
            if !idle && current > 0 {
                // A query that failed does not come here: there is one trigger, which is active.
                self.last_active = Some(now);
                return None;
            }
            if object.annotations.paused_scale_out {
                return None;
            }
            self.last_active = Some(now);
            return Some((min.max(1), "the trigger became active".to_owned()));
        }
        if activity == Activity::Failed && object.fallback.is_none_or(|fallback| fallback.replicas != 0) {
            return None;
        }
        let lowest = object.idle_replica_count.unwrap_or(min);
        if object.idle_replica_count.is_some_and(|idle| current > idle) || (current > 0 && min == 0) {
            if object.annotations.paused_scale_in {
                return None;
            }
            let (since, wait) = match self.last_active {
                Some(at) => (at, object.cooldown_period_seconds),
                None => (self.created, object.initial_cooldown_period_seconds),
            };
            return (since + seconds(wait) < now).then(|| {
                let idle = (now - since) / 1000;
                (lowest, format!("inactive for {idle} s, above the cooldown of {wait} s"))
            });
        }
        (object.idle_replica_count.is_none() && current < min)
            .then(|| (min, "fewer than minReplicaCount".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(change: impl FnOnce(&mut ScaledObject)) -> ScaledObject {
        let mut object = ScaledObject::default();
        change(&mut object);
        object
    }

    fn replicas(step: Option<(u32, String)>) -> Option<u32> {
        step.map(|(replicas, _)| replicas)
    }

    #[test]
    fn zero_is_left_at_once_and_reached_after_the_cooldown() {
        let object = ScaledObject::default();
        let mut executor = Executor::new(0);
        assert_eq!(replicas(executor.poll(&object, 0, 0, Activity::Inactive)), None);
        assert_eq!(replicas(executor.poll(&object, 30_000, 0, Activity::Active)), Some(1));
        assert_eq!(
            replicas(executor.poll(&object, 60_000, 5, Activity::Active)),
            None,
            "1 to N is not KEDA's"
        );
        assert_eq!(
            replicas(executor.poll(&object, 360_000, 5, Activity::Inactive)),
            None,
            "300 s are not over"
        );
        assert_eq!(
            replicas(executor.poll(&object, 360_001, 5, Activity::Inactive)),
            Some(0),
            "from 5 in one step"
        );
    }

    #[test]
    fn what_was_never_active_waits_from_its_creation() {
        let object = object(|object| object.initial_cooldown_period_seconds = 120);
        let mut executor = Executor::new(0);
        assert_eq!(replicas(executor.poll(&object, 120_000, 2, Activity::Inactive)), None);
        assert_eq!(replicas(executor.poll(&object, 121_000, 2, Activity::Inactive)), Some(0));
    }

    #[test]
    fn idle_replicas_lie_below_the_minimum() {
        let idle = object(|object| {
            object.min_replica_count = 3;
            object.idle_replica_count = Some(0);
        });
        let mut executor = Executor::new(0);
        assert_eq!(replicas(executor.poll(&idle, 0, 0, Activity::Active)), Some(3));
        assert_eq!(replicas(executor.poll(&idle, 301_000, 3, Activity::Inactive)), Some(0));
        let minimum = object(|object| object.min_replica_count = 3);
        assert_eq!(replicas(executor.poll(&minimum, 0, 1, Activity::Inactive)), Some(3));
        assert_eq!(replicas(executor.poll(&minimum, 999_000, 3, Activity::Inactive)), None);
        assert!(object(|object| object.idle_replica_count = Some(0)).check().is_err(), "0 is not below 0");
        assert!(object(|object| object.min_replica_count = 101).check().is_err());
        assert!(idle.check().is_ok());
    }

    #[test]
    fn a_failed_query_does_not_go_to_zero_while_a_fallback_wants_replicas() {
        let with = |replicas| {
            object(|object| {
                object.fallback =
                    Some(Fallback { failure_threshold: 3, replicas, behavior: FallbackBehavior::Static });
            })
        };
        let mut executor = Executor::new(0);
        assert_eq!(replicas(executor.poll(&with(4), 1000, 2, Activity::Failed)), None);
        assert_eq!(replicas(executor.poll(&with(0), 1000, 2, Activity::Failed)), Some(0));
        assert_eq!(replicas(executor.poll(&ScaledObject::default(), 1000, 2, Activity::Failed)), None);
    }

    #[test]
    fn annotations_hold_either_direction() {
        let held = object(|object| {
            object.annotations =
                Annotations { paused_scale_in: true, paused_scale_out: true, ..Default::default() };
        });
        let mut executor = Executor::new(0);
        assert_eq!(replicas(executor.poll(&held, 1000, 0, Activity::Active)), None);
        assert_eq!(replicas(executor.poll(&held, 1000, 4, Activity::Inactive)), None);
        let forced = object(|object| object.annotations.force_activation = true);
        assert_eq!(replicas(executor.poll(&forced, 1000, 0, Activity::Inactive)), Some(1));
    }

    #[test]
    fn a_fallback_weighs_what_is_there() {
        let falls =
            |behavior, current| Fallback { failure_threshold: 0, replicas: 6, behavior }.replicas(current);
        assert_eq!(falls(FallbackBehavior::Static, 9), 6);
        assert_eq!(falls(FallbackBehavior::CurrentReplicas, 9), 9);
        assert_eq!(
            [
                falls(FallbackBehavior::CurrentReplicasIfHigher, 9),
                falls(FallbackBehavior::CurrentReplicasIfHigher, 2)
            ],
            [9, 6]
        );
        assert_eq!(
            [
                falls(FallbackBehavior::CurrentReplicasIfLower, 9),
                falls(FallbackBehavior::CurrentReplicasIfLower, 2)
            ],
            [6, 2]
        );
    }
}
