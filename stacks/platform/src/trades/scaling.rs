//! What scales the trades' consumers: a ScaledObject, the same in a cluster and on one machine, where the local
//! environment does by it what KEDA and the autoscaler would.

use std::collections::BTreeMap;

use capacity::scaling::rate::RateTarget;
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};

use super::{CONSUMER, CONSUMER_GROUP, NAMESPACE, SYSTEM};
use crate::{
    RenderError,
    add_ons::{MONITORING_NAMESPACE, PROMETHEUS},
    environment::{Environment, Provider, ScalingTarget, TradesScaling},
    kafka::TRADES_TOPIC,
    kubernetes::{
        Manifest, SYSTEM_LABEL,
        keda::{
            Advanced, AuthenticationRef, AutoscalerConfig, Fallback, FallbackBehavior, IdentityOwner,
            MetricType, PodIdentity, ScaleTargetRef, ScaledObject, ScaledObjectSpec, ScalingModifiers,
            Trigger, TriggerAuthentication, TriggerAuthenticationSpec, TriggerType,
        },
        metadata, pairs,
    },
    sizes::Sizes,
};

/// Failures to read the lag that are borne before the fallback.
const FAILURES_BORNE: u32 = 3;

/// What scales the consumer, by the environment's service level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scaling {
    /// Consumers, at most: more than partitions would be idle.
    pub(super) replicas_max: u64,
    /// Consumers while the lag cannot be read.
    pub(super) replicas_fallback: u64,
    /// Records of the backlog that are a consumer's share.
    lag_threshold: u64,
}

impl Scaling {
    /// By an environment's sizes.
    pub(super) fn of(environment: &Environment, sizes: &Sizes) -> Self {
        let level = &environment.trades;
        Self::from_sizes(
            sizes.trades("consumers"),
            sizes.trades("partitions"),
            u64::from(level.consumers_min),
            sizes.trades("messages_per_second_per_consumer"),
            level.backlog_drain_seconds,
            u64::from(level.batch_size) * u64::from(level.batches_in_flight),
        )
    }

