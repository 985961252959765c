//! What the client calls back: rebalances, statistics, tokens, commit results.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Statistics, TopicPartitionList,
    client::OAuthToken,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult},
};

use super::{Completion, ConsumerMetrics, commit_offsets, lock};
use crate::{kafka::TokenSource, lanes::Lanes, processing::ProcessingError};

/// The state of the polling thread. It is behind a lock because the client's callbacks reach it through the
/// context; they run within the poll, on the same thread, so nobody ever waits for the lock.
pub(super) struct State {
    pub(super) lanes: Lanes,
    pub(super) completions: mpsc::Receiver<Completion>,
    /// Assigned partitions that the client is told not to read.
    pub(super) paused: BTreeSet<i32>,
    pub(super) failure: Option<ProcessingError>,
    /// Lanes that a failed batch keeps occupied.
    pub(super) failed: usize,
}

impl State {
    /// Accounts for the batches that have ended.
    pub(super) fn absorb(&mut self, metrics: &ConsumerMetrics) {
        while let Ok(completion) = self.completions.try_recv() {
            self.account(completion);
        }
        metrics.in_flight(self.lanes.in_flight());
    }

    /// Waits for one batch to end; whether one did.
    pub(super) fn await_completion(&mut self, timeout: Duration, metrics: &ConsumerMetrics) -> bool {
        match self.completions.recv_timeout(timeout) {
            Ok(completion) => {
                self.account(completion);
                self.absorb(metrics);
                true
            }
            Err(_) => false,
        }
    }

    fn account(&mut self, completion: Completion) {
        match completion.result {
            Ok(_) => self.lanes.complete(completion.lane, completion.ticket),
            // Its lane stays occupied: nothing of those partitions may be processed past the failure.
            Err(error) => {
                tracing::error!(%error, "a batch failed");
                self.failed += 1;
                self.failure.get_or_insert(error);
            }
        }
    }
}

pub(super) struct EngineContext {
    pub(super) state: Mutex<State>,
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
        Self { state: Mutex::new(state), tokens, metrics, revoke_timeout }
    }

    /// Gives partitions up: waits for their batches in flight, commits what is done, then lets them go.
    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(|element| element.partition()).collect();
        let lost = consumer.assignment_lost();
        let mut state = lock(&self.state);
        let mut busy = state.lanes.begin_revoke(&partitions);
        if lost {
            // Somebody else may have them already: a commit would move the new owner's offsets.
            tracing::warn!(?partitions, "partitions lost");
        } else {
            let deadline = Instant::now() + self.revoke_timeout;
            while busy && state.failure.is_none() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    tracing::warn!(
                        ?partitions,
                        "revoked before their batches ended; they will be read again"
                    );
                    self.metrics.drain_timed_out();
                    break;
                }
                state.await_completion(left, &self.metrics);
                busy = state.lanes.holds(&partitions);
            }
            let offsets = state.lanes.take_commits();
            if let Some(topic) = list.elements().first().map(|element| element.topic().to_owned())
                && let Err(error) = commit_offsets(consumer, &topic, &offsets, CommitMode::Sync)
            {
                tracing::warn!(%error, "the commit before a revocation failed; some records will be read again");
                state.lanes.commit_failed(offsets.iter().map(|(partition, _)| *partition));
            }
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

    fn post_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            let partitions: Vec<i32> = list.elements().iter().map(|element| element.partition()).collect();
            let mut state = lock(&self.state);
            state.lanes.assign(&partitions);
            // Partitions come unpaused, also those that were paused when they were last given up.
            state.paused.retain(|partition| !partitions.contains(partition));
            self.metrics.joined();
            tracing::info!(?partitions, "partitions taken over");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::warn!(%error, "commit failed; tried again later");
            let partitions: Vec<i32> = offsets.elements().iter().map(|element| element.partition()).collect();
            // A synchronous commit calls back while the state is held; its result is seen there.
            if let Ok(mut state) = self.state.try_lock() {
                state.lanes.commit_failed(partitions);
            }
        }
    }
}
