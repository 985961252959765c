//! The configuration of the tags system's workloads.

use std::collections::BTreeMap;

use crate::{
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

/// `host` or `host:port` of the cache's cluster endpoint.
pub const CACHE_ENDPOINT: &str = "CACHE_ENDPOINT";

/// How the cache is told who connects: `none` or `memorydb-iam`.
pub const CACHE_AUTHENTICATION: &str = "CACHE_AUTHENTICATION";

/// The cache's name, which IAM tokens are signed for.
pub const CACHE_NAME: &str = "CACHE_NAME";

/// The cache's user, who signs in by IAM.
pub const CACHE_USER: &str = "CACHE_USER";

/// What the worker may do in the cache, as an access list has it: read and write, by a script that changes a snapshot
/// and its deltas together and in transactions that read both; ask which node has which slots. Nothing that
/// administers.
pub const CACHE_ACCESS: &str = "resetchannels -@all +@read +@write +@connection +@transaction -@dangerous +eval +evalsha +script|load +cluster|slots ~*";

const REGION: &str = "AWS_REGION";
const BATCH_SIZE: &str = "BATCH_SIZE";
const BATCH_TIMEOUT_SECONDS: &str = "BATCH_TIMEOUT_SECONDS";
const BATCHES_IN_FLIGHT: &str = "BATCHES_IN_FLIGHT";
const MESSAGE_BYTES_MAX: &str = "MESSAGE_BYTES_MAX";
const EXPIRY_SECONDS: &str = "EXPIRY_SECONDS";
const RETRY_BUDGET_SECONDS: &str = "RETRY_BUDGET_SECONDS";
const DRAIN_TIMEOUT_SECONDS: &str = "DRAIN_TIMEOUT_SECONDS";
const METRICS_ADDRESS: &str = "METRICS_ADDRESS";

/// Where a cache listens when its endpoint names no port.
const CACHE_PORT_DEFAULT: u16 = 6379;

/// How the cache is told who connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheAuthentication {
    /// Not at all, without TLS: a cache on the same machine.
    None,
    /// MemoryDB's IAM authentication, over TLS: a token signed with the workload's AWS credentials.
    MemoryDbIam {
        /// The cluster's region.
        region: String,
        /// The cluster's name.
        cluster: String,
        /// The user.
        user: String,
    },
}

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
    /// `host` or `host:port` of the cache.
    pub cache_endpoint: String,
    /// How the cache is told who connects.
    pub cache_authentication: CacheAuthentication,
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
        let cache_endpoint = reader.text(CACHE_ENDPOINT, "host:port of the cache")?;
        let invalid = |name, value: String, expected: &str| ConfigurationError::Invalid {
            name,
            value,
            expected: expected.to_owned(),
        };
        let (host, _) = parse_endpoint(&cache_endpoint)
            .ok_or_else(|| invalid(CACHE_ENDPOINT, cache_endpoint.clone(), "`host` or `host:port`"))?;
        let cache_authentication = match reader.optional(CACHE_AUTHENTICATION).as_deref() {
            None | Some("none") => {
                if !["127.0.0.1", "localhost"].contains(&host) {
                    let expected = "on this machine, as a cache without authentication must be";
                    return Err(invalid(CACHE_ENDPOINT, cache_endpoint, expected));
                }
                CacheAuthentication::None
            }
            Some("memorydb-iam") => CacheAuthentication::MemoryDbIam {
                region: reader.text(REGION, "the region of the cache")?,
                cluster: reader.text(CACHE_NAME, "the cache's name, which tokens are signed for")?,
                user: reader.text(CACHE_USER, "the cache's user")?,
            },
            Some(other) => {
                return Err(invalid(CACHE_AUTHENTICATION, other.to_owned(), "`none` or `memorydb-iam`"));
            }
        };
        Ok(Self {
            kafka: KafkaConfiguration::read(&reader)?,
            topic: reader.text(TOPIC, "the topic that the tags come from")?,
            dead_letter_topic: reader.text(DEAD_LETTER_TOPIC, "the topic for what cannot be processed")?,
            consumer_group: reader.text(CONSUMER_GROUP, "the consumer group")?,
            cache_endpoint,
            cache_authentication,
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
            .set(CACHE_ENDPOINT, &self.cache_endpoint)
            .set(BATCH_SIZE, self.batch_size)
            .set(BATCH_TIMEOUT_SECONDS, self.batch_timeout_seconds)
            .set(BATCHES_IN_FLIGHT, self.batches_in_flight)
            .set(MESSAGE_BYTES_MAX, self.message_bytes_max)
            .set(EXPIRY_SECONDS, self.expiry_seconds)
            .set(RETRY_BUDGET_SECONDS, self.retry_budget_seconds)
            .set(DRAIN_TIMEOUT_SECONDS, self.drain_timeout_seconds)
            .set(METRICS_ADDRESS, &self.metrics_address);
        match &self.cache_authentication {
            CacheAuthentication::None => writer.set(CACHE_AUTHENTICATION, "none"),
            CacheAuthentication::MemoryDbIam { region, cluster, user } => writer
                .set(CACHE_AUTHENTICATION, "memorydb-iam")
                .set(REGION, region)
                .set(CACHE_NAME, cluster)
                .set(CACHE_USER, user),
        }
        .finish()
    }

    /// The cache's host and port.
    #[must_use]
    pub fn cache_address(&self) -> (&str, u16) {
        parse_endpoint(&self.cache_endpoint).unwrap_or((&self.cache_endpoint, CACHE_PORT_DEFAULT))
    }
}

