//! What a person sees while a course of the trades runs.

use super::figures::Sample;
use crate::live::{self, clock, sparkline};

/// Columns before a sparkline.
const LABEL: usize = 38;

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

    fn block(&self, width: usize) -> Vec<String> {
        let now = self.now();
        let sparks = width.saturating_sub(LABEL);
        let row = |text: String, value: fn(&Sample) -> f64| {
            let course = sparkline(&self.samples.iter().map(value).collect::<Vec<_>>(), sparks);
            format!("{text:<LABEL$}{course}")
        };
        let step = if now.at_seconds > self.seconds { "until no consumer is left" } else { self.step };
        vec![
            format!("{} of {}  {step}", clock(now.at_seconds), clock(self.seconds)),
            row(format!("  in        {:>8.1}/s", now.in_per_second), |sample| sample.in_per_second),
            row(format!("  done      {:>8.1}/s", now.out_per_second), |sample| sample.out_per_second),
            row(format!("  lag       {:>8.0}", now.lag), |sample| sample.lag),
            row(format!("  consumers {:>3} of {:>2}", now.ready, now.desired), |sample| {
                f64::from(sample.ready)
            }),
            row(format!("  age       p50 {:.2} s, p99 {:.2} s", now.age_p50, now.age_p99), |sample| {
                sample.age_p99
            }),
            format!("  {}", self.reason),
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
    use crate::live::{Scene as _, WIDTH_MIN, cut};

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
        insta::assert_snapshot!(format!("{}\n---\n{}", scene.block(120).join("\n"), scene.line()));
    }

    #[test]
    fn nothing_is_wider_than_the_terminal() {
        let samples =
            vec![Sample { at_seconds: 1.0, lag: 1e9, in_per_second: 1e6, ..Sample::default() }; 300];
        let reason = "because ".repeat(40);
        let scene = Scene {
            step: "step 3 of 5: 1000 messages/s",
            seconds: 240.0,
            samples: &samples,
            reason: &reason,
        };
        for width in [WIDTH_MIN, 80, 120, 200] {
            let widest = scene.block(width).iter().map(|line| cut(line, width).chars().count()).max();
            assert_eq!(widest, Some(width));
        }
        let sparks = |width: usize| scene.block(width)[1].chars().filter(|c| *c == '█').count();
        assert_eq!([sparks(80), sparks(120)], [80 - LABEL, 60]);
    }
}
