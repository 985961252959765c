//! The manifest of a worker: a Deployment with all that belongs to it.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::{RenderError, template::fill};

const DEPLOYMENT: &str = include_str!("../../../templates/kubernetes/worker.yaml.hbs");

/// A worker.
pub(crate) struct Worker<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) system: &'a str,
    /// `None` where a scaler sets them.
    pub(crate) replicas: Option<u64>,
    pub(crate) environment: &'a BTreeMap<String, String>,
    pub(crate) grace_seconds: u64,
    /// Whether its replicas are spread over zones and kept from being evicted all at once.
    pub(crate) spread: bool,
}

impl Worker<'_> {
    pub(crate) fn manifest(&self) -> Result<String, RenderError> {
        let variables: Vec<Json> = self
            .environment
            .iter()
            // JSON text is YAML text, quoted.
            .map(|(name, value)| json!({ "name": name, "value": Json::from(value.as_str()).to_string() }))
            .collect();
        let data = json!({
            "name": self.name, "namespace": self.namespace, "system": self.system, "replicas": self.replicas,
            "variables": variables, "grace_seconds": self.grace_seconds, "spread": self.spread,
        });
        fill(DEPLOYMENT, &data)
    }
}
