//! `cargo xtask simulate`.

mod chart;
mod measured;
mod progress;
mod report;
mod svg;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ::capacity::{
    cost,
    prices::{self, Prices},
    scaling::{manifest::ScaledObjectManifest, stepper::Scaling},
    simulation::{self, BUILT_IN, Goal, Scenario, Workload},
};
use anyhow::{Context, Result, bail};
use platform::{Environment, Sizes};
use serde::Deserialize;
use worker_contract::trades::BATCHES_WAITING;

pub(crate) use report::setting;

use progress::Progress;
use report::{Report, Run};

/// Samples of a run, about.
const SAMPLES: u64 = 360;

/// How a system scales under a load, in virtual time; no cluster is needed.
///
/// How a system scales under a load, in virtual time: messages, partitions, batches, start-up, rebalances and KEDA with
/// the autoscaler behind it, from the environment's service level. Shows the course, the ages of the messages,
/// the cost, and the cheapest scaler settings that keep a service level.
///
/// Scenarios: spike, sawtooth, slow-start, poison-storm, lost-zone, demo, or a file of your own like those in
/// stacks/capacity/scenarios/.
///
/// Examples:
///   cargo xtask simulate trades --env prod --scenario spike --compare --within 5 --percent 95
///   cargo xtask simulate trades --measured target/reports/trades/report.json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct SimulateArgs {
    /// The system.
    #[arg(value_parser = ["trades"])]
    system: String,
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// A scenario's name, or a file.
    #[arg(long, default_value = "spike", value_name = "NAME|FILE")]
    scenario: String,
    /// The published setting and the recommended ones beside ours.
    #[arg(long)]
    compare: bool,
    /// The service level: seconds from a message's creation to its effect.
    #[arg(long, default_value = "5", value_parser = seconds, value_name = "SECONDS")]
    within: f64,
    /// The service level: per cent of the messages.
    #[arg(long, default_value = "95", value_parser = percent)]
    percent: f64,
    /// Seconds in which our scaler is to drain what waits.
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u32).range(1..=3600), value_name = "SECONDS")]
    drain: u32,
    /// Replicas at least, instead of the environment's.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "REPLICAS")]
    min: Option<u32>,
    /// Seconds over which our scaler holds more replicas.
    #[arg(long, default_value = "300", value_parser = clap::value_parser!(u32).range(0..=3600), value_name = "SECONDS")]
    down_window: u32,
    /// Scale by records of lag a replica instead of by rate.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "RECORDS")]
    lag_threshold: Option<u64>,
    /// A manifest of your own, with one ScaledObject, instead of our setting.
    #[arg(long, conflicts_with_all = ["lag_threshold", "drain", "min", "down_window"], value_name = "FILE")]
    scaled_object: Option<PathBuf>,
    /// A report of `cargo xtask demo trades`: how far the simulation of its course is from what was measured.
    #[arg(long, conflicts_with_all = ["scenario", "compare", "lag_threshold", "scaled_object", "drain", "min", "down_window", "svg"], value_name = "FILE")]
    measured: Option<PathBuf>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Writes the course as a picture, too.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.01..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "seconds are 0.01 to 86400".to_owned())
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "per cent are 0 to 100".to_owned())
}

