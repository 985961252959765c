//! How old records were, as a distribution of bounded size.

use serde::Serialize;

/// Ages that are kept, at most. What is told of them differs from what all would tell by far less than runs do.
const KEPT_MAX: usize = 1 << 16;

/// Ages of records. Of more than are kept every second one is forgotten, and of those that come then every second one is
/// taken, and so on: what is kept stays spread over the whole time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ages {
    /// In milliseconds.
    kept: Vec<u64>,
    /// Every so many are kept.
    every: u64,
    /// How many there were.
    count: u64,
}

impl Default for Ages {
    fn default() -> Self {
        Self { kept: Vec::new(), every: 1, count: 0 }
    }
}

impl Ages {
    /// Takes one in, in milliseconds.
    pub fn note(&mut self, age_ms: u64) {
        if self.count.is_multiple_of(self.every) {
            self.kept.push(age_ms);
        }
        self.count += 1;
        if self.kept.len() == KEPT_MAX {
            let mut place = 0;
            self.kept.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.every *= 2;
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        // Of one that keeps more of its ages, as few are taken as the other keeps.
        let every = self.every.max(other.every);
        let thin = |ages: &Self| -> Vec<u64> {
            let step = usize::try_from(every / ages.every).unwrap_or(usize::MAX);
            ages.kept.iter().step_by(step.max(1)).copied().collect()
        };
        self.kept = [thin(&self), thin(other)].concat();
        self.every = every;
        self.count += other.count;
        self
    }

    /// What they tell; nothing where there were none.
    #[must_use]
    pub fn told(&self) -> Option<AgeReport> {
        let mut sorted = self.kept.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
            sorted.get(place).map(|age_ms| *age_ms as f64 / 1000.0)
        };
        Some(AgeReport {
            count: self.count,
            p50_seconds: at(50)?,
            p95_seconds: at(95)?,
            p99_seconds: at(99)?,
        })
    }
}

/// What ages tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AgeReport {
    /// Of how many records.
    pub count: u64,
    /// The age that half of them did not exceed, in seconds.
    pub p50_seconds: f64,
    /// The age that 95% of them did not exceed.
    pub p95_seconds: f64,
    /// The age that 99% of them did not exceed.
    pub p99_seconds: f64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(ages: impl IntoIterator<Item = u64>) -> Ages {
        let mut all = Ages::default();
        ages.into_iter().for_each(|age| all.note(age));
        all
    }

    #[test]
    fn percentiles_are_of_what_was_noted() {
        let told = of((1..=100).rev()).told().expect("there are some");
        assert_eq!(
            (told.count, told.p50_seconds, told.p95_seconds, told.p99_seconds),
            (100, 0.05, 0.095, 0.099)
        );
        assert_eq!(of([7]).told().map(|told| told.p50_seconds), Some(0.007));
        assert_eq!(Ages::default().told(), None);
    }

    #[test]
    fn many_take_no_more_room_and_tell_the_same() {
        let many = of((0..1_000_000).map(|number| number % 1000));
        assert!(many.kept.len() < KEPT_MAX);
        let told = many.told().expect("there are some");
        assert_eq!(told.count, 1_000_000);
        assert!((told.p50_seconds - 0.5).abs() < 0.01 && (told.p95_seconds - 0.95).abs() < 0.01, "{told:?}");
    }

    proptest! {
        #[test]
        fn two_tell_together_what_one_would(
            one in proptest::collection::vec(0u64..10_000, 1..200), other in proptest::collection::vec(0u64..10_000, 0..200),
        ) {
            let together = of(one.iter().copied()).and(&of(other.iter().copied()));
            prop_assert_eq!(together.told(), of(one.into_iter().chain(other)).told());
        }
    }
}
