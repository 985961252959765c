//! How far a consumer group is behind, asked of the broker itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaResult,
    types::RDKafkaErrorCode,
};
use serde::{Deserialize, Serialize};

const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a broker that has just started may take to find out where its groups are.
const PATIENCE: Duration = Duration::from_secs(15);

const PAUSE: Duration = Duration::from_millis(100);

/// A topic as a group sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// How many partitions the topic has.
    pub partitions: usize,
    /// Records ever written, as far as they are still numbered.
    pub end_offset_total: i64,
    /// Records that the group has not committed. A partition without a commit counts from its beginning: a
    /// new member would start there.
    pub lag_records: i64,
}

/// Asks for it.
///
/// # Errors
///
/// When the broker does not answer or does not know the topic.
pub fn lag(bootstrap_servers: &str, topic: &str, group: &str) -> Result<Lag> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("allow.auto.create.topics", "false")
        .set("reconnect.backoff.max.ms", "500")
        .set("log_level", "0")
        .create()?;
    let deadline = Instant::now() + PATIENCE;
    let metadata = patiently(deadline, || consumer.fetch_metadata(Some(topic), TIMEOUT))
        .with_context(|| format!("the broker {bootstrap_servers} does not answer"))?;
    let partitions: Vec<i32> = metadata
        .topics()
        .iter()
        .filter(|known| known.name() == topic && known.error().is_none())
        .flat_map(|known| known.partitions().iter().map(|partition| partition.id()))
        .collect();
    anyhow::ensure!(!partitions.is_empty(), "the broker {bootstrap_servers} has no topic {topic}");
    let mut wanted = TopicPartitionList::new();
    for partition in &partitions {
        wanted.add_partition(topic, *partition);
    }
    let committed = patiently(deadline, || consumer.committed_offsets(wanted.clone(), TIMEOUT))
        .context("the group's offsets cannot be read")?;
    let mut lag = Lag { partitions: partitions.len(), end_offset_total: 0, lag_records: 0 };
    for partition in partitions {
        let (begin, end) = consumer.fetch_watermarks(topic, partition, TIMEOUT)?;
        let position = match committed.find_partition(topic, partition).map(|found| found.offset()) {
            Some(Offset::Offset(offset)) => offset,
            _ => begin,
        };
        lag.end_offset_total += end;
        lag.lag_records += (end - position).max(0);
    }
    Ok(lag)
}

/// Whether a broker answers and takes part in its cluster: one that only listens may not be of use yet.
#[must_use]
pub fn answers(bootstrap_servers: &str, timeout: Duration) -> bool {
    let consumer: Option<BaseConsumer> =
        ClientConfig::new().set("bootstrap.servers", bootstrap_servers).set("log_level", "0").create().ok();
    consumer
        .and_then(|consumer| consumer.fetch_metadata(None, timeout).ok())
        .is_some_and(|metadata| !metadata.brokers().is_empty())
}

/// Asks again while the broker is starting.
fn patiently<T>(deadline: Instant, mut ask: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    loop {
        match ask() {
            Err(error)
                if Instant::now() < deadline && error.rdkafka_error_code().is_some_and(is_transient) =>
            {
                std::thread::sleep(PAUSE);
            }
            answer => return answer,
        }
    }
}

fn is_transient(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::OperationTimedOut
    )
}
