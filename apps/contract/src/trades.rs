//! The configuration of the trades system's workloads.

use std::{collections::BTreeMap, ops::RangeInclusive};

use crate::{
    environment::{ConfigurationError, Reader, Writer},
    kafka::KafkaConfiguration,
};

/// Where metrics and probes are served when nothing else is said: every address of the pod, port 8000.
pub const METRICS_ADDRESS_DEFAULT: &str = "0.0.0.0:8000";

/// The rates that the producer takes, in messages per second; 0 idles.
pub const RATE_BOUNDS: RangeInclusive<f64> = 0.0..=100_000.0;

/// Full batches that wait in a lane of a consumer: enough that it does not run dry while the client is polled, few enough
/// that lanes x batches x bytes stay a part of the memory that a pod has.
pub const BATCHES_WAITING: u32 = 8;

/// The topic of trades.
pub const TOPIC: &str = "KAFKA_TOPIC";
const METRICS_ADDRESS: &str = "METRICS_ADDRESS";
const MESSAGES_PER_SECOND: &str = "MESSAGES_PER_SECOND";
const GENERATOR_SEED: &str = "GENERATOR_SEED";
/// The topic for what cannot be processed.
pub const DEAD_LETTER_TOPIC: &str = "KAFKA_DEAD_LETTER_TOPIC";
/// The consumer group.
pub const CONSUMER_GROUP: &str = "CONSUMER_GROUP";
const BATCH_SIZE: &str = "BATCH_SIZE";
const BATCH_BYTES: &str = "BATCH_BYTES";
const BATCH_TIMEOUT_SECONDS: &str = "BATCH_TIMEOUT_SECONDS";
const BATCH_PROCESSING_TIME: &str = "BATCH_PROCESSING_TIME";
const BATCHES_IN_FLIGHT: &str = "BATCHES_IN_FLIGHT";
const MESSAGE_BYTES_MAX: &str = "MESSAGE_BYTES_MAX";
const GROUP_INSTANCE_ID: &str = "GROUP_INSTANCE_ID";
const SESSION_TIMEOUT_SECONDS: &str = "SESSION_TIMEOUT_SECONDS";
const RETRY_BUDGET_SECONDS: &str = "RETRY_BUDGET_SECONDS";
const DRAIN_TIMEOUT_SECONDS: &str = "DRAIN_TIMEOUT_SECONDS";

/// What the producer of trades gets.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducerConfiguration {
    /// The cluster.
    pub kafka: KafkaConfiguration,
    /// Where the trades go.
    pub topic: String,
    /// The rate at the start ([`RATE_BOUNDS`]); it can be changed while the producer runs.
    pub messages_per_second: f64,
    /// Makes the sequence of trades repeatable.
    pub generator_seed: Option<u64>,
    /// `address:port` of metrics, probes and the rate.
    pub metrics_address: String,
}

impl ProducerConfiguration {
    /// Reads the configuration.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or cannot be used.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigurationError> {
        let reader = Reader::new(lookup);
        Ok(Self {
            kafka: KafkaConfiguration::read(&reader)?,
            topic: reader.text(TOPIC, "the topic that the trades go to")?,
            messages_per_second: reader.number(MESSAGES_PER_SECOND, 0.0, RATE_BOUNDS)?,
            generator_seed: match reader.optional(GENERATOR_SEED) {
                None => None,
                Some(_) => Some(reader.number(GENERATOR_SEED, 0, 0..=u64::MAX)?),
            },
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
            .set(MESSAGES_PER_SECOND, self.messages_per_second)
            .set(METRICS_ADDRESS, &self.metrics_address);
        match self.generator_seed {
            Some(seed) => writer.set(GENERATOR_SEED, seed),
            None => writer,
        }
        .finish()
    }
}

/// What the consumer of trades gets.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerConfiguration {
    /// The cluster.
    pub kafka: KafkaConfiguration,
    /// Where the trades come from.
    pub topic: String,
    /// Where trades go that cannot be processed.
    pub dead_letter_topic: String,
    /// The consumer group.
    pub consumer_group: String,
    /// The name by which the group knows this consumer again after a restart; without one it is a new member each time.
    pub group_instance_id: Option<String>,
    /// How long the group waits for a sign of life of this consumer.
    pub session_timeout_seconds: f64,
    /// Records in a batch, at most.
    pub batch_size: u32,
    /// Payload bytes in a batch, at most; a larger record is a batch of its own.
    pub batch_bytes: u64,
    /// How long a batch waits for more records, from its first on.
    pub batch_timeout_seconds: f64,
    /// How long the simulated write of a batch takes.
    pub batch_processing_seconds: f64,
    /// Batches that are processed at a time. Order is kept per partition whatever their number.
    pub batches_in_flight: u32,
    /// A longer payload is a dead letter.
    pub message_bytes_max: u64,
    /// How long a batch is tried again before the consumer gives up and stops.
    pub retry_budget_seconds: f64,
    /// How long a shutdown or a revocation waits for batches in flight.
    pub drain_timeout_seconds: f64,
    /// `address:port` of metrics and probes.
    pub metrics_address: String,
}

