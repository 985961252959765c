//! Installing all that a cluster gets, and removing it.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context, Result};
use cfn::assembly::{Manifest, ParameterWiring};
use serde::Serialize;
use serde_json::Value as Json;

use super::{
    apply::{Change, Cluster, documents},
    helm::Helm,
    inventory::{Object, RELEASE, prune},
    order::{Part, install_order},
    rollout::has_rollout,
};
use crate::{
    report::Reporter,
    wiring::{Known, fill, resolve_all},
};

/// How long a workload may take to run: a node may have to be started for it first.
const ROLLOUT_TIMEOUT: Duration = Duration::from_secs(900);

/// How long an object may take to go: a load balancer takes minutes.
const DELETE_TIMEOUT: Duration = Duration::from_secs(600);

/// What is deployed, and with what.
pub struct Installation<'a> {
    /// The assembly's directory.
    pub assembly: &'a Path,
    /// What it holds.
    pub manifest: &'a Manifest,
    /// The values that manifests wait for.
    pub known: &'a Known,
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Helm, where there are releases.
    pub helm: Option<&'a Helm>,
    /// What the user sees.
    pub reporter: &'a Reporter,
}

/// What a swap of workloads came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swapped {
    /// The workloads of which an object is other than it was.
    pub changed: Vec<String>,
    /// What was left, in words: objects that are not installed yet.
    pub left: Vec<String>,
}

/// How many pods of a workload run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Running {
    /// The system that it belongs to.
    pub system: String,
    /// Its name.
    pub name: String,
    /// How many pods there should be; none is as it may be where something scales.
    pub desired: u64,
    /// How many of them are ready.
    pub ready: u64,
}

