//! KEDA and the autoscaler together, one step at a time: from what can be seen now to how many replicas there are to
//! be, with the reason in words.

use super::{
    Milliseconds,
    hpa::{Autoscaler, Because, Metric, SYNC_PERIOD, SelectPolicy, Sync},
    keda::{KafkaScaler, KafkaTrigger, Lag, PartitionOffsets},
    rate::RateTarget,
    scaled_object::{Activity, Executor, ScaledObject},
    seconds,
};
use crate::figure::CapacityError;

/// What the replicas follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The trigger's `lagThreshold` records of lag a replica.
    Lag,
    /// The arrival rate and the time to drain.
    Rate(RateTarget),
}

/// A scaler's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// KEDA's object.
    pub object: ScaledObject,
    /// Its Kafka trigger.
    pub trigger: KafkaTrigger,
    /// What the replicas follow.
    pub target: Target,
}

/// What can be seen at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// The moment. It never goes back.
    pub now: Milliseconds,
    /// The offsets by partition; nothing where the brokers could not be asked.
    pub offsets: Option<&'a [PartitionOffsets]>,
    /// Messages that arrive, in thousandths per second, as the second trigger measures them; 0 where there is none.
    pub arrival_thousandths: u64,
    /// Replicas that the deployment wants now.
    pub replicas: u32,
    /// Those of them that are ready. Neither KEDA nor the autoscaler minds; the reason tells it.
    pub ready: u32,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The replicas that there are to be.
    pub replicas: u32,
    /// Why, in words; empty where nothing was due.
    pub reason: String,
}

/// KEDA and the autoscaler with all that they remember.
#[derive(Clone, Debug)]
pub struct Stepper {
    scaling: Scaling,
    kafka: KafkaScaler,
    executor: Executor,
    autoscaler: Autoscaler,
    next_poll: Milliseconds,
    next_sync: Milliseconds,
    failures: u32,
}

impl Stepper {
    /// Begins at a moment: both loops are due at once.
    ///
    /// # Errors
    ///
    /// For what KEDA or Kubernetes refuses.
    pub fn new(scaling: Scaling, now: Milliseconds) -> Result<Self, CapacityError> {
        Self::resume(scaling, now, None)
    }

    /// As [`Stepper::new`], for an object that was there before: KEDA keeps the moment of the last activity in the
    /// object's status, so that the cooldown goes on after a restart. What the autoscaler remembers is lost.
    ///
    /// # Errors
    ///
    /// For what KEDA or Kubernetes refuses.
    pub fn resume(
        scaling: Scaling,
        now: Milliseconds,
        last_active: Option<Milliseconds>,
    ) -> Result<Self, CapacityError> {
        scaling.object.check()?;
        let kafka = KafkaScaler::new(scaling.trigger.clone())?;
        let mut behavior = scaling.object.behavior.clone();
        // KEDA writes the annotations into the autoscaler's behaviour.
        if scaling.object.annotations.paused_scale_in {
            behavior.scale_down.select_policy = SelectPolicy::Disabled;
        }
        if scaling.object.annotations.paused_scale_out {
            behavior.scale_up.select_policy = SelectPolicy::Disabled;
        }
        let autoscaler =
            Autoscaler::new(scaling.object.autoscaler_min(), scaling.object.max_replica_count, behavior)?;
        let executor = Executor::resume(now, last_active);
        Ok(Self { scaling, kafka, executor, autoscaler, next_poll: now, next_sync: now, failures: 0 })
    }

    /// The settings.
    #[must_use]
    pub fn scaling(&self) -> &Scaling {
        &self.scaling
    }

    /// When the trigger was last active.
    #[must_use]
    pub fn last_active(&self) -> Option<Milliseconds> {
        self.executor.last_active()
    }

    /// When the autoscaler's loop is due; KEDA's is besides.
    #[must_use]
    pub fn next_sync(&self) -> Milliseconds {
        self.next_sync
    }

    /// When the next loop is due.
    #[must_use]
    pub fn due(&self) -> Milliseconds {
        self.next_poll.min(self.next_sync)
    }

    /// Does what is due: KEDA's loop first, then the autoscaler's.
    pub fn step(&mut self, seen: &Observation<'_>) -> Decision {
        let annotations = self.scaling.object.annotations;
        if annotations.paused || annotations.paused_replicas.is_some() {
            let replicas = annotations.paused_replicas.unwrap_or(seen.replicas);
            return Decision { replicas, reason: "paused by annotation".to_owned() };
        }
        let mut decision = Decision { replicas: seen.replicas, reason: String::new() };
        if seen.now >= self.next_poll {
            self.next_poll = seen.now + seconds(self.scaling.object.polling_interval_seconds);
            let activity = self.activity(seen);
            let polled = self.executor.poll(&self.scaling.object, seen.now, decision.replicas, activity);
            if let Some((replicas, why)) = polled {
                decision = Decision { replicas, reason: format!("KEDA: {why}") };
            }
        }
        if seen.now >= self.next_sync {
            self.next_sync = seen.now + SYNC_PERIOD;
            if decision.replicas > 0 {
                let current = decision.replicas;
                let (metric, asked) = self.metric(seen, current);
                let sync = self.autoscaler.sync(seen.now, current, metric);
                let words = self.words(sync, current, seen);
                let before = if decision.reason.is_empty() { String::new() } else { decision.reason + "; " };
                decision = Decision { replicas: sync.replicas, reason: format!("{before}{asked}: {words}") };
            }
        }
        decision
    }

