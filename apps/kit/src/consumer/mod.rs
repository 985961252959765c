//! The microbatch consumer: [`lanes`](crate::lanes) and [`processing`](crate::processing) on a Kafka client.
//!
//! One thread polls the client; each lane that has batches runs as a task of the runtime. The thread never
//! stays away from the poll for longer than [`BACKPRESSURE_WAIT`]: partitions whose lane is full
//! are paused, and it goes on polling, so that the group does not take the member for dead.

mod context;
mod membership;
mod metrics;
mod work;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio_util::sync::CancellationToken;
use worker_contract::{
    KafkaConfiguration,
    kafka::{FETCH_QUEUE_BYTES, FETCH_QUEUE_MESSAGES, FETCH_RESPONSE_BYTES},
};

use crate::{
    batch::{Origin, Record},
    dead_letters::DeadLetterSink,
    kafka::{TokenSource, client_config},
    lanes::{Lanes, Limits},
    processing::{BatchHandler, ProcessingError},
    retry::RetryPolicy,
};
use context::{EngineContext, State};
pub use membership::Membership;
pub use metrics::ConsumerMetrics;
use work::Work;

/// How long the poll is put off when all lanes are full, before partitions are paused.
const BACKPRESSURE_WAIT: Duration = Duration::from_millis(100);

/// The same when others have room. Long enough for a lane that is only slow for a moment, and a small part of the work
/// that a brimming lane holds.
const LANE_WAIT: Duration = Duration::from_millis(10);

/// How long a poll waits when nothing is due.
const IDLE_POLL: Duration = Duration::from_millis(100);

/// How long a poll waits while batches are in flight: their end frees a lane.
const BUSY_POLL: Duration = Duration::from_millis(5);

/// Records read in a row before batches are looked after.
const READ_AHEAD: usize = 512;

/// Commits are at least this far apart, except at a revocation and at the end.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

/// How long the last commit may take: a rebalance that is under way has to end first.
const LAST_COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a poll waits between two tries of the last commit.
const LAST_COMMIT_POLL: Duration = Duration::from_millis(50);

/// How long a question for the topic's metadata waits, before the client is polled again for what else it needs.
const METADATA_TIMEOUT: Duration = Duration::from_millis(500);

/// What a consumer is told.
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// The cluster.
    pub kafka: KafkaConfiguration,
    /// What is read.
    pub topic: String,
    /// The consumer group.
    pub group: String,
    /// The client's name in the broker's logs.
    pub client_id: String,
    /// Bounds of batches.
    pub limits: Limits,
    /// How long a batch is tried again.
    pub retry: RetryPolicy,
    /// How long a revocation or the end waits for batches in flight; at most half the session timeout for a
    /// revocation.
    pub drain_timeout: Duration,
}

impl ConsumerSettings {
    /// The client's settings: a new group begins at the earliest record, members share partitions by the
    /// cooperative-sticky protocol, and only this crate commits.
    #[must_use]
    pub fn client_config(&self) -> rdkafka::ClientConfig {
        let mut config = client_config(&self.kafka, &self.client_id);
        config
            .set("group.id", &self.group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("max.poll.interval.ms", "300000")
            .set("fetch.min.bytes", "1")
            .set("fetch.wait.max.ms", "100")
            .set("queued.max.messages.kbytes", (FETCH_QUEUE_BYTES >> 10).to_string())
            .set("queued.min.messages", FETCH_QUEUE_MESSAGES.to_string())
            .set("fetch.max.bytes", FETCH_RESPONSE_BYTES.to_string())
            // The client raises the bound above to this one, which is of what a producer sends.
            .set("message.max.bytes", FETCH_RESPONSE_BYTES.to_string())
            // The client looks only this often whether its full queue has room again; its default of 1 s leaves
            // a fast reader idle for most of the time.
            .set("fetch.queue.backoff.ms", "10")
            .set("allow.auto.create.topics", "false")
            .set("statistics.interval.ms", "1000");
        Membership::default().apply(&mut config);
        config
    }
}

/// Where a consumer is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reads and processes.
    Consuming,
    /// Reads nothing more and waits for the batches in flight.
    Draining,
    /// Has committed what is done.
    Complete,
}

