//! The figures of the ledger's course.

use serde::{Deserialize, Serialize};

/// What was seen at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    /// Seconds from the beginning.
    pub(super) at_seconds: f64,
    /// How busy the database's processors are, in percent.
    pub(super) cpu: Option<f64>,
    /// 0 GREEN, 1 YELLOW, 2 RED.
    pub(super) mode: u8,
    /// Since when that mode holds, in seconds from the beginning; before it where it held already.
    pub(super) mode_since_seconds: f64,
    /// Writers that told of themselves lately.
    pub(super) writers: usize,
    /// Chunks that they write at once together, at most.
    pub(super) limit: u64,
    /// Events per second that were sent.
    pub(super) in_per_second: f64,
    /// Events per second that were written.
    pub(super) out_per_second: f64,
    /// Events that wait.
    pub(super) lag: f64,
    /// The age that 95% of the events did not exceed when they were written, in seconds.
    pub(super) age_p95: f64,
    /// The writers' sessions on the database.
    pub(super) connections: f64,
}

/// A writer's limit, as it told it at the end of an invocation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Told {
    /// Seconds from the beginning.
    pub(super) at_seconds: f64,
    /// Chunks that it writes at once, at most.
    pub(super) limit: u64,
    /// Which writer.
    pub(super) writer: String,
}

/// The moments by which the course is judged, in seconds from the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Moments {
    /// The neighbour came.
    pub(super) neighbour: f64,
    /// The neighbour went.
    pub(super) calm: f64,
    /// All was seen to be as before.
    pub(super) recovered: f64,
    /// The last event was sent.
    pub(super) end: f64,
}

/// What a span of the course comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Span {
    /// How busy the processors were, in percent, on average.
    pub(super) cpu: f64,
    /// Events per second that were written.
    pub(super) out_per_second: f64,
    /// The greatest p95 of ages, in seconds.
    pub(super) age_p95: f64,
    /// Most events that waited.
    pub(super) lag: f64,
}

/// What the course comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    /// When the processors went over the alarm's threshold, in seconds from the beginning.
    pub(super) crossed: Option<f64>,
    /// From there until the mode was RED.
    pub(super) seconds_to_red: Option<f64>,
    /// From there until the first writer had told of a lower limit.
    pub(super) seconds_to_first: Option<f64>,
    /// From there until no writer told of a higher one any more.
    pub(super) seconds_to_lowered: Option<f64>,
    /// From the neighbour's end until the mode was GREEN.
    pub(super) seconds_to_green: Option<f64>,
    /// From the neighbour's end until a writer had the limit that it had before.
    pub(super) seconds_to_full_limit: Option<f64>,
    /// From the neighbour's end until no more waited than on the happy path.
    pub(super) seconds_to_lag: Option<f64>,
    /// The greatest limit of a writer before, and while all were lowered.
    pub(super) limits: (u64, u64),
    /// Before the neighbour came.
    pub(super) before: Span,
    /// With the neighbour, until all writers were lowered.
    pub(super) pressed: Span,
    /// With the neighbour and all writers lowered.
    pub(super) lowered: Span,
    /// After the recovery.
    pub(super) after: Span,
    /// The writers' sessions, at most.
    pub(super) connections: f64,
}

/// How severe a mode is.
pub(super) fn severity(mode: &str) -> u8 {
    match mode {
        "GREEN" => 0,
        "RED" => 2,
        // What is not known is not well.
        _ => 1,
    }
}

impl Figures {
    /// Of what was seen so far. Moments that have not come are 0.
    pub(super) fn of(samples: &[Sample], told: &[Told], moments: &Moments, threshold: Option<f64>) -> Self {
        let Moments { neighbour, calm, recovered, .. } = *moments;
        let reached = |moment: f64| if moment > 0.0 { moment } else { f64::INFINITY };
        let (neighbour, calm, recovered) = (reached(neighbour), reached(calm), reached(recovered));
        let over = |sample: &&Sample| sample.cpu.zip(threshold).is_some_and(|(cpu, most)| cpu > most);
        let pressed = samples.iter().filter(|sample| (neighbour..calm).contains(&sample.at_seconds));
        let crossed = pressed.clone().find(over).map(|sample| sample.at_seconds);
        let red = pressed
            .clone()
            .find(|sample| sample.mode == severity("RED") && sample.mode_since_seconds >= neighbour)
            .map(|sample| sample.mode_since_seconds);
        let greatest = |from: f64, to: f64| {
            let within = told.iter().filter(|told| (from..to).contains(&told.at_seconds));
            within.map(|told| told.limit).max().unwrap_or(0)
        };
        let full = greatest(f64::NEG_INFINITY, neighbour);
        let lowered = crossed.and_then(|crossed| lowered(told, crossed, calm, full));
        let after_calm = samples.iter().filter(|sample| sample.at_seconds >= calm);
        let green = after_calm
            .clone()
            .find(|sample| sample.mode == 0)
            .map(|sample| sample.mode_since_seconds.clamp(calm, sample.at_seconds) - calm);
        let before = Span::of(samples, f64::NEG_INFINITY, neighbour);
        let since_green = green.map_or(f64::INFINITY, |green| calm + green);
        let full_again = told
            .iter()
            .find(|told| told.at_seconds >= since_green && told.limit >= full)
            .map(|told| told.at_seconds - calm);
        let all = lowered.map_or(calm, |(_, all)| all);
        Self {
            crossed,
            seconds_to_red: crossed.zip(red).map(|(crossed, red)| (red - crossed).max(0.0)),
            seconds_to_first: crossed.zip(lowered).map(|(crossed, (first, _))| first - crossed),
            seconds_to_lowered: crossed.zip(lowered).map(|(crossed, (_, all))| all - crossed),
            seconds_to_green: green,
            seconds_to_full_limit: full_again,
            seconds_to_lag: after_calm
                .clone()
                .find(|sample| sample.lag <= before.lag)
                .map(|sample| sample.at_seconds - calm),
            limits: (full, lowered.map_or(0, |(_, all)| greatest(all, calm))),
            before,
            pressed: Span::of(samples, crossed.unwrap_or(neighbour), all),
            lowered: Span::of(samples, all, calm),
            after: Span::of(samples, recovered, f64::INFINITY),
            connections: samples.iter().map(|sample| sample.connections).fold(0.0, f64::max),
        }
    }
}

