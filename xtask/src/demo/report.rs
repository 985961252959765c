//! What a course came to, as JSON, as a picture and as a page.

use std::path::Path;

use anyhow::Result;
use capacity::simulation::{Outcome, Scenario, Workload};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{
    figures::{self, Compared, Figures, Sample},
    journal::Count,
    page::{Cell, Page, Table},
};
use crate::{
    live::clock,
    plot::{Line, Mark, Panel, Picture, Shape, smoothed},
};

/// What the simulator cannot know and takes from a run like this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Calibration {
    /// From the decision for the largest step until half of the new consumers were ready, in seconds.
    pub(crate) startup_seconds: Option<f64>,
    /// From the moment when a consumer gave a partition up until another took it over, the median, in seconds.
    pub(crate) rebalance_seconds: Option<f64>,
    /// Moves of which that is the median.
    pub(crate) moves: usize,
}

/// Records, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Written to the topic during the course.
    pub(crate) produced: u64,
    /// Processed, as often as they were.
    pub(crate) processed: u64,
    /// Processed at least once.
    pub(crate) distinct: u64,
    /// Produced and never processed.
    pub(crate) lost: u64,
    /// Processed again.
    pub(crate) duplicates: u64,
    /// First processed after a later record of their partition, and so perhaps of their account.
    pub(crate) out_of_order: u64,
    /// Times that a partition went from one consumer to another.
    pub(crate) moves: u64,
}

impl Counted {
    pub(super) fn new(produced: u64, count: Count) -> Self {
        let Count { processed, distinct, duplicates, out_of_order, moves } = count;
        Self {
            produced,
            processed,
            distinct,
            lost: produced.saturating_sub(distinct),
            duplicates,
            out_of_order,
            moves,
        }
    }
}

/// All that is told of a measured course.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) environment: String,
    /// The scenario's name or file.
    pub(crate) scenario: String,
    /// What the consumers followed, in words.
    pub(crate) target: String,
    /// When it began, in milliseconds since 1970.
    pub(crate) begun_ms: u64,
    pub(crate) counted: Counted,
    pub(crate) measured: Figures,
    pub(crate) predicted: Figures,
    pub(crate) calibration: Calibration,
    /// Those of the scaler, oldest first.
    pub(crate) decisions: Vec<Json>,
    pub(crate) samples: Vec<Sample>,
}

/// A simulation as samples like the measured ones.
fn predicted_samples(outcome: &Outcome) -> Vec<Sample> {
    let sample = |sample: &capacity::simulation::Sample| Sample {
        at_seconds: sample.at_seconds as f64,
        in_per_second: sample.messages_per_second,
        out_per_second: sample.processed_per_second,
        lag: sample.lag as f64,
        desired: sample.replicas,
        ready: sample.ready,
        age_p50: sample.age_p50,
        age_p99: sample.age_p99,
        ..Sample::default()
    };
    outcome.samples.iter().map(sample).collect()
}

/// The course with its prediction over it.
fn picture(report: &Report, scenario: &Scenario, peak: f64, outcome: &Outcome) -> String {
    let predicted = predicted_samples(outcome);
    let line = |samples: &[Sample], name: &str, colour, dashed, shape, value: fn(&Sample) -> f64| Line {
        name: name.to_owned(),
        colour,
        dashed,
        shape,
        points: samples.iter().map(|sample| (sample.at_seconds, value(sample))).collect(),
    };
    let smooth = |line: Line| Line { points: smoothed(line.points), ..line };
    let pair = |title: &str, shape, value: fn(&Sample) -> f64| Panel {
        title: title.to_owned(),
        lines: vec![
            line(&report.samples, "measured", 0, false, shape, value),
            line(&predicted, "predicted", 1, true, shape, value),
        ],
    };
    let mut marks = Vec::new();
    let mut at = 0;
    for phase in &scenario.load {
        marks.push(Mark { at_seconds: f64::from(at), name: super::rate_words(phase, scenario, peak) });
        at += phase.seconds;
    }
    let straight = Shape::Straight;
    let panels = vec![
        Panel {
            title: "messages per second".to_owned(),
            lines: vec![
                smooth(line(&report.samples, "in", 2, false, straight, |sample| sample.in_per_second)),
                smooth(line(&report.samples, "done", 0, false, straight, |sample| sample.out_per_second)),
                smooth(line(&predicted, "done, predicted", 1, true, straight, |sample| {
                    sample.out_per_second
                })),
            ],
        },
        pair("lag, messages", straight, |sample| sample.lag),
        Panel {
            title: "consumers".to_owned(),
            lines: vec![
                line(&report.samples, "wanted", 2, false, Shape::Steps, |sample| f64::from(sample.desired)),
                line(&report.samples, "ready", 0, false, Shape::Steps, |sample| f64::from(sample.ready)),
                line(&predicted, "ready, predicted", 1, true, Shape::Steps, |sample| f64::from(sample.ready)),
            ],
        },
        Panel {
            title: "age of messages, seconds".to_owned(),
            lines: vec![
                line(&report.samples, "p50", 5, false, straight, |sample| sample.age_p50),
                line(&report.samples, "p99", 0, false, straight, |sample| sample.age_p99),
                line(&predicted, "p50, predicted", 4, true, straight, |sample| sample.age_p50),
                line(&predicted, "p99, predicted", 1, true, straight, |sample| sample.age_p99),
            ],
        },
    ];
    let last = report.samples.last().map_or(0.0, |sample| sample.at_seconds);
    Picture {
        title: format!("trades on {}: {}", report.environment, report.target),
        seconds: last.max(scenario.seconds() as f64),
        marks,
        panels,
    }
    .svg()
}

