//! What the client calls back: rebalances, statistics, tokens, commit results.

use std::{
    collections::BTreeSet,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Statistics, TopicPartitionList,
    client::OAuthToken,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult},
};

use super::{ConsumerMetrics, commit_offsets};
use crate::{
    batch::Batch,
    kafka::TokenSource,
    lanes::{Dispatch, Lanes},
    processing::ProcessingError,
};

/// The state of the engine. It is behind a lock because the tasks of the lanes, and the client's callbacks
/// (which run within the poll), reach it as well; nobody keeps the lock while something is waited for.
pub(super) struct State {
    pub(super) lanes: Lanes,
    /// Assigned partitions that the client is told not to read.
    pub(super) paused: BTreeSet<i32>,
    /// The first batch that failed for good.
    pub(super) failure: Option<ProcessingError>,
    /// Lanes that a failed batch keeps occupied: nothing of their partitions may be processed past it.
    pub(super) failed_lanes: BTreeSet<usize>,
    /// Whether nothing more is started.
    pub(super) draining: bool,
    /// Whoever waits for batches to end is woken once so few wait in a lane.
    wake_at_waiting: usize,
    /// Times that somebody was woken.
    woken: u64,
}

impl State {
    pub(super) fn new(lanes: Lanes) -> Self {
        Self {
            lanes,
            paused: BTreeSet::new(),
            failure: None,
            failed_lanes: BTreeSet::new(),
            draining: false,
            wake_at_waiting: 0,
            woken: 0,
        }
    }

    /// Whether batches are in flight that may still end well.
    pub(super) fn is_busy(&self) -> bool {
        self.lanes.in_flight() > self.failed_lanes.len()
    }
}

pub(super) struct EngineContext {
    state: Mutex<State>,
    ended: Condvar,
    tokens: TokenSource,
    metrics: Arc<ConsumerMetrics>,
    revoke_timeout: Duration,
}

impl EngineContext {
    pub(super) fn new(
        state: State,
        tokens: TokenSource,
        metrics: Arc<ConsumerMetrics>,
        revoke_timeout: Duration,
    ) -> Self {
        Self { state: Mutex::new(state), ended: Condvar::new(), tokens, metrics, revoke_timeout }
    }

    /// The state. A panic elsewhere does not make it unusable: it is plain data.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accounts for a batch that is done; gives the next of its lane.
    pub(super) fn complete(&self, lane: usize, ticket: u64, batch: Batch) -> Option<Dispatch> {
        let mut state = self.state();
        state.lanes.recycle(batch);
        state.lanes.complete(lane, ticket);
        let next = if state.draining { None } else { state.lanes.dispatch_lane(lane, Instant::now()) };
        self.batch_ended(&mut state, lane);
        next
    }

    /// Accounts for a batch that failed for good.
    pub(super) fn fail(&self, lane: usize, error: ProcessingError) {
        tracing::error!(%error, "a batch failed");
        let mut state = self.state();
        state.failed_lanes.insert(lane);
        state.failure.get_or_insert(error);
        self.batch_ended(&mut state, lane);
    }

    /// Counts a commit that failed.
    pub(super) fn commit_failed(&self) {
        self.metrics.commit_failed();
    }

    fn batch_ended(&self, state: &mut State, lane: usize) {
        self.metrics.in_flight(state.lanes.in_flight());
        if state.lanes.waiting(lane) <= state.wake_at_waiting {
            state.woken += 1;
            self.ended.notify_all();
        }
    }

    /// Waits, without the lock, for a batch to end that leaves at most `waiting` others in its lane.
    pub(super) fn await_end<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        waiting: usize,
        timeout: Duration,
    ) -> MutexGuard<'a, State> {
        state.wake_at_waiting = waiting;
        let before = state.woken;
        let (state, _) = self
            .ended
            .wait_timeout_while(state, timeout, |state| state.woken == before)
            .unwrap_or_else(PoisonError::into_inner);
        state
    }

    /// Gives partitions up: waits for their batches in flight, commits what is done, then lets them go.
    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(|element| element.partition()).collect();
        let lost = consumer.assignment_lost();
        let mut state = self.state();
        let mut busy = state.lanes.begin_revoke(&partitions);
        if lost {
            // Somebody else may have them already: a commit would move the new owner's offsets.
            tracing::warn!(?partitions, "partitions lost");
        } else {
            let deadline = Instant::now() + self.revoke_timeout;
            while busy {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    tracing::warn!(
                        ?partitions,
                        "revoked before their batches ended; they will be read again"
                    );
                    self.metrics.drain_timed_out();
                    break;
                }
                state = self.await_end(state, usize::MAX, left);
                busy = state.lanes.holds(&partitions) && state.failure.is_none();
            }
            let offsets = state.lanes.take_commits();
            // The commit's callback takes the lock.
            drop(state);
            if let Some(topic) = list.elements().first().map(|element| element.topic().to_owned())
                && let Err(error) = commit_offsets(consumer, &topic, &offsets, CommitMode::Sync)
            {
                tracing::warn!(%error, "the commit before a revocation failed; some records will be read again");
                self.metrics.commit_failed();
                let failed = offsets.iter().map(|(partition, _)| *partition);
                self.state().lanes.commit_failed(failed);
            }
            state = self.state();
        }
        state.lanes.finish_revoke(&partitions);
        state.paused.retain(|partition| !partitions.contains(partition));
        tracing::info!(?partitions, lost, "partitions given up");
    }
}

impl ClientContext for EngineContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn stats(&self, statistics: Statistics) {
        self.metrics.statistics(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client");
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.tokens.token()
    }
}

impl ConsumerContext for EngineContext {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(list) => self.revoke(consumer, list),
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            // The client keeps an application's pause over a loss and a return: a partition that was paused when it was
            // given up would come back paused, and nobody would read it ever again.
            if list.count() > 0
                && let Err(error) = consumer.resume(list)
            {
                tracing::error!(%error, "resuming what was taken over failed");
            }
            let partitions: Vec<i32> = list.elements().iter().map(|element| element.partition()).collect();
            let mut state = self.state();
            state.lanes.assign(&partitions);
            state.paused.retain(|partition| !partitions.contains(partition));
            self.metrics.rebalanced(Instant::now());
            tracing::info!(?partitions, "partitions taken over");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::warn!(%error, "commit failed; tried again later");
            self.metrics.commit_failed();
            let partitions: Vec<i32> = offsets.elements().iter().map(|element| element.partition()).collect();
            self.state().lanes.commit_failed(partitions);
        }
    }
}
