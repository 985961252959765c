//! `deploy`.

use std::process::ExitCode;

use anyhow::Result;
use cfn::assembly::Manifest;
use deploy_engine::{
    approval::Policy,
    assets::Assets,
    deploy::Deployment,
    execute::Underway,
    hotswap,
    plan::{Asked, render},
};
use serde_json::json;
use tokio::sync::OnceCell;

use crate::{cli::DeployArguments, engine::Engine};

/// Deploys, or prints the plan.
///
/// # Errors
///
/// What failed first, where and why.
pub(crate) async fn run(engine: &Engine, arguments: DeployArguments) -> Result<ExitCode> {
    let Engine { manifest, reporter, clients, common, .. } = engine;
    let DeployArguments {
        consent,
        stacks,
        stacks_only,
        plan,
        concurrency,
        require_approval,
        no_drift,
        prune,
        hotswap: swap,
        binaries,
    } = arguments;
    let assets = Assets::new(manifest, engine.places(binaries.clone()), reporter, stacks.clone())?;
    let deployment = Deployment {
        assembly: &common.assembly,
        manifest,
        stacks: &clients.stacks,
        kafka: &clients.kafka,
        functions: &clients.functions,
        assets: &assets,
        local: engine.local.as_ref().filter(|_| !stacks_only),
        eks: (!engine.is_local() && !stacks_only && installs(manifest)).then(|| engine.eks()),
        alarms: &clients.alarms,
        binaries,
        reporter,
        asked: Asked { only: stacks, prune },
        concurrency: usize::from(concurrency),
        approval: require_approval.unwrap_or_else(|| Policy::of(manifest)),
        drift: (!engine.is_local() && !no_drift).then(|| (&clients.cloudformation, engine.poll())),
        underway: Underway::default(),
        swapped: &clients.swapped,
        recorded: OnceCell::new(),
    };
    if plan {
        let plan = deployment.plan().await?;
        let json = serde_json::to_value(&plan)?;
        reporter.result(render(&plan, &manifest.environment).trim_end(), &json);
        return Ok(ExitCode::SUCCESS);
    }
    if swap {
        hotswap::allowed(manifest)?;
        engine.agree(&consent, "swap code in")?;
        let work = async {
            let outcome = deployment.hotswap().await?;
            let seconds = reporter.elapsed().as_secs_f64();
            let json = json!({ "event": "hotswap", "seconds": seconds, "outcome": outcome });
            reporter.result(&outcome.told(&manifest.environment, seconds), &json);
            Ok(ExitCode::SUCCESS)
        };
        let left =
            async || "interrupted; what was begun is finished by Lambda. Run it again to go on".to_owned();
        return engine.under_lock("hotswap", work, left).await;
    }
    engine.agree(&consent, "deploy")?;
    let work = async { deployment.run().await.map(|()| ExitCode::SUCCESS) };
    engine.under_lock("deploy", work, async || deployment.interrupted().await).await
}

/// Whether an environment has anything for a cluster.
fn installs(manifest: &Manifest) -> bool {
    let Manifest { workloads, helm_releases, cluster_manifests, .. } = manifest;
    !(workloads.is_empty() && helm_releases.is_empty() && cluster_manifests.is_empty())
}