/// When, under pressure, the first writer told of a limit below the full one, and when the last one that was not told.
fn lowered(told: &[Told], crossed: f64, calm: f64, full: u64) -> Option<(f64, f64)> {
    let pressed: Vec<&Told> = told.iter().filter(|told| (crossed..calm).contains(&told.at_seconds)).collect();
    let first = pressed.iter().find(|told| told.limit < full)?.at_seconds;
    let last_full = pressed.iter().rposition(|told| told.limit >= full);
    let all = pressed.get(last_full.map_or(0, |place| place + 1))?.at_seconds;
    Some((first, all))
}

impl Span {
    fn of(samples: &[Sample], from: f64, to: f64) -> Self {
        let within: Vec<&Sample> =
            samples.iter().filter(|sample| (from..to).contains(&sample.at_seconds)).collect();
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let most = |value: fn(&Sample) -> f64| within.iter().map(|sample| value(sample)).fold(0.0, f64::max);
        Self {
            cpu: mean(within.iter().filter_map(|sample| sample.cpu).collect()),
            out_per_second: mean(within.iter().map(|sample| sample.out_per_second).collect()),
            age_p95: most(|sample| sample.age_p95),
            lag: most(|sample| sample.lag),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A course: the neighbour comes at 10 s, the processors cross at 12 s, the mode is RED at 17 s, the neighbour goes at
    /// 40 s, the mode is GREEN at 58 s, the course ends at 80 s.
    pub(crate) fn course() -> (Vec<Sample>, Vec<Told>, Moments) {
        let sample = |at: i32| {
            let pressed = (12..42).contains(&at);
            let red = (17..58).contains(&at);
            Sample {
                at_seconds: f64::from(at),
                cpu: (at != 3).then_some(if pressed { 90.0 } else { 20.0 }),
                mode: if red { 2 } else { 0 },
                mode_since_seconds: if red {
                    17.25
                } else if at >= 58 {
                    57.5
                } else {
                    -100.0
                },
                writers: 2,
                limit: if red { 2 } else { 4 },
                in_per_second: 300.0,
                out_per_second: if red { 250.0 } else { 300.0 },
                lag: if (20..60).contains(&at) { 900.0 } else { 50.0 },
                age_p95: if red { 3.0 } else { 0.5 },
                connections: 4.0,
            }
        };
        let told = |at: i32| {
            // Writer b is slower to hear of it.
            [("a", 18), ("b", 21)].map(|(writer, lowered)| Told {
                at_seconds: f64::from(at) + 0.5,
                limit: if (lowered..60).contains(&at) { 1 } else { 2 },
                writer: writer.to_owned(),
            })
        };
        let moments = Moments { neighbour: 10.0, calm: 40.0, recovered: 62.0, end: 80.0 };
        ((0..80).map(sample).collect(), (0..80).flat_map(told).collect(), moments)
    }

    #[test]
    fn times_are_taken_from_the_crossing_and_from_the_neighbours_end() {
        let (samples, told, moments) = course();
        let figures = Figures::of(&samples, &told, &moments, Some(40.0));
        assert_eq!((figures.crossed, figures.seconds_to_red), (Some(12.0), Some(5.25)));
        assert_eq!((figures.seconds_to_first, figures.seconds_to_lowered), (Some(6.5), Some(9.5)));
        assert_eq!((figures.seconds_to_green, figures.seconds_to_full_limit), (Some(17.5), Some(20.5)));
        assert_eq!((figures.seconds_to_lag, figures.limits), (Some(20.0), (2, 1)));
        assert_eq!((figures.before.cpu, figures.lowered.cpu.round(), figures.after.cpu), (20.0, 90.0, 20.0));
        assert_eq!((figures.before.lag, figures.lowered.lag, figures.connections), (50.0, 900.0, 4.0));
    }

    #[test]
    fn what_has_not_come_yet_is_not_told() {
        let (samples, told, moments) = course();
        let quiet = Figures::of(&samples[..10], &told[..20], &Moments::default(), Some(40.0));
        assert_eq!((quiet.crossed, quiet.seconds_to_green, quiet.seconds_to_lag), (None, None, None));
        assert_eq!((quiet.before.cpu, quiet.limits.0), (20.0, 2));
        let never = Figures::of(&samples, &told, &moments, Some(95.0));
        assert_eq!((never.crossed, never.seconds_to_lowered), (None, None));
        let same: Vec<Told> = told.iter().cloned().map(|told| Told { limit: 2, ..told }).collect();
        assert_eq!(Figures::of(&samples, &same, &moments, Some(40.0)).seconds_to_lowered, None);
        let early: Vec<Told> = told
            .iter()
            .cloned()
            .map(|told| Told { limit: if told.at_seconds < 10.0 { 2 } else { 1 }, ..told })
            .collect();
        assert_eq!(Figures::of(&samples, &early, &moments, Some(40.0)).seconds_to_lowered, Some(0.5));
    }
}
