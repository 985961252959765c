//! In which order a cluster's parts are installed. Pure.

use std::collections::BTreeSet;

use cfn::assembly::{ClusterManifestEntry, HelmReleaseEntry, Manifest, WorkloadEntry};

/// One thing to install.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part<'a> {
    /// Somebody else's chart.
    Release(&'a HelmReleaseEntry),
    /// A workload of ours.
    Workload(&'a WorkloadEntry),
    /// A manifest beside the workloads.
    Manifest(&'a ClusterManifestEntry),
}

impl<'a> Part<'a> {
    /// Its name, which others name it by.
    #[must_use]
    pub fn name(&self) -> &'a str {
        match self {
            Self::Release(release) => &release.name,
            Self::Workload(workload) => &workload.name,
            Self::Manifest(manifest) => &manifest.name,
        }
    }

    fn after(&self) -> &'a [String] {
        match self {
            Self::Release(release) => &release.after,
            Self::Workload(_) => &[],
            Self::Manifest(manifest) => &manifest.after,
        }
    }
}

/// Why there is no order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} wait for each other, or for something that is not rendered", names.join(", "))]
pub struct NoOrder {
    /// The names of what cannot be reached.
    pub names: Vec<String>,
}

/// All parts, each after those that it names. Among those that are free, releases and manifests come before the
/// workloads, and the order of rendering is kept.
///
/// # Errors
///
/// When parts wait for each other, or for one that is not there.
pub fn install_order(manifest: &Manifest) -> Result<Vec<Part<'_>>, NoOrder> {
    let mut waiting: Vec<Part<'_>> = manifest
        .helm_releases
        .iter()
        .map(Part::Release)
        .chain(manifest.cluster_manifests.iter().map(Part::Manifest))
        .chain(manifest.workloads.iter().map(Part::Workload))
        .collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut order = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let free =
            waiting.iter().position(|part| part.after().iter().all(|name| done.contains(name.as_str())));
        let Some(free) = free else {
            return Err(NoOrder { names: waiting.iter().map(|part| part.name().to_owned()).collect() });
        };
        let part = waiting.remove(free);
        done.insert(part.name());
        order.push(part);
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use cfn::AppProperties;
    use proptest::prelude::*;

    use super::*;

    fn manifest(after: &[Vec<usize>]) -> Manifest {
        let name = |index: usize| format!("part-{index}");
        Manifest {
            cluster_manifests: after
                .iter()
                .enumerate()
                .map(|(index, after)| ClusterManifestEntry {
                    name: name(index),
                    manifest: String::new(),
                    after: after.iter().map(|index| name(*index)).collect(),
                    values: Vec::new(),
                })
                .collect(),
            ..AppProperties::new("test", "111111111111", "eu-west-1", "fg").empty_manifest()
        }
    }

    #[test]
    fn a_circle_is_named() {
        let manifest = manifest(&[vec![], vec![2], vec![1]]);
        assert_eq!(install_order(&manifest).unwrap_err().names, ["part-1", "part-2"]);
    }

    proptest! {
        /// Whatever waits only for what was rendered before it can be ordered, and nothing comes too early.
        #[test]
        fn nothing_comes_before_what_it_needs(needs in prop::collection::vec(prop::collection::vec(0usize..20, 0..3), 1..20)) {
            let after: Vec<Vec<usize>> = needs
                .iter()
                .enumerate()
                .map(|(index, needs)| needs.iter().copied().filter(|need| *need < index).collect())
                .collect();
            // Rendered in reverse, so that the order of rendering alone would be wrong.
            let reversed: Vec<Vec<usize>> = after
                .iter()
                .rev()
                .map(|needs| needs.iter().map(|need| after.len() - 1 - need).collect())
                .collect();
            let manifest = manifest(&reversed);
            let order = install_order(&manifest).expect("there is no circle");
            prop_assert_eq!(order.len(), reversed.len());
            let place = |name: &str| order.iter().position(|part| part.name() == name);
            for part in &order {
                for need in part.after() {
                    prop_assert!(place(need) < place(part.name()));
                }
            }
        }
    }
}
