//! Releases and records of an environment: what was deployed, what to go back to, and whether what runs may go on.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use deploy_engine::{
    assets::{Assets, Places},
    deploy::{Deployment, templates},
    gc::duration,
    hotswap,
    plan::{Action, Asked},
    release::{
        bundle::Bundle,
        gate::{self, Observed, Refusal},
        index::short,
        observe,
        record::History,
        shelf::Shelf,
    },
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    bundle::answer,
    deploy::{deployment, installs},
};
use crate::engine::{Engine, poll_of};

/// How often alarms are looked at while the bake time goes by.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// What is asked of an environment's releases.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// What was deployed, the last first.
    History {
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Say the number of the last deployment.
    Last {
        /// Where, as JSON.
        #[arg(long)]
        answer: PathBuf,
    },
    /// Bring a release that ran here to this machine.
    Fetch {
        /// `previous`, or its digest or how that begins.
        wanted: String,
        /// Below which directory.
        #[arg(long)]
        into: PathBuf,
        /// Where to say what came of it, as JSON.
        #[arg(long)]
        answer: PathBuf,
    },
    /// Whether the release that runs here may go on to another environment; brings it to this machine.
    Gate {
        /// This release and no other, by its digest or how that begins.
        #[arg(long)]
        release: Option<String>,
        /// How long it must have run without an alarm.
        #[arg(long, value_parser = duration)]
        bake: Duration,
        /// Wait until it has.
        #[arg(long)]
        wait: bool,
        /// Say what speaks against it, and let it go on.
        #[arg(long)]
        overrule: bool,
        /// Below which directory.
        #[arg(long)]
        into: PathBuf,
        /// Where to say what came of it, as JSON.
        #[arg(long)]
        answer: PathBuf,
    },
}

/// Does it.
///
/// # Errors
///
/// What AWS says, or that there is nothing of the kind.
pub(crate) async fn run(engine: &Engine, command: Command) -> Result<ExitCode> {
    let environment = &engine.manifest.environment;
    engine.check_account().await?;
    let shelf = engine.shelf().await?;
    let history = match &shelf {
        Some(shelf) => shelf.history().await?,
        None => History::default(),
    };
    match command {
        Command::History { limit } => {
            if engine.common.json {
                let newest: Vec<_> = history.0.iter().rev().take(limit).collect();
                println!("{}", serde_json::to_string_pretty(&newest)?);
            } else {
                println!("{}", history.table(environment, limit).trim_end());
            }
        }
        Command::Last { answer: to } => answer(&to, &json!({ "number": history.last_number() }))?,
        Command::Fetch { wanted, into, answer: to } => {
            let record = history.find(environment, &wanted)?;
            let digest = record.release.clone().unwrap_or_default();
            let bundle = fetch(engine, shelf.as_ref(), &digest, &into).await?;
            engine.reporter.say(&format!(
                "release {}… of {}, which was deployed to {environment} as #{}",
                short(&digest),
                record.source,
                record.number
            ));
            let number = history.last_number();
            answer(&to, &json!({ "digest": digest, "directory": bundle.directory, "number": number }))?;
        }
        Command::Gate { release, bake, wait, overrule, into, answer: to } => {
            let (digest, since) = history.running(environment)?;
            if let Some(wanted) = &release {
                history.check_runs(environment, wanted)?;
            }
            let bundle = fetch(engine, shelf.as_ref(), digest, &into).await?;
            let gate = Gate { engine, bundle: &bundle, since: since.deployed_at, bake };
            let refusals = gate.look(wait).await?;
            if !refusals.is_empty() {
                let word = if overrule { "warning" } else { "error" };
                eprintln!(
                    "{word}: {} against promoting {}… from {environment}:",
                    things(&refusals),
                    short(digest)
                );
                for refusal in &refusals {
                    eprintln!("  {refusal}");
                }
                if !overrule {
                    return Ok(ExitCode::FAILURE);
                }
            }
            let overruled: Vec<&str> = refusals.iter().map(|refusal| refusal.what.as_str()).collect();
            answer(&to, &json!({ "digest": digest, "directory": bundle.directory, "overruled": overruled }))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn things(refusals: &[Refusal]) -> String {
    match refusals.len() {
        1 => "one thing speaks".to_owned(),
        count => format!("{count} things speak"),
    }
}

async fn fetch(engine: &Engine, shelf: Option<&Shelf>, digest: &str, into: &Path) -> Result<Bundle> {
    let shelf =
        shelf.with_context(|| format!("{} has no bucket of artifacts", engine.manifest.environment))?;
    std::fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    shelf.fetch(digest, into, &engine.reporter).await
}

/// What stands between an environment and the next.
struct Gate<'a> {
    engine: &'a Engine,
    bundle: &'a Bundle,
    since: DateTime<Utc>,
    bake: Duration,
}

impl Gate<'_> {
    /// Looks, after the bake time where that is to be waited for; gives what speaks against it.
    async fn look(&self, wait: bool) -> Result<Vec<Refusal>> {
        let Self { engine, bundle, since, bake } = self;
        let Engine { manifest, clients, reporter, .. } = engine;
        let environment = &manifest.environment;
        let judge = |observed: &Observed| {
            gate::refusals(environment, &bundle.digest, *since, observed, *bake, Utc::now())
        };
        // Of the release, not of the sources at hand.
        let there = engine.by(bundle.assembly(environment)).await?;
        let watched = observe::watched(&there.manifest, &clients.stacks).await?;
        reporter.say(&format!(
            "{environment} runs release {}… since {}: looking at its stacks, alarms, drift and systems",
            short(&bundle.digest),
            since.format("%Y-%m-%d %H:%M:%SZ")
        ));
        let left = gate::remaining(*since, *bake, Utc::now());
        if wait && !left.is_zero() {
            reporter.say(&format!(
                "waiting {} s until the bake time is over, with an eye on the alarms",
                left.as_secs()
            ));
            let end = Instant::now() + left + Duration::from_secs(1);
            while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                let observed = self.moment(&watched).await?;
                let refusals: Vec<Refusal> = judge(&observed);
                // The bake time itself speaks against it until it is over: what else does needs no more waiting.
                if refusals.len() > 1 {
                    return Ok(refusals);
                }
                sleep(left.min(LOOK_EVERY)).await;
            }
        }
        let mut observed = self.moment(&watched).await?;
        if observed.underway.is_some() {
            // What is being changed is not as it will be.
            return Ok(judge(&observed));
        }
        observed.drifted = observe::drifted(
            &there.manifest,
            &clients.cloudformation,
            &clients.stacks,
            poll_of(manifest, engine.common.endpoint_url.as_deref()),
        )
        .await?;
        observed.unlike = unlike(&there, bundle).await?;
        observed.swapped = swapped(&there).await?;
        observed.smoke = smoke(&there, bundle).await?;
        // Last, because the rest takes its time.
        let Observed { alarms, changes, underway, .. } = self.moment(&watched).await?;
        (observed.alarms, observed.changes, observed.underway) = (alarms, changes, underway);
        observed.replaced = self.replaced().await?;
        let refusals = judge(&observed);
        let text = format!(
            "{environment}: {} alarms, {} drifted resources, {} differences from the release",
            observed.alarms.len(),
            observed.drifted.len(),
            observed.unlike.len()
        );
        reporter.result(&text, &json!({ "event": "gate", "observed": observed, "refusals": refusals }));
        Ok(refusals)
    }

    /// Why the environment does not run the release any more: what its workloads run is told by no stack.
    async fn replaced(&self) -> Result<Option<String>> {
        let environment = &self.engine.manifest.environment;
        let history = match self.engine.shelf().await? {
            Some(shelf) => shelf.history().await?,
            None => History::default(),
        };
        Ok(history.check_runs(environment, &self.bundle.digest).err().map(|error| error.to_string()))
    }

    /// What differs from one moment to the next: the alarms, and who works on it.
    async fn moment(&self, watched: &observe::Watched) -> Result<Observed> {
        let clients = &self.engine.clients;
        let alarms = observe::alarms(&clients.alarms, watched).await?;
        let changes = observe::changes(&clients.alarms, &alarms, Utc::now() - self.bake).await?;
        let underway = clients.locks.underway().await?;
        Ok(Observed { alarms, changes, underway, ..Observed::default() })
    }
}

