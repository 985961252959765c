//! When to try again: exponential back-off with full jitter, inside a budget of time.

use std::time::{Duration, Instant};

/// How long to wait between tries, and for how long to try.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// The ceiling of the first wait.
    pub base: Duration,
    /// The ceiling of every wait.
    pub cap: Duration,
    /// How long to go on trying, from the first try on.
    pub budget: Duration,
    /// When all trying ends, whatever the budget: a function's time is up for everything that it does at once.
    pub deadline: Option<Instant>,
}

impl RetryPolicy {
    /// From 100 ms up to 5 s, within the budget.
    #[must_use]
    pub fn within(budget: Duration) -> Self {
        Self { base: Duration::from_millis(100), cap: Duration::from_secs(5), budget, deadline: None }
    }

    /// From 50 ms up to 2 s, until that time.
    #[must_use]
    pub fn until(deadline: Instant, now: Instant) -> Self {
        Self {
            base: Duration::from_millis(50),
            cap: Duration::from_secs(2),
            budget: deadline.saturating_duration_since(now),
            deadline: Some(deadline),
        }
    }

    /// How long to wait before try `attempt` (the first repetition is 1), after `elapsed`; `None` when the
    /// budget would be exceeded.
    ///
    /// Full jitter: uniform between 0 and min(cap, base x 2^(attempt-1)), as in AWS's article "Exponential
    /// Backoff And Jitter". `random` is uniform in 0..1.
    #[must_use]
    pub fn wait(&self, attempt: u32, elapsed: Duration, random: f64) -> Option<Duration> {
        let doubled = self.base.saturating_mul(2u32.saturating_pow(attempt.saturating_sub(1).min(20)));
        let wait = doubled.min(self.cap).mul_f64(random.clamp(0.0, 1.0));
        (elapsed + wait < self.budget).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_wait_keeps_the_cap_and_the_budget(attempt in 1u32..100, elapsed_ms in 0u64..60_000, random in 0.0f64..1.0) {
            let policy = RetryPolicy::within(Duration::from_secs(30));
            let elapsed = Duration::from_millis(elapsed_ms);
            if let Some(wait) = policy.wait(attempt, elapsed, random) {
                prop_assert!(wait <= policy.cap);
                prop_assert!(elapsed + wait < policy.budget);
            } else {
                prop_assert!(elapsed + policy.cap >= policy.budget);
            }
        }
    }

    #[test]
    fn waits_grow_and_a_budget_of_nothing_allows_no_repetition() {
        let policy = RetryPolicy::within(Duration::from_secs(60));
        assert_eq!(policy.wait(1, Duration::ZERO, 1.0), Some(Duration::from_millis(100)));
        assert_eq!(policy.wait(3, Duration::ZERO, 1.0), Some(Duration::from_millis(400)));
        assert_eq!(policy.wait(30, Duration::ZERO, 0.5), Some(Duration::from_millis(2500)));
        assert_eq!(RetryPolicy::within(Duration::ZERO).wait(1, Duration::ZERO, 0.0), None);
    }
}
