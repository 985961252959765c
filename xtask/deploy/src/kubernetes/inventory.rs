//! What was applied to a cluster, so that what is no longer rendered can be pruned. Kept in the cluster itself,
//! in a ConfigMap: whoever deploys next finds it.

use std::collections::BTreeSet;

use cfn::assembly::HelmReleaseEntry;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// The ConfigMap's namespace.
pub const NAMESPACE: &str = "kube-system";

/// The key in it.
pub const KEY: &str = "objects";

/// The kind under which a Helm release is remembered. It is no object of the API: helm keeps it.
pub const RELEASE: &str = "HelmRelease";

/// Kinds that are never pruned: what they hold may be others', or data. They are told of.
const KEPT: [&str; 5] =
    ["CustomResourceDefinition", RELEASE, "Namespace", "PersistentVolume", "PersistentVolumeClaim"];

/// An object of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Object {
    /// Such as `apps/v1`.
    pub api_version: String,
    /// Such as `Deployment`.
    pub kind: String,
    /// Its namespace; nothing for what belongs to the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl Object {
    /// The object that a manifest is of; `None` when it names none.
    #[must_use]
    pub fn of(manifest: &Json) -> Option<Self> {
        let text = |pointer: &str| manifest.pointer(pointer).and_then(Json::as_str).map(str::to_owned);
        Some(Self {
            api_version: text("/apiVersion")?,
            kind: text("/kind")?,
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name")?,
        })
    }

    /// A Helm release, as it is remembered.
    #[must_use]
    pub fn release(release: &HelmReleaseEntry) -> Self {
        Self {
            api_version: "helm.sh/v3".to_owned(),
            kind: RELEASE.to_owned(),
            namespace: Some(release.namespace.clone()),
            name: release.name.clone(),
        }
    }

    /// The command that removes it.
    #[must_use]
    pub fn removal(&self) -> String {
        let (verb, kind) = match self.kind.as_str() {
            RELEASE => ("helm uninstall", String::new()),
            kind => ("kubectl delete", format!(" {}", kind.to_lowercase())),
        };
        let namespace =
            self.namespace.as_ref().map(|name| format!(" --namespace {name}")).unwrap_or_default();
        format!("{verb}{kind} {}{namespace}", self.name)
    }

    /// The same object, whatever version of its API it was applied with.
    fn identity(&self) -> (&str, &str, Option<&str>, &str) {
        let group = self.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        (group, &self.kind, self.namespace.as_deref(), &self.name)
    }
}

impl std::fmt::Display for Object {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(formatter, "{} {namespace}/{}", self.kind, self.name),
            None => write!(formatter, "{} {}", self.kind, self.name),
        }
    }
}

/// What has become of objects that are no longer rendered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruning {
    /// To be deleted.
    pub delete: Vec<Object>,
    /// To be left, and told of.
    pub keep: Vec<Object>,
}

/// What of the objects applied before is not among those of now.
#[must_use]
pub fn prune(before: &BTreeSet<Object>, now: &BTreeSet<Object>) -> Pruning {
    let wanted: BTreeSet<_> = now.iter().map(Object::identity).collect();
    let (keep, delete) = before
        .iter()
        .filter(|object| !wanted.contains(&object.identity()))
        .cloned()
        .partition(|object| KEPT.contains(&object.kind.as_str()));
    Pruning { delete, keep }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(api_version: &str, kind: &str, name: &str) -> Object {
        Object {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: Some("trades".to_owned()),
            name: name.to_owned(),
        }
    }

    #[test]
    fn what_only_changed_its_version_stays() {
        let before = BTreeSet::from([object("policy/v1beta1", "PodDisruptionBudget", "consumer")]);
        let now = BTreeSet::from([object("policy/v1", "PodDisruptionBudget", "consumer")]);
        assert_eq!(prune(&before, &now), Pruning::default());
    }

    #[test]
    fn namespaces_and_volumes_are_never_pruned() {
        let before =
            BTreeSet::from([object("v1", "Namespace", "trades"), object("v1", "Service", "consumer")]);
        let pruning = prune(&before, &BTreeSet::new());
        assert_eq!(pruning.delete, [object("v1", "Service", "consumer")]);
        assert_eq!(pruning.keep, [object("v1", "Namespace", "trades")]);
    }

    #[test]
    fn what_is_kept_is_told_with_the_command_that_removes_it() {
        let claim = object("v1", "PersistentVolumeClaim", "prometheus");
        assert_eq!(claim.removal(), "kubectl delete persistentvolumeclaim prometheus --namespace trades");
        let release = object("helm.sh/v3", RELEASE, "keda");
        assert_eq!(release.removal(), "helm uninstall keda --namespace trades");
        assert_eq!(prune(&BTreeSet::from([release.clone()]), &BTreeSet::new()).keep, [release]);
    }

    #[test]
    fn a_manifest_without_a_name_is_of_no_object() {
        assert_eq!(Object::of(&json!({ "kind": "List" })), None);
    }

    proptest! {
        /// What is rendered is never pruned, and all else that was applied is accounted for.
        #[test]
        fn nothing_that_is_wanted_goes(before in prop::collection::btree_set(0u8..30, 0..20), now in prop::collection::btree_set(0u8..30, 0..20)) {
            let named = |names: &BTreeSet<u8>| -> BTreeSet<Object> {
                names.iter().map(|name| object("v1", if name % 3 == 0 { "Namespace" } else { "Service" }, &name.to_string())).collect()
            };
            let pruning = prune(&named(&before), &named(&now));
            let gone: BTreeSet<Object> = pruning.delete.iter().chain(&pruning.keep).cloned().collect();
            prop_assert_eq!(gone, named(&before).difference(&named(&now)).cloned().collect());
        }
    }
}
