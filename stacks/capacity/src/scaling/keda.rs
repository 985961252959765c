//! KEDA's Kafka scaler: from the offsets of a consumer group to one metric. It follows
//! `pkg/scalers/kafka_scaler.go` of kedacore/keda at 2.20, whose code differs from its documentation in places: the
//! code counts.

use std::collections::BTreeMap;

use crate::figure::CapacityError;

/// Where a consumer without a committed offset begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffsetResetPolicy {
    /// At the end: the partition counts as a lag of 1, so that a consumer comes to commit something.
    #[default]
    Latest,
    /// At the beginning: the whole partition counts, expired records too.
    Earliest,
}

/// The trigger's settings that move the metric, with KEDA's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaTrigger {
    /// Records of lag for one replica. 10 in the code; the documentation says 5.
    pub lag_threshold: u64,
    /// The lag above which the trigger is active, so that KEDA leaves zero replicas.
    pub activation_lag_threshold: u64,
    /// Where a consumer without a committed offset begins.
    pub offset_reset_policy: OffsetResetPolicy,
    /// Whether there may be more replicas than partitions.
    pub allow_idle_consumers: bool,
    /// Whether a partition whose committed offset has not moved since the last query counts nothing.
    pub exclude_persistent_lag: bool,
    /// Whether a partition without a committed offset counts nothing.
    pub scale_to_zero_on_invalid_offset: bool,
    /// Whether only partitions with lag bound the replicas.
    pub limit_to_partitions_with_lag: bool,
    /// Whether the replicas are a divisor of the partitions.
    pub ensure_even_distribution_of_partitions: bool,
    /// The partitions that count, such as `0,2,4-7`; all without it.
    pub partition_limitation: Option<String>,
}

impl Default for KafkaTrigger {
    fn default() -> Self {
        Self {
            lag_threshold: 10,
            activation_lag_threshold: 0,
            offset_reset_policy: OffsetResetPolicy::Latest,
            allow_idle_consumers: false,
            exclude_persistent_lag: false,
            scale_to_zero_on_invalid_offset: false,
            limit_to_partitions_with_lag: false,
            ensure_even_distribution_of_partitions: false,
            partition_limitation: None,
        }
    }
}

/// What the brokers say of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOffsets {
    /// Its number.
    pub partition: u32,
    /// The group's committed offset; nothing where it has committed none yet.
    pub committed: Option<u64>,
    /// The offset of the next record; nothing where the brokers did not tell, which counts as no lag.
    pub latest: Option<u64>,
}

/// What a query gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// The metric that the autoscaler gets, after all bounds.
    pub metric: u64,
    /// The lag of all partitions that count, before bounds.
    pub records: u64,
    /// Whether the trigger is active. Persistent lag counts here.
    pub active: bool,
    /// Whether the number of partitions bounds the metric.
    pub bounded: bool,
}

/// The scaler with what it remembers between queries.
#[derive(Clone, Debug)]
pub struct KafkaScaler {
    trigger: KafkaTrigger,
    /// The ranges of partitions that count.
    counted: Option<Vec<(u32, u32)>>,
    /// Committed offsets at the last query.
    previous: BTreeMap<u32, u64>,
}

/// Reads a list of partitions such as `0,2,4-7` into ranges.
///
/// # Errors
///
/// When it is not such a list, with the part that is wrong.
pub fn partition_ranges(text: &str) -> Result<Vec<(u32, u32)>, CapacityError> {
    text.split(',')
        .map(|part| {
            let part = part.trim();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
                (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
                _ => Err(CapacityError::new(format!(
                    "partitionLimitation: `{part}` is neither a partition nor a range such as 4-7"
                ))),
            }
        })
        .collect()
}

impl KafkaScaler {
    /// A scaler that has seen nothing yet.
    ///
    /// # Errors
    ///
    /// For the settings that KEDA refuses.
    pub fn new(trigger: KafkaTrigger) -> Result<Self, CapacityError> {
        let refused = |why: &str| Err(CapacityError::new(format!("KEDA refuses the Kafka trigger: {why}")));
        if trigger.lag_threshold == 0 {
            return refused("lagThreshold must be greater than 0");
        }
        if trigger.limit_to_partitions_with_lag && trigger.allow_idle_consumers {
            return refused("allowIdleConsumers and limitToPartitionsWithLag exclude each other");
        }
        if trigger.limit_to_partitions_with_lag && trigger.ensure_even_distribution_of_partitions {
            return refused(
                "limitToPartitionsWithLag and ensureEvenDistributionOfPartitions exclude each other",
            );
        }
        let limitation = trigger.partition_limitation.as_deref().filter(|text| !text.trim().is_empty());
        let counted = limitation.map(partition_ranges).transpose()?;
        Ok(Self { trigger, counted, previous: BTreeMap::new() })
    }

