//! What an app has outside its stacks: workloads, releases and manifests of the cluster, and dashboards.

use std::collections::BTreeMap;

use super::{SynthError, Wiring};
use crate::{
    app::{ClusterManifest, DeployValue, HelmRelease, Load, Workload},
    assembly::{ClusterManifestEntry, HelmReleaseEntry, LoadEntry, ParameterWiring, WorkloadEntry},
};

/// The manifest's entries, and the texts by path.
pub(super) struct Rendered {
    pub(super) workloads: Vec<WorkloadEntry>,
    pub(super) helm_releases: Vec<HelmReleaseEntry>,
    pub(super) cluster_manifests: Vec<ClusterManifestEntry>,
    pub(super) files: BTreeMap<String, String>,
}

pub(super) fn render(
    wiring: &mut Wiring,
    workloads: &[Workload],
    helm_releases: &[HelmRelease],
    cluster_manifests: &[ClusterManifest],
    dashboards: BTreeMap<String, String>,
) -> Rendered {
    let mut files = Files::default();
    let workloads = workloads
        .iter()
        .map(|workload| WorkloadEntry {
            system: workload.system.clone(),
            name: workload.name.clone(),
            namespace: workload.namespace.clone(),
            manifest: files.add(format!("kubernetes/{}.yaml", workload.name), &workload.manifest),
            values: values(wiring, &format!("workload {}", workload.name), &workload.values),
        })
        .collect();
    let helm_releases = helm_releases
        .iter()
        .map(|release| HelmReleaseEntry {
            name: release.name.clone(),
            chart: release.chart.clone(),
            version: release.version.clone(),
            namespace: release.namespace.clone(),
            values: files.add(format!("kubernetes/helm/{}.yaml", release.name), &release.values),
            after: release.after.clone(),
        })
        .collect();
    let cluster_manifests = cluster_manifests
        .iter()
        .map(|manifest| ClusterManifestEntry {
            name: manifest.name.clone(),
            manifest: files.add(format!("kubernetes/{}.yaml", manifest.name), &manifest.manifest),
            after: manifest.after.clone(),
            values: values(wiring, &format!("manifest {}", manifest.name), &manifest.values),
        })
        .collect();
    for (file, text) in dashboards {
        files.add(format!("dashboards/{file}"), &text);
    }
    wiring.errors.extend(files.twice.into_iter().map(SynthError::DuplicateFile));
    Rendered { workloads, helm_releases, cluster_manifests, files: files.texts }
}

/// The programs that make traffic, by system.
pub(super) fn loads(wiring: &mut Wiring, loads: BTreeMap<String, Load>) -> BTreeMap<String, LoadEntry> {
    loads
        .into_iter()
        .map(|(system, load)| {
            let variables = values(wiring, &format!("load of {system}"), &load.variables);
            (system, LoadEntry { package: load.package, variables, trial: load.trial })
        })
        .collect()
}

#[derive(Default)]
struct Files {
    texts: BTreeMap<String, String>,
    twice: Vec<String>,
}

impl Files {
    fn add(&mut self, path: String, text: &str) -> String {
        if self.texts.insert(path.clone(), text.to_owned()).is_some() {
            self.twice.push(path.clone());
        }
        path
    }
}

fn values(wiring: &mut Wiring, place: &str, values: &BTreeMap<String, DeployValue>) -> Vec<ParameterWiring> {
    values
        .iter()
        .map(|(name, value)| ParameterWiring {
            name: name.clone(),
            source: wiring.deploy_value(place, value),
        })
        .collect()
}
