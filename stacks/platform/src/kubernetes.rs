//! Kubernetes manifests, made of typed resources: a field that does not exist does not compile.
//!
//! What Kubernetes itself has comes from `k8s-openapi`; [`keda`] and [`prometheus_operator`] have the custom resources that
//! are used here. What is better written as text (rules with their prose) comes from `templates/kubernetes` and is read
//! back by its type ([`reading`]) before it goes into a manifest.

pub mod keda;
pub mod prometheus_operator;
pub mod reading;
mod yaml;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::ConfigMap,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use crate::RenderError;

/// The label that tells a workload's name.
pub(crate) const NAME_LABEL: &str = "app.kubernetes.io/name";

/// The label that tells which system something belongs to.
pub(crate) const SYSTEM_LABEL: &str = "app.kubernetes.io/part-of";

/// Labels or other pairs of text.
pub(crate) fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// What selects the pods of a workload.
pub(crate) fn pods_of(workload: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(pairs([(NAME_LABEL, workload)])), ..LabelSelector::default() }
}

/// Name and namespace, and the labels where there are some.
pub(crate) fn metadata<const N: usize>(
    name: &str,
    namespace: Option<&str>,
    labels: [(&str, &str); N],
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: (N > 0).then(|| pairs(labels)),
        ..ObjectMeta::default()
    }
}

/// A dashboard as Grafana's sidecar takes it.
pub(crate) fn dashboard(name: &str, namespace: &str, dashboard: String) -> ConfigMap {
    ConfigMap {
        metadata: metadata(name, Some(namespace), [("grafana_dashboard", "1")]),
        data: Some(BTreeMap::from([(format!("{name}.json"), dashboard)])),
        ..ConfigMap::default()
    }
}

/// What a kind of custom resource is called, and what it specifies.
pub trait Specification {
    /// Group and version.
    const API_VERSION: &'static str;
    /// The kind.
    const KIND: &'static str;
}

/// A custom resource.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomResource<S> {
    /// Name, namespace and labels.
    pub metadata: ObjectMeta,
    /// What it specifies.
    pub spec: S,
}

/// A custom resource as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written<S> {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    spec: S,
}

impl<S: Specification + Serialize> Serialize for CustomResource<S> {
    fn serialize<T: Serializer>(&self, serializer: T) -> Result<T::Ok, T::Error> {
        Written {
            api_version: S::API_VERSION.to_owned(),
            kind: S::KIND.to_owned(),
            metadata: self.metadata.clone(),
            spec: &self.spec,
        }
        .serialize(serializer)
    }
}

impl<'de, S: Specification + Deserialize<'de>> Deserialize<'de> for CustomResource<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::<S>::deserialize(deserializer)?;
        if (written.api_version.as_str(), written.kind.as_str()) != (S::API_VERSION, S::KIND) {
            return Err(serde::de::Error::custom(format!(
                "{} {} is not {} {}",
                written.api_version,
                written.kind,
                S::API_VERSION,
                S::KIND
            )));
        }
        Ok(Self { metadata: written.metadata, spec: written.spec })
    }
}

/// A manifest: resources, one after the other. A text in it may hold `${{ name }}`, which the deploy engine fills; every text
/// that is not plain is quoted, so that what is filled in stays text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manifest {
    text: String,
}

impl Manifest {
    /// With a resource more.
    ///
    /// # Errors
    ///
    /// When it cannot be written, which no resource of ours is known to be.
    pub(crate) fn with(mut self, resource: &impl Serialize) -> Result<Self, RenderError> {
        let json: Json =
            serde_json::to_value(resource).map_err(|error| RenderError::Manifest(error.to_string()))?;
        if !self.text.is_empty() {
            self.text.push_str("---\n");
        }
        yaml::write(&json, &mut self.text);
        Ok(self)
    }

    /// With the resources of another manifest.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        self.text.push_str("---\n");
        self.text.push_str(&other.text);
        self
    }

    /// The YAML.
    pub(crate) fn text(self) -> String {
        self.text
    }
}
