//! A trial of a system: the program that makes its traffic sends a little through it and waits until all came out. For
//! systems that nobody sends anything to unless asked, which could not be seen to work otherwise.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use cfn::assembly::{FlowEntry, LoadEntry, Manifest};
use chrono::Utc;
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

use crate::{
    flow::{Effects, Flow},
    report::Reporter,
    signals,
    stacks::Stacks,
    traffic,
};

/// How long it may take: functions start, event sources are found, workers join their group.
const TIMEOUT: Duration = Duration::from_secs(90);

/// How often is looked what functions have written.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a trial talks to.
#[derive(Clone, Copy)]
pub struct Trials<'a> {
    /// What is deployed.
    pub manifest: &'a Manifest,
    /// CloudFormation.
    pub stacks: &'a Stacks,
    /// MSK.
    pub kafka: &'a aws_sdk_msk::Client,
    /// Where the programs are.
    pub binaries: &'a Path,
    /// Where the AWS APIs of this machine are.
    pub endpoint_url: &'a str,
    /// What tells what functions have written.
    pub signals: &'a signals::Clients,
    /// What the user sees.
    pub reporter: &'a Reporter,
    /// Whether a system that cannot be tried counts as one that does not work.
    pub all: bool,
}

impl Trials<'_> {
    /// Tries all systems that can be tried, side by side, and says what came of each.
    ///
    /// # Errors
    ///
    /// What did not come out.
    pub async fn run(self) -> Result<()> {
        let tried = self.manifest.trials().map(|(system, load)| self.one(system, load));
        futures::future::try_join_all(tried).await.map(drop)
    }

    async fn one(self, system: &str, load: &LoadEntry) -> Result<()> {
        let Self { manifest, stacks, kafka, binaries, endpoint_url, reporter, .. } = self;
        let program = binaries.join(&load.package);
        if !program.is_file() {
            // A release of before held what is deployed, and nothing to try it with.
            if self.all {
                bail!(
                    "{system}: nobody knows whether it works: what tries it, {}, is not in the release. Make it again by `cargo xtask release`, and deploy that",
                    load.package
                );
            }
            reporter.say(&format!(
                "{system}: deployed, and not tried: {} is not here; `cargo xtask load {system} --env {} --rate 20 --for 10s` tries it",
                load.package, manifest.environment
            ));
            return Ok(());
        }
        let variables = traffic::variables(manifest, stacks, kafka, reporter, load).await?;
        let mut command = tokio::process::Command::new(&program);
        command
            .args(&load.trial)
            .envs(variables)
            .env("AWS_ENDPOINT_URL", endpoint_url)
            .env("AWS_REGION", &manifest.region)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env_remove("AWS_PROFILE")
            .env_remove("AWS_SESSION_TOKEN");
        let tried = async {
            let (deadline, began_ms) = (Instant::now() + TIMEOUT, Utc::now().timestamp_millis());
            let report = carry_out(command, &load.package, TIMEOUT).await?;
            match manifest.flows.get(system) {
                Some(flow) => self.written(flow, report, began_ms, deadline).await,
                None => Ok(report),
            }
        };
        let report = tried.await.with_context(|| {
            format!(
                "{system}: it is deployed, but what was sent through it did not come out (see `cargo xtask status --env {0}` and `cargo xtask logs {system} --env {0}`)",
                manifest.environment
            )
        })?;
        let json = json!({ "event": "system", "system": system, "trial": report });
        reporter.result(&summary(system, &report), &json);
        Ok(())
    }

    /// Waits until the functions of a system have told that as many events are written as were sent since then; the
    /// program itself may not look into the tables. Gives its report with what they told.
    async fn written(
        self,
        entry: &FlowEntry,
        mut report: Json,
        began_ms: i64,
        deadline: Instant,
    ) -> Result<Json> {
        let sent = count(&report, "/records_acknowledged");
        let ended = Instant::now();
        let flow = Flow::find(self.manifest, self.stacks, self.signals.clone(), entry).await?;
        loop {
            let lines = flow.observe(began_ms, Utc::now().timestamp_millis()).await?.lines;
            let effects = Effects::of(&lines);
            if effects.written >= sent {
                report["effects"] = json!({
                    "written": effects.written, "settled_seconds": ended.elapsed().as_secs_f64(),
                });
                return Ok(report);
            }
            // Others may send as well, and what is not as it should be: dead letters alone tell nothing of these.
            let Effects { written, dead_letters } = effects;
            if (written == 0 && dead_letters >= sent) || Instant::now() >= deadline {
                bail!(
                    "{written} of {sent} events were written within {} s, and {dead_letters} became dead letters",
                    ended.elapsed().as_secs()
                );
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// A whole number of a report; 0 where there is none.
fn count(report: &Json, pointer: &str) -> u64 {
    report.pointer(pointer).and_then(Json::as_u64).unwrap_or(0)
}

/// Runs a program to its end and gives its report.
///
/// # Errors
///
/// Why it says that it failed, with its figures, or that it is not done in time; it is ended then.
async fn carry_out(mut command: tokio::process::Command, name: &str, timeout: Duration) -> Result<Json> {
    let run = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let Ok(ended) = tokio::time::timeout(timeout, run).await else {
        bail!("{name} was not done within {} s", timeout.as_secs_f64());
    };
    let ended = ended.with_context(|| format!("cannot start {name}"))?;
    let Told { report, complaint } = Told::read(&String::from_utf8_lossy(&ended.stdout));
    if !ended.status.success() {
        let errors = String::from_utf8_lossy(&ended.stderr);
        let why = complaint.as_deref().unwrap_or_else(|| errors.trim());
        let figures = report.map(|report| format!(" ({report})")).unwrap_or_default();
        bail!("{name}: {why}{figures}");
    }
    report.with_context(|| format!("{name} tells no figures"))
}

/// What such a program prints: its log, figures meanwhile, and a report at its end, each a line of JSON.
#[derive(Debug, Default, PartialEq)]
struct Told {
    report: Option<Json>,
    /// The last that went wrong.
    complaint: Option<String>,
}

impl Told {
    fn read(text: &str) -> Self {
        let mut told = Self::default();
        for line in text.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok()) {
            match line.get("level").and_then(Json::as_str) {
                Some("ERROR") => {
                    told.complaint = line.get("message").and_then(Json::as_str).map(str::to_owned);
                }
                Some(_) => {}
                None => told.report = Some(line),
            }
        }
        told
    }
}

/// A trial that went well, in a line.
fn summary(system: &str, report: &Json) -> String {
    let count = |pointer: &str| count(report, pointer);
    let seconds = ["/outcome/settled_seconds", "/verification/settled_seconds", "/effects/settled_seconds"]
        .iter()
        .find_map(|pointer| report.pointer(pointer)?.as_f64());
    let within =
        seconds.map(|seconds| format!(", the last {seconds:.1} s after it was sent")).unwrap_or_default();
    let sent = count("/records_acknowledged");
    let has = |key: &str| report.get(key).is_some_and(Json::is_object);
    let came = if has("outcome") {
        format!("{} lessons came out enriched, 0 lost", count("/outcome/enriched"))
    } else if has("verification") {
        format!("the cache holds all {} objects as they were written last", count("/verification/objects"))
    } else if has("effects") {
        "as many are in the database".to_owned()
    } else {
        "all were taken".to_owned()
    };
    format!("{system}: tried with {sent} records: {came}{within}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_report_is_told_from_the_log_and_the_last_error_is_the_complaint() {
        let text = concat!(
            "{\"level\":\"INFO\",\"message\":\"begun\"}\n",
            "{\"events\":10,\"records_acknowledged\":9}\n",
            "no json\n",
            "{\"events\":20,\"records_acknowledged\":20}\n",
            "{\"level\":\"ERROR\",\"message\":\"2 are lost\"}\n",
        );
        let told = Told::read(text);
        assert_eq!(told.report, Some(json!({"events": 20, "records_acknowledged": 20})));
        assert_eq!(told.complaint.as_deref(), Some("2 are lost"));
        assert_eq!(Told::read(""), Told::default());
    }

    #[tokio::test]
    async fn a_program_that_fails_or_hangs_or_says_nothing_is_no_trial_that_went_well() {
        let script = async |text: &str, timeout| {
            let mut command = tokio::process::Command::new("/bin/sh");
            command.args(["-c", text]);
            carry_out(command, "lesson-load", timeout).await
        };
        let enough = Duration::from_secs(30);
        let well = script(r#"echo '{"events": 2}'"#, enough).await.unwrap();
        assert_eq!(well, json!({"events": 2}));
        let lost = r#"echo '{"lost": 1}'; echo '{"level": "ERROR", "message": "1 is lost"}'; exit 1"#;
        let error = script(lost, enough).await.unwrap_err().to_string();
        assert_eq!(error, r#"lesson-load: 1 is lost ({"lost":1})"#);
        let error = script("echo no such variable >&2; exit 2", enough).await.unwrap_err().to_string();
        assert_eq!(error, "lesson-load: no such variable");
        let error = script("exit 0", enough).await.unwrap_err().to_string();
        assert_eq!(error, "lesson-load tells no figures");
        let error = script("exec sleep 600", Duration::from_millis(200)).await.unwrap_err().to_string();
        assert_eq!(error, "lesson-load was not done within 0.2 s");
    }

    #[test]
    fn what_came_of_a_trial_reads_well() {
        let lessons = json!({
            "records_acknowledged": 21, "outcome": {"enriched": 12, "settled_seconds": 1.34},
        });
        let tags = json!({
            "records_acknowledged": 51, "verification": {"objects": 8, "settled_seconds": 0.26},
        });
        let ledger = json!({
            "records_acknowledged": 22, "effects": {"written": 22, "settled_seconds": 0.84},
        });
        let told = [("ledger", ledger), ("lessons", lessons), ("tags", tags)];
        let told = told.map(|(system, report)| summary(system, &report));
        insta::assert_snapshot!(told.join("\n"));
    }
}
