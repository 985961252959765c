//! The course of all runs as a picture.

use capacity::simulation::Sample;

use super::report::{Report, Run};
use crate::plot::{COLOURS, Line, Panel, Picture, Shape};

/// The picture of all runs: what arrives, what waits, how old messages are, replicas, and what these have cost.
pub(super) fn picture(report: &Report) -> String {
    let usd_per_second = report.usd_per_replica_hour / 3600.0;
    let panels = [
        panel(report, "messages/s that arrive", Shape::Steps, &|sample| sample.messages_per_second),
        panel(report, "lag, messages", Shape::Straight, &|sample| sample.lag as f64),
        ages(report),
        panel(report, "replicas in the group", Shape::Steps, &|sample| f64::from(sample.ready)),
        panel(report, "cost so far, US cents", Shape::Straight, &|sample| {
            sample.replica_seconds * usd_per_second * 100.0
        }),
    ];
    Picture {
        title: format!("{} on {}: {}", report.scenario_name, report.environment, report.scenario.description),
        seconds: report.scenario.seconds() as f64,
        marks: Vec::new(),
        panels: panels.into(),
    }
    .svg()
}

fn panel(report: &Report, title: &str, shape: Shape, value: &dyn Fn(&Sample) -> f64) -> Panel {
    let lines = report.runs.iter().enumerate();
    Panel {
        title: title.to_owned(),
        lines: lines.map(|(colour, run)| line(run, run.name.clone(), colour, false, shape, value)).collect(),
    }
}

/// Of each run the median and, dashed, the oldest in twenty. One run alone has a colour for either.
fn ages(report: &Report) -> Panel {
    let alone = report.runs.len() == 1;
    let lines = report.runs.iter().enumerate().flat_map(|(colour, run)| {
        let name = |percentile: &str| {
            if alone { percentile.to_owned() } else { format!("{} {percentile}", run.name) }
        };
        let median = if alone { COLOURS.len() - 1 } else { colour };
        [
            line(run, name("p50"), median, false, Shape::Straight, &|sample| sample.age_p50),
            line(run, name("p95"), colour, !alone, Shape::Straight, &|sample| sample.age_p95),
        ]
    });
    Panel { title: "age of messages, seconds".to_owned(), lines: lines.collect() }
}

fn line(
    run: &Run,
    name: String,
    colour: usize,
    dashed: bool,
    shape: Shape,
    value: &dyn Fn(&Sample) -> f64,
) -> Line {
    let samples = run.outcome.samples.iter();
    let points = samples.map(|sample| (sample.at_seconds as f64, value(sample))).collect();
    Line { name, colour, dashed, shape, points }
}
