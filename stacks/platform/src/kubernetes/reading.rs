//! Manifests read back by their types: what a type does not know is refused, as the cluster would refuse or, worse, drop it.

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ConfigMap, Namespace, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
    storage::v1::StorageClass,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

use super::{
    keda::{ScaledObject, TriggerAuthentication},
    prometheus_operator::{PrometheusRule, ScrapeConfig, ServiceMonitor},
};

/// Checks every document of a manifest.
///
/// # Errors
///
/// With kind and name of the first that is refused, and why: no YAML, a kind that is not known here, a field that its type
/// does not have, a value of another type.
pub fn check(manifest: &str) -> Result<(), String> {
    for document in serde_yaml_ng::Deserializer::from_str(manifest) {
        let document = Json::deserialize(document).map_err(|error| format!("no YAML: {error}"))?;
        check_document(&document).map_err(|why| {
            let name = document.pointer("/metadata/name").and_then(Json::as_str).unwrap_or("without a name");
            format!("{} {name}: {why}", text(&document, "kind"))
        })?;
    }
    Ok(())
}

fn text<'a>(document: &'a Json, key: &str) -> &'a str {
    document.get(key).and_then(Json::as_str).unwrap_or_default()
}

fn check_document(document: &Json) -> Result<(), String> {
    match (text(document, "apiVersion"), text(document, "kind")) {
        ("apps/v1", "Deployment") => back::<Deployment>(document),
        ("batch/v1", "Job") => back::<Job>(document),
        ("v1", "ConfigMap") => back::<ConfigMap>(document),
        ("v1", "Namespace") => back::<Namespace>(document),
        ("v1", "Service") => back::<Service>(document),
        ("v1", "ServiceAccount") => back::<ServiceAccount>(document),
        ("policy/v1", "PodDisruptionBudget") => back::<PodDisruptionBudget>(document),
        ("storage.k8s.io/v1", "StorageClass") => back::<StorageClass>(document),
        (_, "ScaledObject") => back::<ScaledObject>(document),
        (_, "TriggerAuthentication") => back::<TriggerAuthentication>(document),
        (_, "PrometheusRule") => back::<PrometheusRule>(document),
        (_, "ScrapeConfig") => back::<ScrapeConfig>(document),
        (_, "ServiceMonitor") => back::<ServiceMonitor>(document),
        (version, _) => Err(format!("no such kind of {version} is used here")),
    }
}

/// Reads a document by its type and writes it again: `k8s-openapi` passes over fields that it does not know, as an API server
/// may, so only what comes out as it went in is right.
fn back<T: DeserializeOwned + Serialize>(document: &Json) -> Result<(), String> {
    let read: T = serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
    let written = serde_json::to_value(&read).map_err(|error| error.to_string())?;
    match difference(document, &written, String::new()) {
        None => Ok(()),
        Some(place) => Err(format!("{place} is not a field of it, or not written as the type has it")),
    }
}

/// Where two values differ first.
fn difference(one: &Json, other: &Json, place: String) -> Option<String> {
    match (one, other) {
        (Json::Object(one), Json::Object(other)) => {
            let keys = one.keys().chain(other.keys().filter(|key| !one.contains_key(*key)));
            keys.map(|key| (format!("{place}.{key}"), one.get(key), other.get(key))).find_map(
                |(place, one, other)| match (one, other) {
                    (Some(one), Some(other)) => difference(one, other, place),
                    _ => Some(place),
                },
            )
        }
        (Json::Array(one), Json::Array(other)) if one.len() == other.len() => one
            .iter()
            .zip(other)
            .enumerate()
            .find_map(|(index, (one, other))| difference(one, other, format!("{place}[{index}]"))),
        _ => (one != other).then_some(place),
    }
}
