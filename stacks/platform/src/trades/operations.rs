//! How the trades' workloads are watched in a cluster on AWS, and what scales them there.

use std::collections::BTreeMap;

use cfn::{App, ClusterManifest, DeployValue};
use serde_json::json;

use super::{CONSUMER, CONSUMER_GROUP, NAMESPACE, PRODUCER, RETRY_BUDGET_SECONDS, SYSTEM, scaling::Scaling};
use crate::{
    RenderError,
    add_ons::{KEDA, KEDA_NAMESPACE, PROMETHEUS},
    environment::Environment,
    kafka::{TRADES_DEAD_LETTER_TOPIC, TRADES_TOPIC},
    kubernetes::{Manifest, dashboard, prometheus_operator::monitor},
    sizes::Sizes,
    template::{fill, fill_manifest},
};

/// The dashboard's name, of its file and of its ConfigMap.
const DASHBOARD: &str = "msk-keda";

/// A record that waits this many times as long as the backlog is allowed to last calls a person: by then the
/// scaler has had several rounds to help.
const LAG_ALERT_FACTOR: f64 = 10.0;

/// Adds the manifests and the dashboard.
///
/// # Errors
///
/// When a template is wrong.
pub(super) fn add(
    app: &mut App,
    environment: &Environment,
    sizes: &Sizes,
    bootstrap_servers: DeployValue,
    drain_timeout_seconds: f64,
) -> Result<(), RenderError> {
    let level = &environment.trades;
    let scaling = Scaling::of(environment, sizes);
    let data = json!({
        "system": SYSTEM, "namespace": NAMESPACE, "region": environment.region,
        "consumer": CONSUMER,
        "topic": TRADES_TOPIC, "dead_letter_topic": TRADES_DEAD_LETTER_TOPIC, "consumer_group": CONSUMER_GROUP,
        "selector": format!("namespace=\"{NAMESPACE}\", job=\"{CONSUMER}\""),
        "keda_namespace": KEDA_NAMESPACE, "replicas_max": scaling.replicas_max,
        "replicas_fallback": scaling.replicas_fallback,
        "drain_seconds": level.backlog_drain_seconds.to_string(),
        "lag_seconds_max": (level.backlog_drain_seconds * LAG_ALERT_FACTOR).to_string(),
        "retry_budget_seconds": RETRY_BUDGET_SECONDS.to_string(),
        "drain_timeout_seconds": drain_timeout_seconds.to_string(),
    });
    let rules = fill_manifest(include_str!("../../../../templates/kubernetes/rules.yaml.hbs"), &data)?;
    let drawn = fill(include_str!("../../../../templates/dashboards/msk-keda.json.hbs"), &data)?;
    app.cluster_manifest(ClusterManifest {
        name: "trade-scaling".to_owned(),
        manifest: scaling.manifest(environment, sizes)?.text(),
        values: BTreeMap::from([("kafka_bootstrap_servers".to_owned(), bootstrap_servers)]),
        // The workloads bring their namespace.
        after: vec![CONSUMER.to_owned(), KEDA.to_owned()],
    });
    let monitors = Manifest::default()
        .with(&monitor(CONSUMER, NAMESPACE, SYSTEM))?
        .with(&monitor(PRODUCER, NAMESPACE, SYSTEM))?;
    let config_map = Manifest::default().with(&dashboard(DASHBOARD, NAMESPACE, drawn.clone()))?;
    for (name, manifest, after) in [
        ("trade-monitors", monitors.text(), [CONSUMER, PRODUCER, PROMETHEUS].as_slice()),
        ("trade-rules", rules, &[CONSUMER, PROMETHEUS]),
        ("trade-dashboard", config_map.text(), &[CONSUMER, PROMETHEUS]),
    ] {
        app.cluster_manifest(ClusterManifest {
            name: name.to_owned(),
            manifest,
            values: BTreeMap::new(),
            after: after.iter().map(|name| (*name).to_owned()).collect(),
        });
    }
    app.dashboard(&format!("{DASHBOARD}.json"), drawn);
    Ok(())
}
