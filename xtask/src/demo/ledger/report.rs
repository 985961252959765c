//! What the ledger's course came to, as text, as JSON, as a picture and as a page.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{
    super::page::{Cell, Counted, Page, Table},
    database::Counts,
    figures::{Figures, Moments, Sample, Span, Told},
};
use crate::plot::{Line, Mark, Panel, Picture, Shape, smoothed};

/// How soon the writers' limit should be lowered, in seconds from the crossing.
const GOAL_SECONDS: f64 = 10.0;

/// All that is told of a course.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) environment: String,
    /// Events per second that were asked for.
    pub(super) rate: f64,
    /// When it began, in milliseconds since 1970.
    pub(super) begun_ms: i64,
    /// The alarm that brought RED.
    pub(super) alarm: Option<String>,
    /// Above which it goes off, in percent.
    pub(super) threshold: Option<f64>,
    pub(super) moments: Moments,
    /// Seconds that what waited took when nothing arrived any more.
    pub(super) drained_seconds: f64,
    pub(super) counts: Counts,
    pub(super) figures: Figures,
    pub(super) samples: Vec<Sample>,
    /// The writers' limits, one by one.
    pub(super) told: Vec<Told>,
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "never".to_owned(), |value| format!("{value:.1} s"))
}

impl Report {
    /// Name and value of each time.
    fn times(&self) -> Vec<(&'static str, String)> {
        let Figures { crossed, seconds_to_lowered: lowered, .. } = self.figures;
        let came = crossed.map(|crossed| crossed - self.moments.neighbour);
        vec![
            ("the neighbour comes -> processors above the threshold", seconds(came)),
            ("processors above the threshold -> RED", seconds(self.figures.seconds_to_red)),
            (
                "processors above the threshold -> first writer lowered",
                seconds(self.figures.seconds_to_first),
            ),
            (
                "processors above the threshold -> all writers lowered",
                seconds(self.figures.seconds_to_lowered),
            ),
            (
                "the neighbour comes -> all writers lowered",
                seconds(came.zip(lowered).map(|(came, after)| came + after)),
            ),
            ("the neighbour goes -> GREEN", seconds(self.figures.seconds_to_green)),
            ("the neighbour goes -> a writer at its full limit", seconds(self.figures.seconds_to_full_limit)),
            ("the neighbour goes -> lag as before", seconds(self.figures.seconds_to_lag)),
            ("the last event -> lag 0", seconds(Some(self.drained_seconds))),
        ]
    }

    fn spans(&self) -> [(&'static str, Span); 4] {
        let Figures { before, pressed, lowered, after, .. } = self.figures;
        [
            ("before", before),
            ("neighbour, writers not lowered yet", pressed),
            ("neighbour, writers lowered", lowered),
            ("after the recovery", after),
        ]
    }

    fn goal(&self) -> String {
        let met = self.figures.seconds_to_lowered.is_some_and(|seconds| seconds <= GOAL_SECONDS);
        format!("the goal of {GOAL_SECONDS:.0} s is {}", if met { "met" } else { "not met" })
    }

    /// For a terminal.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.counts);
        for (name, value) in self.times() {
            text += &format!("  {name:<56}{value:>9}\n");
        }
        text += &format!("  ({})\n\n", self.goal());
        text += &format!("  {:<36}{:>7}{:>12}{:>10}{:>9}\n", "", "CPU", "written", "age p95", "lag");
        for (name, span) in self.spans() {
            text += &format!(
                "  {name:<36}{:>6.0}%{:>10.0}/s{:>8.1} s{:>9.0}\n",
                span.cpu, span.out_per_second, span.age_p95, span.lag
            );
        }
        let (full, low) = self.figures.limits;
        text + &format!(
            "\n  chunks at once of a writer: {full} -> {low} -> {full}; connections of the writers: at most {:.0}\n",
            self.figures.connections
        )
    }

    fn picture(&self) -> String {
        let line = |name: &str, colour, shape, value: &dyn Fn(&Sample) -> Option<f64>| Line {
            name: name.to_owned(),
            colour,
            dashed: false,
            shape,
            points: self
                .samples
                .iter()
                .filter_map(|sample| Some((sample.at_seconds, value(sample)?)))
                .collect(),
        };
        let end =
            self.samples.last().map_or(self.moments.end, |sample| sample.at_seconds.max(self.moments.end));
        let level = |name: &str, value: f64| Line {
            name: name.to_owned(),
            colour: 1,
            dashed: true,
            shape: Shape::Straight,
            points: vec![(0.0, value), (end, value)],
        };
        let smooth = |line: Line| Line { points: smoothed(line.points), ..line };
        let panel = |title: &str, lines: Vec<Line>| Panel { title: title.to_owned(), lines };
        let (straight, steps) = (Shape::Straight, Shape::Steps);
        let mut cpu = vec![line("CPU", 0, straight, &|sample| sample.cpu)];
        cpu.extend(self.threshold.map(|threshold| level("alarm", threshold)));
        let mark = |at_seconds, name: &str| Mark { at_seconds, name: name.to_owned() };
        let mut marks = vec![mark(self.moments.neighbour, "neighbour comes")];
        let lowered = self.figures.crossed.zip(self.figures.seconds_to_lowered);
        marks.extend(lowered.map(|(crossed, after)| mark(crossed + after, "all lowered")));
        marks.push(mark(self.moments.calm, "neighbour goes"));
        marks.extend(self.figures.seconds_to_green.map(|green| mark(self.moments.calm + green, "GREEN")));
        let own = |told: &Told| (told.at_seconds, told.limit as f64);
        Picture {
            title: format!("ledger on {}: {} events/s and a noisy neighbour", self.environment, self.rate),
            seconds: end,
            marks,
            panels: vec![
                panel("the database's processors, %", cpu),
                panel(
                    "mode: 0 GREEN, 1 YELLOW, 2 RED",
                    vec![line("mode", 1, steps, &|sample| Some(f64::from(sample.mode)))],
                ),
                panel(
                    "chunks at once",
                    vec![
                        line("all writers", 2, steps, &|sample| Some(sample.limit as f64)),
                        Line {
                            name: "the greatest of one".to_owned(),
                            colour: 0,
                            dashed: false,
                            shape: steps,
                            points: greatest(self.told.iter().map(own)),
                        },
                    ],
                ),
                panel(
                    "events per second",
                    vec![
                        smooth(line("sent", 2, straight, &|sample| Some(sample.in_per_second))),
                        smooth(line("written", 0, straight, &|sample| Some(sample.out_per_second))),
                    ],
                ),
                panel("lag, events", vec![line("waiting", 0, straight, &|sample| Some(sample.lag))]),
                panel(
                    "age of events when written, p95, seconds",
                    vec![line("age", 0, straight, &|sample| Some(sample.age_p95))],
                ),
            ],
        }
        .svg()
    }

