//! The Kubernetes horizontal autoscaler for one external metric with an average value, which is what KEDA makes.
//! It follows `horizontal.go` and `replica_calculator.go` of kubernetes/kubernetes, pkg/controller/podautoscaler.
//! Whether pods are ready, and the readiness delays, do not enter this path: they matter for metrics of pods alone.

use serde::Deserialize;

use super::{Milliseconds, seconds};
use crate::figure::CapacityError;

/// How often the autoscaler looks: the controller's `--horizontal-pod-autoscaler-sync-period`.
pub const SYNC_PERIOD: Milliseconds = 15_000;

/// The controller's `--horizontal-pod-autoscaler-tolerance`.
pub const TOLERANCE: f64 = 0.1;

/// What a policy counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum PolicyType {
    /// Replicas.
    Pods,
    /// Per cent of the replicas at the period's start.
    Percent,
}

/// How much may change within a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// What `value` counts.
    #[serde(rename = "type")]
    pub kind: PolicyType,
    /// Replicas or per cent, above 0.
    pub value: u32,
    /// The period, 1 to 1800 seconds.
    pub period_seconds: u32,
}

/// Which of several policies counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum SelectPolicy {
    /// The one that changes the most.
    #[default]
    Max,
    /// The one that changes the least.
    Min,
    /// None: this direction is off.
    Disabled,
}

/// How one direction behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Seconds over which recommendations are held against one another, at most 3600.
    pub stabilization_window_seconds: u32,
    /// Which policy counts.
    pub select_policy: SelectPolicy,
    /// At least one.
    pub policies: Vec<Policy>,
    /// The part of the target by which the metric may be off without a change.
    pub tolerance: f64,
}

/// How both directions behave.
#[derive(Clone, Debug, PartialEq)]
pub struct Behavior {
    /// Towards more replicas.
    pub scale_up: Rules,
    /// Towards fewer.
    pub scale_down: Rules,
}

impl Default for Behavior {
    /// Kubernetes' defaults: up at once, by 100% or 4 pods per 15 s, whichever is more; down by anything, to the highest
    /// recommendation of 300 s.
    fn default() -> Self {
        let policy = |kind, value| Policy { kind, value, period_seconds: 15 };
        let rules = |stabilization_window_seconds, policies| Rules {
            stabilization_window_seconds,
            select_policy: SelectPolicy::Max,
            policies,
            tolerance: TOLERANCE,
        };
        Self {
            scale_up: rules(0, vec![policy(PolicyType::Percent, 100), policy(PolicyType::Pods, 4)]),
            scale_down: rules(300, vec![policy(PolicyType::Percent, 100)]),
        }
    }
}

impl Rules {
    /// Checks the bounds that the API server checks.
    fn check(&self, direction: &str) -> Result<(), CapacityError> {
        let refused = |what: &str| Err(CapacityError::new(format!("Kubernetes refuses {direction}: {what}")));
        if self.stabilization_window_seconds > 3600 {
            return refused("stabilizationWindowSeconds is above 3600");
        }
        if self.policies.is_empty() {
            return refused("there is no policy");
        }
        if self
            .policies
            .iter()
            .any(|policy| policy.value == 0 || !(1..=1800).contains(&policy.period_seconds))
        {
            return refused("a policy's value is 0 or its periodSeconds is not 1 to 1800");
        }
        if !(0.0..1e6).contains(&self.tolerance) {
            return refused("tolerance is negative");
        }
        Ok(())
    }
}

/// A metric and its target for one replica, both in thousandths, as Kubernetes reckons quantities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Of all replicas together.
    pub total_thousandths: u64,
    /// For one replica.
    pub target_thousandths: u64,
}

