//! The trades system in virtual time: a producer, a topic, a consumer group and its scaler, step by step. The consumers
//! work as the worker kit's engine does; the scaler is that of [`crate::scaling`]. Nothing is left to chance: the
//! same inputs give the same outcome.
//!
//! What it leaves out: brokers that are slow or away, nodes that are full, and writes that take other than their time.

mod group;
mod outcome;
mod recommend;
mod scenario;
mod settings;

use std::collections::VecDeque;

pub use outcome::{Ages, Change, Outcome, Sample};
pub use recommend::{Advice, Goal, Recommendation, recommend};
pub use scenario::{BUILT_IN, LoadUnit, LostZone, Phase, Poison, Rebalance, Scenario};
pub use settings::{Workload, by_lag, ours, published};

use crate::{
    figure::CapacityError,
    scaling::{
        Milliseconds,
        stepper::{Observation, Scaling, Stepper},
    },
};
use group::Group;

/// How far virtual time goes in one step. Ages of messages are right to this much.
pub const STEP: Milliseconds = 100;

/// Steps in a second.
const STEPS_PER_SECOND: u64 = 1000 / STEP;

/// Rows of the outcome's table.
const SAMPLES: u64 = 60;

/// What the producer has sent, for the arrival rate as a metrics store sees it.
struct Arrivals {
    /// Totals at the end of each step, as far back as the window reaches.
    totals: VecDeque<u64>,
    sent: u64,
    /// The part of a message that is due.
    fraction: f64,
    window_steps: usize,
    delay_steps: usize,
}

impl Arrivals {
    fn new(scenario: &Scenario) -> Self {
        let steps = |seconds: u32| (u64::from(seconds) * STEPS_PER_SECOND) as usize;
        Self {
            totals: VecDeque::from([0]),
            sent: 0,
            fraction: 0.0,
            window_steps: steps(scenario.rate_window_seconds).max(1),
            delay_steps: steps(scenario.rate_delay_seconds),
        }
    }

    /// The messages of a step at that rate.
    fn step(&mut self, messages_per_second: f64) -> u64 {
        self.fraction += messages_per_second / STEPS_PER_SECOND as f64;
        let whole = self.fraction.floor();
        self.fraction -= whole;
        self.sent += whole as u64;
        self.totals.push_back(self.sent);
        if self.totals.len() > self.window_steps + self.delay_steps + 1 {
            self.totals.pop_front();
        }
        whole as u64
    }

    /// Thousandths of messages per second over the window that ended `delay` ago.
    fn thousandths(&self) -> u64 {
        let last = self.totals.len().saturating_sub(1 + self.delay_steps);
        let first = last.saturating_sub(self.window_steps);
        let total = |index: usize| self.totals.get(index).copied().unwrap_or(0);
        // The window is divided by in full also where the run is younger, as a metrics store does.
        total(last).saturating_sub(total(first)) * 1000 * STEPS_PER_SECOND / self.window_steps as u64
    }
}

/// Runs a scenario from its beginning to its end, with about sixty samples.
///
/// # Errors
///
/// When the workload, the scenario or the scaler's settings are refused.
pub fn simulate(
    workload: &Workload,
    scenario: &Scenario,
    scaling: &Scaling,
) -> Result<Outcome, CapacityError> {
    let sample_every = (scenario.seconds() * 1000 / SAMPLES).next_multiple_of(1000).max(1000);
    simulate_sampled(workload, scenario, scaling, sample_every)
}

/// As [`simulate`], with a sample every so often, a multiple of [`STEP`].
///
/// # Errors
///
/// When the workload, the scenario or the scaler's settings are refused.
pub fn simulate_sampled(
    workload: &Workload,
    scenario: &Scenario,
    scaling: &Scaling,
    sample_every: Milliseconds,
) -> Result<Outcome, CapacityError> {
    let sample_every = sample_every.max(STEP);
    workload.check()?;
    scenario.check()?;
    let mut stepper = Stepper::new(scaling.clone(), 0)?;
    let mut group = Group::new(workload, scenario);
    let mut arrivals = Arrivals::new(scenario);
    let end = scenario.seconds() * 1000;
    let mut outcome = Outcome::default();
    let mut desired = scaling.object.min_replica_count;
    group.start_with(desired);
    let mut sent_before = 0u64;
    // Since the sample before.
    let mut ages = Ages::default();
    let mut poison_due = 0.0f64;
    let mut oldest = 0;
    for step in 0..end / STEP {
        let (begin, now) = (step * STEP, (step + 1) * STEP);
        let at = begin as f64 / 1000.0;
        let messages = arrivals.step(scenario.rate_at(at, workload.peak_messages_per_second));
        poison_due += messages as f64 * scenario.poison_share_at(at);
        let poison = poison_due.floor().min(messages as f64);
        poison_due -= poison;
        group.produce(begin, messages, poison as u64);
        if let Some(lost) = scenario.lost_zone.filter(|lost| u64::from(lost.at_seconds) * 1000 == begin) {
            group.lose_zone(begin, lost);
        }
        group.run(now, &mut ages);
        if stepper.due() <= now {
            let offsets = group.offsets();
            let decision = stepper.step(&Observation {
                now,
                offsets: Some(&offsets),
                arrival_thousandths: arrivals.thousandths(),
                replicas: desired,
                ready: group.ready(),
            });
            if decision.replicas != desired {
                outcome.changes.push(Change {
                    at_seconds: now / 1000,
                    from: desired,
                    to: decision.replicas,
                    reason: decision.reason,
                });
                desired = decision.replicas;
            }
        }
        group.want(now, desired);
        let ready = group.ready();
        if outcome.ready.last().map_or(0, |(_, before)| *before) != ready {
            outcome.ready.push((now, ready));
        }
        outcome.replica_milliseconds += group.paid_for() * STEP;
        let lag = group.lag();
        oldest = group.oldest(now).max(oldest);
        outcome.max_lag = outcome.max_lag.max(lag);
        outcome.max_replicas = outcome.max_replicas.max(desired);
        if now % sample_every == 0 {
            outcome.samples.push(Sample {
                at_seconds: now / 1000,
                messages_per_second: (arrivals.sent - sent_before) as f64 * 1000.0 / sample_every as f64,
                processed_per_second: ages.count() as f64 * 1000.0 / sample_every as f64,
                lag,
                replicas: desired,
                ready: group.ready(),
                oldest_seconds: oldest as f64 / 1000.0,
                age_p50: ages.percentile(50.0),
                age_p95: ages.percentile(95.0),
                age_p99: ages.percentile(99.0),
                replica_seconds: outcome.replica_seconds(),
            });
            oldest = 0;
            sent_before = arrivals.sent;
            outcome.ages.add(&ages);
            ages = Ages::default();
        }
    }
    outcome.ages.add(&ages);
    outcome.sent = arrivals.sent;
    outcome.processed = outcome.ages.count();
    outcome.dead_letters = group.dead_letters();
    outcome.rebalances = group.rebalances();
    outcome.seconds = scenario.seconds();
    // What still waits is at least as old as it is now: leaving it out would flatter who falls behind.
    group.count_waiting(end, &mut outcome.ages);
    Ok(outcome)
}

#[cfg(test)]
#[path = "simulation/tests.rs"]
mod tests;
