//! What a Kubernetes cluster on AWS gets before its workloads: what scales them and what watches them.

use std::collections::BTreeMap;

use cfn::{App, ClusterManifest, DeployValue, HelmRelease, Lookup};
use constructs::{kafka::EXPORTER_PORTS, network::as_text};
use serde_json::json;

use crate::{RenderError, kafka::Kafka, sizes::Sizes, template::fill};

/// The release of Prometheus, whose kinds (ServiceMonitor, PrometheusRule...) the manifests of monitoring use.
pub const PROMETHEUS: &str = "kube-prometheus-stack";

/// The release of KEDA, whose kinds the manifests of scaling use.
pub const KEDA: &str = "keda";

/// KEDA's namespace, to which the pod identity of its operator is bound.
pub const KEDA_NAMESPACE: &str = "keda";

/// KEDA's service account.
pub const KEDA_SERVICE_ACCOUNT: &str = "keda-operator";

/// The namespace of Prometheus and Grafana.
pub const MONITORING_NAMESPACE: &str = "monitoring";

/// The class of encrypted volumes.
const STORAGE_CLASS: &str = "encrypted-gp3";

/// The secret with Grafana's first user: `admin-user` and `admin-password`.
const GRAFANA_SECRET: &str = "grafana-admin";

/// Prometheus' volume, in GiB.
const VOLUME_GIB: u64 = 50;

/// How much of it series may take, in GiB: a fifth is left for compaction.
const RETENTION_GIB: u64 = 40;

/// Days that series are kept where they fit.
const RETENTION_DAYS: u64 = 15;

/// What is kept of the JMX exporter: traffic and lag by topic, and the health of replication.
const JMX_SERIES: &str = "kafka_server_BrokerTopicMetrics_Count|kafka_consumer_group_ConsumerLagMetrics_Value|\
    kafka_server_ReplicaManager_Value|kafka_controller_KafkaController_Value";

/// Adds storage, Prometheus, KEDA and the scraping of the brokers.
///
/// # Errors
///
/// When a template is wrong.
pub(crate) fn add(app: &mut App, sizes: &Sizes, kafka: &Kafka) -> Result<(), RenderError> {
    let storage = json!({ "storage_class": STORAGE_CLASS });
    app.cluster_manifest(ClusterManifest {
        name: "storage-class".to_owned(),
        manifest: fill(include_str!("../../../templates/kubernetes/storage-class.yaml.hbs"), &storage)?,
        values: BTreeMap::new(),
        after: Vec::new(),
    });
    let prometheus = json!({
        "storage_class": STORAGE_CLASS, "volume_gib": VOLUME_GIB, "retention_gib": RETENTION_GIB,
        "retention_days": RETENTION_DAYS, "grafana_secret": GRAFANA_SECRET,
    });
    app.helm_release(HelmRelease {
        name: PROMETHEUS.to_owned(),
        chart: "prometheus-community/kube-prometheus-stack".to_owned(),
        version: "65.1.1".to_owned(),
        namespace: MONITORING_NAMESPACE.to_owned(),
        values: fill(
            include_str!("../../../templates/kubernetes/helm/kube-prometheus-stack.yaml.hbs"),
            &prometheus,
        )?,
        after: vec!["storage-class".to_owned()],
    });
    app.helm_release(HelmRelease {
        name: KEDA.to_owned(),
        chart: "kedacore/keda".to_owned(),
        version: "2.18.1".to_owned(),
        namespace: KEDA_NAMESPACE.to_owned(),
        values: fill(include_str!("../../../templates/kubernetes/helm/keda.yaml.hbs"), &json!({}))?,
        // It has monitors of its own.
        after: vec![PROMETHEUS.to_owned()],
    });
    let brokers: Vec<(String, u32)> = (1..=sizes.kafka("brokers"))
        .filter_map(|broker| u32::try_from(broker).ok())
        .map(|broker| (format!("kafka_broker_{broker}"), broker))
        .collect();
    let [jmx, node] = EXPORTER_PORTS;
    let exporters = json!({
        "namespace": MONITORING_NAMESPACE,
        "brokers": brokers.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "exporters": [
            { "name": "kafka-jmx", "port": jmx, "keep": JMX_SERIES },
            { "name": "kafka-node", "port": node, "keep": null },
        ],
    });
    app.cluster_manifest(ClusterManifest {
        name: "kafka-exporters".to_owned(),
        manifest: fill(include_str!("../../../templates/kubernetes/kafka-exporters.yaml.hbs"), &exporters)?,
        values: brokers
            .into_iter()
            .map(|(name, broker)| {
                let cluster_arn = as_text(&kafka.cluster.arn());
                (name, DeployValue::Lookup(Lookup::MskBrokerHost { cluster_arn, broker }))
            })
            .collect(),
        after: vec![PROMETHEUS.to_owned()],
    });
    Ok(())
}
