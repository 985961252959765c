//! Settings for a service level, found by running a scenario with each of them.

use super::{Outcome, Scenario, Workload, by_lag, ours, simulate};
use crate::{figure::CapacityError, scaling::stepper::Scaling};

/// So many per cent of the messages within so many seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// Seconds from a message's creation to its effect.
    pub within_seconds: f64,
    /// Per cent of the messages.
    pub percent: f64,
}

impl Goal {
    /// Whether a run keeps it.
    #[must_use]
    pub fn is_met(&self, outcome: &Outcome) -> bool {
        outcome.ages.percent_within(self.within_seconds) >= self.percent
    }
}

/// A setting with what it came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// The setting.
    pub scaling: Scaling,
    /// Its run.
    pub outcome: Outcome,
    /// Whether it keeps the goal.
    pub is_met: bool,
}

/// The best setting of either kind: of those that keep the goal the one with the fewest replica-seconds, else the one
/// that comes nearest.
#[derive(Clone, Debug, PartialEq)]
pub struct Recommendation {
    /// By a threshold of lag.
    pub by_lag: Advice,
    /// By arrival rate and time to drain.
    pub by_rate: Advice,
    /// Settings that were run.
    pub tried: usize,
}

/// Thresholds that are tried, in seconds of a replica's work.
const THRESHOLD_SECONDS: [f64; 6] = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// Times to drain that are tried, in seconds.
const DRAIN_SECONDS: [u32; 4] = [2, 5, 15, 60];

/// Windows upwards that are tried, in seconds.
const UP_WINDOWS: [u32; 2] = [0, 60];

/// Windows downwards that are tried, in seconds.
const DOWN_WINDOWS: [u32; 2] = [120, 300];

fn better(goal: &Goal, one: &Advice, other: &Advice) -> bool {
    if one.is_met != other.is_met {
        return one.is_met;
    }
    if one.is_met {
        return one.outcome.replica_milliseconds < other.outcome.replica_milliseconds;
    }
    let within = |advice: &Advice| advice.outcome.ages.percent_within(goal.within_seconds);
    within(one) > within(other)
}

fn best(
    workload: &Workload,
    scenario: &Scenario,
    goal: &Goal,
    settings: Vec<Scaling>,
) -> Result<Option<Advice>, CapacityError> {
    let mut best: Option<Advice> = None;
    for scaling in settings {
        let outcome = simulate(workload, scenario, &scaling)?;
        let advice = Advice { is_met: goal.is_met(&outcome), scaling, outcome };
        if best.as_ref().is_none_or(|best| better(goal, &advice, best)) {
            best = Some(advice);
        }
    }
    Ok(best)
}

/// Tries settings on a scenario. Equal ones are told by their order: the first counts.
///
/// # Errors
///
/// When the workload or the scenario cannot be run.
pub fn recommend(
    workload: &Workload,
    scenario: &Scenario,
    goal: &Goal,
) -> Result<Recommendation, CapacityError> {
    workload.check()?;
    let peak = workload.replicas_for(workload.peak_messages_per_second);
    let mut minima = vec![workload.consumers_min.clamp(1, workload.replicas_max()), peak.div_ceil(2), peak];
    minima.sort_unstable();
    minima.dedup();
    minima.retain(|min| *min >= workload.consumers_min.clamp(1, workload.replicas_max()));
    let (mut lags, mut rates) = (Vec::new(), Vec::new());
    for min in minima {
        for down in DOWN_WINDOWS {
            for drain in DRAIN_SECONDS {
                rates.push(ours(workload, drain, min, down)?);
            }
            for up in UP_WINDOWS {
                for seconds in THRESHOLD_SECONDS {
                    let threshold = (seconds * workload.messages_per_second_per_replica()).floor() as u64;
                    lags.push(by_lag(workload, threshold, min, up, down));
                }
            }
        }
    }
    let tried = lags.len() + rates.len();
    // Two at a time: either kind is a search of its own.
    let (by_lag, by_rate) = std::thread::scope(|scope| {
        let lags = scope.spawn(|| best(workload, scenario, goal, lags));
        let rates = best(workload, scenario, goal, rates);
        (lags.join(), rates)
    });
    let found =
        |advice: Option<Advice>| advice.ok_or_else(|| CapacityError::new("no setting could be tried"));
    let by_lag = by_lag.map_err(|_| CapacityError::new("a simulation broke off"))??;
    Ok(Recommendation { by_lag: found(by_lag)?, by_rate: found(by_rate?)?, tried })
}
