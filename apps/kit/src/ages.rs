//! How old records were, as a distribution of bounded size.

use hdrhistogram::Histogram;
use serde::Serialize;

/// The greatest age that is told apart: a day. What is older counts as that.
const AGE_MS_MAX: u64 = 24 * 3600 * 1000;

/// Significant digits of what is told.
const DIGITS: u8 = 3;

/// Ages of records.
#[derive(Clone, Debug)]
pub struct Ages(Histogram<u64>);

impl Default for Ages {
    fn default() -> Self {
        let bounds = Histogram::new_with_max(AGE_MS_MAX, DIGITS);
        Self(bounds.expect("a greatest value above 1 and at most five digits"))
    }
}

impl Ages {
    /// Takes one in, in milliseconds.
    pub fn note(&mut self, age_ms: u64) {
        self.0.saturating_record(age_ms);
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.0.add(&other.0).expect("both have the same bounds");
        self
    }

    /// What they tell; nothing where there were none.
    #[must_use]
    pub fn told(&self) -> Option<AgeReport> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        (!self.0.is_empty()).then(|| AgeReport {
            count: self.0.len(),
            p50_seconds: at(0.50),
            p95_seconds: at(0.95),
            p99_seconds: at(0.99),
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
    fn what_is_older_than_a_day_is_a_day_old() {
        let told = of([u64::MAX]).told().expect("there is one");
        assert!((told.p50_seconds / 86_400.0 - 1.0).abs() < 0.001, "{told:?}");
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
