//! The course of all runs as a picture.

use capacity::simulation::Sample;

use super::report::Report;
use crate::plot::{Line, Panel, Picture, Shape};

type Course = (&'static str, fn(&Sample) -> f64, Shape);

const COURSES: [Course; 4] = [
    ("messages/s that arrive", |sample| sample.messages_per_second, Shape::Straight),
    ("age of the oldest message that waits, s", |sample| sample.oldest_seconds, Shape::Straight),
    ("lag, messages", |sample| sample.lag as f64, Shape::Straight),
    ("replicas in the group", |sample| f64::from(sample.ready), Shape::Steps),
];

/// The picture of all runs.
pub(super) fn picture(report: &Report) -> String {
    let line = |value: fn(&Sample) -> f64, shape| {
        report
            .runs
            .iter()
            .enumerate()
            .map(|(colour, run)| Line {
                name: run.name.clone(),
                colour,
                dashed: false,
                shape,
                points: run
                    .outcome
                    .samples
                    .iter()
                    .map(|sample| (sample.at_seconds as f64, value(sample)))
                    .collect(),
            })
            .collect()
    };
    let panels =
        COURSES.map(|(title, value, shape)| Panel { title: title.to_owned(), lines: line(value, shape) });
    Picture {
        title: format!("{} on {}: {}", report.scenario_name, report.environment, report.scenario.description),
        seconds: report.scenario.seconds() as f64,
        marks: Vec::new(),
        panels: panels.into(),
    }
    .svg()
}
