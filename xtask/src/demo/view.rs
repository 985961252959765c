//! What a person sees while a course of the trades runs.

use super::figures::Sample;
use crate::live::{self, clock, sparkline};

/// What is shown.
pub(super) struct Scene<'a> {
    /// The step, in words.
    pub(super) step: &'a str,
    /// Seconds that the whole course takes.
    pub(super) seconds: f64,
    pub(super) samples: &'a [Sample],
    /// Why the number of consumers is what it is.
    pub(super) reason: &'a str,
}

impl Scene<'_> {
    fn now(&self) -> Sample {
        self.samples.last().copied().unwrap_or_default()
    }
}

impl live::Scene for Scene<'_> {
    fn at_seconds(&self) -> f64 {
        self.now().at_seconds
    }

    fn block(&self) -> Vec<String> {
        let now = self.now();
        let course =
            |value: fn(&Sample) -> f64| sparkline(&self.samples.iter().map(value).collect::<Vec<_>>());
        let short: String = self.reason.chars().take(100).collect();
        vec![
            format!("{} of {}  {}", clock(now.at_seconds), clock(self.seconds), self.step),
            format!("  in        {:>8.1}/s    {}", now.in_per_second, course(|sample| sample.in_per_second)),
            format!(
                "  done      {:>8.1}/s    {}",
                now.out_per_second,
                course(|sample| sample.out_per_second)
            ),
            format!("  lag       {:>8.0}      {}", now.lag, course(|sample| sample.lag)),
            format!(
                "  consumers {:>3} of {:>2}      {}",
                now.ready,
                now.desired,
                course(|sample| f64::from(sample.ready))
            ),
            format!(
                "  age       p50 {:.2} s, p99 {:.2} s  {}",
                now.age_p50,
                now.age_p99,
                course(|sample| sample.age_p99)
            ),
            format!("  {short}"),
        ]
    }

    fn line(&self) -> String {
        let now = self.now();
        format!(
            "{:>6}  in {:>7.1}/s  done {:>7.1}/s  lag {:>7.0}  consumers {:>2} of {:>2}  age p50 {:>6.2} s p99 {:>6.2} s",
            clock(now.at_seconds),
            now.in_per_second,
            now.out_per_second,
            now.lag,
            now.ready,
            now.desired,
            now.age_p50,
            now.age_p99
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Scene as _;

    #[test]
    fn a_scene_reads_well() {
        let sample = |at: f64| Sample {
            at_seconds: at,
            target_per_second: 1000.0,
            in_per_second: 100.0 * at,
            out_per_second: 50.0 * at,
            lag: 500.0 * at,
            desired: 12,
            ready: 11,
            age_p50: 0.25,
            age_p99: at,
        };
        let samples: Vec<Sample> = (0..=10).map(|at| sample(f64::from(at))).collect();
        let scene =
            Scene { step: "step 3 of 5: 1000 messages/s", seconds: 240.0, samples: &samples, reason: "why" };
        insta::assert_snapshot!(format!("{}\n---\n{}", scene.block().join("\n"), scene.line()));
    }
}
