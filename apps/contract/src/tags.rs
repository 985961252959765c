//! The configuration of the tags system's workloads.

use std::collections::BTreeMap;

mod load;

pub use load::{LOAD_OBJECTS_MAX, LoadConfiguration, LoadShape};

use crate::{
    cache::CacheConfiguration,
    environment::{ConfigurationError, Reader, Writer},
    kafka::KafkaConfiguration,
    trades::METRICS_ADDRESS_DEFAULT,
};

/// The topic of tags.
pub const TOPIC: &str = "KAFKA_TOPIC";

/// The topic for tags that cannot be processed.
pub const DEAD_LETTER_TOPIC: &str = "KAFKA_DEAD_LETTER_TOPIC";

/// The consumer group of the workers.
pub const CONSUMER_GROUP: &str = "CONSUMER_GROUP";

const BATCH_SIZE: &str = "BATCH_SIZE";
const BATCH_TIMEOUT_SECONDS: &str = "BATCH_TIMEOUT_SECONDS";
const BATCHES_IN_FLIGHT: &str = "BATCHES_IN_FLIGHT";
const MESSAGE_BYTES_MAX: &str = "MESSAGE_BYTES_MAX";
const EXPIRY_SECONDS: &str = "EXPIRY_SECONDS";
const RETRY_BUDGET_SECONDS: &str = "RETRY_BUDGET_SECONDS";
const DRAIN_TIMEOUT_SECONDS: &str = "DRAIN_TIMEOUT_SECONDS";
const METRICS_ADDRESS: &str = "METRICS_ADDRESS";

/// What a worker of tags gets.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerConfiguration {
    /// The Kafka cluster.
    pub kafka: KafkaConfiguration,
    /// Where the tags come from.
    pub topic: String,
    /// Where tags go that cannot be processed.
    pub dead_letter_topic: String,
    /// The consumer group.
    pub consumer_group: String,
    /// The cache.
    pub cache: CacheConfiguration,
    /// Records in a batch, at most.
    pub batch_size: u32,
    /// How long a batch waits for more records, from its first on.
    pub batch_timeout_seconds: f64,
    /// Batches that are processed at a time.
    pub batches_in_flight: u32,
    /// A longer payload is a dead letter.
    pub message_bytes_max: u64,
    /// How long an object lives that nobody changes and that tells no lifetime of its own.
    pub expiry_seconds: u32,
    /// How long a batch is tried again before the worker gives up and stops.
    pub retry_budget_seconds: f64,
    /// How long a shutdown or a revocation waits for batches in flight.
    pub drain_timeout_seconds: f64,
    /// `address:port` of metrics and probes.
    pub metrics_address: String,
}

impl WorkerConfiguration {
    /// Reads the configuration. The defaults are for latency: a batch waits for 5 ms.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or cannot be used; a cache without TLS that is not on this machine.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigurationError> {
        let reader = Reader::new(lookup);
        Ok(Self {
            kafka: KafkaConfiguration::read(&reader)?,
            topic: reader.text(TOPIC, "the topic that the tags come from")?,
            dead_letter_topic: reader.text(DEAD_LETTER_TOPIC, "the topic for what cannot be processed")?,
            consumer_group: reader.text(CONSUMER_GROUP, "the consumer group")?,
            cache: CacheConfiguration::read(&reader)?,
            batch_size: reader.number(BATCH_SIZE, 500, 1..=10_000)?,
            batch_timeout_seconds: reader.number(BATCH_TIMEOUT_SECONDS, 0.005, 0.001..=60.0)?,
            batches_in_flight: reader.number(BATCHES_IN_FLIGHT, 8, 1..=256)?,
            message_bytes_max: reader.number(MESSAGE_BYTES_MAX, 64 << 10, 1..=1 << 20)?,
            expiry_seconds: reader.number(EXPIRY_SECONDS, 86_400, 1..=31_536_000)?,
            retry_budget_seconds: reader.number(RETRY_BUDGET_SECONDS, 30.0, 0.0..=3600.0)?,
            drain_timeout_seconds: reader.number(DRAIN_TIMEOUT_SECONDS, 5.0, 0.1..=300.0)?,
            metrics_address: reader
                .optional(METRICS_ADDRESS)
                .unwrap_or_else(|| METRICS_ADDRESS_DEFAULT.to_owned()),
        })
    }

    /// The variables that give this configuration.
    #[must_use]
    pub fn to_environment(&self) -> BTreeMap<String, String> {
        let writer = self
            .kafka
            .write(Writer::default())
            .set(TOPIC, &self.topic)
            .set(DEAD_LETTER_TOPIC, &self.dead_letter_topic)
            .set(CONSUMER_GROUP, &self.consumer_group)
            .set(BATCH_SIZE, self.batch_size)
            .set(BATCH_TIMEOUT_SECONDS, self.batch_timeout_seconds)
            .set(BATCHES_IN_FLIGHT, self.batches_in_flight)
            .set(MESSAGE_BYTES_MAX, self.message_bytes_max)
            .set(EXPIRY_SECONDS, self.expiry_seconds)
            .set(RETRY_BUDGET_SECONDS, self.retry_budget_seconds)
            .set(DRAIN_TIMEOUT_SECONDS, self.drain_timeout_seconds)
            .set(METRICS_ADDRESS, &self.metrics_address);
        self.cache.write(writer).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::CacheAuthentication, kafka::KafkaAuthentication};

    #[test]
    fn what_the_stack_writes_is_what_the_worker_reads() {
        let configuration = WorkerConfiguration {
            kafka: KafkaConfiguration {
                bootstrap_servers: "b-1:9098".to_owned(),
                authentication: KafkaAuthentication::MskIam { region: "eu-west-1".to_owned() },
            },
            topic: "tag-data".to_owned(),
            dead_letter_topic: "tag-data-dlq".to_owned(),
            consumer_group: "tag-worker".to_owned(),
            cache: CacheConfiguration {
                endpoint: "127.0.0.1:7000".to_owned(),
                authentication: CacheAuthentication::None,
            },
            batch_size: 7,
            batch_timeout_seconds: 0.25,
            batches_in_flight: 3,
            message_bytes_max: 1000,
            expiry_seconds: 60,
            retry_budget_seconds: 3.5,
            drain_timeout_seconds: 4.0,
            metrics_address: "127.0.0.1:8000".to_owned(),
        };
        let variables = configuration.to_environment();
        let read = WorkerConfiguration::from_environment(|name| variables.get(name).cloned());
        assert_eq!(read, Ok(configuration));
    }
}
