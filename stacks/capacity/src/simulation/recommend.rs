//! Settings for a service level, found by running a scenario with each of them.

use std::{
    cmp::Ordering,
    sync::atomic::{AtomicUsize, Ordering as Memory},
};

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

/// A setting's place in the search, its kind and itself.
type Candidate = (usize, bool, Scaling);

/// The best so far: by rate, by lag, each with its place.
#[derive(Default)]
struct Best {
    by_rate: Option<(usize, Advice)>,
    by_lag: Option<(usize, Advice)>,
}

impl Best {
    /// Keeps the better one; of equals that with the first place, so that the order of work does not count.
    fn take(&mut self, goal: &Goal, is_by_rate: bool, place: usize, advice: Advice) {
        let best = if is_by_rate { &mut self.by_rate } else { &mut self.by_lag };
        let is_better = match best {
            None => true,
            Some((known, held)) => match compare(goal, &advice, held) {
                Ordering::Equal => place < *known,
                order => order == Ordering::Less,
            },
        };
        if is_better {
            *best = Some((place, advice));
        }
    }
}

/// Less is better.
fn compare(goal: &Goal, one: &Advice, other: &Advice) -> Ordering {
    let within = |advice: &Advice| advice.outcome.ages.percent_within(goal.within_seconds);
    let cost = |advice: &Advice| advice.outcome.replica_milliseconds;
    other.is_met.cmp(&one.is_met).then_with(|| {
        if one.is_met {
            cost(one).cmp(&cost(other))
        } else {
            within(other).total_cmp(&within(one)).then_with(|| cost(one).cmp(&cost(other)))
        }
    })
}

/// Tries its share; nothing where the watcher wants no more.
fn search<'a>(
    workload: &Workload,
    scenario: &Scenario,
    goal: &Goal,
    candidates: impl Iterator<Item = &'a Candidate>,
    goes_on: &(dyn Fn() -> bool + Sync),
) -> Result<Option<Best>, CapacityError> {
    let mut best = Best::default();
    for (place, is_by_rate, scaling) in candidates {
        if !goes_on() {
            return Ok(None);
        }
        let outcome = simulate(workload, scenario, scaling)?;
        let advice = Advice { is_met: goal.is_met(&outcome), scaling: scaling.clone(), outcome };
        best.take(goal, *is_by_rate, *place, advice);
    }
    Ok(Some(best))
}

/// The settings that are tried, the least first.
fn candidates(workload: &Workload) -> Result<Vec<Candidate>, CapacityError> {
    let least = workload.consumers_min.clamp(1, workload.replicas_max());
    let peak = workload.replicas_for(workload.peak_messages_per_second);
    let mut minima = vec![least, peak.div_ceil(2), peak];
    minima.retain(|min| *min >= least);
    minima.sort_unstable();
    minima.dedup();
    let mut settings = Vec::new();
    for min in minima {
        for down in DOWN_WINDOWS {
            for drain in DRAIN_SECONDS {
                settings.push((true, ours(workload, drain, min, down)?));
            }
            for up in UP_WINDOWS {
                for seconds in THRESHOLD_SECONDS {
                    let threshold = (seconds * workload.messages_per_second_per_replica()).floor() as u64;
                    settings.push((false, by_lag(workload, threshold, min, up, down)));
                }
            }
        }
    }
    let place = |(place, (is_by_rate, scaling))| (place, is_by_rate, scaling);
    Ok(settings.into_iter().enumerate().map(place).collect())
}

/// Tries settings on a scenario, with so many threads; their number does not change what is found. Before each setting
/// `watch` gets how many were begun and how many there are, and says whether to go on; nothing is recommended
/// where it does not.
///
/// # Errors
///
/// When the workload or the scenario cannot be run.
pub fn recommend(
    workload: &Workload,
    scenario: &Scenario,
    goal: &Goal,
    threads: usize,
    watch: &(dyn Fn(usize, usize) -> bool + Sync),
) -> Result<Option<Recommendation>, CapacityError> {
    workload.check()?;
    let candidates = candidates(workload)?;
    let threads = threads.clamp(1, candidates.len().max(1));
    let (begun, all) = (AtomicUsize::new(0), candidates.len());
    let goes_on = || watch(begun.fetch_add(1, Memory::Relaxed), all);
    let found: Vec<Result<Option<Best>, CapacityError>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                let mine = candidates.iter().skip(first).step_by(threads);
                let goes_on = &goes_on;
                scope.spawn(move || search(workload, scenario, goal, mine, goes_on))
            })
            .collect();
        let broken = || Err(CapacityError::new("a simulation broke off"));
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| broken())).collect()
    });
    let mut best = Best::default();
    for part in found {
        let Some(Best { by_rate, by_lag }) = part? else { return Ok(None) };
        for (is_by_rate, part) in [(true, by_rate), (false, by_lag)] {
            if let Some((place, advice)) = part {
                best.take(goal, is_by_rate, place, advice);
            }
        }
    }
    match (best.by_lag, best.by_rate) {
        (Some((_, by_lag)), Some((_, by_rate))) => {
            Ok(Some(Recommendation { by_lag, by_rate, tried: candidates.len() }))
        }
        _ => Err(CapacityError::new("no setting could be tried")),
    }
}
