//! A system of the running local environment, as a command sees it from outside.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

use crate::{programs, synth};

/// A system of the running local environment.
pub(crate) struct Running<'a> {
    root: &'a Path,
    environment: String,
    program: PathBuf,
    pub(crate) entry: cfn::assembly::SystemEntry,
    producer: String,
    agent: ureq::Agent,
}

/// Records of a topic, as the broker has them: that does not depend on who runs, and consumers come and go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offsets {
    /// Written ever.
    pub(crate) written: u64,
    /// Not committed.
    pub(crate) lag: u64,
}

impl Offsets {
    pub(crate) fn committed(self) -> u64 {
        self.written.saturating_sub(self.lag)
    }
}

/// The consumers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Consumer {
    pub(crate) desired: u64,
    pub(crate) ready: u64,
    /// How they are scaled; null where nothing scales them.
    pub(crate) scaling: Json,
}

impl<'a> Running<'a> {
    /// The system of that name in an environment that runs here.
    ///
    /// # Errors
    ///
    /// When it is not local, or does not run.
    pub(crate) fn find(root: &'a Path, environment: &str, system: &str) -> Result<Self> {
        let assembly = synth::synth(root, environment, 1)?;
        if assembly.manifest.provider != "local" {
            bail!("load is made in local environments only; {environment} is one on AWS");
        }
        let entry = assembly.manifest.systems.get(system).cloned().with_context(|| {
            let known: Vec<&str> = assembly.manifest.systems.keys().map(String::as_str).collect();
            format!("there is no system `{system}`; there are: {}", known.join(", "))
        })?;
        let program = programs::build(root, false)?.join("local-environment");
        let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into();
        let mut running = Self {
            root,
            environment: environment.to_owned(),
            program,
            entry,
            producer: String::new(),
            agent,
        };
        let workload = running.workload(&running.entry.producer)?;
        let endpoints = workload.get("metrics_endpoints").and_then(Json::as_array).map(Vec::as_slice);
        let [producer] = endpoints.unwrap_or_default() else {
            bail!(
                "{} does not run; `cargo xtask deploy --env {environment}` starts it",
                running.entry.producer
            )
        };
        running.producer = producer.as_str().unwrap_or_default().to_owned();
        Ok(running)
    }

    fn ask(&self, arguments: &[&str]) -> Result<Json> {
        programs::ask_local(self.root, &self.environment, &self.program, arguments)
    }

    /// A workload as the supervisor tells it; null where there is none of that name.
    fn workload(&self, name: &str) -> Result<Json> {
        let status = self.ask(&["status"])?;
        let workloads = status.get("workloads").and_then(Json::as_array).cloned().unwrap_or_default();
        let named = |known: &Json| known.get("name").and_then(Json::as_str) == Some(name);
        Ok(workloads.into_iter().find(named).unwrap_or_default())
    }

    fn rate_url(&self) -> String {
        format!("http://{}/rate", self.producer)
    }

    /// What the producer is asked for, in messages per second.
    pub(crate) fn rate(&self) -> Result<f64> {
        let url = self.rate_url();
        let mut answer = self.agent.get(&url).call().with_context(|| format!("{url} does not answer"))?;
        answer.body_mut().read_to_string()?.trim().parse().context("the producer's rate is not a number")
    }

    pub(crate) fn set_rate(&self, rate: f64) -> Result<()> {
        let url = self.rate_url();
        self.agent
            .put(&url)
            .send(rate.to_string())
            .with_context(|| format!("the producer at {url} does not take the rate"))?;
        Ok(())
    }

    /// What the broker has of the system's topic and group.
    pub(crate) fn offsets(&self) -> Result<Offsets> {
        let arguments = ["lag", "--topic", &self.entry.topic, "--group", &self.entry.consumer_group];
        let lag = self.ask(&arguments)?;
        let number = |key: &str| lag.get(key).and_then(Json::as_u64);
        let written = number("end_offset_total").context("the end of the topic is not a number")?;
        let lag = number("lag_records").context("the lag is not a number")?;
        Ok(Offsets { written, lag })
    }

    /// The consumers: wanted, ready, and how they are scaled.
    pub(crate) fn consumer(&self) -> Result<Consumer> {
        let workload = self.workload(&self.entry.consumer)?;
        let count = |pointer: &str| workload.pointer(pointer).and_then(Json::as_u64).unwrap_or(0);
        Ok(Consumer {
            desired: count("/replicas/desired"),
            ready: count("/replicas/ready"),
            scaling: workload.get("scaling").cloned().unwrap_or_default(),
        })
    }

    /// Where a process writes its log.
    pub(crate) fn logs(&self) -> PathBuf {
        programs::local_root(self.root, &self.environment).join("logs")
    }
}
