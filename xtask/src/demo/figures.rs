//! The figures of a course, measured and predicted, and how far they are apart.

use capacity::simulation::{Outcome, Scenario};
use serde::{Deserialize, Serialize};

/// What was seen at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds from the beginning.
    pub(crate) at_seconds: f64,
    /// Messages per second that the producer was asked for.
    pub(crate) target_per_second: f64,
    /// Messages per second that came in since the sample before.
    pub(crate) in_per_second: f64,
    /// Messages per second that were done since the sample before.
    pub(crate) out_per_second: f64,
    /// Messages whose offsets were not committed.
    pub(crate) lag: f64,
    /// Consumers that were wanted.
    pub(crate) desired: u32,
    /// Consumers that were ready.
    pub(crate) ready: u32,
    /// The age of messages when they were done, in seconds, since the sample before; 0 where none was.
    pub(crate) age_p50: f64,
    /// The same, of the oldest hundredth.
    pub(crate) age_p99: f64,
}

/// What a course comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Seconds from the beginning of the spike until there were enough consumers; nothing where there never were.
    pub(crate) seconds_to_enough: Option<f64>,
    /// The greatest lag, in messages.
    pub(crate) peak_lag: f64,
    /// Most consumers.
    pub(crate) most_replicas: u32,
    /// Ages of messages when they were done, in seconds.
    pub(crate) age_p50: f64,
    pub(crate) age_p95: f64,
    pub(crate) age_p99: f64,
    /// Seconds from the last message on until no consumer was wanted.
    pub(crate) seconds_to_zero: Option<f64>,
}

/// The moments of a course by which it is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moments {
    /// When the most arrives for the first time, in seconds.
    pub(crate) spike: f64,
    /// When nothing arrives any more.
    pub(crate) end: f64,
    /// Consumers that carry the most that arrives.
    pub(crate) enough: u32,
}

impl Moments {
    /// Of a scenario, for consumers of that rate.
    pub(crate) fn of(scenario: &Scenario, peak: f64, per_replica: f64) -> Self {
        let seconds = scenario.seconds();
        let rate = |second: u64| scenario.rate_at(second as f64, peak);
        let most = (0..seconds).map(rate).fold(0.0, f64::max);
        let spike = (0..seconds).find(|second| rate(*second) >= most).unwrap_or(0);
        let end = (0..seconds).rev().find(|second| rate(*second) > 0.0).map_or(0, |second| second + 1);
        Self { spike: spike as f64, end: end as f64, enough: (most / per_replica).ceil().max(1.0) as u32 }
    }
}

impl Figures {
    /// Of samples, and of the ages of all messages (p50, p95, p99).
    pub(crate) fn measured(samples: &[Sample], moments: &Moments, ages: [f64; 3]) -> Self {
        let from = |at: f64| samples.iter().filter(move |sample| sample.at_seconds >= at);
        let enough = from(moments.spike).find(|sample| sample.ready >= moments.enough);
        let zero = from(moments.end).find(|sample| sample.desired == 0);
        Self {
            seconds_to_enough: enough.map(|sample| sample.at_seconds - moments.spike),
            peak_lag: samples.iter().map(|sample| sample.lag).fold(0.0, f64::max),
            most_replicas: samples.iter().map(|sample| sample.desired).max().unwrap_or(0),
            age_p50: ages[0],
            age_p95: ages[1],
            age_p99: ages[2],
            seconds_to_zero: zero.map(|sample| sample.at_seconds - moments.end),
        }
    }

    /// Of a simulation.
    pub(crate) fn predicted(outcome: &Outcome, moments: &Moments) -> Self {
        let milliseconds = |seconds: f64| (seconds * 1000.0) as u64;
        let since = |at: Option<u64>, from: f64| at.map(|at| at as f64 / 1000.0 - from);
        let enough = outcome.ready_at_least(moments.enough, milliseconds(moments.spike));
        Self {
            seconds_to_enough: since(enough, moments.spike),
            peak_lag: outcome.max_lag as f64,
            most_replicas: outcome.max_replicas,
            age_p50: outcome.ages.percentile(50.0),
            age_p95: outcome.ages.percentile(95.0),
            age_p99: outcome.ages.percentile(99.0),
            seconds_to_zero: since(outcome.none_wanted(milliseconds(moments.end)), moments.end),
        }
    }

