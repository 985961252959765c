//! What a Kubernetes cluster on AWS gets before its workloads: what scales them and what watches them.

use std::collections::BTreeMap;

use cfn::{App, ClusterManifest, DeployValue, HelmRelease, Lookup};
use constructs::{kafka::EXPORTER_PORTS, network::as_text};
use k8s_openapi::api::{
    core::v1::{TopologySelectorLabelRequirement, TopologySelectorTerm},
    storage::v1::StorageClass,
};
use serde_json::json;

use crate::{
    RenderError,
    kafka::Kafka,
    kubernetes::{
        Manifest, metadata, pairs,
        prometheus_operator::{RelabelAction, Relabeling, ScrapeConfig, ScrapeConfigSpec, StaticConfig},
    },
    sizes::Sizes,
    template::fill,
};

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
    app.cluster_manifest(ClusterManifest {
        name: "storage-class".to_owned(),
        manifest: Manifest::default().with(&storage_class())?.text(),
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
    let exporters = Manifest::default()
        .with(&exporter("kafka-jmx", &brokers, jmx, Some(JMX_SERIES)))?
        .with(&exporter("kafka-node", &brokers, node, None))?;
    app.cluster_manifest(ClusterManifest {
        name: "kafka-exporters".to_owned(),
        manifest: exporters.text(),
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

/// EKS Auto Mode brings the provisioner and no class. This one is not the default: who wants a volume names it.
fn storage_class() -> StorageClass {
    StorageClass {
        metadata: metadata(STORAGE_CLASS, None, []),
        provisioner: "ebs.csi.eks.amazonaws.com".to_owned(),
        parameters: Some(pairs([("type", "gp3"), ("encrypted", "true")])),
        // The zone is the pod's.
        volume_binding_mode: Some("WaitForFirstConsumer".to_owned()),
        allowed_topologies: Some(vec![TopologySelectorTerm {
            match_label_expressions: Some(vec![TopologySelectorLabelRequirement {
                key: "eks.amazonaws.com/compute-type".to_owned(),
                values: vec!["auto".to_owned()],
            }]),
        }]),
        reclaim_policy: Some("Delete".to_owned()),
        allow_volume_expansion: Some(true),
        ..StorageClass::default()
    }
}

/// An exporter that MSK runs on each broker. Their host names are known once the cluster is there.
fn exporter(name: &str, brokers: &[(String, u32)], port: i64, keep: Option<&str>) -> ScrapeConfig {
    ScrapeConfig {
        metadata: metadata(name, Some(MONITORING_NAMESPACE), []),
        spec: ScrapeConfigSpec {
            scrape_interval: "60s".to_owned(),
            scrape_timeout: "30s".to_owned(),
            metrics_path: "/metrics".to_owned(),
            static_configs: vec![StaticConfig {
                labels: pairs([("job", name)]),
                targets: brokers.iter().map(|(broker, _)| format!("${{{{ {broker} }}}}:{port}")).collect(),
            }],
            // An exporter tells tens of thousands of series, a few for every partition of every topic.
            metric_relabelings: keep.map(|series| {
                vec![Relabeling {
                    source_labels: vec!["__name__".to_owned()],
                    regex: series.to_owned(),
                    action: RelabelAction::Keep,
                }]
            }),
        },
    }
}
