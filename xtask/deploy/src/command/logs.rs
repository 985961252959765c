//! `logs`.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::engine::{Engine, interrupt};

/// Prints the logs of a system's workloads.
///
/// # Errors
///
/// When there is no such system, or its logs cannot be read.
pub(crate) async fn run(engine: &Engine, system: &str, follow: bool) -> Result<ExitCode> {
    let Engine { manifest, local, .. } = engine;
    let workloads: Vec<&str> = manifest
        .workloads
        .iter()
        .filter(|workload| workload.system == system || workload.name == system)
        .map(|workload| workload.name.as_str())
        .collect();
    if workloads.is_empty() {
        let known: Vec<&str> = manifest.systems.keys().map(String::as_str).collect();
        bail!("there is no system or workload `{system}`; there are: {}", known.join(", "));
    }
    let local = local
        .as_ref()
        .context("logs of workloads in EKS are in CloudWatch Logs; they are not fetched yet")?;
    if follow {
        let following: Vec<_> = workloads.iter().map(|name| ["logs", name, "--follow"]).collect();
        tokio::select! {
            results = futures::future::try_join_all(following.iter().map(|arguments| local.run(arguments))) => {
                results?;
            }
            signal = interrupt() => signal?,
        }
    } else {
        for name in workloads {
            local.run(&["logs", name]).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
