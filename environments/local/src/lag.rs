//! How far a consumer group is behind, asked of the broker itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use capacity::scaling::keda::PartitionOffsets;
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

fn client(bootstrap_servers: &str, group: &str) -> KafkaResult<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("allow.auto.create.topics", "false")
        .set("reconnect.backoff.max.ms", "500")
        .set("log_level", "0")
        .create()
}

/// The numbers of a topic's partitions.
fn partitions(
    consumer: &BaseConsumer,
    bootstrap_servers: &str,
    topic: &str,
    deadline: Instant,
    timeout: Duration,
) -> Result<Vec<i32>> {
    let metadata = patiently(deadline, || consumer.fetch_metadata(Some(topic), timeout))
        .with_context(|| format!("the broker {bootstrap_servers} does not answer"))?;
    let partitions: Vec<i32> = metadata
        .topics()
        .iter()
        .filter(|known| known.name() == topic && known.error().is_none())
        .flat_map(|known| known.partitions().iter().map(|partition| partition.id()))
        .collect();
    anyhow::ensure!(!partitions.is_empty(), "the broker {bootstrap_servers} has no topic {topic}");
    Ok(partitions)
}

/// Asks for it.
///
/// # Errors
///
/// When the broker does not answer or does not know the topic.
pub fn lag(bootstrap_servers: &str, topic: &str, group: &str) -> Result<Lag> {
    let consumer = client(bootstrap_servers, group)?;
    let deadline = Instant::now() + PATIENCE;
    let partitions = partitions(&consumer, bootstrap_servers, topic, deadline, TIMEOUT)?;
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

/// Asks for a group's offsets again and again, with one client as long as it works.
pub struct OffsetReader {
    bootstrap_servers: String,
    topic: String,
    group: String,
    client: Option<(BaseConsumer, TopicPartitionList)>,
}

impl OffsetReader {
    /// Of a group on a topic; nothing is asked yet.
    #[must_use]
    pub fn new(bootstrap_servers: &str, topic: &str, group: &str) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.to_owned(),
            topic: topic.to_owned(),
            group: group.to_owned(),
            client: None,
        }
    }

    /// The offsets by partition. Each of its requests waits for no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// When the broker does not answer or does not know the topic; the next call begins with a new client.
    pub fn read(&mut self, timeout: Duration) -> Result<Vec<PartitionOffsets>> {
        let (client, ends) = match self.client.take() {
            Some(known) => known,
            None => self.connect(timeout)?,
        };
        let latest = client.offsets_for_times(ends.clone(), timeout).context("the ends cannot be read")?;
        let committed =
            client.committed_offsets(ends.clone(), timeout).context("the group's offsets cannot be read")?;
        let number = |offset: Offset| match offset {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        };
        let mut offsets = Vec::new();
        for end in latest.elements() {
            end.error().with_context(|| format!("the end of partition {}", end.partition()))?;
            let position = committed.find_partition(&self.topic, end.partition());
            offsets.push(PartitionOffsets {
                partition: u32::try_from(end.partition()).context("a partition below 0")?,
                committed: position.and_then(|position| number(position.offset())),
                latest: number(end.offset()),
            });
        }
        self.client = Some((client, ends));
        Ok(offsets)
    }

    fn connect(&self, timeout: Duration) -> Result<(BaseConsumer, TopicPartitionList)> {
        let client = client(&self.bootstrap_servers, &self.group)?;
        let partitions = partitions(&client, &self.bootstrap_servers, &self.topic, Instant::now(), timeout)?;
        let mut ends = TopicPartitionList::new();
        for partition in partitions {
            // As a time, the end means the offset of the next record.
            ends.add_partition_offset(&self.topic, partition, Offset::End)?;
        }
        Ok((client, ends))
    }
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
