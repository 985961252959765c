//! KEDA's custom resources, of the version that [`crate::add_ons`] installs: the fields of `keda.sh/v1alpha1` that this
//! project uses, as <https://keda.sh/docs/2.18/reference/scaledobject-spec/> has them.

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerBehavior;
use serde::{Deserialize, Serialize};

use super::{CustomResource, Specification};

const API_VERSION: &str = "keda.sh/v1alpha1";

/// How a workload is scaled.
pub type ScaledObject = CustomResource<ScaledObjectSpec>;

/// How a trigger signs in.
pub type TriggerAuthentication = CustomResource<TriggerAuthenticationSpec>;

impl Specification for ScaledObjectSpec {
    const API_VERSION: &'static str = API_VERSION;
    const KIND: &'static str = "ScaledObject";
}

impl Specification for TriggerAuthenticationSpec {
    const API_VERSION: &'static str = API_VERSION;
    const KIND: &'static str = "TriggerAuthentication";
}

/// What a ScaledObject specifies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScaledObjectSpec {
    /// What is scaled.
    pub scale_target_ref: ScaleTargetRef,
    /// Seconds between questions of the operator.
    pub polling_interval: u32,
    /// Seconds between the last activity and the step to none.
    pub cooldown_period: u32,
    /// The same from the creation on, where there was no activity yet.
    pub initial_cooldown_period: u32,
    /// Replicas, at least.
    pub min_replica_count: u32,
    /// Replicas, at most.
    pub max_replica_count: u32,
    /// What to do while a trigger cannot be read.
    pub fallback: Fallback,
    /// The autoscaler's behaviour, and what triggers are made into.
    pub advanced: Advanced,
    /// What is followed.
    pub triggers: Vec<Trigger>,
}

/// A Deployment of the same namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScaleTargetRef {
    /// Its name.
    pub name: String,
}

/// What to do while a trigger cannot be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fallback {
    /// Failures in a row that are borne.
    pub failure_threshold: u32,
    /// Replicas meanwhile.
    pub replicas: u32,
    /// Whether those that there are count as well.
    pub behavior: FallbackBehavior,
}

/// What the replicas are while a trigger cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FallbackBehavior {
    /// Those of the fallback.
    Static,
    /// Those that there are.
    CurrentReplicas,
    /// The larger of both.
    CurrentReplicasIfHigher,
    /// The smaller of both.
    CurrentReplicasIfLower,
}

/// The autoscaler's behaviour, and what triggers are made into.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Advanced {
    /// The autoscaler that KEDA makes.
    pub horizontal_pod_autoscaler_config: AutoscalerConfig,
    /// One metric made of all triggers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling_modifiers: Option<ScalingModifiers>,
}

/// The autoscaler that KEDA makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AutoscalerConfig {
    /// Its name.
    pub name: String,
    /// How fast it goes, in either direction.
    pub behavior: HorizontalPodAutoscalerBehavior,
}

/// One metric made of all triggers. KEDA takes its numbers as text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScalingModifiers {
    /// By the triggers' names.
    pub formula: String,
    /// What of it is a replica's share.
    pub target: String,
    /// Above it, there is work.
    pub activation_target: String,
    /// How the target is meant.
    pub metric_type: MetricType,
}

/// How a target is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetricType {
    /// Over all replicas.
    AverageValue,
    /// As it is.
    Value,
}

/// Something that is followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trigger {
    /// The kind.
    #[serde(rename = "type")]
    pub kind: TriggerType,
    /// Its name in the formula.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How its threshold is meant.
    pub metric_type: MetricType,
    /// The kind's own settings, all of them text.
    pub metadata: BTreeMap<String, String>,
    /// How it signs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication_ref: Option<AuthenticationRef>,
}

/// The kinds of triggers that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TriggerType {
    /// The lag of a consumer group.
    Kafka,
    /// A query.
    Prometheus,
}

/// A TriggerAuthentication of the same namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthenticationRef {
    /// Its name.
    pub name: String,
}

/// What a TriggerAuthentication specifies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TriggerAuthenticationSpec {
    /// Whose identity is taken.
    pub pod_identity: PodIdentity,
}

/// The identity of a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodIdentity {
    /// Who gives it, such as `aws`.
    pub provider: String,
    /// Whose it is.
    pub identity_owner: IdentityOwner,
}

/// Whose identity is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityOwner {
    /// KEDA's operator's.
    Keda,
    /// The workload's.
    Workload,
}