pub(crate) fn run(arguments: &SimulateArgs, root: &Path) -> Result<ExitCode> {
    if let Some(file) = &arguments.measured {
        return measured::run(file, root, arguments.json);
    }
    let environment = Environment::load(root, &arguments.env)?;
    let progress = Progress::new()?;
    let Some(report) = report(arguments, &environment, &|begun, all| progress.tell(begun, all))? else {
        progress.end();
        eprintln!("interrupted");
        return Ok(ExitCode::from(130));
    };
    progress.end();
    if let Some(file) = &arguments.svg {
        std::fs::write(file, svg::picture(&report)).with_context(|| file.display().to_string())?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report.json())?);
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", report.text());
    if let Some(file) = &arguments.svg {
        println!("\nwrote {}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// A name that comes with the project counts before a file of that name.
pub(crate) fn scenario(name: &str) -> Result<Scenario> {
    if BUILT_IN.iter().any(|(known, _)| *known == name) {
        return Ok(Scenario::built_in(name)?);
    }
    if !Path::new(name).is_file() {
        let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        bail!("`{name}` is neither a scenario ({}) nor a file", names.join(", "));
    }
    let text = std::fs::read_to_string(name).with_context(|| name.to_owned())?;
    Scenario::parse(&text).with_context(|| name.to_owned())
}

/// The setting of the ScaledObject in a manifest, which may hold other documents.
fn scaled_object(file: &Path) -> Result<Scaling> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    scaling_in(&[&text]).with_context(|| file.display().to_string())
}

/// The setting that an environment is deployed with.
pub(crate) fn rendered_scaling(environment: &Environment) -> Result<Scaling> {
    let assembly = platform::render(environment)?;
    let manifests = assembly.files.iter().filter(|(name, _)| name.ends_with(".yaml"));
    let texts: Vec<&str> = manifests.map(|(_, text)| text.as_str()).collect();
    scaling_in(&texts).with_context(|| format!("the manifests of {}", environment.name))
}

/// The setting of the one ScaledObject in manifests.
fn scaling_in(texts: &[&str]) -> Result<Scaling> {
    let mut found = Vec::new();
    for text in texts {
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            let value = serde_yaml_ng::Value::deserialize(document)?;
            if value.get("kind").and_then(serde_yaml_ng::Value::as_str) == Some("ScaledObject") {
                found.push(value);
            }
        }
    }
    let [manifest] = &found[..] else {
        bail!("{} documents of kind ScaledObject; one is needed", found.len());
    };
    let manifest: ScaledObjectManifest = serde_yaml_ng::from_value(manifest.clone())?;
    Ok(manifest.scaling()?)
}

pub(crate) fn workload(environment: &Environment, sizes: &Sizes) -> Workload {
    let level = &environment.trades;
    Workload {
        partitions: u32::try_from(sizes.trades("partitions")).unwrap_or(u32::MAX),
        batch_size: level.batch_size,
        batch_timeout_seconds: level.batch_timeout_seconds,
        batch_processing_seconds: level.batch_processing_seconds,
        batches_in_flight: level.batches_in_flight,
        batches_waiting: BATCHES_WAITING,
        peak_messages_per_second: level.peak_messages_per_second,
        safety_factor: level.safety_factor,
        consumers_min: level.consumers_min,
    }
}

