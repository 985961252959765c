//! `cargo xtask redrive`.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use worker_contract::{kafka::BOOTSTRAP_SERVERS, trades as variables};

use crate::{
    programs::{ask_local, build_with, run_to_end},
    synth,
};

/// Put dead letters back into the topic that they came from, once their cause is repaired.
///
/// Key and payload go back as they were, with the header `redriven_from`. A letter whose payload was too long
/// to be kept whole is left and told. Each letter is looked at once; what was there when the command began is
/// gone through. Local environments only; in a cluster, run `trade-consumer redrive` in a pod of the consumer.
///
/// Examples:
///   cargo xtask redrive trades --dry-run
///   cargo xtask redrive trades --cause malformed --limit 100
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct RedriveArgs {
    /// The system.
    system: String,
    /// Letters of this cause alone; may be given several times.
    #[arg(long = "cause")]
    causes: Vec<String>,
    /// Letters to put back, at most.
    #[arg(long)]
    limit: Option<usize>,
    /// Tell what would be put back, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
}

pub(crate) fn run(arguments: &RedriveArgs, root: &Path) -> Result<ExitCode> {
    let assembly = synth::synth(root, &arguments.env, 1)?;
    if assembly.manifest.provider != "local" {
        bail!(
            "dead letters are put back from here in local environments only; in {} run `trade-consumer redrive` in a pod of the consumer",
            arguments.env
        );
    }
    let system = assembly.manifest.systems.get(&arguments.system).with_context(|| {
        let known: Vec<&str> = assembly.manifest.systems.keys().map(String::as_str).collect();
        format!("there is no system `{}`; there are: {}", arguments.system, known.join(", "))
    })?;
    let binaries = build_with(root, false, &[&system.consumer])?;
    let status = ask_local(root, &arguments.env, &binaries.join("local-environment"), &["status"])?;
    let brokers = status
        .get("parts")
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten()
        .find(|part| part.get("name").and_then(serde_json::Value::as_str) == Some("kafka"))
        .and_then(|part| part.get("endpoint")?.as_str())
        .context("the local broker does not run; `cargo xtask deploy --env local` starts it")?;
    let mut command = Command::new(binaries.join(&system.consumer));
    command
        .arg("redrive")
        .env(BOOTSTRAP_SERVERS, brokers)
        .env(variables::TOPIC, &system.topic)
        .env(variables::DEAD_LETTER_TOPIC, &system.dead_letter_topic)
        .env(variables::CONSUMER_GROUP, &system.consumer_group);
    for cause in &arguments.causes {
        command.args(["--cause", cause]);
    }
    if let Some(limit) = arguments.limit {
        command.args(["--limit", &limit.to_string()]);
    }
    if arguments.dry_run {
        command.arg("--dry-run");
    }
    run_to_end(&mut command)
}
