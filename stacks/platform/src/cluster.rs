//! The Kubernetes cluster on which the workloads run, and the repositories of their images.

use std::collections::BTreeMap;

use cfn::{App, DeployValue, Handle};
use cfn_resources::{ecr::Repository, iam::Role};
use constructs::{
    cluster::{ClusterProperties, KubernetesCluster},
    network::{Network, as_text},
    repository::repository,
};

use crate::{environment::Environment, network::stack_properties};

/// What the stack holds.
pub const DESCRIPTION: &str = "EKS cluster in Auto Mode, access entries, image repositories";

/// The workloads that have a repository.
pub const IMAGES: [&str; 4] = ["trade-producer", "trade-consumer", "tag-worker", "tag-load"];

/// The cluster with its repositories.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The cluster.
    pub kubernetes: KubernetesCluster,
    /// The repositories by image.
    pub repositories: BTreeMap<&'static str, Handle<Repository>>,
}

impl Cluster {
    /// Lets a role look at what runs, once the stack `id` of the cluster is there. The role is of the stack that is
    /// deployed first.
    pub fn let_look(&self, app: &mut App, id: &str, role: &Handle<Role>) {
        if let Some(stack) = app.reopen(id) {
            let mut scope = stack.scope();
            self.kubernetes.let_look(&mut scope, "GateAccess", as_text(&role.arn()));
        }
    }
}

/// Adds the stack.
pub fn add(app: &mut App, id: &str, environment: &Environment, network: &Network) -> Cluster {
    let stack = app.stack(id, stack_properties(environment, DESCRIPTION));
    let name = stack.name().to_owned();
    let mut scope = stack.scope();
    let kubernetes = KubernetesCluster::new(
        &mut scope,
        "Cluster",
        network,
        &ClusterProperties {
            name: name.clone(),
            version: environment.cluster.version.clone(),
            public_access_cidrs: environment.cluster.public_access_cidrs.clone(),
            admin_role_arns: environment.cluster.admin_role_arns.clone(),
            log_retention_days: environment.log_retention_days,
            data: environment.data_policy(),
        },
    );
    let mut images = scope.child("Images");
    let repositories = IMAGES
        .into_iter()
        .map(|image| {
            let place = format!("{name}/{image}");
            (image, repository(&mut images, image, &place, environment.data_policy()))
        })
        .collect();
    app.cluster(DeployValue::Value(kubernetes.name()));
    Cluster { kubernetes, repositories }
}
