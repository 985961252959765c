//! The Prometheus operator's custom resources, of the chart that [`crate::add_ons`] installs: the fields that this project
//! uses, as <https://prometheus-operator.dev/docs/api-reference/api/> has them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

use super::{CustomResource, SYSTEM_LABEL, Specification, metadata, pods_of};

/// Which pods are scraped.
pub type ServiceMonitor = CustomResource<ServiceMonitorSpec>;

/// Which addresses are scraped.
pub type ScrapeConfig = CustomResource<ScrapeConfigSpec>;

/// What is recorded and alerted by.
pub type PrometheusRule = CustomResource<PrometheusRuleSpec>;

impl Specification for ServiceMonitorSpec {
    const API_VERSION: &'static str = "monitoring.coreos.com/v1";
    const KIND: &'static str = "ServiceMonitor";
}

impl Specification for ScrapeConfigSpec {
    const API_VERSION: &'static str = "monitoring.coreos.com/v1alpha1";
    const KIND: &'static str = "ScrapeConfig";
}

impl Specification for PrometheusRuleSpec {
    const API_VERSION: &'static str = "monitoring.coreos.com/v1";
    const KIND: &'static str = "PrometheusRule";
}

/// What a ServiceMonitor specifies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceMonitorSpec {
    /// The Services.
    pub selector: LabelSelector,
    /// Their ports.
    pub endpoints: Vec<Endpoint>,
}

/// A port that is scraped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Its name.
    pub port: String,
    /// The path.
    pub path: String,
    /// How often, such as `30s`.
    pub interval: String,
    /// How long an answer is waited for.
    pub scrape_timeout: String,
}

/// The monitor of a worker's metrics, every half a minute.
pub(crate) fn monitor(worker: &str, namespace: &str, system: &str) -> ServiceMonitor {
    ServiceMonitor {
        metadata: metadata(worker, Some(namespace), [(SYSTEM_LABEL, system)]),
        spec: ServiceMonitorSpec {
            selector: pods_of(worker),
            endpoints: vec![Endpoint {
                port: "metrics".to_owned(),
                path: "/metrics".to_owned(),
                interval: "30s".to_owned(),
                scrape_timeout: "10s".to_owned(),
            }],
        },
    }
}

/// What a ScrapeConfig specifies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScrapeConfigSpec {
    /// How often.
    pub scrape_interval: String,
    /// How long an answer is waited for.
    pub scrape_timeout: String,
    /// The path.
    pub metrics_path: String,
    /// The addresses.
    pub static_configs: Vec<StaticConfig>,
    /// What becomes of the series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric_relabelings: Option<Vec<Relabeling>>,
}

/// Addresses with labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticConfig {
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// Host and port of each.
    pub targets: Vec<String>,
}

/// What becomes of a series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Relabeling {
    /// The labels whose values are looked at.
    pub source_labels: Vec<String>,
    /// What they have to be.
    pub regex: String,
    /// What is done then.
    pub action: RelabelAction,
}

/// What is done with a series whose labels match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelabelAction {
    /// It alone is kept.
    Keep,
    /// It is dropped.
    Drop,
}

/// What a PrometheusRule specifies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrometheusRuleSpec {
    /// Groups, each evaluated in order.
    pub groups: Vec<RuleGroup>,
}

/// Rules that are evaluated together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleGroup {
    /// The group's name.
    pub name: String,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// A rule that records a series, or alerts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// The series that it records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// The alert's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<String>,
    /// The expression.
    pub expr: String,
    /// How long it has to hold before the alert fires.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasting: Option<String>,
    /// Labels that are added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// What the alert tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}