/// Why a consumer stopped.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// The client failed for good.
    #[error("the Kafka client failed: {0}")]
    Kafka(#[from] KafkaError),
    /// A batch failed for good; its records will be read again.
    #[error("a batch could not be processed and will be read again: {0}")]
    Batch(#[from] ProcessingError),
    /// The polling thread could not be started or ended by itself.
    #[error("the polling thread failed: {0}")]
    Thread(String),
}

/// Consumes, as a member of the group that is told apart and waited for as said, until the token is cancelled or
/// something fails for good. Whatever the way out: batches in flight were waited for (up to the drain timeout), and what
/// is done is committed.
///
/// # Errors
///
/// See [`ConsumerError`].
pub async fn run_as<H: BatchHandler, S: DeadLetterSink>(
    settings: ConsumerSettings,
    membership: Membership,
    handler: Arc<H>,
    sink: Arc<S>,
    metrics: Arc<ConsumerMetrics>,
    stop: CancellationToken,
) -> Result<(), ConsumerError> {
    let runtime = tokio::runtime::Handle::current();
    let (done, ended) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("kafka-poll".to_owned())
        .spawn(move || {
            let _ = done.send(poll_loop(&settings, &membership, &handler, &sink, &metrics, &stop, &runtime));
        })
        .map_err(|error| ConsumerError::Thread(error.to_string()))?;
    ended.await.map_err(|_| ConsumerError::Thread("it panicked".to_owned()))?
}

fn poll_loop<H: BatchHandler, S: DeadLetterSink>(
    settings: &ConsumerSettings,
    membership: &Membership,
    handler: &Arc<H>,
    sink: &Arc<S>,
    metrics: &Arc<ConsumerMetrics>,
    stop: &CancellationToken,
    runtime: &tokio::runtime::Handle,
) -> Result<(), ConsumerError> {
    let context = EngineContext::new(
        State::new(Lanes::new(settings.limits)),
        TokenSource::new(&settings.kafka, runtime.clone()),
        metrics.clone(),
        membership.revoke_timeout(settings.drain_timeout),
    );
    let mut config = settings.client_config();
    membership.apply(&mut config);
    let consumer: BaseConsumer<EngineContext> = BaseConsumer::from_config_and_context(&config, context)?;
    connect(&consumer, &settings.topic, metrics, stop);
    consumer.subscribe(&[&settings.topic])?;
    let context = consumer.context().clone();
    let work = Arc::new(Work {
        handler: handler.clone(),
        sink: sink.clone(),
        policy: settings.retry,
        metrics: metrics.clone(),
    });
    let mut committed_at = Instant::now();
    let mut phase = Phase::Consuming;

    while phase == Phase::Consuming {
        let now = Instant::now();
        metrics.polled(now);
        let (started, wait) = {
            let mut state = context.state();
            let started = state.lanes.dispatch(now);
            metrics.in_flight(state.lanes.in_flight());
            let due = state.lanes.deadline().map(|deadline| deadline.saturating_duration_since(now));
            let idle = if state.lanes.in_flight() > 0 || !started.is_empty() { BUSY_POLL } else { IDLE_POLL };
            (started, due.unwrap_or(idle).min(idle))
        };
        for dispatch in started {
            work.start(&context, runtime, dispatch);
        }
        if context.state().failure.is_some() || stop.is_cancelled() {
            phase = Phase::Draining;
            break;
        }
        if now.duration_since(committed_at) >= COMMIT_INTERVAL {
            commit(&consumer, &context, &settings.topic, CommitMode::Async);
            committed_at = now;
        }
        balance(&consumer, &context, &settings.topic)?;
        // Nothing more can be committed, so there is nothing to drain for: whoever has the partitions reads again.
        read(&consumer, &context, wait)?;
        metrics.progress(context.state().lanes.assigned());
    }
    let deadline = Instant::now() + settings.drain_timeout;
    drain(&consumer, &context, deadline, metrics);
    commit_at_last(
        &consumer,
        &context,
        &settings.topic,
        deadline.max(Instant::now() + LAST_COMMIT_TIMEOUT),
        metrics,
    );
    let failure = context.state().failure.take();
    drop(consumer);
    tracing::info!(from = ?phase, to = ?Phase::Complete, "consumer ended");
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Waits until the client has found the brokers and the topic. Whoever cannot work must not join: a member that
/// comes and goes costs the others two rebalances.
fn connect(
    consumer: &BaseConsumer<EngineContext>,
    topic: &str,
    metrics: &ConsumerMetrics,
    stop: &CancellationToken,
) {
    while !stop.is_cancelled() {
        metrics.polled(Instant::now());
        // Tokens are made within the poll.
        drop(consumer.poll(Duration::ZERO));
        match consumer.fetch_metadata(Some(topic), METADATA_TIMEOUT) {
            Ok(metadata) if metadata.topics().iter().any(|found| !found.partitions().is_empty()) => {
                metrics.connected(Instant::now());
                return;
            }
            Ok(_) => {
                tracing::warn!(topic, "the topic is not there yet");
                std::thread::sleep(METADATA_TIMEOUT);
            }
            Err(error) => tracing::warn!(%error, "no metadata yet; asked again"),
        }
    }
}

/// Reads what is there, waiting only for the first record.
///
/// # Errors
///
/// What the client cannot recover from: another has taken the member's name and its commits are refused.
fn read(
    consumer: &BaseConsumer<EngineContext>,
    context: &EngineContext,
    wait: Duration,
) -> Result<(), KafkaError> {
    let mut wait = wait;
    // What is there is read within a millisecond: only the first record is waited for.
    let mut arrived = None;
    for _ in 0..READ_AHEAD {
        match consumer.poll(wait) {
            None => return Ok(()),
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(error),
            Some(Err(error)) => tracing::warn!(%error, "reading failed; the client tries again"),
            Some(Ok(message)) => {
                let origin = Origin {
                    partition: message.partition(),
                    offset: message.offset(),
                    timestamp_ms: message.timestamp().to_millis(),
                };
                let record = Record { origin, key: message.key(), payload: message.payload() };
                let mut state = context.state();
                let filled = state.lanes.offer(record, *arrived.get_or_insert_with(Instant::now));
                if filled && state.lanes.is_full(origin.partition) {
                    return Ok(());
                }
            }
        }
        wait = Duration::ZERO;
    }
    Ok(())
}

/// Pauses the partitions of lanes that hold all that they may, and resumes those whose lanes are half empty.
/// A pause throws away what the client has fetched, so a lane is first given a moment to get on.
fn balance(
    consumer: &BaseConsumer<EngineContext>,
    context: &EngineContext,
    topic: &str,
) -> Result<(), KafkaError> {
    let (pause, resume) = {
        let mut state = context.state();
        let mut full = state.lanes.full_partitions();
        if !full.is_subset(&state.paused) {
            let waits = |state: &State, partition: &i32| state.lanes.waiting_of(*partition);
            let others_have_room = full.len() < state.lanes.assigned().len();
            let (half, wait) = if others_have_room {
                (full.iter().map(|partition| waits(&state, partition)).max().unwrap_or(0) / 2, LANE_WAIT)
            } else {
                (state.lanes.waiting_limit() / 2, BACKPRESSURE_WAIT)
            };
            state = context.await_end(state, half, wait);
            if others_have_room {
                full.retain(|partition| waits(&state, partition) > half);
            } else {
                full = state.lanes.full_partitions();
            }
        }
        let pause: Vec<i32> = full.difference(&state.paused).copied().collect();
        let resume: Vec<i32> =
            state.paused.iter().copied().filter(|partition| state.lanes.is_half_empty(*partition)).collect();
        state.paused.extend(&pause);
        state.paused.retain(|partition| !resume.contains(partition));
        (pause, resume)
    };
    if !pause.is_empty() {
        consumer.pause(&partition_list(topic, &pause))?;
    }
    if !resume.is_empty() {
        consumer.resume(&partition_list(topic, &resume))?;
    }
    Ok(())
}

fn partition_list(topic: &str, partitions: &[i32]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

/// Commits what is done; whether that succeeded. A failed commit is noted and tried again later: the group may
/// be between two generations, and what stays uncommitted is read again.
fn commit(
    consumer: &BaseConsumer<EngineContext>,
    context: &EngineContext,
    topic: &str,
    mode: CommitMode,
) -> bool {
    let offsets = context.state().lanes.take_commits();
    match commit_offsets(consumer, topic, &offsets, mode) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "commit failed; tried again later");
            context.commit_failed();
            context.state().lanes.commit_failed(offsets.iter().map(|(partition, _)| *partition));
            false
        }
    }
}