    fn total_thousandths(&self, lag: Lag, arrival_thousandths: u64) -> u64 {
        match self.scaling.target {
            Target::Lag => lag.metric.saturating_mul(1000),
            Target::Rate(target) => target.metric_thousandths(arrival_thousandths, lag.metric),
        }
    }

    fn activity(&mut self, seen: &Observation<'_>) -> Activity {
        let Some(offsets) = seen.offsets else { return Activity::Failed };
        let lag = self.kafka.query(offsets);
        // With a formula it is the formula's value that activates, above activationTarget 0.
        let active = match self.scaling.target {
            Target::Lag => lag.active,
            Target::Rate(_) => self.total_thousandths(lag, seen.arrival_thousandths) > 0,
        };
        if active { Activity::Active } else { Activity::Inactive }
    }

    fn metric(&mut self, seen: &Observation<'_>, current: u32) -> (Option<Metric>, String) {
        let target_thousandths = match self.scaling.target {
            Target::Lag => self.scaling.trigger.lag_threshold,
            Target::Rate(target) => target.messages_per_second_per_replica,
        }
        .saturating_mul(1000);
        let Some(offsets) = seen.offsets else {
            self.failures += 1;
            let fallback =
                self.scaling.object.fallback.filter(|fallback| self.failures > fallback.failure_threshold);
            let metric = fallback.map(|fallback| {
                let total_thousandths =
                    u64::from(fallback.replicas(current)).saturating_mul(target_thousandths);
                Metric { total_thousandths, target_thousandths }
            });
            let what = if metric.is_some() { ", fallback" } else { "" };
            return (metric, format!("the offsets cannot be read{what}"));
        };
        self.failures = 0;
        let lag = self.kafka.query(offsets);
        let total_thousandths = self.total_thousandths(lag, seen.arrival_thousandths);
        let asked = match self.scaling.target {
            Target::Lag => {
                let cut = if lag.bounded { ", cut to the partitions" } else { "" };
                format!("lag {}{cut} / {}", lag.records, self.scaling.trigger.lag_threshold)
            }
            Target::Rate(target) => format!(
                "({:.0}/s + lag {} / {} s) / {}",
                seen.arrival_thousandths as f64 / 1000.0,
                lag.metric,
                target.drain_seconds,
                target.messages_per_second_per_replica
            ),
        };
        (Some(Metric { total_thousandths, target_thousandths }), asked)
    }

