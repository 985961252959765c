//! `logs`.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use cfn::Json;
use deploy_engine::{
    cloudformation::CloudFormation,
    deploy::templates,
    logs::{functions, pods, print, sources::sources},
    wiring::Known,
};

use crate::engine::{Engine, interrupt};

/// How far back functions' logs are shown, unless told otherwise: they are kept for days.
const SINCE: Duration = Duration::from_secs(600);

/// How often CloudWatch Logs is asked for more; it is throttled at some five calls a second.
const EVERY: Duration = Duration::from_secs(3);

/// How often the emulator is.
const EVERY_LOCALLY: Duration = Duration::from_millis(500);

/// How logs are asked for.
pub(crate) struct Asked<'a> {
    /// The system, a workload or a function.
    pub(crate) name: &'a str,
    pub(crate) follow: bool,
    pub(crate) since: Option<Duration>,
    pub(crate) filter: Option<String>,
}

/// Prints the logs of workloads and functions.
///
/// # Errors
///
/// When there is nobody of that name, or logs cannot be read.
pub(crate) async fn run(engine: &Engine, asked: Asked<'_>) -> Result<ExitCode> {
    let Engine { manifest, clients, common, .. } = engine;
    let rendered = templates(&common.assembly, manifest)?;
    let found = sources(manifest, &rendered, asked.name).map_err(anyhow::Error::msg)?;
    let groups = functions::groups(&clients.stacks, &clients.functions, &found.functions).await?;
    let every = if engine.is_local() { EVERY_LOCALLY } else { EVERY };
    let back = asked.since.unwrap_or(SINCE);
    let from = SystemTime::now().checked_sub(back).unwrap_or(UNIX_EPOCH);
    let from_ms = from.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let of_functions = async {
        if groups.is_empty() {
            return Ok(());
        }
        let from_ms = i64::try_from(from_ms)?;
        let follow = asked.follow.then_some(every);
        functions::show(&clients.logs, &groups, from_ms, asked.filter.as_deref(), follow, &print).await
    };
    let of_workloads = async {
        let names: Vec<&str> = found.workloads.iter().map(|workload| workload.name.as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        match &engine.local {
            Some(local) => local_workloads(local, &names, &asked).await,
            None => {
                let workloads: Vec<pods::Workload> = found
                    .workloads
                    .iter()
                    .map(|workload| pods::Workload {
                        namespace: workload.namespace.clone(),
                        name: workload.name.clone(),
                    })
                    .collect();
                in_cluster(engine, &workloads, &asked).await
            }
        }
    };
    tokio::select! {
        outcome = futures::future::try_join(of_functions, of_workloads) => { outcome?; }
        signal = interrupt() => signal?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The logs of this machine's processes.
async fn local_workloads(
    local: &deploy_engine::local::LocalEnvironment,
    names: &[&str],
    asked: &Asked<'_>,
) -> Result<()> {
    let since = asked.since.map(|since| since.as_secs().to_string());
    // A Job runs when somebody asks for it; until then it has no log, which keeps nobody from those of its system.
    let status = local.ask(&["status"]).await?;
    let running = status.get("workloads").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let runs = |name: &str| running.iter().any(|workload| workload["name"] == name);
    let names: Vec<&str> = names.iter().copied().filter(|name| *name == asked.name || runs(name)).collect();
    let arguments = |name: &'_ str| {
        let mut arguments = vec!["logs".to_owned(), name.to_owned()];
        arguments.extend(asked.follow.then(|| "--follow".to_owned()));
        for (option, value) in [("--since-seconds", since.as_ref()), ("--filter", asked.filter.as_ref())] {
            arguments.extend(value.into_iter().flat_map(|value| [option.to_owned(), value.clone()]));
        }
        arguments
    };
    let all: Vec<Vec<String>> = names.iter().map(|name| arguments(name)).collect();
    let run = async |arguments: &Vec<String>| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        local.run(&arguments).await
    };
    if asked.follow {
        futures::future::try_join_all(all.iter().map(run)).await.map(drop)
    } else {
        for arguments in &all {
            run(arguments).await?;
        }
        Ok(())
    }
}

/// The logs of a cluster's pods.
async fn in_cluster(engine: &Engine, workloads: &[pods::Workload], asked: &Asked<'_>) -> Result<()> {
    let Engine { manifest, clients, .. } = engine;
    let mut known = Known::default();
    for entry in &manifest.stacks {
        if let Some(deployed) = clients.stacks.describe(&entry.name).await? {
            known.outputs.insert(entry.id.clone(), deployed.outputs);
        }
    }
    let client = engine.eks().client(&known).await?;
    let asked = pods::Asked {
        since_seconds: asked.since.and_then(|since| i64::try_from(since.as_secs()).ok()),
        filter: asked.filter.as_deref(),
        follow: asked.follow,
    };
    pods::show(&client, workloads, asked, &print).await
}