    /// The settings.
    #[must_use]
    pub fn trigger(&self) -> &KafkaTrigger {
        &self.trigger
    }

    fn counts(&self, partition: u32) -> bool {
        self.counted
            .as_ref()
            .is_none_or(|ranges| ranges.iter().any(|(first, last)| (*first..=*last).contains(&partition)))
    }

    /// The lag of a partition, without and with what is persistent. Negative where the committed offset lies
    /// beyond the end, as after a topic was made anew: KEDA adds it up as it is.
    fn lag(&mut self, offsets: &PartitionOffsets) -> (i128, i128) {
        let trigger = &self.trigger;
        let Some(committed) = offsets.committed else {
            let lag = match trigger.offset_reset_policy {
                _ if trigger.scale_to_zero_on_invalid_offset => 0,
                OffsetResetPolicy::Latest => 1,
                OffsetResetPolicy::Earliest => i128::from(offsets.latest.unwrap_or(0)),
            };
            return (lag, lag);
        };
        let Some(latest) = offsets.latest else { return (0, 0) };
        let lag = i128::from(latest) - i128::from(committed);
        if trigger.exclude_persistent_lag
            && self.previous.insert(offsets.partition, committed) == Some(committed)
        {
            return (0, lag);
        }
        (lag, lag)
    }