impl Installation<'_> {
    /// How many pods of each workload run.
    ///
    /// # Errors
    ///
    /// When the cluster does not answer.
    pub async fn running(&self) -> Result<Vec<Running>> {
        let mut all = Vec::new();
        for workload in &self.manifest.workloads {
            let objects = self.objects(&workload.name, &workload.manifest, &workload.values)?;
            for object in objects.iter().filter_map(Object::of).filter(|object| object.kind == "Deployment") {
                let now = self.cluster.read(&object).await?.unwrap_or_default();
                let number = |pointer: &str| now.pointer(pointer).and_then(Json::as_u64);
                all.push(Running {
                    system: workload.system.clone(),
                    name: object.name,
                    desired: number("/spec/replicas").unwrap_or(1),
                    ready: number("/status/availableReplicas").unwrap_or(0),
                });
            }
        }
        Ok(all)
    }

    /// Installs everything in order, waits until the workloads run, and prunes what is no longer rendered. What
    /// will be applied is remembered first, so that nothing is forgotten when this is cut off.
    ///
    /// # Errors
    ///
    /// The first part that fails, and why. Running it again goes on.
    pub async fn run(&self) -> Result<()> {
        let environment = &self.manifest.environment;
        // All files are read and filled before anything is touched.
        let order = install_order(self.manifest)?;
        let mut filled = Vec::with_capacity(order.len());
        let mut wanted = BTreeSet::new();
        for part in &order {
            let objects = match part {
                Part::Release(release) => {
                    wanted.insert(Object::release(release));
                    Vec::new()
                }
                Part::Workload(workload) => {
                    self.objects(&workload.name, &workload.manifest, &workload.values)?
                }
                Part::Manifest(manifest) => {
                    self.objects(&manifest.name, &manifest.manifest, &manifest.values)?
                }
            };
            wanted.extend(objects.iter().filter_map(Object::of));
            filled.push(objects);
        }
        let before = self.cluster.inventory(environment).await?;
        self.cluster.remember(environment, &before.union(&wanted).cloned().collect()).await?;
        for (part, objects) in order.iter().zip(&filled) {
            self.install(part, objects).await.with_context(|| part.name().to_owned())?;
        }
        let pruning = prune(&before, &wanted);
        for object in &pruning.delete {
            self.reporter.stack(&object.to_string(), "pruning", "it is no longer rendered");
            self.cluster.delete(object, DELETE_TIMEOUT).await?;
        }
        for object in &pruning.keep {
            self.reporter.say(&format!(
                "{object} is no longer rendered and is kept, because it may hold what is not ours; `{}` removes it",
                object.removal()
            ));
        }
        self.cluster.remember(environment, &wanted).await
    }

    /// Applies the workloads' objects that are installed, and waits until they run. What is no longer rendered,
    /// releases, and manifests beside the workloads are not looked at.
    ///
    /// # Errors
    ///
    /// The first workload that fails, and why.
    pub async fn swap(&self) -> Result<Swapped> {
        let installed = self.cluster.inventory(&self.manifest.environment).await?;
        let Swapped { mut changed, mut left } = Swapped::default();
        for part in install_order(self.manifest)? {
            let Part::Workload(workload) = &part else { continue };
            let mut objects = self.objects(&workload.name, &workload.manifest, &workload.values)?;
            objects.retain(|object| match Object::of(object) {
                Some(known) if installed.contains(&known) => true,
                Some(new) => {
                    left.push(format!("{new} is new"));
                    false
                }
                None => false,
            });
            if self.install(&part, &objects).await.with_context(|| part.name().to_owned())? > 0 {
                changed.push(workload.name.clone());
            }
        }
        Ok(Swapped { changed, left })
    }

    fn objects(&self, name: &str, file: &str, values: &[ParameterWiring]) -> Result<Vec<Json>> {
        let path = self.assembly.join(file);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let filled = fill(name, &text, &resolve_all(values, self.known)?)?;
        documents(&filled).with_context(|| path.display().to_string())
    }

    /// Installs a part, waits until it runs, and gives how many of its objects are other than they were.
    async fn install(&self, part: &Part<'_>, objects: &[Json]) -> Result<usize> {
        if let Part::Release(release) = part {
            let helm = self.helm.context("the release wants helm, which was not looked for")?;
            self.reporter.stack(
                &release.name,
                "installing",
                &format!("{} {}", release.chart, release.version),
            );
            let changed = helm.apply(release, &self.assembly.join(&release.values)).await?;
            self.reporter.stack(&release.name, if changed { "installed" } else { "unchanged" }, "");
            return Ok(usize::from(changed));
        }
        let mut changed = 0;
        for object in objects {
            changed += usize::from(self.cluster.apply(object).await? != Change::Unchanged);
        }
        let detail = format!("{changed} of {} objects", objects.len());
        self.reporter.stack(part.name(), if changed == 0 { "unchanged" } else { "applied" }, &detail);
        for object in objects.iter().filter(|object| has_rollout(object)).filter_map(Object::of) {
            let tell = |on: &str| self.reporter.stack(&object.name, "rolling out", on);
            self.cluster.rollout(&object, ROLLOUT_TIMEOUT, tell).await?;
        }
        Ok(changed)
    }

    /// Removes everything that was applied, in reverse, then the releases, then whatever has a load balancer or
    /// a volume behind it: AWS would keep those, and they would keep the VPC. Gives the volumes that are to be kept, by
    /// name and id.
    ///
    /// # Errors
    ///
    /// What does not go. Running it again goes on.
    pub async fn remove(&self) -> Result<Vec<(String, String)>> {
        let environment = &self.manifest.environment;
        let before = self.cluster.inventory(environment).await?;
        // Objects of the same kinds go in the inventory's order; the rest waits for the namespaces, which go last.
        let objects = before.iter().filter(|object| object.kind != RELEASE);
        let (last, first): (Vec<_>, Vec<_>) = objects.partition(|object| object.kind == "Namespace");
        for object in first {
            self.reporter.stack(&object.to_string(), "deleting", "");
            self.cluster.delete(object, DELETE_TIMEOUT).await?;
        }
        if let Some(helm) = self.helm {
            for release in self.manifest.helm_releases.iter().rev() {
                self.reporter.stack(&release.name, "uninstalling", "");
                helm.uninstall(release).await?;
            }
        }
        for object in self.cluster.with_things_outside().await? {
            self.reporter.stack(&object.to_string(), "deleting", "it holds a load balancer or a volume");
            self.cluster.delete(&object, DELETE_TIMEOUT).await?;
        }
        let kept = self.cluster.volumes_gone(DELETE_TIMEOUT).await?;
        for object in last {
            self.reporter.stack(&object.to_string(), "deleting", "");
            self.cluster.delete(object, DELETE_TIMEOUT).await?;
        }
        self.cluster.forget(environment, DELETE_TIMEOUT).await?;
        Ok(kept)
    }
}
