//! The trades system: consumers and partitions from the peak rate and the time that a batch takes.

use crate::{
    figure::{CapacityError, Load, Sizing, ceil},
    memory::ConsumerBounds,
};

/// The service level of the trades system.
#[derive(Clone, Copy, Debug)]
pub struct ServiceLevel {
    /// Messages per second that are sustained; told beside the peak, nothing is sized by it.
    pub messages_per_second: f64,
    /// Messages per second at the peak.
    pub peak_messages_per_second: f64,
    /// Messages in a batch, at most.
    pub batch_size: u64,
    /// How long the write of a batch takes, in seconds.
    pub batch_processing_seconds: f64,
    /// Batches that a consumer has in flight.
    pub batches_in_flight: u64,
    /// What the peak is multiplied with, at least 1.
    pub safety_factor: f64,
    /// Consumers, at least.
    pub consumers_min: u64,
    /// Overrides the derived number of consumers.
    pub consumers: Option<u64>,
    /// Overrides the derived number of partitions.
    pub partitions: Option<u64>,
    /// What bounds a consumer's memory.
    pub consumer: ConsumerBounds,
    /// Overrides the derived memory of a consumer, in MiB.
    pub consumer_memory_mib: Option<u64>,
}

/// What a batch costs beside its write, in seconds: reading, decoding, committing. Measured on one core, it
/// bounds the rate of a consumer whose write takes no time.
pub(crate) const BATCH_OVERHEAD_SECONDS: f64 = 0.002;

/// A pod gets at least this much of a processor, in thousandths: what signing in, rebalances and probes take. It is also
/// what a pod's price is reckoned with.
const CPU_MILLICORES_MIN: u64 = 100;

