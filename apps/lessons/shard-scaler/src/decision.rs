//! How many shards there should be, without I/O.
//!
//! An alarm's threshold is a number, and an alarm calls only when its state changes. One alarm for `too much` would
//! therefore double a stream once and never again. So each number of shards has its own two: with m shards at least,
//! the k-th of those for more goes off above what m x 2^k shards should carry, and the k-th of those for fewer is over
//! when m x 2^k shards have long been enough. Each change of state is a bound by itself, so that calls that come twice
//! or in another order do no harm.

use worker_contract::lessons::ScalerConfiguration;

use crate::notification::{State, StateChange};

/// What an alarm asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// As many shards, or more.
    AtLeast(u32),
    /// As many shards, or fewer.
    AtMost(u32),
}

/// What a change of state asks for; `None` for one that asks for nothing, and for alarms that are not ours.
#[must_use]
pub fn bound(configuration: &ScalerConfiguration, change: &StateChange) -> Option<Bound> {
    let ScalerConfiguration { shards_min, shards_max, .. } = *configuration;
    let place = |alarms: &[String]| alarms.iter().position(|name| *name == change.alarm);
    // m x 2^level, within the bounds.
    let shards = |level: usize| {
        let doublings = u32::try_from(level).unwrap_or(u32::MAX).min(31);
        shards_min.saturating_mul(1 << doublings).clamp(shards_min, shards_max)
    };
    if let Some(level) = place(&configuration.alarms_above) {
        return (change.state == State::Alarm).then(|| Bound::AtLeast(shards(level + 1)));
    }
    let level = place(&configuration.alarms_used)?;
    (change.state == State::Ok).then(|| Bound::AtMost(shards(level)))
}

/// The next thing to do on the way to a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the bound is kept.
    Done,
    /// The stream is changing: look again later.
    Wait,
    /// Ask for this number of shards.
    Change(u32),
}

/// The next step for a stream with so many open shards. One change goes up to twice as many at most, and down to half
/// as many at least (the limits of `UpdateShardCount`); the rest of the way is another step.
#[must_use]
pub fn next_step(open: u32, active: bool, bound: Bound) -> Step {
    let wanted = match bound {
        Bound::AtLeast(least) if open < least => least.min(open.saturating_mul(2)),
        Bound::AtMost(most) if open > most => most.max(open.div_ceil(2)),
        _ => return Step::Done,
    };
    if active { Step::Change(wanted) } else { Step::Wait }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn configuration(shards_min: u32, shards_max: u32) -> ScalerConfiguration {
        let names = |kind: &str| (0..3).map(|level| format!("{kind}{level}")).collect();
        ScalerConfiguration {
            stream: "input".to_owned(),
            shards_min,
            shards_max,
            alarms_above: names("above"),
            alarms_used: names("used"),
        }
    }

    fn change(alarm: &str, state: State) -> StateChange {
        StateChange { alarm: alarm.to_owned(), state, reason: String::new() }
    }

    #[test]
    fn each_alarm_is_a_bound_and_only_in_the_state_that_it_is_for() {
        let ours = configuration(2, 16);
        let of = |alarm: &str, state| bound(&ours, &change(alarm, state));
        assert_eq!(of("above0", State::Alarm), Some(Bound::AtLeast(4)));
        assert_eq!(of("above2", State::Alarm), Some(Bound::AtLeast(16)));
        assert_eq!(of("used0", State::Ok), Some(Bound::AtMost(2)));
        assert_eq!(of("used2", State::Ok), Some(Bound::AtMost(8)));
        for nothing in [("above0", State::Ok), ("used0", State::Alarm), ("used1", State::InsufficientData)] {
            assert_eq!(of(nothing.0, nothing.1), None);
        }
        assert_eq!(of("somebody-else", State::Alarm), None);
        assert_eq!(bound(&configuration(2, 6), &change("above2", State::Alarm)), Some(Bound::AtLeast(6)));
    }

    proptest! {
        /// Whatever is asked for in whatever order: each step keeps Kinesis's limits and ours, the way ends, and it
        /// ends where the bound says.
        #[test]
        fn steps_keep_the_limits_and_arrive(
            minimum in 1u32..50, doublings in 0u32..4, calls in proptest::collection::vec((0usize..3, any::<bool>()), 1..30),
        ) {
            let maximum = minimum << doublings;
            let ours = configuration(minimum, maximum);
            let mut open = minimum;
            for (level, up) in calls {
                let (alarm, state) =
                    if up { (format!("above{level}"), State::Alarm) } else { (format!("used{level}"), State::Ok) };
                let bound = bound(&ours, &change(&alarm, state)).unwrap();
                prop_assert!(matches!(next_step(open, false, bound), Step::Wait | Step::Done));
                let mut steps = 0;
                while let Step::Change(to) = next_step(open, true, bound) {
                    prop_assert!(to <= open * 2 && to * 2 >= open && to != open, "{open} -> {to}");
                    prop_assert!((minimum..=maximum).contains(&to));
                    open = to;
                    steps += 1;
                }
                prop_assert!(steps <= doublings);
                let kept = match bound {
                    Bound::AtLeast(least) => open >= least,
                    Bound::AtMost(most) => open <= most,
                };
                prop_assert!(kept);
            }
        }
    }
}