/// Why the number of replicas is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// There are none, which switches the autoscaler off until KEDA makes one.
    AtZero,
    /// The replicas were outside the bounds.
    OutOfBounds,
    /// The metric was not there.
    NoMetric,
    /// The metric is near enough to its target.
    WithinTolerance,
    /// The metric asks for it.
    Metric,
    /// A lower recommendation of the window holds it back.
    StabilizedUp,
    /// A higher recommendation of the window holds it up.
    StabilizedDown,
    /// The policies do not let it grow faster.
    ScaleUpLimit,
    /// The policies do not let it shrink faster.
    ScaleDownLimit,
    /// `maxReplicas`.
    Maximum,
    /// `minReplicas`.
    Minimum,
}

/// What a sync came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sync {
    /// The replicas that there are to be.
    pub replicas: u32,
    /// What the metric alone asks for.
    pub recommended: u32,
    /// What decided.
    pub because: Because,
}

/// The autoscaler with its history.
#[derive(Clone, Debug)]
pub struct Autoscaler {
    min: u32,
    max: u32,
    behavior: Behavior,
    /// Whether there was a sync.
    begun: bool,
    recommendations: Vec<(Milliseconds, u32)>,
    added: Vec<(Milliseconds, u32)>,
    removed: Vec<(Milliseconds, u32)>,
}

impl Autoscaler {
    /// An autoscaler without history between these bounds.
    ///
    /// # Errors
    ///
    /// For bounds and behaviour that Kubernetes refuses.
    pub fn new(min: u32, max: u32, behavior: Behavior) -> Result<Self, CapacityError> {
        if min == 0 || max < min {
            return Err(CapacityError::new(format!(
                "Kubernetes refuses minReplicas {min} and maxReplicas {max}: it wants 1 <= min <= max"
            )));
        }
        behavior.scale_up.check("scaleUp")?;
        behavior.scale_down.check("scaleDown")?;
        Ok(Self {
            min,
            max,
            behavior,
            begun: false,
            recommendations: Vec::new(),
            added: Vec::new(),
            removed: Vec::new(),
        })
    }

    /// What the metric alone asks for, and whether it is within the tolerance.
    fn recommend(&self, current: u32, metric: Metric) -> (u32, bool) {
        let total = metric.total_thousandths;
        let target = metric.target_thousandths.max(1);
        let ratio = total as f64 / (target as f64 * f64::from(current));
        let (up, down) = (self.behavior.scale_up.tolerance, self.behavior.scale_down.tolerance);
        if (1.0 - down..=1.0 + up).contains(&ratio) {
            return (current, true);
        }
        (u32::try_from(total.div_ceil(target)).unwrap_or(u32::MAX), false)
    }

    /// One sync: from the replicas that there are, ready or not, to those that there are to be.
    pub fn sync(&mut self, now: Milliseconds, current: u32, metric: Option<Metric>) -> Sync {
        let decided = |replicas, because| Sync { replicas, recommended: replicas, because };
        // recordInitialRecommendation: what there is when it begins holds the window, so that a controller that was
        // started again takes nobody away at once.
        if !std::mem::replace(&mut self.begun, true) {
            self.recommendations.push((now, current));
        }
        if current == 0 {
            return decided(0, Because::AtZero);
        }
        let sync = if current > self.max || current < self.min {
            decided(current.clamp(self.min, self.max), Because::OutOfBounds)
        } else if let Some(metric) = metric {
            self.follow(now, current, metric)
        } else {
            decided(current, Because::NoMetric)
        };
        let period = self.longest_period();
        for (events, change) in [
            (&mut self.added, sync.replicas.saturating_sub(current)),
            (&mut self.removed, current.saturating_sub(sync.replicas)),
        ] {
            events.retain(|(at, _)| at + period > now);
            if change > 0 {
                events.push((now, change));
            }
        }
        sync
    }

    fn longest_period(&self) -> Milliseconds {
        let Behavior { scale_up, scale_down } = &self.behavior;
        let periods =
            scale_up.policies.iter().chain(&scale_down.policies).map(|policy| policy.period_seconds);
        seconds(periods.max().unwrap_or(0))
    }

