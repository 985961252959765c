//! How far the simulator is from a run that was measured.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result};
use capacity::simulation;
use platform::Environment;
use serde_json::json;

use crate::demo::{
    figures::{self, Compared, Figures, Moments},
    report::Report,
};

/// Simulates the course of a report as the environment and the scenario are now, and tells both.
pub(super) fn run(file: &Path, root: &Path, as_json: bool) -> Result<ExitCode> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {}; `cargo xtask demo trades` writes it", file.display()))?;
    let report: Report =
        serde_json::from_str(&text).with_context(|| format!("{} is no report of a demo", file.display()))?;
    let compared = compare(&report, root)?;
    if as_json {
        let told = json!({
            "environment": report.environment, "scenario": report.scenario, "compared": compared,
            "calibration": report.calibration,
        });
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        print!("{}", words(&report, &compared));
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(report: &Report, root: &Path) -> Result<Vec<Compared>> {
    let environment = Environment::load(root, &report.environment)?;
    let workload = super::workload(&environment, &platform::sizes(&environment)?);
    let scenario = super::scenario(&report.scenario)?;
    let scaling = super::rendered_scaling(&environment)?;
    let outcome = simulation::simulate_sampled(&workload, &scenario, &scaling, 1000)?;
    let moments =
        Moments::of(&scenario, workload.peak_messages_per_second, workload.messages_per_second_per_replica());
    Ok(figures::compare(&report.measured, &Figures::predicted(&outcome, &moments)))
}

fn words(report: &Report, compared: &[Compared]) -> String {
    let seconds =
        |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.1}"));
    format!(
        "{} on {}, measured: {}\n\n{}\nmeasured for the scenario file: startup_seconds {}, rebalance_seconds {} (of {} moves)\n",
        report.scenario,
        report.environment,
        report.target,
        figures::table(compared),
        seconds(report.calibration.startup_seconds),
        seconds(report.calibration.rebalance_seconds),
        report.calibration.moves,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{demo::report::Calibration, workspace};

    #[test]
    fn the_error_is_told_of_each_figure() {
        let report = |measured| Report {
            environment: "local".to_owned(),
            scenario: "demo".to_owned(),
            target: "lag / 500".to_owned(),
            begun_ms: 0,
            counted: Default::default(),
            measured,
            predicted: measured,
            calibration: Calibration { startup_seconds: Some(1.5), rebalance_seconds: None, moves: 0 },
            decisions: Vec::new(),
            samples: Vec::new(),
        };
        let measured = Figures { seconds_to_enough: Some(12.0), peak_lag: 10_000.0, ..Figures::default() };
        let report = report(measured);
        let compared = compare(&report, &workspace::root()).unwrap();
        assert!(compared[0].error_percent.is_some() && compared[1].error_percent.is_some());
        assert_eq!(compared[3].error_percent, None, "nothing was measured");
        let words = words(&report, &compared);
        assert!(words.contains("startup_seconds 1.5, rebalance_seconds unknown"), "{words}");
        assert!(
            run(Path::new("nowhere.json"), &workspace::root(), false)
                .unwrap_err()
                .to_string()
                .contains("demo trades")
        );
    }
}
