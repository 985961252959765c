//! Reads a topic for a mapping, and commits what is done.
//!
//! The partitions are assigned, not subscribed to: the runner is the only reader of its group, and a broker that comes
//! back finds it reading on, with no rebalance in between.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rdkafka::{
    ClientConfig, Message, Offset, Timestamp, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    message::{BorrowedMessage, Headers},
};
use serde_json::Value as Json;

use super::{
    batches::{Batches, Done},
    dispatch::{Worker, now_ms},
    event::KafkaRecord,
    filter,
    gathering::{Lane, Pollers},
    mapping::{Source, Start},
    progress::Progress,
    record::{Position, Record},
};
use crate::supervised::note;

/// How long a look for records takes when there are none and nothing is in flight.
const POLL: Duration = Duration::from_millis(20);

/// How long a batch in flight is listened for before records are looked for again.
const LISTEN: Duration = Duration::from_millis(5);

/// Records that are taken in before batches are looked at again.
const POLL_RECORDS: usize = 500;

/// How long offsets wait that the broker did not take.
const COMMIT_AGAIN: Duration = Duration::from_secs(1);

/// How often partitions that were added are looked for, and the lag is measured.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

struct Partition {
    lane: Lane,
    progress: Progress,
    /// The offset that the group has, or will have with the next commit.
    committed: i64,
    dirty: bool,
    paused: bool,
}

struct Reader<'a> {
    worker: &'a Worker,
    topic: &'a str,
    consumer: BaseConsumer,
    partitions: BTreeMap<i32, Partition>,
    batches: Batches<'a>,
    /// When the broker last took no offsets, if that was its last answer.
    refused: Option<Instant>,
}

/// Reads until the worker is to stop; what is in flight then is waited for.
///
/// # Errors
///
/// When the topic cannot be read. What is done is committed; it may be called again.
pub fn run(worker: &Worker) -> Result<()> {
    let Source::Kafka { topic, group, pollers } = &worker.mapping.source else { return Ok(()) };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &worker.bootstrap_servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set("fetch.wait.max.ms", "100")
        .set("queued.max.messages.kbytes", "16384")
        .set("reconnect.backoff.max.ms", "500")
        .set("socket.timeout.ms", "10000")
        .set("log_level", "0")
        .create()?;
    let mut reader = Reader {
        worker,
        topic,
        consumer,
        partitions: BTreeMap::new(),
        batches: Batches::new(worker, Pollers::Between(pollers.0, pollers.1)),
        refused: None,
    };
    reader.find_partitions(true)?;
    worker.counts.state("Running", None);
    let ended = reader.read();
    reader.drain();
    ended
}