    fn follow(&mut self, now: Milliseconds, current: u32, metric: Metric) -> Sync {
        let (recommended, within) = self.recommend(current, metric);
        let stabilized = self.stabilize(now, current, recommended);
        let sync = |replicas, because| Sync { replicas, recommended, because };
        if stabilized > current {
            let limit = self.up_limit(now, current).max(current);
            return match stabilized {
                wanted if wanted <= limit.min(self.max) && wanted < recommended => {
                    sync(wanted, Because::StabilizedUp)
                }
                wanted if wanted <= limit.min(self.max) => sync(wanted, Because::Metric),
                _ if self.max > limit => sync(limit, Because::ScaleUpLimit),
                _ => sync(self.max, Because::Maximum),
            };
        }
        if stabilized < current {
            let limit = self.down_limit(now, current).min(current);
            return match stabilized {
                wanted if wanted >= limit.max(self.min) && wanted > recommended => {
                    sync(wanted, Because::StabilizedDown)
                }
                wanted if wanted >= limit.max(self.min) => sync(wanted, Because::Metric),
                _ if self.min < limit => sync(limit, Because::ScaleDownLimit),
                _ => sync(self.min, Because::Minimum),
            };
        }
        let because = if recommended > current {
            Because::StabilizedUp
        } else if recommended < current {
            Because::StabilizedDown
        } else if within {
            Because::WithinTolerance
        } else {
            Because::Metric
        };
        sync(current, because)
    }

    /// Upwards the lowest recommendation of the window counts, downwards the highest.
    fn stabilize(&mut self, now: Milliseconds, current: u32, recommended: u32) -> u32 {
        let up = seconds(self.behavior.scale_up.stabilization_window_seconds);
        let down = seconds(self.behavior.scale_down.stabilization_window_seconds);
        let (mut lowest, mut highest) = (recommended, recommended);
        for (at, value) in &self.recommendations {
            if at + up > now {
                lowest = lowest.min(*value);
            }
            if at + down > now {
                highest = highest.max(*value);
            }
        }
        self.recommendations.retain(|(at, _)| at + up.max(down) > now);
        self.recommendations.push((now, recommended));
        current.max(lowest).min(highest)
    }

    /// The replicas at the start of a policy's period.
    fn at_start(&self, now: Milliseconds, current: u32, period_seconds: u32) -> i64 {
        let within = |events: &[(Milliseconds, u32)]| -> i64 {
            events
                .iter()
                .filter(|(at, _)| at + seconds(period_seconds) > now)
                .map(|(_, change)| i64::from(*change))
                .sum()
        };
        i64::from(current) - within(&self.added) + within(&self.removed)
    }

    fn up_limit(&self, now: Milliseconds, current: u32) -> u32 {
        let rules = &self.behavior.scale_up;
        let proposed = rules.policies.iter().map(|policy| {
            let start = self.at_start(now, current, policy.period_seconds);
            let value = i64::from(policy.value);
            match policy.kind {
                PolicyType::Pods => start + value,
                // Rounded up, so that a small percentage of few replicas is still one more.
                PolicyType::Percent => (start * (100 + value) + 99).div_euclid(100),
            }
        });
        match rules.select_policy {
            SelectPolicy::Max => replicas(proposed.max()),
            SelectPolicy::Min => replicas(proposed.min()),
            SelectPolicy::Disabled => current,
        }
    }

    fn down_limit(&self, now: Milliseconds, current: u32) -> u32 {
        let rules = &self.behavior.scale_down;
        let proposed = rules.policies.iter().map(|policy| {
            let start = self.at_start(now, current, policy.period_seconds);
            let value = i64::from(policy.value);
            match policy.kind {
                PolicyType::Pods => start - value,
                // Rounded down: the last replica above the bound goes as well.
                PolicyType::Percent => start * (100 - value.min(100)) / 100,
            }
        });
        match rules.select_policy {
            // The largest change leaves the fewest.
            SelectPolicy::Max => replicas(proposed.min()),
            SelectPolicy::Min => replicas(proposed.max()),
            SelectPolicy::Disabled => current,
        }
    }
}

fn replicas(value: Option<i64>) -> u32 {
    u32::try_from(value.unwrap_or(0).max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "hpa_tests.rs"]
mod tests;
