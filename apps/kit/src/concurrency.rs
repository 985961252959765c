//! How many requests at once: additive increase, multiplicative decrease on the observed round-trip time, inside
//! a ceiling that operations set. So a writer backs off before its database is in trouble, and finds the most that
//! it takes when it is well again.
//!
//! The algorithm is that of Vector's adaptive request concurrency (vectordotdev/vector, sinks/util/
//! adaptive_concurrency/controller.rs): once a round trip, the limit grows by one where it was reached and the
//! round trips were no longer than before, and shrinks to 0.9 of itself where they were longer by 2.5
//! deviations or something pushed back. Two things differ. The average follows longer round trips far more slowly
//! than shorter ones, because a database that is slowed by its load would else become the new normal. And round
//! trips may be longer by a deviation for the limit to grow: with none, chance alone keeps it from its maximum.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// What the limit shrinks to, as a share of itself.
const DECREASE: f64 = 0.9;

/// How fast the average follows shorter round trips.
const FALL: f64 = 0.4;

/// How fast the average follows longer round trips.
const RISE: f64 = 0.02;

/// Round trips that are longer than the average by so many deviations are too long.
const DEVIATIONS: f64 = 2.5;

/// A deviation, at least, as a share of the average: round trips of a quiet database differ by less than what
/// matters.
const DEVIATION_LEAST: f64 = 0.2;

/// A deviation, at least, in seconds: below it is what the machine's scheduler does.
const DEVIATION_LEAST_SECONDS: f64 = 0.001;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Well: its round trip counts.
    Success,
    /// The other side was too busy, or gone: back off.
    Pushback,
    /// For another reason, which tells nothing of the load.
    Other,
}

/// The limit and what it follows from.
#[derive(Clone, Debug)]
pub struct Limit {
    limit: f64,
    ceiling: usize,
    in_flight: usize,
    average: Option<f64>,
    deviation: f64,
    interval: Interval,
}

#[derive(Clone, Copy, Debug)]
struct Interval {
    ends: Option<Instant>,
    seconds: f64,
    count: u32,
    reached: bool,
    pushback: bool,
}

impl Interval {
    const EMPTY: Self = Self { ends: None, seconds: 0.0, count: 0, reached: false, pushback: false };
}

impl Limit {
    /// Starts at `initial` requests at once, at most `ceiling`; both at least 1.
    #[must_use]
    pub fn new(initial: usize, ceiling: usize) -> Self {
        Self {
            limit: initial.max(1) as f64,
            ceiling: ceiling.max(1),
            in_flight: 0,
            average: None,
            deviation: 0.0,
            interval: Interval::EMPTY,
        }
    }

    /// Requests at once, at most: 1 to the ceiling.
    #[must_use]
    pub fn limit(&self) -> usize {
        (self.limit as usize).clamp(1, self.ceiling)
    }

    /// Sets the ceiling, at least 1. What is under way goes on.
    pub fn set_ceiling(&mut self, ceiling: usize) {
        self.ceiling = ceiling.max(1);
        // Under a higher ceiling later, it grows from here.
        self.limit = self.limit.min(self.ceiling as f64);
    }