    /// Name, unit and value of each.
    fn rows(&self) -> [(&'static str, Option<f64>); 7] {
        [
            ("time to enough consumers, s", self.seconds_to_enough),
            ("greatest lag, messages", Some(self.peak_lag)),
            ("most consumers", Some(f64::from(self.most_replicas))),
            ("age p50, s", Some(self.age_p50)),
            ("age p95, s", Some(self.age_p95)),
            ("age p99, s", Some(self.age_p99)),
            ("time to zero, s", self.seconds_to_zero),
        ]
    }
}

/// A figure beside its prediction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Compared {
    pub(crate) name: &'static str,
    pub(crate) measured: Option<f64>,
    pub(crate) predicted: Option<f64>,
    /// How much the prediction is above (or, negative, below) what was measured, in per cent of that.
    pub(crate) error_percent: Option<f64>,
}

/// Compares.
pub(crate) fn compare(measured: &Figures, predicted: &Figures) -> Vec<Compared> {
    let pairs = measured.rows().into_iter().zip(predicted.rows());
    pairs
        .map(|((name, measured), (_, predicted))| Compared {
            name,
            measured,
            predicted,
            error_percent: measured
                .zip(predicted)
                .filter(|(measured, _)| *measured > 0.0)
                .map(|(measured, predicted)| (predicted / measured - 1.0) * 100.0),
        })
        .collect()
}

/// The comparison as a table.
pub(crate) fn table(compared: &[Compared]) -> String {
    let number = |value: Option<f64>| match value {
        None => "never".to_owned(),
        Some(value) if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    };
    let mut text = format!("{:<30}{:>12}{:>12}{:>10}\n", "", "measured", "predicted", "error");
    for row in compared {
        let error = row.error_percent.map_or_else(String::new, |error| format!("{error:+.0}%"));
        text += &format!(
            "  {:<28}{:>12}{:>12}{error:>10}\n",
            row.name,
            number(row.measured),
            number(row.predicted)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use capacity::simulation::{Workload, ours, simulate_sampled};

    use super::*;

    const MOMENTS: Moments = Moments { spike: 50.0, end: 185.0, enough: 10 };

    #[test]
    fn the_course_of_the_demo_has_its_moments() {
        let scenario = Scenario::built_in("demo").unwrap();
        assert_eq!(Moments::of(&scenario, 1000.0, 101.5), MOMENTS);
    }

    #[test]
    fn figures_are_taken_from_the_moments_on() {
        let sample =
            |at_seconds, desired, ready, lag| Sample { at_seconds, desired, ready, lag, ..Sample::default() };
        let samples = [
            sample(5.0, 0, 0, 0.0),
            sample(20.0, 12, 12, 3.0),
            sample(60.0, 12, 4, 9000.0),
            sample(64.5, 12, 11, 7000.0),
            sample(190.0, 1, 1, 0.0),
            sample(216.0, 0, 1, 0.0),
        ];
        let figures = Figures::measured(&samples, &MOMENTS, [0.3, 4.0, 9.0]);
        assert_eq!(figures.seconds_to_enough, Some(14.5), "what was there before the spike does not count");
        assert_eq!(
            (figures.seconds_to_zero, figures.peak_lag, figures.most_replicas),
            (Some(31.0), 9000.0, 12)
        );
        let never = Figures::measured(&samples[..3], &MOMENTS, [0.0; 3]);
        assert_eq!((never.seconds_to_enough, never.seconds_to_zero), (None, None));
        let same = compare(&figures, &Figures { seconds_to_enough: Some(11.6), ..figures });
        assert!((same[0].error_percent.unwrap() + 20.0).abs() < 1e-6 && same[1].error_percent == Some(0.0));
        insta::assert_snapshot!(table(&compare(&figures, &never)));
    }

    #[test]
    fn a_simulation_is_judged_by_the_same_moments() {
        let workload = Workload {
            partitions: 24,
            batch_size: 20,
            batch_timeout_seconds: 0.1,
            batch_processing_seconds: 0.195,
            batches_in_flight: 1,
            batches_waiting: 8,
            peak_messages_per_second: 1000.0,
            safety_factor: 1.2,
            consumers_min: 1,
        };
        let scenario = Scenario::built_in("demo").unwrap();
        let scaling = ours(&workload, 5, 1, 15).unwrap();
        let outcome = simulate_sampled(&workload, &scenario, &scaling, 1000).unwrap();
        let figures = Figures::predicted(&outcome, &MOMENTS);
        let enough = figures.seconds_to_enough.unwrap();
        assert!((5.0..60.0).contains(&enough), "{enough}");
        assert_eq!(figures.seconds_to_zero, None, "one consumer at least");
    }
}