fn parse_endpoint(endpoint: &str) -> Option<(&str, u16)> {
    match endpoint.rsplit_once(':') {
        None => Some((endpoint, CACHE_PORT_DEFAULT)),
        Some((host, port)) => port.parse().ok().filter(|_| !host.is_empty()).map(|port| (host, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::KafkaAuthentication;

    fn configuration(cache_endpoint: &str, cache_authentication: CacheAuthentication) -> WorkerConfiguration {
        WorkerConfiguration {
            kafka: KafkaConfiguration {
                bootstrap_servers: "b-1:9098".to_owned(),
                authentication: KafkaAuthentication::MskIam { region: "eu-west-1".to_owned() },
            },
            topic: "tag-data".to_owned(),
            dead_letter_topic: "tag-data-dlq".to_owned(),
            consumer_group: "tag-worker".to_owned(),
            cache_endpoint: cache_endpoint.to_owned(),
            cache_authentication,
            batch_size: 7,
            batch_timeout_seconds: 0.25,
            batches_in_flight: 3,
            message_bytes_max: 1000,
            expiry_seconds: 60,
            retry_budget_seconds: 3.5,
            drain_timeout_seconds: 4.0,
            metrics_address: "127.0.0.1:8000".to_owned(),
        }
    }

    fn read(variables: &BTreeMap<String, String>) -> Result<WorkerConfiguration, ConfigurationError> {
        WorkerConfiguration::from_environment(|name| variables.get(name).cloned())
    }

    #[test]
    fn what_the_stack_writes_is_what_the_worker_reads() {
        let iam = CacheAuthentication::MemoryDbIam {
            region: "eu-west-1".to_owned(),
            cluster: "tags".to_owned(),
            user: "tags-worker".to_owned(),
        };
        for configuration in
            [configuration("cache.example", iam), configuration("127.0.0.1:7000", CacheAuthentication::None)]
        {
            assert_eq!(read(&configuration.to_environment()), Ok(configuration));
        }
        assert_eq!(
            configuration("127.0.0.1:7000", CacheAuthentication::None).cache_address(),
            ("127.0.0.1", 7000)
        );
    }

    #[test]
    fn a_cache_elsewhere_is_not_reached_without_tls() {
        let elsewhere = configuration("cache.example:6379", CacheAuthentication::None).to_environment();
        let error = read(&elsewhere).unwrap_err().to_string();
        assert!(error.contains("on this machine"), "{error}");
        let without_port = configuration("localhost:port", CacheAuthentication::None).to_environment();
        assert!(read(&without_port).unwrap_err().to_string().contains("`host:port`"));
    }
}