    /// The average round trip, if there was one.
    #[must_use]
    pub fn average(&self) -> Option<Duration> {
        self.average.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Begins a request, unless the limit is reached.
    pub fn start(&mut self) -> bool {
        if self.in_flight >= self.limit() {
            return false;
        }
        self.in_flight += 1;
        self.interval.reached |= self.in_flight >= self.limit();
        true
    }

    /// Ends a request that took `round_trip`.
    pub fn finish(&mut self, round_trip: Duration, ending: Ending, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match ending {
            Ending::Success => {
                self.interval.seconds += round_trip.as_secs_f64();
                self.interval.count += 1;
            }
            Ending::Pushback => self.interval.pushback = true,
            Ending::Other => {}
        }
        let ends = *self.interval.ends.get_or_insert(now);
        if now >= ends && (self.interval.count > 0 || self.interval.pushback) {
            self.judge(now);
        }
    }

    fn judge(&mut self, now: Instant) {
        let Interval { seconds, count, reached, pushback, .. } = self.interval;
        let observed = (count > 0).then(|| seconds / f64::from(count));
        let tolerance =
            |average: f64| self.deviation.max(average * DEVIATION_LEAST).max(DEVIATION_LEAST_SECONDS);
        let too_long = observed
            .zip(self.average)
            .is_some_and(|(observed, average)| observed >= average + DEVIATIONS * tolerance(average));
        let no_longer = observed.is_some_and(|observed| {
            self.average.is_none_or(|average| observed <= average + tolerance(average))
        });
        if pushback || too_long {
            self.limit = (self.limit.min(self.ceiling as f64) * DECREASE).floor().max(1.0);
        } else if reached && no_longer && self.limit < self.ceiling as f64 {
            self.limit += 1.0;
        }
        if let Some(observed) = observed {
            match self.average {
                None => self.average = Some(observed),
                Some(average) => {
                    let difference = observed - average;
                    let follow = if difference > 0.0 { RISE } else { FALL };
                    self.average = Some(average + follow * difference);
                    self.deviation += follow * (difference.abs() - self.deviation);
                }
            }
        }
        let next = Duration::try_from_secs_f64(self.average.unwrap_or(0.05)).unwrap_or_default();
        self.interval = Interval { ends: Some(now + next), ..Interval::EMPTY };
    }
}

/// Lets as many requests pass at once as the limit says.
#[derive(Debug)]
pub struct Gate {
    limit: Mutex<Limit>,
    changed: Notify,
}

impl Gate {
    /// A gate with that limit.
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        Self { limit: Mutex::new(limit), changed: Notify::new() }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Limit) -> T) -> T {
        change(&mut self.limit.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a request may begin.
    pub async fn pass(&self) -> Passage<'_> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Heard from here on, also what happens before the wait.
            changed.as_mut().enable();
            if self.with(Limit::start) {
                return Passage { gate: self, open: true };
            }
            changed.await;
        }
    }

    /// Sets the ceiling.
    pub fn set_ceiling(&self, ceiling: usize) {
        self.with(|limit| limit.set_ceiling(ceiling));
        self.changed.notify_waiters();
    }

    /// A copy of the limit, to be told.
    #[must_use]
    pub fn snapshot(&self) -> Limit {
        self.with(|limit| limit.clone())
    }
}

/// A request under way. Dropped without an ending, it tells nothing of the load.
#[derive(Debug)]
pub struct Passage<'a> {
    gate: &'a Gate,
    open: bool,
}