    fn page<'a>(&self, picture: &'a str) -> Page<'a> {
        let Counts { produced, acknowledged, written, lost, duplicated, regressed } = self.counts;
        let (full, low) = self.figures.limits;
        Page {
            title: format!("The ledger on {}: a noisy neighbour", self.environment),
            summary: format!(
                "{} events/s flow while another service burns the database's processors. The alarm {} makes the mode RED, \
                 and each writer goes from {full} chunks at once to {low}; when the neighbour is gone, it finds its way back.",
                self.rate,
                self.alarm.as_deref().unwrap_or("of the processors")
            ),
            counted: vec![
                Counted::new("produced", produced, true, "by the program that sent them"),
                Counted::new("acknowledged", acknowledged, acknowledged == produced, "by the brokers"),
                Counted::new("written", written, written == produced, "ids of events in the database"),
                Counted::new("lost", lost, lost == 0, "sent, and without an effect"),
                Counted::new("regressed", regressed, regressed == 0, "versions that rows lack"),
                Counted::new(
                    "duplicated effects",
                    duplicated,
                    duplicated == 0,
                    "effects beyond one an event",
                ),
                Counted::new(
                    "connections of the writers",
                    format!("{:.0}", self.figures.connections),
                    true,
                    "at most, as the database counts them",
                ),
            ],
            picture_title: "The course",
            picture,
            tables: vec![
                Table {
                    title: "How long it took".to_owned(),
                    head: vec![Cell::words(""), Cell::number("time")],
                    rows: self
                        .times()
                        .into_iter()
                        .map(|(name, value)| vec![Cell::words(name.replace("->", "→")), Cell::number(value)])
                        .collect(),
                    note: format!(
                        "From the processors above the threshold until all writers are lowered {}. A writer tells its limit \
                         at the end of an invocation, so that it was lowered sooner than is told here.",
                        self.goal()
                    ),
                },
                Table {
                    title: "What it did".to_owned(),
                    head: ["CPU", "written", "age p95, at most", "lag, at most"].iter().fold(
                        vec![Cell::words("")],
                        |mut head, name| {
                            head.push(Cell::number(name));
                            head
                        },
                    ),
                    rows: self
                        .spans()
                        .into_iter()
                        .map(|(name, span)| {
                            vec![
                                Cell::words(name),
                                Cell::number(format!("{:.0}%", span.cpu)),
                                Cell::number(format!("{:.0}/s", span.out_per_second)),
                                Cell::number(format!("{:.2} s", span.age_p95)),
                                Cell::number(format!("{:.0}", span.lag)),
                            ]
                        })
                        .collect(),
                    note: String::new(),
                },
            ],
        }
    }
}

/// The greatest value of each second.
fn greatest(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut by_second = std::collections::BTreeMap::<u64, f64>::new();
    for (at, value) in points.filter(|(at, _)| *at >= 0.0) {
        let known = by_second.entry(at as u64).or_insert(value);
        *known = known.max(value);
    }
    by_second.into_iter().map(|(second, value)| (second as f64, value)).collect()
}

/// Writes all files into a directory.
pub(super) fn write(directory: &Path, report: &Report) -> Result<()> {
    let picture = report.picture();
    report.page(&picture).write(directory, &serde_json::to_value(report)?)
}

#[cfg(test)]
mod tests {
    use super::{super::figures::tests::course, *};

    #[test]
    fn a_report_is_written_and_read_again() {
        let (samples, told, moments) = course();
        let figures = Figures::of(&samples, &told, &moments, Some(40.0));
        let counts = Counts { produced: 900, acknowledged: 900, written: 900, ..Counts::default() };
        let report = Report {
            environment: "local".to_owned(),
            rate: 300.0,
            begun_ms: 1000,
            alarm: Some("cpu".to_owned()),
            threshold: Some(40.0),
            moments,
            drained_seconds: 1.5,
            counts,
            figures,
            samples,
            told,
        };
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &report).unwrap();
        let text = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        let read: Report = serde_json::from_str(&text(super::super::super::page::JSON_FILE)).unwrap();
        assert_eq!((read.counts, read.figures, read.samples.len()), (counts, figures, report.samples.len()));
        let page = text("report.html");
        for words in [
            "<svg",
            "all lowered",
            "9.5 s",
            "is met",
            "duplicated effects",
            "goes from 2 chunks at once to 1",
        ] {
            assert!(page.contains(words), "{words}");
        }
        assert!(text("course.svg").contains(">neighbour goes<"));
        insta::assert_snapshot!(report.text());
    }
}
