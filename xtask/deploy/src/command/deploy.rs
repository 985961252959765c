//! `deploy`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use cfn::assembly::Manifest;
use deploy_engine::{
    approval::Policy,
    assets::{Assets, Places},
    deploy::{Deployment, Done},
    execute::Underway,
    hotswap,
    plan::{Asked, render},
    wiring::Known,
};
use serde_json::json;
use tokio::sync::OnceCell;

use super::origin::Scope;
use crate::{cli::DeployArguments, engine::Engine};

/// A deployment of all of an environment, as it is where nothing else is asked for.
pub(crate) fn deployment<'a>(
    engine: &'a Engine,
    assets: &'a Assets<'a>,
    binaries: PathBuf,
    asked: Asked,
) -> Deployment<'a> {
    let Engine { manifest, reporter, clients, common, .. } = engine;
    Deployment {
        assembly: &common.assembly,
        manifest,
        stacks: &clients.stacks,
        kafka: &clients.kafka,
        functions: &clients.functions,
        assets,
        local: engine.local.as_ref(),
        eks: None,
        alarms: &clients.alarms,
        signals: clients.signals(),
        binaries,
        endpoint_url: common.endpoint_url.as_deref(),
        reporter,
        asked,
        concurrency: 1,
        approval: Policy::of(manifest),
        drift: None,
        underway: Underway::default(),
        swapped: &clients.swapped,
        recorded: OnceCell::new(),
    }
}

/// Deploys, or prints the plan.
///
/// # Errors
///
/// What failed first, where and why.
pub(crate) async fn run(engine: &Engine, arguments: DeployArguments) -> Result<ExitCode> {
    let Engine { manifest, reporter, .. } = engine;
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
        origin,
    } = arguments;
    let bundle = origin.bundle(engine)?;
    let workloads = !stacks_only && stacks.is_empty();
    let (binaries, places) = match &bundle {
        Some(bundle) => {
            let runs_here = engine.is_local() && workloads;
            let programs = if runs_here { bundle.programs(manifest)? } else { PathBuf::new() };
            let released = Some(bundle.release.of(&manifest.environment)?.assets.clone());
            (programs.clone(), Places { store: bundle.assets(), released, ..engine.places(programs) })
        }
        None => (binaries.clone(), engine.places(binaries)),
    };
    let assets = Assets::new(manifest, places, reporter, stacks.clone())?;
    let deployment = Deployment {
        local: engine.local.as_ref().filter(|_| !stacks_only),
        eks: (!engine.is_local() && !stacks_only && installs(manifest)).then(|| engine.eks()),
        concurrency: usize::from(concurrency),
        approval: require_approval.unwrap_or_else(|| Policy::of(manifest)),
        drift: (!engine.is_local() && !no_drift).then(|| (&engine.clients.cloudformation, engine.poll())),
        ..deployment(engine, &assets, binaries, Asked { only: stacks.clone(), prune })
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
            if outcome.changed() {
                let done = Done { known: Known::default(), changed: true };
                origin.note(engine, None, &done, Scope::Swapped).await?;
            }
            Ok(ExitCode::SUCCESS)
        };
        let left =
            async || "interrupted; what was begun is finished by Lambda. Run it again to go on".to_owned();
        return engine.under_lock("hotswap", work, left).await;
    }
    engine.agree(&consent, "deploy")?;
    let work = async {
        origin.check_after(engine).await?;
        let done = deployment.run().await?;
        let workloads = workloads || (stacks.is_empty() && manifest.workloads.is_empty());
        origin.note(engine, bundle.as_ref(), &done, Scope::Deployed { stacks: &stacks, workloads }).await?;
        Ok(ExitCode::SUCCESS)
    };
    engine.under_lock("deploy", work, async || deployment.interrupted().await).await
}

/// Whether an environment has anything for a cluster.
pub(crate) fn installs(manifest: &Manifest) -> bool {
    let Manifest { workloads, helm_releases, cluster_manifests, .. } = manifest;
    !(workloads.is_empty() && helm_releases.is_empty() && cluster_manifests.is_empty())
}
