//! When the next message is due: an open loop that does not wait for the broker.

use std::time::{Duration, Instant};

/// How much is made up for after a stall: more would be a burst that nobody asked for.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A fixed schedule at a rate that may change.
#[derive(Debug)]
pub struct Schedule {
    rate: f64,
    next: Instant,
}

impl Schedule {
    /// Begins now, at `rate` messages per second; 0 idles.
    #[must_use]
    pub fn new(rate: f64, now: Instant) -> Self {
        Self { rate, next: now }
    }

    /// Goes on at another rate.
    pub fn set_rate(&mut self, rate: f64, now: Instant) {
        if rate != self.rate {
            self.rate = rate;
            self.next = now;
        }
    }

    /// When the next message is due; `None` while idle.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        (self.rate > 0.0).then_some(self.next)
    }

    /// Whether a message is due now; if so, the one after it is scheduled. What was missed for longer than
    /// a second is left out.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.rate <= 0.0 || self.next > now {
            return false;
        }
        if now.duration_since(self.next) > CATCH_UP {
            self.next = now - CATCH_UP;
        }
        self.next += Duration::from_secs_f64(1.0 / self.rate);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(schedule: &mut Schedule, now: Instant) -> usize {
        std::iter::from_fn(|| schedule.take(now).then_some(())).count()
    }

    proptest! {
        /// However irregularly it is asked, a schedule gives its rate, within one message.
        #[test]
        fn the_rate_is_kept(rate in 1.0f64..2000.0, pauses_ms in proptest::collection::vec(1u64..900, 1..50)) {
            let start = Instant::now();
            let mut schedule = Schedule::new(rate, start);
            let mut now = start;
            let mut sent = 0;
            for pause in pauses_ms {
                now += Duration::from_millis(pause);
                sent += count(&mut schedule, now);
            }
            let expected = rate * now.duration_since(start).as_secs_f64();
            prop_assert!((sent as f64 - expected).abs() <= 2.0, "{sent} of {expected}");
        }
    }

    #[test]
    fn a_long_stall_is_not_made_up_for() {
        let start = Instant::now();
        let mut schedule = Schedule::new(100.0, start);
        let sent = count(&mut schedule, start + Duration::from_secs(60));
        assert!((100..=102).contains(&sent), "{sent}");
    }

    #[test]
    fn zero_idles_and_a_new_rate_starts_at_once() {
        let start = Instant::now();
        let mut schedule = Schedule::new(0.0, start);
        assert_eq!(schedule.next(), None);
        assert!(!schedule.take(start + Duration::from_secs(9)));
        let later = start + Duration::from_secs(10);
        schedule.set_rate(10.0, later);
        assert_eq!(count(&mut schedule, later), 1);
        assert_eq!(count(&mut schedule, later + Duration::from_secs(1)), 10);
    }
}
