//! Where what is deployed comes from, and the record of that.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use chrono::{SubsecRound, Utc};
use clap::{Args, ValueEnum};
use deploy_engine::{
    deploy::Done,
    lock::Holder,
    release::{
        bundle::{self, Bundle},
        index::Revision,
        record::{Record, SCHEMA_VERSION, Way},
    },
};
use serde_json::json;

use crate::engine::Engine;

/// By which way a release came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// It was named.
    Release,
    /// It ran in another environment.
    Promotion,
    /// It ran here before.
    Rollback,
}

/// How much of an environment was worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    /// These stacks, or all when there are none, and workloads or not.
    Deployed {
        /// The stacks' ids.
        stacks: &'a [String],
        /// Whether workloads were deployed.
        workloads: bool,
    },
    /// Code was swapped in past the stacks.
    Swapped,
}

/// Where what is deployed comes from.
#[derive(Args)]
pub(crate) struct OriginArguments {
    /// The directory of an unpacked release, which is deployed as it is: nothing is built or packed.
    #[arg(long, conflicts_with = "binaries")]
    release: Option<PathBuf>,
    /// How that came.
    #[arg(long, value_enum, default_value_t = By::Release, requires = "release")]
    by: By,
    /// Which environment it ran in.
    #[arg(long, default_value = "")]
    from: String,
    /// What spoke against it and was overruled.
    #[arg(long)]
    overruled: Vec<String>,
    /// Deploy only if this is the number of the environment's last deployment.
    #[arg(long)]
    after: Option<u64>,
    /// The commit of the sources, where it is no release.
    #[arg(long, default_value = "")]
    revision: String,
    /// The sources are not as that commit has them.
    #[arg(long)]
    dirty: bool,
}

impl OriginArguments {
    /// The release, every byte of it compared with its index, where it is one that is deployed.
    ///
    /// # Errors
    ///
    /// When it is not as it was made, or is not for this environment.
    pub(crate) fn bundle(&self, engine: &Engine) -> Result<Option<Bundle>> {
        let Some(directory) = &self.release else { return Ok(None) };
        let directory =
            directory.canonicalize().with_context(|| format!("there is no {}", directory.display()))?;
        let bundle = bundle::verify(&directory)?;
        let environment = &engine.manifest.environment;
        bundle.release.of(environment)?;
        let given = engine.common.assembly.canonicalize().ok();
        if given != Some(bundle.assembly(environment)) {
            bail!("--assembly must be that of the release, {}", bundle.assembly(environment).display());
        }
        Ok(Some(bundle))
    }

    /// Whether nobody has deployed since whoever asks has looked.
    ///
    /// # Errors
    ///
    /// When somebody has.
    pub(crate) async fn check_after(&self, engine: &Engine) -> Result<()> {
        let Some(after) = self.after else { return Ok(()) };
        let last = match engine.shelf().await? {
            Some(shelf) => shelf.last_number().await?,
            None => 0,
        };
        let environment = &engine.manifest.environment;
        if last != after {
            bail!(
                "{environment} was deployed meanwhile (#{last}): see `cargo xtask history --env {environment}`, then run this again if it is still wanted. Nothing was touched"
            );
        }
        Ok(())
    }

    /// Keeps the release in the environment and writes the record of a deployment that is done, unless it changed
    /// nothing and the last record says what this one would.
    ///
    /// # Errors
    ///
    /// What S3 says; the deployment is done, and the next one writes its record.
    pub(crate) async fn note(
        &self,
        engine: &Engine,
        bundle: Option<&Bundle>,
        done: &Done,
        scope: Scope<'_>,
    ) -> Result<()> {
        let (stacks, workloads) = match scope {
            Scope::Deployed { stacks, workloads } => (stacks, workloads),
            Scope::Swapped => (&[][..], false),
        };
        let Engine { manifest, reporter, .. } = engine;
        let Some(shelf) = engine.shelf().await? else {
            reporter.say("there is no bucket of artifacts, and so no record of this deployment");
            return Ok(());
        };
        if let Some(bundle) = bundle {
            shelf.keep(bundle, reporter).await?;
        }
        let identity = engine.check_account().await?;
        let holder = Holder::this("deploy", &identity);
        let way = match (bundle, self.by) {
            (None, _) if scope == Scope::Swapped => Way::Hotswap,
            (None, _) => Way::Sources,
            (_, By::Release) => Way::Release,
            (_, By::Promotion) => {
                Way::Promotion { from: self.from.clone(), overruled: self.overruled.clone() }
            }
            (_, By::Rollback) => Way::Rollback,
        };
        let (number, last) = shelf.last().await?;
        let record = Record {
            schema_version: SCHEMA_VERSION,
            number: number + 1,
            environment: manifest.environment.clone(),
            deployed_at: Utc::now().trunc_subsecs(0),
            identity,
            person: holder.person,
            host: holder.host,
            way,
            release: bundle.map(|bundle| bundle.digest.clone()),
            assembly: manifest.digest.clone(),
            source: match bundle {
                Some(bundle) => bundle.release.source.clone(),
                None => Revision { revision: self.revision.clone(), clean: !self.dirty },
            },
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            stacks: stacks.to_vec(),
            workloads,
            assets: done.known.assets.clone(),
        };
        let environment = &manifest.environment;
        if let Some(last) = last.filter(|last| !done.changed && record.repeats(last)) {
            let text =
                format!("nothing changed: {environment} is as recorded as #{}: {}", last.number, last.what());
            reporter.result(&text, &json!({ "event": "record", "record": last, "new": false }));
            return Ok(());
        }
        shelf.note(&record).await?;
        let text = format!("recorded as #{} of {environment}: {}", record.number, record.what());
        reporter.result(&text, &json!({ "event": "record", "record": record, "new": true }));
        Ok(())
    }
}