    fn words(&self, sync: Sync, current: u32, seen: &Observation<'_>) -> String {
        let behavior = &self.scaling.object.behavior;
        let Sync { replicas, recommended, because } = sync;
        let why = match because {
            Because::AtZero => "switched off at zero".to_owned(),
            Because::OutOfBounds => "back within the bounds".to_owned(),
            Because::NoMetric => "no metric".to_owned(),
            Because::WithinTolerance => "within the tolerance".to_owned(),
            Because::Metric => format!("asks for {recommended}"),
            Because::StabilizedUp => format!(
                "asks for {recommended}; less was asked for within {} s",
                behavior.scale_up.stabilization_window_seconds
            ),
            Because::StabilizedDown => format!(
                "asks for {recommended}; more was asked for within {} s",
                behavior.scale_down.stabilization_window_seconds
            ),
            Because::ScaleUpLimit => format!("asks for {recommended}; the policies allow {replicas}"),
            Because::ScaleDownLimit => format!("asks for {recommended}; the policies keep {replicas}"),
            Because::Maximum => format!("asks for {recommended}; at most {replicas}"),
            Because::Minimum => format!("asks for {recommended}; at least {replicas}"),
        };
        let starting = current.saturating_sub(seen.ready);
        let starting = if starting > 0 {
            format!(" ({starting} not ready, which does not count)")
        } else {
            String::new()
        };
        match replicas {
            same if same == current => format!("{why}, stays at {current}{starting}"),
            _ => format!("{why}, {current} -> {replicas}{starting}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::scaled_object::{Fallback, FallbackBehavior};
    use proptest::prelude::*;

    fn scaling(change: impl FnOnce(&mut Scaling)) -> Scaling {
        let mut scaling = Scaling {
            object: ScaledObject::default(),
            trigger: KafkaTrigger { lag_threshold: 100, ..KafkaTrigger::default() },
            target: Target::Lag,
        };
        change(&mut scaling);
        scaling
    }

    fn offsets(lag: u64) -> Vec<PartitionOffsets> {
        let partition = |partition| PartitionOffsets {
            partition,
            committed: Some(0),
            latest: Some(lag / 24 + u64::from(u64::from(partition) < lag % 24)),
        };
        (0..24).map(partition).collect()
    }

    fn see(now: Milliseconds, offsets: &[PartitionOffsets], replicas: u32) -> Observation<'_> {
        Observation { now, offsets: Some(offsets), arrival_thousandths: 0, replicas, ready: replicas }
    }

    #[test]
    fn keda_makes_one_of_none_and_the_autoscaler_goes_on_in_the_same_breath() {
        let mut stepper = Stepper::new(scaling(|_| ()), 0).unwrap();
        let decision = stepper.step(&see(0, &offsets(1000), 0));
        assert_eq!(decision.replicas, 5);
        assert_eq!(
            decision.reason,
            "KEDA: the trigger became active; lag 1000 / 100: asks for 10; the policies allow 5, \
             1 -> 5 (1 not ready, which does not count)"
        );
        assert_eq!(stepper.due(), 15_000);
        let waits = stepper.step(&see(7_000, &offsets(9000), 5));
        assert_eq!(waits, Decision { replicas: 5, reason: String::new() }, "nothing is due");
    }

    #[test]
    fn a_burst_between_two_polls_waits_for_the_poll_at_zero() {
        let mut stepper = Stepper::new(scaling(|_| ()), 0).unwrap();
        stepper.step(&see(0, &offsets(0), 0));
        assert_eq!(stepper.step(&see(15_000, &offsets(500), 0)).replicas, 0, "the autoscaler is off at zero");
        assert_eq!(stepper.step(&see(30_000, &offsets(500), 0)).replicas, 5);
    }

    #[test]
    fn the_cooldown_goes_on_after_a_restart() {
        let none = offsets(0);
        let step = |last_active| {
            let mut stepper = Stepper::resume(scaling(|_| ()), 400_000, last_active).unwrap();
            stepper.step(&see(400_000, &none, 1)).replicas
        };
        assert_eq!([step(Some(150_000)), step(Some(99_999))], [1, 0], "300 s of cooldown");
        let mut stepper = Stepper::new(scaling(|_| ()), 0).unwrap();
        stepper.step(&see(0, &offsets(50), 1));
        assert_eq!((stepper.last_active(), stepper.next_sync()), (Some(0), 15_000));
    }

    #[test]
    fn the_rate_counts_beside_the_lag() {
        let rate = RateTarget { messages_per_second_per_replica: 90, drain_seconds: 30 };
        let by_rate = scaling(|scaling| {
            scaling.target = Target::Rate(rate);
            scaling.trigger.allow_idle_consumers = true;
        });
        let mut stepper = Stepper::new(by_rate, 0).unwrap();
        let decision =
            stepper.step(&Observation { arrival_thousandths: 450_000, ..see(0, &offsets(2700), 4) });
        assert_eq!(decision.replicas, 6, "(450 + 90) / 90");
        assert_eq!(decision.reason, "(450/s + lag 2700 / 30 s) / 90: asks for 6, 4 -> 6");
    }

    #[test]
    fn without_offsets_the_fallback_comes_after_its_failures() {
        let mut stepper = Stepper::new(
            scaling(|scaling| {
                scaling.object.fallback =
                    Some(Fallback { failure_threshold: 2, replicas: 6, behavior: FallbackBehavior::Static });
            }),
            0,
        )
        .unwrap();
        let blind = |now| Observation { offsets: None, ..see(now, &[], 4) };
        assert_eq!(stepper.step(&blind(0)).replicas, 4);
        assert_eq!(stepper.step(&blind(15_000)).replicas, 4);
        let decision = stepper.step(&blind(30_000));
        assert_eq!(decision.replicas, 6, "{}", decision.reason);
    }

    #[test]
    fn annotations_pause() {
        let step = |change: fn(&mut Scaling), lag| {
            Stepper::new(scaling(change), 0).unwrap().step(&see(0, &offsets(lag), 5)).replicas
        };
        assert_eq!(step(|scaling| scaling.object.annotations.paused = true, 9000), 5);
        assert_eq!(step(|scaling| scaling.object.annotations.paused_replicas = Some(2), 9000), 2);
        assert_eq!(step(|scaling| scaling.object.annotations.paused_scale_out = true, 9000), 5);
        assert_eq!(step(|_| (), 9000), 10);
    }

    proptest! {
        #[test]
        fn the_bounds_hold_and_zero_is_kedas_alone(
            min in 0u32..5, more in 1u32..40, lags in proptest::collection::vec(0u64..20_000, 1..120)
        ) {
            let max = min + more;
            let mut stepper = Stepper::new(
                scaling(|scaling| {
                    scaling.object.min_replica_count = min;
                    scaling.object.max_replica_count = max;
                }),
                0,
            ).unwrap();
            let mut replicas = min;
            for (step, lag) in (0..).zip(lags) {
                let offsets = offsets(lag);
                let next = stepper.step(&see(step * 5_000, &offsets, replicas));
                prop_assert!((min..=max).contains(&next.replicas));
                if next.replicas == 0 && replicas > 0 {
                    prop_assert!(next.reason.starts_with("KEDA: "), "{}", next.reason);
                }
                replicas = next.replicas;
            }
        }
    }
}