/// Sizes the system.
///
/// # Errors
///
/// When the figures contradict one another.
pub fn size(level: &ServiceLevel) -> Result<Sizing, CapacityError> {
    // The service level states the peak itself.
    let load = Load {
        sustained: level.messages_per_second,
        peak: level.peak_messages_per_second,
        unit: "messages/s",
    };
    let mut sizing = Sizing::of(load);
    let batch_seconds = level.batch_processing_seconds + BATCH_OVERHEAD_SECONDS;
    let per_consumer = level.batches_in_flight as f64 * level.batch_size as f64 / batch_seconds;
    let rate = sizing.derive(
        "messages_per_second_per_consumer",
        "messages/s",
        per_consumer.floor() as u64,
        None,
        format!(
            "floor(batches_in_flight {} x batch_size {} / (batch_processing_seconds {} + {BATCH_OVERHEAD_SECONDS}))",
            level.batches_in_flight, level.batch_size, level.batch_processing_seconds
        ),
        "a lane processes one batch at a time",
    );
    if rate == 0 {
        return Err(CapacityError::new(
            "a consumer would process less than one message per second; raise batch_size or batches_in_flight",
        ));
    }
    let needed = (level.peak_messages_per_second * level.safety_factor / per_consumer).ceil() as u64;
    let consumers = sizing.derive(
        "consumers",
        "replicas",
        needed.max(level.consumers_min).max(1),
        level.consumers,
        format!(
            "max(consumers_min {}, ceil(peak {} x safety_factor {} / {per_consumer:.1}))",
            level.consumers_min, level.peak_messages_per_second, level.safety_factor
        ),
        "the peak is carried without a growing lag",
    );
    sizing.exhausted_at(consumers as f64 * per_consumer);
    let lanes = consumers * level.batches_in_flight;
    let partitions = sizing.derive(
        "partitions",
        "partitions",
        (lanes * 2).next_multiple_of(6).max(6),
        level.partitions,
        format!("max(6, 2 x consumers {consumers} x batches_in_flight {}, a multiple of 6)", level.batches_in_flight),
        "a lane needs a partition; twice as many leave room to double, multiples of 6 spread over 2 and 3 zones",
    );
    // A lane of its own for each partition is as far as consumers can be added.
    sizing.exhausted_at(partitions as f64 * level.batch_size as f64 / batch_seconds);
    if partitions < consumers {
        return Err(CapacityError::new(format!(
            "{consumers} consumers share {partitions} partitions: {} would be idle; raise partitions",
            consumers - partitions
        )));
    }
    sizing.derive(
        "consumer_memory_mib",
        "MiB",
        level.consumer.memory_mib(level.batches_in_flight),
        level.consumer_memory_mib,
        level.consumer.formula(level.batches_in_flight),
        "what a consumer can hold at most, whatever waits; request and limit of its pod",
    );
    let busy = 1000.0 * level.batches_in_flight as f64 * BATCH_OVERHEAD_SECONDS / batch_seconds;
    sizing.derive(
        "consumer_cpu_millicores",
        "millicores",
        ceil(busy).max(CPU_MILLICORES_MIN),
        None,
        format!(
            "max({CPU_MILLICORES_MIN}, ceil(1000 x batches_in_flight {} x {BATCH_OVERHEAD_SECONDS} / {batch_seconds}))",
            level.batches_in_flight
        ),
        "the part of a batch's time that is not waiting for its write; request of its pod, without a limit",
    );
    Ok(sizing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: ServiceLevel = ServiceLevel {
        messages_per_second: 10.0,
        peak_messages_per_second: 1000.0,
        batch_size: 100,
        batch_processing_seconds: 1.0,
        batches_in_flight: 1,
        safety_factor: 1.1,
        consumers_min: 1,
        consumers: None,
        partitions: None,
        consumer: ConsumerBounds {
            batches_waiting: 8,
            batch_bytes: 1 << 20,
            queue_bytes: 8 << 20,
            queue_messages: 20_000,
            response_bytes: 4 << 20,
            brokers: 3,
        },
        consumer_memory_mib: None,
    };

    #[test]
    fn the_published_spike_needs_a_dozen_consumers_and_two_dozen_partitions() {
        let sizing = size(&SEED).unwrap();
        assert_eq!(sizing.get("messages_per_second_per_consumer").unwrap().value, 99);
        assert_eq!(sizing.get("consumers").unwrap().value, 12);
        assert_eq!(sizing.get("partitions").unwrap().value, 24);
        let first = sizing.breaks_first().unwrap();
        assert_eq!((first.figure.name, first.at.floor()), ("consumers", 1197.0));
        assert!(
            first.figure.headroom_at_peak.unwrap() > 0.19,
            "the safety factor and what rounding up gives"
        );
    }

    #[test]
    fn an_override_is_used_and_said() {
        let sizing = size(&ServiceLevel { consumers: Some(3), ..SEED }).unwrap();
        let consumers = sizing.get("consumers").unwrap();
        assert_eq!((consumers.value, consumers.derived, consumers.is_overridden()), (3, 12, true));
        assert!(size(&ServiceLevel { partitions: Some(4), ..SEED }).is_err(), "consumers without partitions");
        let sizing = size(&ServiceLevel { consumer_memory_mib: Some(512), ..SEED }).unwrap();
        assert_eq!(sizing.get("consumer_memory_mib").unwrap().value, 512);
    }

    #[test]
    fn writes_that_take_no_time_take_the_processor() {
        let millicores = |seconds| {
            let level = ServiceLevel { batch_processing_seconds: seconds, batches_in_flight: 2, ..SEED };
            size(&level).unwrap().get("consumer_cpu_millicores").unwrap().value
        };
        assert_eq!((millicores(1.0), millicores(0.0)), (100, 2000));
    }

    proptest! {
        #[test]
        fn the_peak_is_carried(
            peak in 1.0f64..50_000.0, batch in 1u64..1000, seconds in 0.0f64..5.0, in_flight in 1u64..16, safety in 1.0f64..3.0
        ) {
            let level = ServiceLevel {
                peak_messages_per_second: peak, batch_size: batch, batch_processing_seconds: seconds,
                batches_in_flight: in_flight, safety_factor: safety, ..SEED
            };
            if let Ok(sizing) = size(&level) {
                let consumers = sizing.get("consumers").unwrap().value;
                let rate = in_flight as f64 * batch as f64 / (seconds + BATCH_OVERHEAD_SECONDS);
                prop_assert!(consumers as f64 * rate >= peak * safety * 0.999);
                prop_assert!(sizing.get("partitions").unwrap().value >= consumers);
            }
        }

        #[test]
        fn more_messages_never_need_fewer_consumers(peak in 1.0f64..10_000.0, more in 1.0f64..4.0) {
            let consumers = |peak| {
                size(&ServiceLevel { peak_messages_per_second: peak, ..SEED }).unwrap().get("consumers").unwrap().value
            };
            prop_assert!(consumers(peak * more) >= consumers(peak));
        }
    }
}