    /// From derived sizes. `rate` is what a consumer does, in records per second; `in_flight` what it has in
    /// hand, which the lag counts until it is committed: a share below twice that would call for another
    /// consumer whenever one works.
    fn from_sizes(
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

    /// The manifest.
    ///
    /// # Errors
    ///
    /// When a consumer carries less than one record per second.
    pub(super) fn manifest(&self, environment: &Environment, sizes: &Sizes) -> Result<Manifest, RenderError> {
        let level = &environment.trades;
        let by_rate = match level.scaling.target {
            ScalingTarget::Lag => None,
            ScalingTarget::Rate => {
                let rate = sizes.trades("messages_per_second_per_consumer");
                let drain_seconds = level.backlog_drain_seconds as u32;
                let target = RateTarget::new(rate as f64, level.safety_factor, drain_seconds);
                Some(target.map_err(|source| RenderError::Capacity {
                    environment: environment.name.clone(),
                    source,
                })?)
            }
        };
        let iam = environment.provider == Provider::Aws;
        let mut triggers =
            vec![self.lag_trigger(by_rate.is_some(), iam.then_some(environment.region.as_str()))];
        triggers.extend(by_rate.as_ref().map(|target| rate_trigger(target, &level.scaling)));
        let scaled_object = ScaledObject {
            metadata: metadata(CONSUMER, Some(NAMESPACE), [(SYSTEM_LABEL, SYSTEM)]),
            spec: ScaledObjectSpec {
                scale_target_ref: ScaleTargetRef { name: CONSUMER.to_owned() },
                polling_interval: level.scaling.polling_interval_seconds,
                cooldown_period: level.scaling.cooldown_seconds,
                // What a deploy starts is not ended at once.
                initial_cooldown_period: level.scaling.cooldown_seconds,
                min_replica_count: 0,
                max_replica_count: count(self.replicas_max),
                // While the lag cannot be read, nobody is taken away.
                fallback: Fallback {
                    failure_threshold: FAILURES_BORNE,
                    replicas: count(self.replicas_fallback),
                    behavior: FallbackBehavior::CurrentReplicasIfHigher,
                },
                advanced: Advanced {
                    horizontal_pod_autoscaler_config: AutoscalerConfig {
                        name: CONSUMER.to_owned(),
                        behavior: self.behavior(&level.scaling),
                    },
                    // What arrives, and what waits, over what a replica does less what is kept in reserve.
                    scaling_modifiers: by_rate.as_ref().map(|target| ScalingModifiers {
                        formula: target.formula(),
                        target: target.messages_per_second_per_replica.to_string(),
                        activation_target: "0".to_owned(),
                        metric_type: MetricType::AverageValue,
                    }),
                },
                triggers,
            },
        };
        if !iam {
            return Manifest::default().with(&scaled_object);
        }
        // The scaler signs in to MSK as KEDA's operator, which sees lag and no record.
        let authentication = TriggerAuthentication {
            metadata: metadata(CONSUMER, Some(NAMESPACE), []),
            spec: TriggerAuthenticationSpec {
                pod_identity: PodIdentity { provider: "aws".to_owned(), identity_owner: IdentityOwner::Keda },
            },
        };
        Manifest::default().with(&authentication)?.with(&scaled_object)
    }

    /// As many more at once as are asked for: each step is a rebalance, so one large step beats several small ones. Half of
    /// them less in as long as less must have been asked for.
    fn behavior(&self, scaling: &TradesScaling) -> HorizontalPodAutoscalerBehavior {
        let policy = |kind: &str, value: i32, period_seconds: i32| HPAScalingPolicy {
            type_: kind.to_owned(),
            value,
            period_seconds,
        };
        let rules = |window: u32, policies| HPAScalingRules {
            stabilization_window_seconds: Some(whole(window)),
            select_policy: Some("Max".to_owned()),
            policies: Some(policies),
            ..HPAScalingRules::default()
        };
        let (up, down) = (scaling.scale_up_window_seconds, scaling.scale_down_window_seconds);
        HorizontalPodAutoscalerBehavior {
            scale_up: Some(rules(
                up,
                vec![policy("Pods", whole(count(self.replicas_max)), 60), policy("Percent", 500, 60)],
            )),
            scale_down: Some(rules(down, vec![policy("Percent", 50, whole(down.clamp(15, 1800)))])),
        }
    }

    fn lag_trigger(&self, by_rate: bool, iam_region: Option<&str>) -> Trigger {
        let mut settings = pairs([
            ("bootstrapServers", "${{ kafka_bootstrap_servers }}"),
            ("consumerGroup", CONSUMER_GROUP),
            ("topic", TRADES_TOPIC),
            ("activationLagThreshold", "0"),
            // As the consumer itself: what came before its first commit is work.
            ("offsetResetPolicy", "earliest"),
        ]);
        settings.insert("lagThreshold".to_owned(), self.lag_threshold.to_string());
        if by_rate {
            // The formula decides. KEDA would cut the lag to partitions x lagThreshold before it gets there; the partitions
            // bound maxReplicaCount instead.
            settings.insert("allowIdleConsumers".to_owned(), "true".to_owned());
        }
        if let Some(region) = iam_region {
            settings.extend(pairs([
                ("tls", "enable"),
                ("sasl", "oauthbearer"),
                ("saslTokenProvider", "aws_msk_iam"),
                ("awsRegion", region),
            ]));
        }
        Trigger {
            kind: TriggerType::Kafka,
            name: by_rate.then(|| "lag".to_owned()),
            metric_type: MetricType::AverageValue,
            metadata: settings,
            authentication_ref: iam_region.map(|_| AuthenticationRef { name: CONSUMER.to_owned() }),
        }
    }
}

/// What the brokers take in. On one machine, which has no Prometheus, the supervisor reckons what this query would give from
/// the topic's end offsets.
fn rate_trigger(target: &RateTarget, scaling: &TradesScaling) -> Trigger {
    let query = format!(
        "sum(rate(kafka_server_BrokerTopicMetrics_Count{{name=\"MessagesInPerSec\", topic=\"{TRADES_TOPIC}\"}}[{}s]))",
        scaling.rate_window_seconds
    );
    let settings = BTreeMap::from([
        (
            "serverAddress".to_owned(),
            format!("http://{PROMETHEUS}-prometheus.{MONITORING_NAMESPACE}.svc:9090"),
        ),
        ("query".to_owned(), query),
        ("threshold".to_owned(), target.messages_per_second_per_replica.to_string()),
    ]);
    Trigger {
        kind: TriggerType::Prometheus,
        name: Some("arrival_rate".to_owned()),
        metric_type: MetricType::AverageValue,
        metadata: settings,
        authentication_ref: None,
    }
}

/// Replicas as KEDA counts them.
fn count(replicas: u64) -> u32 {
    u32::try_from(replicas).unwrap_or(u32::MAX)
}

/// A number as the autoscaler has it.
fn whole(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_backlog_is_what_a_consumer_does_in_the_stated_time() {
        let scaling = Scaling::from_sizes(7, 30, 3, 199, 30.0, 200);
        assert_eq!(scaling, Scaling { replicas_max: 7, replicas_fallback: 3, lag_threshold: 5970 });
    }

    #[test]
    fn more_consumers_than_partitions_are_not_asked_for() {
        assert_eq!(Scaling::from_sizes(30, 24, 1, 99, 30.0, 100).replicas_max, 24);
        assert_eq!(Scaling::from_sizes(2, 24, 5, 99, 30.0, 100).replicas_fallback, 2);
    }

    /// One record a second for a second would be a share of one: any batch in hand would call for help.
    #[test]
    fn what_a_consumer_has_in_hand_calls_for_no_other() {
        assert_eq!(Scaling::from_sizes(2, 24, 1, 1, 1.0, 100).lag_threshold, 200);
    }
}