/// The report; nothing where `watch` stops the search for settings.
fn report(
    arguments: &SimulateArgs,
    environment: &Environment,
    watch: &(dyn Fn(usize, usize) -> bool + Sync),
) -> Result<Option<Report>> {
    let scenario = scenario(&arguments.scenario)?;
    let workload = workload(environment, &platform::sizes(environment)?);
    let goal = Goal { within_seconds: arguments.within, percent: arguments.percent };
    let min = arguments.min.unwrap_or(workload.consumers_min);
    let scaling = match (&arguments.scaled_object, arguments.lag_threshold) {
        (Some(file), _) => scaled_object(file)?,
        (None, Some(threshold)) => simulation::by_lag(&workload, threshold, min, 0, arguments.down_window),
        (None, None) => simulation::ours(&workload, arguments.drain, min, arguments.down_window)?,
    };
    // Fine enough for a picture: what is sudden looks so.
    let sample_every = (scenario.seconds() * 1000 / SAMPLES).next_multiple_of(1000);
    let run = |name: &str, scaling: Scaling| -> Result<Run> {
        let outcome = simulation::simulate_sampled(&workload, &scenario, &scaling, sample_every)?;
        Ok(Run { name: name.to_owned(), scaling, outcome })
    };
    let name = if arguments.scaled_object.is_some() { "manifest" } else { "ours" };
    let mut runs = vec![run(name, scaling)?];
    if arguments.compare {
        runs.push(run("published", simulation::published())?);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let Some(recommendation) = simulation::recommend(&workload, &scenario, &goal, threads, watch)? else {
        return Ok(None);
    };
    let scenario_name = Path::new(&arguments.scenario)
        .file_stem()
        .map_or_else(|| arguments.scenario.clone(), |name| name.to_string_lossy().into_owned());
    Ok(Some(Report {
        environment: environment.name.clone(),
        scenario_name,
        scenario,
        workload,
        goal,
        runs,
        recommendation,
        compare: arguments.compare,
        usd_per_replica_hour: cost::pod_hour(&Prices::parse(prices::BUILT_IN)?)?,
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::workspace;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: SimulateArgs,
    }

    fn told(line: &str) -> Report {
        let words = std::iter::once("simulate").chain(line.split(' '));
        let arguments = Line::try_parse_from(words).unwrap().arguments;
        let environment = Environment::load(&workspace::root(), &arguments.env).unwrap();
        report(&arguments, &environment, &|_, _| true).unwrap().unwrap()
    }

    #[test]
    fn a_search_that_is_interrupted_reports_nothing() {
        let arguments = Line::try_parse_from(["simulate", "trades"]).unwrap().arguments;
        let environment = Environment::load(&workspace::root(), "local").unwrap();
        assert!(report(&arguments, &environment, &|begun, _| begun < 2).unwrap().is_none());
    }

    #[test]
    fn the_published_setting_beside_ours_reads_well() {
        insta::assert_snapshot!(told("trades --env prod --compare").text());
    }

    #[test]
    fn a_run_by_a_threshold_of_lag_reads_well() {
        insta::assert_snapshot!(told("trades --env dev --scenario lost-zone --lag-threshold 500").text());
    }

    #[test]
    fn the_picture_is_the_same_every_time() {
        let report = told("trades --env dev --scenario poison-storm --compare");
        let picture = svg::picture(&report);
        assert_eq!(picture, svg::picture(&report));
        insta::assert_snapshot!(picture);
    }

    #[test]
    fn machines_get_the_same_figures() {
        let json = told("trades --env prod --compare").json();
        let runs = json["runs"].as_array().unwrap();
        let ours = &runs[0];
        assert_eq!((runs.len(), &ours["name"]), (2, &serde_json::json!("ours")));
        assert!(
            ours["age_seconds"]["p95"].as_f64().unwrap() < runs[1]["age_seconds"]["p95"].as_f64().unwrap()
        );
        assert_eq!(
            json["recommendation"]["by_rate"]["keda"]["formula"].as_str().unwrap().split(' ').next(),
            Some("arrival_rate")
        );
        assert!(json["runs"][0]["samples"].as_array().unwrap().len() > 50);
    }

    #[test]
    fn every_environment_runs_every_scenario() {
        for name in Environment::names(&workspace::root()).unwrap() {
            let environment = Environment::load(&workspace::root(), &name).unwrap();
            let workload = workload(&environment, &platform::sizes(&environment).unwrap());
            for (scenario, text) in BUILT_IN {
                let scaling = simulation::ours(&workload, 10, workload.consumers_min, 300).unwrap();
                let outcome =
                    simulation::simulate(&workload, &Scenario::parse(text).unwrap(), &scaling).unwrap();
                let late = outcome.sent - outcome.processed;
                assert!(
                    late * 20 < outcome.sent.max(1),
                    "{name}, {scenario}: {late} of {} wait",
                    outcome.sent
                );
            }
        }
    }

    #[test]
    fn a_manifest_of_ones_own_is_tried() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = file.path().to_string_lossy().into_owned();
        let write = |text: &str| std::fs::write(file.path(), text).unwrap();
        let object = "kind: ScaledObject\nspec: {minReplicaCount: 4, triggers: [{type: kafka, metadata: {lagThreshold: '700'}}]}\n";
        write(&format!("kind: Namespace\n---\n{object}"));
        let text = told(&format!("trades --env prod --scaled-object {name}")).text();
        assert!(text.contains("manifest: lag / 700; 4 to 100 replicas"), "{text}");
        write("kind: Namespace\n");
        let refused = format!("{:#}", scaled_object(file.path()).unwrap_err());
        assert!(refused.contains("0 documents of kind ScaledObject"), "{refused}");
        write("kind: ScaledObject\nspec: {triggers: [{type: cron}]}\n");
        assert!(format!("{:#}", scaled_object(file.path()).unwrap_err()).contains("type kafka"));
    }

    #[test]
    fn what_is_no_scenario_is_refused_with_those_that_there_are() {
        let message = scenario("flood").unwrap_err().to_string();
        assert!(message.contains("`flood`") && message.contains("lost-zone"), "{message}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "description = \"x\"\nload = []\n").unwrap();
        let name = file.path().to_string_lossy().into_owned();
        let told = format!("{:#}", scenario(&name).unwrap_err());
        assert!(told.contains(&name) && told.contains("at least one phase"), "{told}");
        assert!(seconds("0").is_err() && seconds("x").is_err() && percent("101").is_err());
    }
}