/// The last commit. While the group rebalances it takes none, so the client is polled until the member has
/// its new generation.
fn commit_at_last(
    consumer: &BaseConsumer<EngineContext>,
    context: &EngineContext,
    topic: &str,
    deadline: Instant,
    metrics: &ConsumerMetrics,
) {
    while !commit(consumer, context, topic, CommitMode::Sync) {
        if Instant::now() >= deadline {
            tracing::warn!("the last commit failed; some records will be read again");
            return;
        }
        drop(consumer.poll(LAST_COMMIT_POLL));
        metrics.polled(Instant::now());
    }
}

fn commit_offsets(
    consumer: &BaseConsumer<EngineContext>,
    topic: &str,
    offsets: &[(i32, i64)],
    mode: CommitMode,
) -> Result<(), KafkaError> {
    if offsets.is_empty() {
        return Ok(());
    }
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, *partition, rdkafka::Offset::Offset(*offset))?;
    }
    match consumer.commit(&list, mode) {
        Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(()),
        other => other,
    }
}

/// Waits for the batches in flight, polling on, so that the group keeps the member meanwhile.
fn drain(
    consumer: &BaseConsumer<EngineContext>,
    context: &EngineContext,
    deadline: Instant,
    metrics: &ConsumerMetrics,
) {
    context.state().draining = true;
    if let Ok(assignment) = consumer.assignment()
        && let Err(error) = consumer.pause(&assignment)
    {
        tracing::warn!(%error, "pausing failed");
    }
    while Instant::now() < deadline {
        if !context.state().is_busy() {
            return;
        }
        // A record that still comes in is left to the next owner of its partition.
        drop(consumer.poll(BUSY_POLL));
        metrics.polled(Instant::now());
    }
    tracing::warn!("batches in flight were given up after the drain timeout; they will be read again");
}

