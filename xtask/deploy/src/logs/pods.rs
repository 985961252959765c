//! Workloads' logs in a cluster, read from their pods by the Kubernetes API: what is there as long as a pod is.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{ListParams, LogParams},
};

use super::Print;

/// How often it is asked which pods there are: consumers come and go with the load.
const LOOK: Duration = Duration::from_secs(5);

/// A workload in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name, which is the label `app.kubernetes.io/name` of its pods.
    pub name: String,
}

/// How logs are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// How far back, in seconds; as far as there is when nothing is said.
    pub since_seconds: Option<i64>,
    /// Lines with this text alone.
    pub filter: Option<&'a str>,
    /// Whether to go on as they grow, and with pods that come.
    pub follow: bool,
}

/// Shows the logs of workloads' pods, each line with the pod's name.
///
/// # Errors
///
/// What the cluster says.
pub async fn show(client: &Client, workloads: &[Workload], asked: Asked<'_>, print: Print<'_>) -> Result<()> {
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut running = FuturesUnordered::new();
    let mut since_seconds = asked.since_seconds;
    loop {
        for workload in workloads {
            let pods: Api<Pod> = Api::namespaced(client.clone(), &workload.namespace);
            let selector = format!("app.kubernetes.io/name={}", workload.name);
            let listed = pods
                .list(&ListParams::default().labels(&selector))
                .await
                .with_context(|| format!("the cluster does not list the pods of {}", workload.name))?;
            for pod in listed {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
                // Before it has begun it has no log.
                if phase == "Pending" || !known.insert(name.clone()) {
                    continue;
                }
                running.push(show_pod(
                    pods.clone(),
                    name,
                    LogParams { follow: asked.follow, since_seconds, ..LogParams::default() },
                    asked.filter,
                    print,
                ));
            }
        }
        if !asked.follow {
            return running.try_collect().await;
        }
        // A pod that comes while we follow is shown from its beginning.
        since_seconds = None;
        let pause = tokio::time::sleep(LOOK);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                ended = running.next(), if !running.is_empty() => {
                    // A pod may go while it is read; the others go on.
                    if let Some(Err(error)) = ended {
                        eprintln!("{error:#}");
                    }
                }
            }
        }
    }
}

async fn show_pod(
    pods: Api<Pod>,
    name: String,
    parameters: LogParams,
    filter: Option<&str>,
    print: Print<'_>,
) -> Result<()> {
    let log = pods.log_stream(&name, &parameters).await;
    let mut lines = log.with_context(|| format!("the log of {name} cannot be read"))?.lines();
    while let Some(line) = lines.try_next().await.with_context(|| format!("the log of {name} has ended"))? {
        if filter.is_none_or(|text| line.contains(text)) {
            print(&name, &line)?;
        }
    }
    Ok(())
}
