//! The course as a picture: lines over time, written as plain paths.

use std::fmt::Write;

use capacity::simulation::Sample;

use super::report::{Report, clock, number};

const WIDTH: f64 = 860.0;
const PANEL: f64 = 150.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 64.0;
const GAP: f64 = 46.0;

/// A colour a run, told apart by those who see few colours as well.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

type Panel = (&'static str, fn(&Sample) -> f64);

const PANELS: [Panel; 4] = [
    ("messages/s that arrive", |sample| sample.messages_per_second),
    ("age of the oldest message that waits, s", |sample| sample.oldest_seconds),
    ("lag, messages", |sample| sample.lag as f64),
    ("replicas in the group", |sample| f64::from(sample.ready)),
];

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The picture of all runs.
pub(super) fn picture(report: &Report) -> String {
    let height = TOP + PANELS.len() as f64 * (PANEL + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut text = |x: f64, y: f64, anchor: &str, fill: &str, words: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{}</text>",
            escaped(words)
        );
    };
    let title =
        format!("{} on {}: {}", report.scenario_name, report.environment, report.scenario.description);
    text(LEFT, 20.0, "start", "black", &title);
    for (index, run) in report.runs.iter().enumerate() {
        let colour = COLOURS.get(index % COLOURS.len()).copied().unwrap_or("black");
        text(LEFT + 120.0 * index as f64, 40.0, "start", colour, &run.name);
    }
    let end = report.scenario.seconds().max(1) as f64;
    let mut lines = String::new();
    for (place, (name, value)) in PANELS.iter().enumerate() {
        let top = TOP + place as f64 * (PANEL + GAP);
        let bottom = top + PANEL;
        let samples = || report.runs.iter().flat_map(|run| &run.outcome.samples);
        let most = samples().map(value).fold(0.0, f64::max).max(1e-9);
        text(LEFT, top - 6.0, "start", "black", name);
        text(LEFT - 6.0, top + 10.0, "end", "gray", &number(most));
        text(LEFT - 6.0, bottom, "end", "gray", "0");
        text(LEFT, bottom + 14.0, "start", "gray", "0:00");
        text(WIDTH - RIGHT, bottom + 14.0, "end", "gray", &clock(report.scenario.seconds()));
        let _ = writeln!(
            lines,
            "<path d=\"M{LEFT} {top:.0} V{bottom:.0} H{:.0}\" fill=\"none\" stroke=\"gray\"/>",
            WIDTH - RIGHT
        );
        for (index, run) in report.runs.iter().enumerate() {
            let mut path = String::new();
            for sample in &run.outcome.samples {
                let x = LEFT + sample.at_seconds as f64 / end * (WIDTH - LEFT - RIGHT);
                let y = bottom - value(sample) / most * PANEL;
                let _ = write!(path, "{}{x:.1} {y:.1} ", if path.is_empty() { "M" } else { "L" });
            }
            let colour = COLOURS.get(index % COLOURS.len()).copied().unwrap_or("black");
            let _ = writeln!(
                lines,
                "<path d=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
                path.trim_end()
            );
        }
    }
    svg + &lines + "</svg>\n"
}