#[cfg(test)]
mod tests {
    use super::*;
    use worker_contract::KafkaAuthentication;

    #[test]
    fn a_group_begins_at_the_earliest_record_shares_cooperatively_and_commits_by_itself() {
        let kafka = KafkaConfiguration {
            bootstrap_servers: "b-1:9098".to_owned(),
            authentication: KafkaAuthentication::None,
        };
        let settings = ConsumerSettings {
            kafka,
            topic: "t".to_owned(),
            group: "g".to_owned(),
            client_id: "c".to_owned(),
            limits: Limits {
                records: 1,
                bytes: 1,
                timeout: Duration::from_millis(1),
                in_flight: 1,
                waiting: 1,
            },
            retry: RetryPolicy::within(Duration::from_secs(1)),
            drain_timeout: Duration::from_secs(60),
        };
        let config = settings.client_config();
        assert_eq!(config.get("auto.offset.reset"), Some("earliest"));
        assert_eq!(config.get("partition.assignment.strategy"), Some("cooperative-sticky"));
        assert_eq!(config.get("enable.auto.commit"), Some("false"));
        // What pods are sized by.
        assert_eq!(config.get("queued.max.messages.kbytes"), Some("8192"));
        assert_eq!(config.get("fetch.max.bytes"), Some("262144"));
        assert_eq!(
            config.get("message.max.bytes"),
            Some("262144"),
            "a greater one would raise the one above"
        );
    }
}