impl Passage<'_> {
    /// Ends the request.
    pub fn finish(mut self, round_trip: Duration, ending: Ending, now: Instant) {
        self.open = false;
        self.gate.with(|limit| limit.finish(round_trip, ending, now));
        self.gate.changed.notify_waiters();
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if self.open {
            self.gate.with(|limit| limit.in_flight = limit.in_flight.saturating_sub(1));
            self.gate.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A downstream that serves `capacity` requests at once in `base` each, and the more the slower.
    fn drive(limit: &mut Limit, now: &mut Instant, rounds: usize, base: f64, capacity: usize) {
        for _ in 0..rounds {
            let mut under_way = 0;
            while limit.start() {
                under_way += 1;
            }
            let slower = (under_way as f64 / capacity as f64).max(1.0);
            let round_trip = Duration::from_secs_f64(base * slower * slower);
            *now += round_trip;
            for _ in 0..under_way {
                limit.finish(round_trip, Ending::Success, *now);
            }
        }
    }

    proptest! {
        /// Whatever happens, the limit is from 1 to the ceiling, and no more are under way than it said.
        #[test]
        fn the_limit_keeps_its_bounds(
            initial in 1usize..50,
            steps in proptest::collection::vec((0u8..5, 1u64..500, 1usize..40), 1..300)
        ) {
            let mut limit = Limit::new(initial, 20);
            let (mut ceiling, mut now) = (20, Instant::now());
            for (kind, milliseconds, number) in steps {
                now += Duration::from_millis(milliseconds);
                let round_trip = Duration::from_millis(milliseconds);
                match kind {
                    0 => {
                        ceiling = number;
                        limit.set_ceiling(number);
                    }
                    1 => {
                        let before = limit.in_flight();
                        let begun = limit.start();
                        prop_assert_eq!(begun, before < limit.limit());
                    }
                    2 => limit.finish(round_trip, Ending::Success, now),
                    3 => limit.finish(round_trip, Ending::Pushback, now),
                    _ => limit.finish(round_trip, Ending::Other, now),
                }
                prop_assert!((1..=ceiling).contains(&limit.limit()));
            }
        }

        /// A fast downstream is used up to the ceiling.
        #[test]
        fn it_finds_the_maximum(ceiling in 1usize..60, base_ms in 1u64..200) {
            let (mut limit, mut now) = (Limit::new(1, ceiling), Instant::now());
            drive(&mut limit, &mut now, 4 * ceiling + 10, base_ms as f64 / 1000.0, 1000);
            prop_assert_eq!(limit.limit(), ceiling);
        }

        /// It backs off when round trips grow although the ceiling stays, and comes back when they shrink.
        #[test]
        fn it_backs_off_and_comes_back(ceiling in 2usize..40, base_ms in 5u64..100) {
            let base = base_ms as f64 / 1000.0;
            let (mut limit, mut now) = (Limit::new(1, ceiling), Instant::now());
            drive(&mut limit, &mut now, 4 * ceiling + 10, base, 1000);
            drive(&mut limit, &mut now, 12, base * 6.0, 1000);
            prop_assert!(limit.limit() <= ceiling.div_ceil(2), "{} of {ceiling}", limit.limit());
            drive(&mut limit, &mut now, 8 * ceiling + 20, base, 1000);
            prop_assert_eq!(limit.limit(), ceiling);
        }

        /// It stays near what the downstream serves at once.
        #[test]
        fn it_does_not_press_far_beyond_the_capacity(capacity in 2usize..20) {
            let (mut limit, mut now) = (Limit::new(1, 200), Instant::now());
            drive(&mut limit, &mut now, 150, 0.05, capacity);
            prop_assert!(limit.limit() <= 2 * capacity + 2, "{} for {capacity}", limit.limit());
            prop_assert!(2 * limit.limit() >= capacity, "{} for {capacity}", limit.limit());
        }
    }

    #[test]
    fn a_pushback_lowers_it_at_once() {
        let now = Instant::now();
        let mut limit = Limit::new(10, 10);
        assert!(limit.start());
        limit.finish(Duration::from_millis(1), Ending::Pushback, now);
        assert_eq!(limit.limit(), 9);
    }

    #[test]
    fn a_lower_ceiling_holds_at_once_and_a_higher_one_is_grown_into() {
        let mut limit = Limit::new(8, 8);
        limit.set_ceiling(1);
        assert_eq!(limit.limit(), 1);
        limit.set_ceiling(8);
        assert_eq!(limit.limit(), 1);
        let mut now = Instant::now();
        drive(&mut limit, &mut now, 30, 0.01, 100);
        assert_eq!(limit.limit(), 8);
    }

    #[tokio::test]
    async fn a_gate_lets_pass_what_the_limit_says_and_wakes_who_waits() {
        let gate = std::sync::Arc::new(Gate::new(Limit::new(1, 1)));
        let first = gate.pass().await;
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { drop(gate.pass().await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        first.finish(Duration::from_millis(1), Ending::Success, Instant::now());
        waiting.await.unwrap();
        // A passage that is dropped gives its place back.
        drop(gate.pass().await);
        assert_eq!(gate.snapshot().in_flight(), 0);
    }
}