/// What a deployment of the release would do where it should be.
async fn unlike(engine: &Engine, bundle: &Bundle) -> Result<Vec<String>> {
    let assets = assets(engine, bundle)?;
    let plan = deployment(engine, &assets, PathBuf::new(), Asked::default()).plan().await?;
    Ok(plan
        .steps()
        .filter(|step| !matches!(step.action, Action::Nothing | Action::Leave))
        .map(|step| format!("{}: {}", step.name, step.reason))
        .collect())
}

/// What may run otherwise than the release says, because code was swapped in. Where code is not swapped nobody has to
/// look.
async fn swapped(engine: &Engine) -> Result<Vec<String>> {
    let Engine { manifest, clients, common, .. } = engine;
    if hotswap::allowed(manifest).is_err() {
        return Ok(Vec::new());
    }
    let recorded = clients.swapped.read().await?;
    Ok(hotswap::named(manifest, &templates(&common.assembly, manifest)?, &recorded))
}

/// What the smoke check says against it.
async fn smoke(engine: &Engine, bundle: &Bundle) -> Result<Vec<String>> {
    let assets = assets(engine, bundle)?;
    let Some(local) = &engine.local else {
        let deployment = deployment(engine, &assets, PathBuf::new(), Asked::default());
        let eks = installs(&engine.manifest).then(|| engine.eks());
        return Deployment { eks, ..deployment }.complaints().await;
    };
    let programs = bundle.programs(&engine.manifest)?;
    let deployment = deployment(engine, &assets, programs, Asked::default());
    Ok(deployment.smoke(local, true).await.err().map(|error| format!("{error:#}")).into_iter().collect())
}

/// The assets of a release.
///
/// # Errors
///
/// When its assembly cannot be read.
pub(crate) fn assets<'a>(engine: &'a Engine, bundle: &Bundle) -> Result<Assets<'a>> {
    let contents = bundle.release.of(&engine.manifest.environment)?;
    let places = Places {
        store: bundle.assets(),
        released: Some(contents.assets.clone()),
        ..engine.places(PathBuf::new())
    };
    Assets::new(&engine.manifest, places, &engine.reporter, Vec::new())
}
