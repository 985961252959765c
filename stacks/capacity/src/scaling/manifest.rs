//! A ScaledObject as it is applied to a cluster, read into what is simulated: the very manifest is tried, not a
//! copy of its numbers.

use std::{collections::BTreeMap, str::FromStr};

use serde::Deserialize;

use super::{
    hpa::{Behavior, Policy, Rules, SelectPolicy},
    keda::{KafkaTrigger, OffsetResetPolicy},
    rate::RateTarget,
    scaled_object::{Annotations, Fallback, FallbackBehavior, ScaledObject},
    stepper::{Scaling, Target},
};
use crate::figure::CapacityError;

/// The prefix of KEDA's annotations.
const ANNOTATION: &str = "autoscaling.keda.sh/";

/// The parts of a ScaledObject that move the replicas; what else it holds is left alone.
#[derive(Clone, Debug, Deserialize)]
pub struct ScaledObjectManifest {
    #[serde(default)]
    metadata: Metadata,
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    scale_target_ref: ScaleTarget,
    polling_interval: Option<u32>,
    cooldown_period: Option<u32>,
    initial_cooldown_period: Option<u32>,
    idle_replica_count: Option<u32>,
    min_replica_count: Option<u32>,
    max_replica_count: Option<u32>,
    fallback: Option<FallbackSpec>,
    #[serde(default)]
    advanced: Advanced,
    triggers: Vec<Trigger>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct ScaleTarget {
    #[serde(default)]
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FallbackSpec {
    failure_threshold: u32,
    replicas: u32,
    behavior: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Advanced {
    #[serde(default)]
    horizontal_pod_autoscaler_config: AutoscalerConfig,
    scaling_modifiers: Option<ScalingModifiers>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct AutoscalerConfig {
    #[serde(default)]
    behavior: BehaviorSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BehaviorSpec {
    scale_up: Option<RulesSpec>,
    scale_down: Option<RulesSpec>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RulesSpec {
    stabilization_window_seconds: Option<u32>,
    select_policy: Option<SelectPolicy>,
    policies: Option<Vec<Policy>>,
    tolerance: Option<Quantity>,
}

/// A number of Kubernetes: `0.1`, `"0.1"` or `"100m"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Quantity {
    Number(f64),
    Text(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScalingModifiers {
    formula: String,
    target: String,
    metric_type: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trigger {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
    metric_type: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// Whose replicas move, and where the figures come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The Deployment.
    pub workload: String,
    /// The brokers, `host:port` with commas between.
    pub bootstrap_servers: String,
    /// The topic.
    pub topic: String,
    /// The consumer group.
    pub consumer_group: String,
    /// The window of the second trigger's query, in seconds; nothing where there is no such trigger.
    pub rate_window_seconds: Option<u32>,
}

fn refused(why: impl std::fmt::Display) -> CapacityError {
    CapacityError::new(format!("the ScaledObject cannot be simulated: {why}"))
}

impl Quantity {
    fn value(&self) -> Result<f64, CapacityError> {
        match self {
            Self::Number(value) => Ok(*value),
            Self::Text(text) => match text.strip_suffix('m') {
                Some(thousandths) => thousandths.parse::<f64>().map(|value| value / 1000.0),
                None => text.parse::<f64>(),
            }
            .map_err(|_| refused(format!("tolerance: `{text}` is not a number such as 0.1 or 100m"))),
        }
    }
}

impl RulesSpec {
    /// Kubernetes fills in by direction what is not there.
    fn over(&self, mut rules: Rules) -> Result<Rules, CapacityError> {
        rules.stabilization_window_seconds =
            self.stabilization_window_seconds.unwrap_or(rules.stabilization_window_seconds);
        rules.select_policy = self.select_policy.unwrap_or(rules.select_policy);
        if let Some(policies) = &self.policies {
            rules.policies.clone_from(policies);
        }
        if let Some(tolerance) = &self.tolerance {
            rules.tolerance = tolerance.value()?;
        }
        Ok(rules)
    }
}

/// The value of a key, or the default where it is not there.
fn read<T: FromStr>(metadata: &BTreeMap<String, String>, key: &str, default: T) -> Result<T, CapacityError> {
    match metadata.get(key) {
        Some(text) => text.trim().parse().map_err(|_| refused(format!("{key}: `{text}`"))),
        None => Ok(default),
    }
}

/// The range of a query such as `sum(rate(x[2m]))`, in seconds.
fn range_seconds(query: &str) -> Result<u32, CapacityError> {
    let unknown = || refused(format!("query: `{query}` has no range such as [30s] or [2m]"));
    let range = query.split_once('[').and_then(|(_, rest)| rest.split_once(']')).ok_or_else(unknown)?.0;
    let (number, factor) = match (range.strip_suffix('s'), range.strip_suffix('m')) {
        (Some(seconds), _) => (seconds, 1),
        (None, Some(minutes)) => (minutes, 60),
        (None, None) => return Err(unknown()),
    };
    let number: Option<u32> = number.parse().ok().filter(|number| (1..=3600).contains(number));
    number.map(|number| number * factor).ok_or_else(unknown)
}

impl Trigger {
    fn kafka(&self) -> Result<KafkaTrigger, CapacityError> {
        let metadata = &self.metadata;
        let flag = |key| read(metadata, key, false);
        let default = KafkaTrigger::default();
        Ok(KafkaTrigger {
            lag_threshold: read(metadata, "lagThreshold", default.lag_threshold)?,
            activation_lag_threshold: read(metadata, "activationLagThreshold", 0)?,
            offset_reset_policy: match metadata.get("offsetResetPolicy").map(String::as_str) {
                None | Some("latest") => OffsetResetPolicy::Latest,
                Some("earliest") => OffsetResetPolicy::Earliest,
                Some(other) => return Err(refused(format!("offsetResetPolicy: `{other}`"))),
            },
            allow_idle_consumers: flag("allowIdleConsumers")?,
            exclude_persistent_lag: flag("excludePersistentLag")?,
            scale_to_zero_on_invalid_offset: flag("scaleToZeroOnInvalidOffset")?,
            limit_to_partitions_with_lag: flag("limitToPartitionsWithLag")?,
            ensure_even_distribution_of_partitions: flag("ensureEvenDistributionOfPartitions")?,
            partition_limitation: metadata.get("partitionLimitation").cloned(),
        })
    }
}

/// Only the metric type is understood that the arithmetic is about.
fn averages(metric_type: Option<&String>) -> Result<(), CapacityError> {
    match metric_type.map(String::as_str) {
        None | Some("AverageValue") => Ok(()),
        Some(other) => Err(refused(format!("metricType `{other}`; only AverageValue is understood"))),
    }
}

impl Spec {
    fn target(&self, kafka: &Trigger) -> Result<Target, CapacityError> {
        let others: Vec<&Trigger> = self.triggers.iter().filter(|trigger| trigger.kind != "kafka").collect();
        let Some(modifiers) = &self.advanced.scaling_modifiers else {
            return match others.first() {
                None => Ok(Target::Lag),
                Some(other) => Err(refused(format!(
                    "beside the Kafka trigger there is one of type {} without a formula over both",
                    other.kind
                ))),
            };
        };
        averages(modifiers.metric_type.as_ref())?;
        let unknown = || {
            refused(format!(
                "formula: `{}`; only RATE + {} / SECONDS is understood, RATE being the other trigger",
                modifiers.formula,
                if kafka.name.is_empty() { "LAG" } else { &kafka.name }
            ))
        };
        let (rate, drain) = modifiers.formula.split_once('+').ok_or_else(unknown)?;
        let (lag, seconds) = drain.split_once('/').ok_or_else(unknown)?;
        if lag.trim() != kafka.name || !others.iter().any(|trigger| trigger.name == rate.trim()) {
            return Err(unknown());
        }
        let drain_seconds = seconds.trim().parse().ok().filter(|seconds| *seconds > 0).ok_or_else(unknown)?;
        let target = modifiers.target.trim().parse().ok().filter(|target| *target > 0);
        let messages_per_second_per_replica = target.ok_or_else(|| {
            refused(format!("target: `{}` is not a whole number above 0", modifiers.target))
        })?;
        Ok(Target::Rate(RateTarget { messages_per_second_per_replica, drain_seconds }))
    }
}

impl ScaledObjectManifest {
    /// The settings to simulate.
    ///
    /// # Errors
    ///
    /// For what is not understood, with its key. What KEDA itself refuses is refused when it is stepped.
    pub fn scaling(&self) -> Result<Scaling, CapacityError> {
        let spec = &self.spec;
        let mut kafkas = spec.triggers.iter().filter(|trigger| trigger.kind == "kafka");
        let (Some(kafka), None) = (kafkas.next(), kafkas.next()) else {
            return Err(refused("it has not just one trigger of type kafka"));
        };
        averages(kafka.metric_type.as_ref())?;
        let default = ScaledObject::default();
        let fallback = spec.fallback.as_ref().map(|fallback| {
            let behavior = match fallback.behavior.as_deref() {
                None | Some("static") => FallbackBehavior::Static,
                Some("currentReplicas") => FallbackBehavior::CurrentReplicas,
                Some("currentReplicasIfHigher") => FallbackBehavior::CurrentReplicasIfHigher,
                Some("currentReplicasIfLower") => FallbackBehavior::CurrentReplicasIfLower,
                Some(other) => return Err(refused(format!("fallback.behavior: `{other}`"))),
            };
            let FallbackSpec { failure_threshold, replicas, .. } = *fallback;
            Ok(Fallback { failure_threshold, replicas, behavior })
        });
        let mut behavior = Behavior::default();
        let given = &spec.advanced.horizontal_pod_autoscaler_config.behavior;
        if let Some(rules) = &given.scale_up {
            behavior.scale_up = rules.over(behavior.scale_up)?;
        }
        if let Some(rules) = &given.scale_down {
            behavior.scale_down = rules.over(behavior.scale_down)?;
        }
        Ok(Scaling {
            object: ScaledObject {
                polling_interval_seconds: spec.polling_interval.unwrap_or(default.polling_interval_seconds),
                cooldown_period_seconds: spec.cooldown_period.unwrap_or(default.cooldown_period_seconds),
                initial_cooldown_period_seconds: spec.initial_cooldown_period.unwrap_or(0),
                idle_replica_count: spec.idle_replica_count,
                min_replica_count: spec.min_replica_count.unwrap_or(default.min_replica_count),
                max_replica_count: spec.max_replica_count.unwrap_or(default.max_replica_count),
                fallback: fallback.transpose()?,
                annotations: self.annotations()?,
                behavior,
            },
            trigger: kafka.kafka()?,
            target: spec.target(kafka)?,
        })
    }

    /// Whose replicas move, and where the figures come from.
    ///
    /// # Errors
    ///
    /// For what is missing, with its key.
    pub fn source(&self) -> Result<Source, CapacityError> {
        let spec = &self.spec;
        let kafka = spec.triggers.iter().find(|trigger| trigger.kind == "kafka");
        let text = |key: &str| {
            let found = kafka.and_then(|kafka| kafka.metadata.get(key)).filter(|text| !text.is_empty());
            found.cloned().ok_or_else(|| refused(format!("the Kafka trigger has no {key}")))
        };
        if spec.scale_target_ref.name.is_empty() {
            return Err(refused("scaleTargetRef.name is missing"));
        }
        let query = spec.triggers.iter().find_map(|trigger| trigger.metadata.get("query"));
        Ok(Source {
            workload: spec.scale_target_ref.name.clone(),
            bootstrap_servers: text("bootstrapServers")?,
            topic: text("topic")?,
            consumer_group: text("consumerGroup")?,
            rate_window_seconds: query.map(|query| range_seconds(query)).transpose()?,
        })
    }

    fn annotations(&self) -> Result<Annotations, CapacityError> {
        let annotations = &self.metadata.annotations;
        let flag = |name: &str| read(annotations, &format!("{ANNOTATION}{name}"), false);
        let replicas = annotations.get(&format!("{ANNOTATION}paused-replicas"));
        let paused_replicas = replicas
            .map(|text| text.parse().map_err(|_| refused(format!("{ANNOTATION}paused-replicas: `{text}`"))));
        Ok(Annotations {
            paused: flag("paused")?,
            paused_replicas: paused_replicas.transpose()?,
            paused_scale_in: flag("paused-scale-in")?,
            paused_scale_out: flag("paused-scale-out")?,
            force_activation: flag("force-activation")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::published;

    fn scaling(yaml: &str) -> Result<Scaling, CapacityError> {
        serde_yaml_ng::from_str::<ScaledObjectManifest>(yaml).unwrap().scaling()
    }

    const PUBLISHED: &str = r#"
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: trade-tx-consumer-scaler
spec:
  scaleTargetRef: {name: trade-tx-consumer}
  minReplicaCount: 0
  maxReplicaCount: 100
  pollingInterval: 30
  cooldownPeriod: 300
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp:
          tolerance: "100m"
          stabilizationWindowSeconds: 60
          selectPolicy: Min
          policies:
            - {type: Pods, value: 10, periodSeconds: 60}
            - {type: Percent, value: 500, periodSeconds: 60}
        scaleDown:
          tolerance: 0.1
          stabilizationWindowSeconds: 120
          policies:
            - {type: Percent, value: 50, periodSeconds: 120}
  triggers:
    - type: kafka
      metricType: AverageValue
      metadata: {topic: trade-tx, lagThreshold: "10000", sasl: oauthbearer}
"#;

    #[test]
    fn the_published_manifest_is_the_published_setting() {
        assert_eq!(scaling(PUBLISHED).unwrap(), published());
    }

    #[test]
    fn what_is_not_said_is_kubernetes_default() {
        let short = scaling("spec: {triggers: [{type: kafka, metadata: {}}]}").unwrap();
        assert_eq!((short.object, short.trigger), (ScaledObject::default(), KafkaTrigger::default()));
        let half = "spec: {advanced: {horizontalPodAutoscalerConfig: {behavior: {scaleDown: {selectPolicy: Disabled}}}}, \
                    triggers: [{type: kafka}]}";
        let rules = scaling(half).unwrap().object.behavior.scale_down;
        assert_eq!((rules.select_policy, rules.stabilization_window_seconds), (SelectPolicy::Disabled, 300));
    }

    #[test]
    fn the_formula_that_we_give_is_read_back() {
        let target = RateTarget { messages_per_second_per_replica: 90, drain_seconds: 30 };
        let text = format!(
            "spec:
  minReplicaCount: 2
  advanced:
    scalingModifiers: {{formula: {}, target: \"90\", metricType: AverageValue}}
  triggers:
    - {{type: kafka, name: lag, metadata: {{allowIdleConsumers: \"true\"}}}}
    - {{type: prometheus, name: arrival_rate, metadata: {{query: \"sum(rate(x[1m]))\"}}}}
",
            target.formula()
        );
        let read = scaling(&text).unwrap();
        assert_eq!(read.target, Target::Rate(target));
        assert!(read.trigger.allow_idle_consumers && read.object.min_replica_count == 2);
    }

    #[test]
    fn whose_replicas_move_and_by_what_is_read() {
        let source = |text: &str| serde_yaml_ng::from_str::<ScaledObjectManifest>(text).unwrap().source();
        let kafka = "{type: kafka, metadata: {bootstrapServers: 'b:9092', topic: t, consumerGroup: g}}";
        let with = |more: &str| format!("spec: {{scaleTargetRef: {{name: w}}, triggers: [{kafka}{more}]}}");
        let read = source(&with("")).unwrap();
        assert_eq!((read.workload.as_str(), read.topic.as_str(), read.rate_window_seconds), ("w", "t", None));
        let window =
            |query: &str| source(&with(&format!(", {{type: prometheus, metadata: {{query: '{query}'}}}}")));
        assert_eq!(window("sum(rate(x[10s]))").unwrap().rate_window_seconds, Some(10));
        assert_eq!(window("sum(rate(x[3m]))").unwrap().rate_window_seconds, Some(180));
        for wrong in ["sum(x)", "rate(x[1d])", "rate(x[0s])", "rate(x[99999999m])"] {
            assert!(window(wrong).unwrap_err().message.contains(wrong), "{wrong}");
        }
        assert!(source(PUBLISHED).unwrap_err().message.contains("bootstrapServers"));
        assert!(source("spec: {triggers: []}").unwrap_err().message.contains("scaleTargetRef"));
    }

    #[test]
    fn annotations_and_fallbacks_are_read() {
        let read = scaling(
            "metadata: {annotations: {autoscaling.keda.sh/paused-replicas: \"4\", autoscaling.keda.sh/paused-scale-in: \"true\"}}\n\
             spec: {fallback: {failureThreshold: 3, replicas: 6, behavior: currentReplicasIfHigher}, triggers: [{type: kafka}]}",
        )
        .unwrap();
        assert_eq!(read.object.annotations.paused_replicas, Some(4));
        assert!(read.object.annotations.paused_scale_in);
        assert_eq!(read.object.fallback.unwrap().replicas(9), 9);
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_key() {
        let told = |yaml: &str| scaling(yaml).unwrap_err().message;
        assert!(told("spec: {triggers: []}").contains("type kafka"));
        assert!(told("spec: {triggers: [{type: kafka}, {type: cron}]}").contains("cron"));
        assert!(told("spec: {triggers: [{type: kafka, metricType: Value}]}").contains("Value"));
        let metadata =
            |text: &str| told(&format!("spec: {{triggers: [{{type: kafka, metadata: {{{text}}}}}]}}"));
        assert!(metadata("lagThreshold: ten").contains("lagThreshold"));
        assert!(metadata("offsetResetPolicy: never").contains("never"));
        let formula = "spec: {advanced: {scalingModifiers: {formula: 'lag * 2', target: '9'}}, triggers: [{type: kafka, name: lag}]}";
        assert!(told(formula).contains("lag * 2"));
    }
}