impl ConsumerConfiguration {
    /// Reads the configuration. The defaults: batches of 100 within 0.1 s, a write of 1 s.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or cannot be used.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigurationError> {
        let reader = Reader::new(lookup);
        Ok(Self {
            kafka: KafkaConfiguration::read(&reader)?,
            topic: reader.text(TOPIC, "the topic that the trades come from")?,
            dead_letter_topic: reader.text(DEAD_LETTER_TOPIC, "the topic for what cannot be processed")?,
            consumer_group: reader.text(CONSUMER_GROUP, "the consumer group")?,
            group_instance_id: reader.optional(GROUP_INSTANCE_ID),
            session_timeout_seconds: reader.number(SESSION_TIMEOUT_SECONDS, 10.0, 1.0..=1800.0)?,
            batch_size: reader.number(BATCH_SIZE, 100, 1..=10_000)?,
            batch_bytes: reader.number(BATCH_BYTES, 1 << 20, 1..=64 << 20)?,
            batch_timeout_seconds: reader.number(BATCH_TIMEOUT_SECONDS, 0.1, 0.001..=60.0)?,
            batch_processing_seconds: reader.number(BATCH_PROCESSING_TIME, 1.0, 0.0..=300.0)?,
            batches_in_flight: reader.number(BATCHES_IN_FLIGHT, 1, 1..=256)?,
            message_bytes_max: reader.number(MESSAGE_BYTES_MAX, 64 << 10, 1..=8 << 20)?,
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
        let writer = match &self.group_instance_id {
            Some(id) => Writer::default().set(GROUP_INSTANCE_ID, id),
            None => Writer::default(),
        };
        self.kafka
            .write(writer)
            .set(SESSION_TIMEOUT_SECONDS, self.session_timeout_seconds)
            .set(TOPIC, &self.topic)
            .set(DEAD_LETTER_TOPIC, &self.dead_letter_topic)
            .set(CONSUMER_GROUP, &self.consumer_group)
            .set(BATCH_SIZE, self.batch_size)
            .set(BATCH_BYTES, self.batch_bytes)
            .set(BATCH_TIMEOUT_SECONDS, self.batch_timeout_seconds)
            .set(BATCH_PROCESSING_TIME, self.batch_processing_seconds)
            .set(BATCHES_IN_FLIGHT, self.batches_in_flight)
            .set(MESSAGE_BYTES_MAX, self.message_bytes_max)
            .set(RETRY_BUDGET_SECONDS, self.retry_budget_seconds)
            .set(DRAIN_TIMEOUT_SECONDS, self.drain_timeout_seconds)
            .set(METRICS_ADDRESS, &self.metrics_address)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::KafkaAuthentication;
    use proptest::prelude::*;

    fn authentication() -> impl Strategy<Value = KafkaAuthentication> {
        prop_oneof![
            Just(KafkaAuthentication::None),
            Just(KafkaAuthentication::MskIam { region: "eu-west-1".to_owned() })
        ]
    }

    proptest! {
        /// What the stack writes is what the app reads.
        #[test]
        fn a_consumer_configuration_survives_the_environment(
            authentication in authentication(),
            batch_size in 1u32..=10_000,
            timeout in 0.001f64..=60.0,
            in_flight in 1u32..=256,
            group_instance_id in proptest::option::of("[a-z]{1,8}-[0-9]"),
            session_timeout_seconds in 1.0f64..=1800.0,
        ) {
            let configuration = ConsumerConfiguration {
                kafka: KafkaConfiguration { bootstrap_servers: "b-1:9098,b-2:9098".to_owned(), authentication },
                topic: "trade-tx".to_owned(),
                dead_letter_topic: "trade-tx-dlq".to_owned(),
                consumer_group: "workers".to_owned(),
                group_instance_id,
                session_timeout_seconds,
                batch_size,
                batch_bytes: 1 << 16,
                batch_timeout_seconds: timeout,
                batch_processing_seconds: 1.0,
                batches_in_flight: in_flight,
                message_bytes_max: 1024,
                retry_budget_seconds: 3.5,
                drain_timeout_seconds: 4.0,
                metrics_address: "127.0.0.1:8000".to_owned(),
            };
            let variables = configuration.to_environment();
            let read = ConsumerConfiguration::from_environment(|name| variables.get(name).cloned());
            prop_assert_eq!(read, Ok(configuration));
        }

        #[test]
        fn a_producer_configuration_survives_the_environment(
            authentication in authentication(), rate in RATE_BOUNDS, seed in proptest::option::of(any::<u64>())
        ) {
            let configuration = ProducerConfiguration {
                kafka: KafkaConfiguration { bootstrap_servers: "localhost:9092".to_owned(), authentication },
                topic: "trade-tx".to_owned(),
                messages_per_second: rate,
                generator_seed: seed,
                metrics_address: METRICS_ADDRESS_DEFAULT.to_owned(),
            };
            let variables = configuration.to_environment();
            let read = ProducerConfiguration::from_environment(|name| variables.get(name).cloned());
            prop_assert_eq!(read, Ok(configuration));
        }
    }

    #[test]
    fn what_is_missing_or_out_of_bounds_is_named() {
        let missing = ProducerConfiguration::from_environment(|_| None).unwrap_err();
        assert!(missing.to_string().contains("KAFKA_BOOTSTRAP_SERVERS"), "{missing}");
        let variables = |name: &str| match name {
            "KAFKA_BOOTSTRAP_SERVERS" => Some("localhost:9092".to_owned()),
            "KAFKA_TOPIC" => Some("t".to_owned()),
            "MESSAGES_PER_SECOND" => Some("-1".to_owned()),
            _ => None,
        };
        let invalid = ProducerConfiguration::from_environment(variables).unwrap_err();
        assert_eq!(
            invalid.to_string(),
            "the environment variable MESSAGES_PER_SECOND is `-1`, which is not a number from 0 to 100000"
        );
    }

    #[test]
    fn not_a_number_is_refused_where_a_rate_belongs() {
        let variables = |name: &str| match name {
            "KAFKA_BOOTSTRAP_SERVERS" => Some("localhost:9092".to_owned()),
            "KAFKA_TOPIC" => Some("t".to_owned()),
            "MESSAGES_PER_SECOND" => Some("NaN".to_owned()),
            _ => None,
        };
        assert!(ProducerConfiguration::from_environment(variables).is_err());
    }
}
