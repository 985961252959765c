//! The workloads of an environment on AWS: what can be checked is checked before anything is touched, then the
//! environment's cluster is reached, and its parts are installed or removed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cfn::assembly::Manifest;
use kube::Client;

use super::{
    apply::Cluster,
    cluster::{access, connect, kubeconfig_path, write_kubeconfig},
    helm::Helm,
    install::{Installation, Running, Swapped},
    order::install_order,
};
use crate::{
    report::Reporter,
    wiring::{Known, resolve},
};

/// What the workloads of an environment are deployed with.
pub struct EksWorkloads<'a> {
    /// EKS.
    pub eks: &'a aws_sdk_eks::Client,
    /// The assembly's directory.
    pub assembly: &'a Path,
    /// What it holds.
    pub manifest: &'a Manifest,
    /// The `helm` program, by its name or path.
    pub helm: PathBuf,
    /// Whether EKS is on this machine's loopback, as `--endpoint-url` names it.
    pub on_loopback: bool,
    /// What the user sees.
    pub reporter: &'a Reporter,
}

impl EksWorkloads<'_> {
    /// Finds what would stop an installation: no `helm`, parts that wait for each other, a file that is not there.
    ///
    /// # Errors
    ///
    /// What is missing, and what to do.
    pub async fn check(&self) -> Result<()> {
        let Manifest { workloads, cluster_manifests, helm_releases, cluster, environment, .. } =
            self.manifest;
        if cluster.is_none() {
            bail!("{environment} has workloads and no cluster; render it again with `cargo xtask synth`");
        }
        install_order(self.manifest)?;
        let files = workloads.iter().map(|workload| &workload.manifest);
        let files = files.chain(cluster_manifests.iter().map(|manifest| &manifest.manifest));
        for file in files.chain(helm_releases.iter().map(|release| &release.values)) {
            let path = self.assembly.join(file);
            if !path.is_file() {
                bail!("there is no {}; render {environment} again with `cargo xtask synth`", path.display());
            }
        }
        self.find_helm().await.map(drop)
    }

    async fn find_helm(&self) -> Result<Option<Helm>> {
        let releases = &self.manifest.helm_releases;
        if releases.is_empty() {
            return Ok(None);
        }
        Helm::find(&self.helm, &kubeconfig_path(self.assembly), releases).await.map(Some)
    }

    /// The name of the environment's cluster and a client of it; `None` when it is not there.
    async fn connection(&self, known: &Known) -> Result<Option<(String, Client)>> {
        let Some(source) = &self.manifest.cluster else { return Ok(None) };
        let Ok(name) = resolve(source, known) else { return Ok(None) };
        let Some(access) = access(self.eks, &name, self.on_loopback).await? else { return Ok(None) };
        let kubeconfig = write_kubeconfig(&access, &self.manifest.region, self.assembly)?;
        Ok(Some((name, connect(&kubeconfig).await?)))
    }

    /// A client of the environment's cluster.
    ///
    /// # Errors
    ///
    /// When the cluster is not there, or cannot be reached.
    pub async fn client(&self, known: &Known) -> Result<Client> {
        let connection = self.connection(known).await?;
        connection.map(|(_, client)| client).with_context(|| {
            format!(
                "the cluster of {0} is not there; `cargo xtask deploy --env {0}` makes it",
                self.manifest.environment
            )
        })
    }

    /// The environment's cluster; `None` when it is not there.
    async fn reach(&self, known: &Known) -> Result<Option<Cluster>> {
        let Some((name, client)) = self.connection(known).await? else { return Ok(None) };
        let cluster = Cluster::new(client);
        cluster.answers(&name).await?;
        Ok(Some(cluster))
    }

    /// The environment's cluster, which has to be there.
    async fn cluster(&self, known: &Known) -> Result<Cluster> {
        self.reach(known).await?.with_context(|| {
            format!("the cluster of {} is gone; see `cargo xtask status`", self.manifest.environment)
        })
    }

    fn installation<'i>(
        &'i self,
        known: &'i Known,
        cluster: &'i Cluster,
        helm: Option<&'i Helm>,
    ) -> Installation<'i> {
        let Self { assembly, manifest, reporter, .. } = self;
        Installation { assembly, manifest, known, cluster, helm, reporter }
    }

    /// Installs everything and waits until it runs.
    ///
    /// # Errors
    ///
    /// When the cluster cannot be reached, or the first part that fails. Running it again goes on.
    pub async fn install(&self, known: &Known) -> Result<()> {
        let (cluster, helm) = (self.cluster(known).await?, self.find_helm().await?);
        self.installation(known, &cluster, helm.as_ref()).run().await
    }

    /// Gives the workloads that are installed what is rendered now, and nothing else; see [`Installation::swap`].
    ///
    /// # Errors
    ///
    /// When the cluster cannot be reached, or the first workload that does not come to run.
    pub async fn swap(&self, known: &Known) -> Result<Swapped> {
        let cluster = self.cluster(known).await?;
        self.installation(known, &cluster, None).swap().await
    }

    /// How many pods of each workload run.
    ///
    /// # Errors
    ///
    /// When the cluster cannot be reached.
    pub async fn running(&self, known: &Known) -> Result<Vec<Running>> {
        let cluster = self.cluster(known).await?;
        self.installation(known, &cluster, None).running().await
    }

    /// Removes everything that was installed, and whatever has a load balancer or a volume behind it. A cluster
    /// that is gone holds nothing. Gives in words what is kept.
    ///
    /// # Errors
    ///
    /// What does not go. Running it again goes on.
    pub async fn remove(&self, known: &Known) -> Result<Vec<String>> {
        match self.reach(known).await? {
            Some(cluster) => {
                let helm = self.find_helm().await?;
                let kept = self.installation(known, &cluster, helm.as_ref()).remove().await?;
                let region = &self.manifest.region;
                let told = |(name, id): (String, String)| {
                    format!(
                        "the volume {id} ({name}) is kept, as its class says; `aws ec2 delete-volume --volume-id {id} --region {region}` removes it"
                    )
                };
                Ok(kept.into_iter().map(told).collect())
            }
            None => {
                self.reporter.stack("workloads", "absent", "there is no cluster");
                Ok(Vec::new())
            }
        }
    }
}