/// The page, with the picture in it.
fn page<'a>(report: &Report, compared: &[Compared], picture: &'a str) -> Page<'a> {
    use super::page::Counted as Row;
    let Counted { produced, processed, distinct, lost, duplicates, out_of_order, moves } = report.counted;
    let number = |value: Option<f64>| value.map_or_else(|| "never".to_owned(), |value| format!("{value:.2}"));
    let decision = |decision: &Json| {
        let count = |key: &str| decision.get(key).and_then(Json::as_u64);
        let at = count("at_ms").unwrap_or(0).saturating_sub(report.begun_ms) / 1000;
        let rate = decision.get("arrival_per_second").and_then(Json::as_f64).unwrap_or(0.0);
        vec![
            Cell::number(clock(at as f64)),
            Cell::number(count("lag_records").map_or_else(|| "unknown".to_owned(), |lag| lag.to_string())),
            Cell::number(format!("{rate:.1}")),
            Cell::number(format!("{} → {}", count("current").unwrap_or(0), count("desired").unwrap_or(0))),
            Cell::words(decision.get("reason").and_then(Json::as_str).unwrap_or_default()),
        ]
    };
    let seconds =
        |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.1} s"));
    let lost_words = if lost == 0 { "none" } else { "produced and never processed" };
    Page {
        title: format!(
            "Trades on {}: from none to {} consumers and back",
            report.environment, report.measured.most_replicas
        ),
        summary: format!(
            "Consumers followed {} by KEDA's and the autoscaler's arithmetic on the real lag of the real broker.",
            report.target
        ),
        counted: vec![
            Row::new("produced", produced, true, "as the broker numbers them"),
            Row::new(
                "processed, each once",
                distinct,
                distinct == produced,
                "by the offsets that the consumers logged",
            ),
            Row::new("lost", lost, lost == 0, lost_words),
            Row::new(
                "processed again",
                duplicates,
                true,
                "delivery is at least once; a sink has to be idempotent",
            ),
            Row::new("in all", processed, true, ""),
            Row::new(
                "out of order",
                out_of_order,
                out_of_order == 0,
                "within a partition, and so of an account: an account has one partition",
            ),
            Row::new("moves of a partition", moves, true, "from one consumer to another"),
        ],
        picture_title: "The course, measured and predicted",
        picture,
        tables: vec![
            Table {
                title: "Measured against predicted".to_owned(),
                head: ["measured", "predicted", "error"].iter().fold(
                    vec![Cell::words("")],
                    |mut head, name| {
                        head.push(Cell::number(name));
                        head
                    },
                ),
                rows: compared
                    .iter()
                    .map(|row| {
                        let error =
                            row.error_percent.map_or_else(String::new, |error| format!("{error:+.0}%"));
                        vec![
                            Cell::words(row.name),
                            Cell::number(number(row.measured)),
                            Cell::number(number(row.predicted)),
                            Cell::number(error),
                        ]
                    })
                    .collect(),
                note: format!(
                    "New consumers were ready {} after the decision; a partition that moved had no consumer for {} (median of {} moves). \
                     The scenario's startup_seconds and rebalance_seconds say what the simulator takes.",
                    seconds(report.calibration.startup_seconds),
                    seconds(report.calibration.rebalance_seconds),
                    report.calibration.moves
                ),
            },
            Table {
                title: "Decisions".to_owned(),
                head: ["time", "lag", "in/s", "consumers"]
                    .iter()
                    .map(Cell::number)
                    .chain([Cell::words("why")])
                    .collect(),
                rows: report.decisions.iter().map(decision).collect(),
                note: String::new(),
            },
        ],
    }
}

/// Writes all files into a directory.
pub(super) fn write(
    directory: &Path,
    report: &Report,
    scenario: &Scenario,
    workload: &Workload,
    outcome: &Outcome,
) -> Result<()> {
    let compared = figures::compare(&report.measured, &report.predicted);
    let picture = picture(report, scenario, workload.peak_messages_per_second, outcome);
    let mut json = serde_json::to_value(report)?;
    if let Some(map) = json.as_object_mut() {
        map.insert("compared".to_owned(), serde_json::to_value(&compared)?);
        map.insert("predicted_samples".to_owned(), serde_json::to_value(predicted_samples(outcome))?);
    }
    page(report, &compared, &picture).write(directory, &json)
}