    /// Queries the metric. Both KEDA's own polling and each sync of the autoscaler are such queries, so
    /// that persistent lag is what has not moved since the last of either.
    pub fn query(&mut self, offsets: &[PartitionOffsets]) -> Lag {
        let (mut total, mut with_persistent, mut partitions, mut with_lag) = (0i128, 0i128, 0i128, 0i128);
        for offsets in offsets {
            if !self.counts(offsets.partition) {
                continue;
            }
            let (lag, persistent) = self.lag(offsets);
            total += lag;
            with_persistent += persistent;
            partitions += 1;
            with_lag += i128::from(lag > 0);
        }
        let records = total.max(0);
        let trigger = &self.trigger;
        let threshold = i128::from(trigger.lag_threshold);
        if trigger.ensure_even_distribution_of_partitions {
            let even = (1..=partitions).find(|n| partitions % n == 0 && n * threshold >= total);
            total = even.unwrap_or(partitions) * threshold;
        }
        let bound = if trigger.limit_to_partitions_with_lag { with_lag } else { partitions };
        let may_exceed = trigger.allow_idle_consumers && !trigger.ensure_even_distribution_of_partitions;
        // The division drops its rest: up to one threshold less a record above the bound passes, and the
        // autoscaler rounds that up to one replica more than there are partitions.
        let bounded = !may_exceed && total / threshold > bound;
        if bounded {
            total = bound * threshold;
        }
        let clipped = |value: i128| u64::try_from(value.max(0)).unwrap_or(u64::MAX);
        Lag {
            metric: clipped(total),
            records: clipped(records),
            active: with_persistent > i128::from(trigger.activation_lag_threshold),
            bounded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Partitions with these lags, all read up to offset 1000.
    fn lags(lags: &[u64]) -> Vec<PartitionOffsets> {
        (0..)
            .zip(lags)
            .map(|(partition, lag)| PartitionOffsets {
                partition,
                committed: Some(1000),
                latest: Some(1000 + lag),
            })
            .collect()
    }

    fn scaler(change: impl FnOnce(&mut KafkaTrigger)) -> KafkaScaler {
        let mut trigger = KafkaTrigger::default();
        change(&mut trigger);
        KafkaScaler::new(trigger).unwrap()
    }

    #[test]
    fn the_lag_is_the_sum_and_bounded_by_the_partitions() {
        // getTotalLag: totalLag / lagThreshold > partitions, with an integer division.
        let metric = |lag: &[u64]| scaler(|_| ()).query(&lags(lag)).metric;
        assert_eq!(metric(&[3, 4, 0]), 7);
        assert_eq!(metric(&[1000, 0, 0]), 30);
        assert_eq!(metric(&[39, 0, 0]), 39, "39 / 10 is 3, not above 3: the rest passes");
        assert_eq!(metric(&[40, 0, 0]), 30);
        let idle = scaler(|trigger| trigger.allow_idle_consumers = true).query(&lags(&[1000, 0, 0]));
        assert_eq!((idle.metric, idle.bounded), (1000, false));
    }

    #[test]
    fn partitions_without_lag_can_be_left_out_of_the_bound() {
        let mut limited = scaler(|trigger| trigger.limit_to_partitions_with_lag = true);
        assert_eq!(limited.query(&lags(&[1000, 0, 500, 0])).metric, 20);
    }

    #[test]
    fn an_even_distribution_takes_the_next_divisor() {
        // getNextFactorThatBalancesConsumersToTopicPartitions: factors of 12 are 1, 2, 3, 4, 6, 12.
        let metric = |total: u64| {
            let mut even = scaler(|trigger| trigger.ensure_even_distribution_of_partitions = true);
            let mut partitions = vec![0; 12];
            partitions[0] = total;
            even.query(&lags(&partitions)).metric
        };
        assert_eq!([metric(0), metric(10), metric(41), metric(60), metric(61)], [10, 10, 60, 60, 120]);
        assert_eq!(metric(10_000), 120);
    }

    #[test]
    fn a_group_that_has_committed_nothing_counts_as_the_policy_says() {
        // getLagForPartition, invalidOffset.
        let fresh = [PartitionOffsets { partition: 0, committed: None, latest: Some(500) }];
        assert_eq!(scaler(|_| ()).query(&fresh).records, 1);
        let earliest = |trigger: &mut KafkaTrigger| trigger.offset_reset_policy = OffsetResetPolicy::Earliest;
        assert_eq!(scaler(earliest).query(&fresh).records, 500);
        let mut zero = scaler(|trigger| {
            earliest(trigger);
            trigger.scale_to_zero_on_invalid_offset = true;
        });
        assert_eq!((zero.query(&fresh).records, zero.query(&fresh).active), (0, false));
        let lost = [PartitionOffsets { partition: 0, committed: Some(7), latest: None }];
        assert_eq!(scaler(|_| ()).query(&lost).records, 0, "a partition missing from the answer");
    }

    #[test]
    fn persistent_lag_counts_for_activation_alone() {
        let mut scaler = scaler(|trigger| trigger.exclude_persistent_lag = true);
        assert_eq!(scaler.query(&lags(&[70])).metric, 10, "the first query has nothing to compare with");
        let stuck = scaler.query(&lags(&[80]));
        assert_eq!((stuck.metric, stuck.active), (0, true));
        let moved = PartitionOffsets { partition: 0, committed: Some(1001), latest: Some(1006) };
        assert_eq!(scaler.query(&[moved]).metric, 5);
    }

    #[test]
    fn activation_is_strictly_above_its_threshold() {
        let mut scaler = scaler(|trigger| trigger.activation_lag_threshold = 5);
        assert!(!scaler.query(&lags(&[5])).active);
        assert!(scaler.query(&lags(&[6])).active);
    }

    #[test]
    fn only_the_named_partitions_count() {
        let mut limited = scaler(|trigger| trigger.partition_limitation = Some("0, 2-3".to_owned()));
        assert_eq!(limited.query(&lags(&[1, 2, 4, 8, 16])).records, 13);
        assert_eq!(partition_ranges("1,5-7").unwrap(), [(1, 1), (5, 7)]);
        for wrong in ["a", "3-1", "1,,2"] {
            assert!(partition_ranges(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_keda_refuses_is_refused() {
        let refused = |change: fn(&mut KafkaTrigger)| {
            let mut trigger = KafkaTrigger { limit_to_partitions_with_lag: true, ..KafkaTrigger::default() };
            change(&mut trigger);
            KafkaScaler::new(trigger).unwrap_err().message
        };
        assert!(refused(|trigger| trigger.allow_idle_consumers = true).contains("allowIdleConsumers"));
        assert!(refused(|trigger| trigger.ensure_even_distribution_of_partitions = true).contains("Even"));
        assert!(refused(|trigger| trigger.lag_threshold = 0).contains("greater than 0"));
    }

    proptest! {
        #[test]
        fn more_lag_never_gives_a_smaller_metric(
            lag in proptest::collection::vec(0u64..5000, 1..40), more in 0u64..5000, threshold in 1u64..500,
            idle: bool, even: bool, limited: bool
        ) {
            let metric = |lag: &[u64]| {
                let mut scaler = scaler(|trigger| {
                    trigger.lag_threshold = threshold;
                    trigger.limit_to_partitions_with_lag = limited;
                    trigger.allow_idle_consumers = idle && !limited;
                    trigger.ensure_even_distribution_of_partitions = even && !limited;
                });
                scaler.query(&lags(lag)).metric
            };
            let mut larger = lag.clone();
            larger[0] += more;
            prop_assert!(metric(&larger) >= metric(&lag) || limited_by_the_rest(&lag, threshold, limited));
            if !idle || limited {
                prop_assert!(metric(&lag) < (lag.len() as u64 + 1) * threshold);
            }
        }
    }

    /// Whether the rest that the integer division drops lies above the bound: there, more lag gives up to
    /// one threshold less, which is how KEDA does it.
    fn limited_by_the_rest(lag: &[u64], threshold: u64, limited: bool) -> bool {
        let with_lag = lag.iter().filter(|lag| **lag > 0).count();
        let bound = if limited { with_lag } else { lag.len() } as u64;
        let total: u64 = lag.iter().sum();
        total / threshold == bound && !total.is_multiple_of(threshold)
    }
}
