//! How the trades' workloads are scaled and watched in a cluster on AWS.

use std::collections::BTreeMap;

use cfn::{App, ClusterManifest, DeployValue};
use serde_json::{Value as Json, json};

use super::{CONSUMER, CONSUMER_GROUP, NAMESPACE, PRODUCER, RETRY_BUDGET_SECONDS, SYSTEM};
use crate::{
    RenderError,
    add_ons::{KEDA, KEDA_NAMESPACE, PROMETHEUS},
    environment::Environment,
    kafka::{TRADES_DEAD_LETTER_TOPIC, TRADES_TOPIC},
    sizes::Sizes,
    template::fill,
};

/// The dashboard's name, of its file and of its ConfigMap.
const DASHBOARD: &str = "msk-keda";

/// A record that waits this many times as long as the backlog is allowed to last calls a person: by then the
/// scaler has had several rounds to help.
const LAG_ALERT_FACTOR: f64 = 10.0;

/// What scales the consumer, by the environment's service level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scaling {
    /// Consumers, at most: more than partitions would be idle.
    replicas_max: u64,
    /// Consumers while the lag cannot be read.
    replicas_fallback: u64,
    /// Records of the backlog that are a consumer's share.
    lag_threshold: u64,
}

impl Scaling {
    /// From derived sizes. `rate` is what a consumer does, in records per second; `in_flight` what it has in
    /// hand, which the lag counts until it is committed: a share below twice that would call for another
    /// consumer whenever one works.
    fn of(
        consumers: u64,
        partitions: u64,
        consumers_min: u64,
        rate: u64,
        drain_seconds: f64,
        in_flight: u64,
    ) -> Self {
        let replicas_max = consumers.min(partitions).max(1);
        Self {
            replicas_max,
            replicas_fallback: consumers_min.clamp(1, replicas_max),
            lag_threshold: ((rate as f64 * drain_seconds) as u64).max(2 * in_flight).max(1),
        }
    }
}

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
    let rate = sizes.trades("messages_per_second_per_consumer");
    let scaling = Scaling::of(
        sizes.trades("consumers"),
        sizes.trades("partitions"),
        u64::from(level.consumers_min),
        rate,
        level.backlog_drain_seconds,
        u64::from(level.batch_size) * u64::from(level.batches_in_flight),
    );
    let data = json!({
        "system": SYSTEM, "namespace": NAMESPACE, "region": environment.region,
        "consumer": CONSUMER, "workloads": [CONSUMER, PRODUCER],
        "topic": TRADES_TOPIC, "dead_letter_topic": TRADES_DEAD_LETTER_TOPIC, "consumer_group": CONSUMER_GROUP,
        "selector": format!("namespace=\"{NAMESPACE}\", job=\"{CONSUMER}\""),
        "keda_namespace": KEDA_NAMESPACE,
        "replicas_max": scaling.replicas_max, "replicas_fallback": scaling.replicas_fallback,
        "lag_threshold": scaling.lag_threshold, "rate": rate,
        "drain_seconds": level.backlog_drain_seconds.to_string(),
        "lag_seconds_max": (level.backlog_drain_seconds * LAG_ALERT_FACTOR).to_string(),
        "retry_budget_seconds": RETRY_BUDGET_SECONDS.to_string(),
        "drain_timeout_seconds": drain_timeout_seconds.to_string(),
    });
    let dashboard = fill(include_str!("../../../../templates/dashboards/msk-keda.json.hbs"), &data)?;
    let config_map = json!({
        "name": DASHBOARD, "namespace": NAMESPACE, "lines": dashboard.lines().collect::<Vec<_>>(),
    });
    let manifest = |name: &str, template: &str, data: &Json, after: &[&str]| {
        Ok::<_, RenderError>(ClusterManifest {
            name: name.to_owned(),
            manifest: fill(template, data)?,
            values: BTreeMap::new(),
            after: after.iter().map(|name| (*name).to_owned()).collect(),
        })
    };
    // The workloads bring their namespace.
    let scaling = manifest(
        "trade-scaling",
        include_str!("../../../../templates/kubernetes/scaling.yaml.hbs"),
        &data,
        &[CONSUMER, KEDA],
    )?;
    app.cluster_manifest(ClusterManifest {
        values: BTreeMap::from([("kafka_bootstrap_servers".to_owned(), bootstrap_servers)]),
        ..scaling
    });
    for (name, template, data, after) in [
        (
            "trade-monitors",
            include_str!("../../../../templates/kubernetes/monitors.yaml.hbs"),
            &data,
            [CONSUMER, PRODUCER, PROMETHEUS].as_slice(),
        ),
        (
            "trade-rules",
            include_str!("../../../../templates/kubernetes/rules.yaml.hbs"),
            &data,
            &[CONSUMER, PROMETHEUS],
        ),
        (
            "trade-dashboard",
            include_str!("../../../../templates/kubernetes/dashboard.yaml.hbs"),
            &config_map,
            &[CONSUMER, PROMETHEUS],
        ),
    ] {
        app.cluster_manifest(manifest(name, template, data, after)?);
    }
    app.dashboard(&format!("{DASHBOARD}.json"), dashboard);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_backlog_is_what_a_consumer_does_in_the_stated_time() {
        let scaling = Scaling::of(7, 30, 3, 199, 30.0, 200);
        assert_eq!(scaling, Scaling { replicas_max: 7, replicas_fallback: 3, lag_threshold: 5970 });
    }

    #[test]
    fn more_consumers_than_partitions_are_not_asked_for() {
        assert_eq!(Scaling::of(30, 24, 1, 99, 30.0, 100).replicas_max, 24);
        assert_eq!(Scaling::of(2, 24, 5, 99, 30.0, 100).replicas_fallback, 2);
    }

    /// One record a second for a second would be a share of one: any batch in hand would call for help.
    #[test]
    fn what_a_consumer_has_in_hand_calls_for_no_other() {
        assert_eq!(Scaling::of(2, 24, 1, 1, 1.0, 100).lag_threshold, 200);
    }
}
