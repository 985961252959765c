//! What scales the trades' consumers: a ScaledObject, the same in a cluster and on one machine, where the local
//! environment does by it what KEDA and the autoscaler would.

use capacity::scaling::rate::RateTarget;
use serde_json::json;

use super::{CONSUMER, CONSUMER_GROUP, NAMESPACE, SYSTEM};
use crate::{
    RenderError,
    add_ons::{MONITORING_NAMESPACE, PROMETHEUS},
    environment::{Environment, Provider, ScalingTarget},
    kafka::TRADES_TOPIC,
    sizes::Sizes,
    template::fill,
};

const TEMPLATE: &str = include_str!("../../../../templates/kubernetes/scaling.yaml.hbs");

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
    /// When a consumer carries less than one record per second, or the template is wrong.
    pub(super) fn manifest(&self, environment: &Environment, sizes: &Sizes) -> Result<String, RenderError> {
        let level = &environment.trades;
        let scaling = &level.scaling;
        let rate = sizes.trades("messages_per_second_per_consumer");
        let by_rate = match scaling.target {
            ScalingTarget::Lag => None,
            ScalingTarget::Rate => {
                let refused =
                    |source| RenderError::Capacity { environment: environment.name.clone(), source };
                let drain_seconds = level.backlog_drain_seconds as u32;
                let target =
                    RateTarget::new(rate as f64, level.safety_factor, drain_seconds).map_err(refused)?;
                Some(json!({
                    "formula": target.formula(),
                    "target": target.messages_per_second_per_replica,
                    "window_seconds": scaling.rate_window_seconds,
                    "server": format!("http://{PROMETHEUS}-prometheus.{MONITORING_NAMESPACE}.svc:9090"),
                }))
            }
        };
        let iam = (environment.provider == Provider::Aws).then_some(&environment.region);
        let data = json!({
            "system": SYSTEM, "namespace": NAMESPACE, "consumer": CONSUMER, "consumer_group": CONSUMER_GROUP,
            "topic": TRADES_TOPIC, "iam": iam.map(|region| json!({ "region": region })), "by_rate": by_rate,
            "replicas_max": self.replicas_max, "replicas_fallback": self.replicas_fallback,
            "lag_threshold": self.lag_threshold, "rate": rate,
            "drain_seconds": level.backlog_drain_seconds.to_string(),
            "polling_interval_seconds": scaling.polling_interval_seconds,
            "cooldown_seconds": scaling.cooldown_seconds,
            "scale_up_window_seconds": scaling.scale_up_window_seconds,
            "scale_down_window_seconds": scaling.scale_down_window_seconds,
            // Half of them in as long as less must have been asked for.
            "scale_down_period_seconds": scaling.scale_down_window_seconds.clamp(15, 1800),
        });
        fill(TEMPLATE, &data)
    }
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
