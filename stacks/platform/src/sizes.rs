//! The derived sizes of an environment.

use capacity::Sizing;

use crate::{Environment, RenderError};

/// The derived sizes of an environment, by system.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Of the trades system.
    pub trades: Sizing,
    /// Of the Kafka cluster.
    pub kafka: Sizing,
}

impl Sizes {
    /// A figure of the trades system.
    #[must_use]
    pub fn trades(&self, name: &str) -> u64 {
        self.trades.get(name).map_or(0, |figure| figure.value)
    }

    /// A figure of the Kafka cluster.
    #[must_use]
    pub fn kafka(&self, name: &str) -> u64 {
        self.kafka.get(name).map_or(0, |figure| figure.value)
    }
}

/// The partitions of the dead-letter topic: few records, no order between them.
pub(crate) const DEAD_LETTER_PARTITIONS: u64 = 3;

/// Derives the sizes.
///
/// # Errors
///
/// When a service level cannot be met.
pub fn sizes(environment: &Environment) -> Result<Sizes, RenderError> {
    let refused = |source| RenderError::Capacity { environment: environment.name.clone(), source };
    let level = &environment.trades;
    let trades = capacity::trades::size(&capacity::trades::ServiceLevel {
        peak_messages_per_second: level.peak_messages_per_second,
        batch_size: u64::from(level.batch_size),
        batch_processing_seconds: level.batch_processing_seconds,
        batches_in_flight: u64::from(level.batches_in_flight),
        safety_factor: level.safety_factor,
        consumers_min: u64::from(level.consumers_min),
        consumers: level.overrides.consumers.map(u64::from),
        partitions: level.overrides.partitions.map(u64::from),
    })
    .map_err(refused)?;
    let value = |name: &str| trades.get(name).map_or(0, |figure| figure.value);
    let kafka = capacity::kafka::size(
        &capacity::kafka::Cluster {
            zones: u64::from(environment.network.zones),
            brokers_per_zone: u64::from(environment.kafka.brokers_per_zone),
            instance_type: &environment.kafka.instance_type,
            volume_gib: environment.kafka.volume_gib.map(u64::from),
        },
        &capacity::kafka::Load {
            partitions: value("partitions") + DEAD_LETTER_PARTITIONS,
            bytes_per_second: level.messages_per_second.max(level.peak_messages_per_second / 2.0)
                * f64::from(level.message_bytes),
            retention_hours: u64::from(level.retention_hours),
            // Consumers, the producer, and KEDA's operator.
            clients: value("consumers") + 2,
        },
    )
    .map_err(refused)?;
    Ok(Sizes { trades, kafka })
}