impl Reader<'_> {
    fn read(&mut self) -> Result<()> {
        let mut looked = Instant::now();
        while !self.worker.is_stopping() {
            let in_flight = self.batches.are_in_flight();
            self.take_in(if in_flight { Duration::ZERO } else { POLL })?;
            let (done, ended) = self.batches.heard(if in_flight { LISTEN } else { Duration::ZERO });
            self.note(done);
            ended?;
            // Before what comes next: whoever is killed leaves no more to do again than was in flight.
            if self.refused.is_none_or(|refused| refused.elapsed() >= COMMIT_AGAIN) {
                self.commit();
            }
            self.batches.deliver_due();
            self.pause_full()?;
            if looked.elapsed() >= LOOK_EVERY {
                let found = self.find_partitions(false).and_then(|()| self.measure_lag());
                self.batches.trouble(found.err().map(|error| format!("{error:#}")));
                looked = Instant::now();
            }
            self.batches.count();
        }
        Ok(())
    }

    /// Waits for what is in flight, then commits.
    fn drain(&mut self) {
        let done = self.batches.drain();
        self.note(done);
        self.commit();
    }

    fn note(&mut self, done: Done) {
        for (part, position) in done {
            self.done(&part, &position);
        }
    }

    fn done(&mut self, part: &str, position: &Position) {
        let number = part.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
        let Some(partition) = number.and_then(|number: i32| self.partitions.get_mut(&number)) else { return };
        partition.progress.done(position);
        if let Some(offset) = partition.progress.done_to().and_then(Position::offset)
            && partition.committed != offset + 1
        {
            partition.committed = offset + 1;
            partition.dirty = true;
        }
    }

    /// Takes in what there is, as far as one look gives it.
    fn take_in(&mut self, mut wait: Duration) -> Result<()> {
        for _ in 0..POLL_RECORDS {
            let read = match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => Ok(self.record(&message)),
                Some(Err(error)) => Err(error),
            };
            wait = Duration::ZERO;
            match read {
                Ok((number, record, wanted)) => self.took(number, record, wanted),
                // The client connects again by itself.
                Err(error) if is_transient(&error) => {
                    self.batches.trouble(Some(format!("the broker is away: {error}")));
                    break;
                }
                Err(error) => return Err(error).context("the topic cannot be read"),
            }
        }
        Ok(())
    }

    fn took(&mut self, number: i32, record: Record, wanted: bool) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        partition.progress.read(record.position.clone());
        if wanted {
            self.batches.push(partition.lane.clone(), record);
        } else {
            let (part, position) = (record.part, record.position);
            self.worker.counts.lock().filtered += 1;
            self.done(&part, &position);
        }
    }

    /// A message as a record, and whether the mapping's filters want it.
    fn record(&self, message: &BorrowedMessage<'_>) -> (i32, Record, bool) {
        let (timestamp_ms, timestamp_type) = match message.timestamp() {
            Timestamp::LogAppendTime(ms) => (ms, "LOG_APPEND_TIME"),
            Timestamp::CreateTime(ms) => (ms, "CREATE_TIME"),
            Timestamp::NotAvailable => (now_ms(), "CREATE_TIME"),
        };
        let headers = message.headers().map(|headers| headers.iter().collect::<Vec<_>>()).unwrap_or_default();
        let json = KafkaRecord {
            topic: message.topic(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms,
            timestamp_type,
            key: message.key(),
            value: message.payload(),
            headers: headers.iter().map(|header| (header.key, header.value.unwrap_or_default())).collect(),
        }
        .json();
        let filters = &self.worker.mapping.filters;
        let wanted = filters.is_empty() || {
            let content = |bytes: Option<&[u8]>| bytes.map_or(Json::Null, filter::content);
            let mut seen = json.clone();
            seen["key"] = content(message.key());
            seen["value"] = content(message.payload());
            filters.iter().any(|filter| filter.takes(&seen))
        };
        let part: Arc<str> = self.partitions.get(&message.partition()).map_or_else(
            || part_name(self.topic, message.partition()),
            |partition| partition.lane.part.clone(),
        );
        let record = Record {
            part,
            position: Position::from(message.offset()),
            timestamp_ms,
            key: message.key().map(<[u8]>::to_vec),
            json: json.to_string(),
        };
        (message.partition(), record, wanted)
    }

    /// Reads no more of partitions in which enough waits, and goes on where there is room again.
    fn pause_full(&mut self) -> Result<()> {
        let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
        for (number, partition) in &mut self.partitions {
            let full = self.batches.is_full(&partition.lane);
            if full != partition.paused {
                (if full { &mut pause } else { &mut resume }).add_partition(self.topic, *number);
                partition.paused = full;
            }
        }
        if pause.count() > 0 {
            self.consumer.pause(&pause)?;
        }
        if resume.count() > 0 {
            self.consumer.resume(&resume)?;
        }
        Ok(())
    }

    /// Commits what is done. What the broker does not take is committed with the next.
    fn commit(&mut self) {
        let mut offsets = TopicPartitionList::new();
        for (number, partition) in self.partitions.iter().filter(|(_, partition)| partition.dirty) {
            let _ = offsets.add_partition_offset(self.topic, *number, Offset::Offset(partition.committed));
        }
        if offsets.count() == 0 {
            return;
        }
        match self.consumer.commit(&offsets, CommitMode::Sync) {
            Ok(()) => {
                self.refused = None;
                self.partitions.values_mut().for_each(|partition| partition.dirty = false);
            }
            Err(error) => {
                self.refused = Some(Instant::now());
                note(&format!("{}: offsets are not committed: {error}", self.worker.mapping.uuid));
            }
        }
    }

    /// Begins to read the partitions that are not read yet: where the group left off, else where the mapping says.
    /// Partitions that are added while it runs are read from their beginning: they have nothing older.
    fn find_partitions(&mut self, first: bool) -> Result<()> {
        let topic = self.topic;
        let metadata =
            self.consumer.fetch_metadata(Some(topic), TIMEOUT).context("the broker does not answer")?;
        let mut wanted = TopicPartitionList::new();
        for known in metadata.topics().iter().filter(|known| known.name() == topic) {
            if let Some(error) = known.error() {
                bail!("the topic {topic}: {}", rdkafka::types::RDKafkaErrorCode::from(error));
            }
            let new = known.partitions().iter().map(|partition| partition.id());
            for number in new.filter(|number| !self.partitions.contains_key(number)) {
                wanted.add_partition(topic, number);
            }
        }
        if wanted.count() == 0 {
            anyhow::ensure!(!self.partitions.is_empty(), "the broker has no topic {topic}");
            return Ok(());
        }
        let committed =
            self.consumer.committed_offsets(wanted, TIMEOUT).context("the group's offsets cannot be read")?;
        let (mut assigned, mut begun) = (TopicPartitionList::new(), Vec::new());
        for element in committed.elements() {
            let number = element.partition();
            let start = if first { self.worker.mapping.start } else { Start::TrimHorizon };
            let (offset, is_new) = match element.offset() {
                Offset::Offset(offset) => (offset, false),
                _ => (self.first_offset(number, start)?, true),
            };
            assigned.add_partition_offset(topic, number, Offset::Offset(offset))?;
            begun.push((number, offset, is_new));
        }
        self.consumer.incremental_assign(&assigned)?;
        for (number, offset, is_new) in begun {
            let lane = Lane { part: part_name(topic, number), share: 0 };
            // Where reading began is committed at once: a runner that is started again before anything is done must
            // not begin elsewhere.
            let partition = Partition {
                lane,
                progress: Progress::default(),
                committed: offset,
                dirty: is_new,
                paused: false,
            };
            self.partitions.insert(number, partition);
        }
        self.commit();
        Ok(())
    }

    fn first_offset(&self, number: i32, start: Start) -> Result<i64> {
        let (begin, end) = self.consumer.fetch_watermarks(self.topic, number, TIMEOUT)?;
        let Start::AtTimestamp(timestamp_ms) = start else {
            return Ok(if start == Start::Latest { end } else { begin });
        };
        let mut times = TopicPartitionList::new();
        times.add_partition_offset(self.topic, number, Offset::Offset(timestamp_ms))?;
        let found = self.consumer.offsets_for_times(times, TIMEOUT)?;
        Ok(match found.find_partition(self.topic, number).map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => offset,
            _ => end,
        })
    }

    fn measure_lag(&self) -> Result<()> {
        let mut lag = 0;
        for (number, partition) in &self.partitions {
            let (_, end) = self.consumer.fetch_watermarks(self.topic, *number, TIMEOUT)?;
            lag += (end - partition.committed).max(0);
        }
        self.worker.counts.lock().offset_lag = Some(lag);
        Ok(())
    }
}

fn part_name(topic: &str, partition: i32) -> Arc<str> {
    format!("{topic}-{partition}").into()
}

fn is_transient(error: &rdkafka::error::KafkaError) -> bool {
    use rdkafka::types::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::LeaderNotAvailable
                | Code::NotCoordinator
                | Code::NotLeaderForPartition
                | Code::OperationTimedOut
                | Code::Resolve
        )
    )
}
