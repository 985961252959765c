//! The tasks that process batches: one a lane, for as long as the lane has batches.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{ConsumerMetrics, context::EngineContext};
use crate::{
    dead_letters::DeadLetterSink,
    lanes::Dispatch,
    processing::{BatchHandler, Machine, ProcessingError, Surroundings, process},
    retry::RetryPolicy,
};

/// What it takes to process a batch.
pub(super) struct Work<H, S> {
    pub(super) handler: Arc<H>,
    pub(super) sink: Arc<S>,
    pub(super) policy: RetryPolicy,
    pub(super) metrics: Arc<ConsumerMetrics>,
}

impl<H: BatchHandler, S: DeadLetterSink> Work<H, S> {
    /// Processes a batch and then what waits in its lane. Going on here, instead of by way of the polling
    /// thread, saves two changes of threads a batch.
    pub(super) fn start(
        self: &Arc<Self>,
        context: &Arc<EngineContext>,
        runtime: &tokio::runtime::Handle,
        dispatch: Dispatch,
    ) {
        let lane = dispatch.lane;
        let task = runtime.spawn(run_lane(self.clone(), context.clone(), dispatch));
        let context = context.clone();
        runtime.spawn(async move {
            // A handler that panics fails its batch, not the process without a word.
            if let Err(error) = task.await {
                context.fail(lane, ProcessingError::Fatal(format!("the handler failed: {error}")));
            }
        });
    }
}

/// The machine, with retries counted as they are waited for: a batch that never succeeds would not tell them, and
/// then they matter most.
struct Counted {
    metrics: Arc<ConsumerMetrics>,
}

impl Surroundings for Counted {
    fn now(&self) -> Instant {
        Machine.now()
    }

    fn random(&self) -> f64 {
        Machine.random()
    }

    async fn sleep(&self, wait: Duration) {
        self.metrics.retried();
        Machine.sleep(wait).await;
    }

    async fn within<F: Future + Send>(&self, limit: Duration, future: F) -> Option<F::Output> {
        Machine.within(limit, future).await
    }
}

async fn run_lane<H: BatchHandler, S: DeadLetterSink>(
    work: Arc<Work<H, S>>,
    context: Arc<EngineContext>,
    dispatch: Dispatch,
) {
    let mut next = Some(dispatch);
    let surroundings = Counted { metrics: work.metrics.clone() };
    while let Some(Dispatch { lane, ticket, batch }) = next {
        let begun = Instant::now();
        work.metrics.batch_begun(&batch);
        let result = process(&batch, &*work.handler, &*work.sink, &work.policy, &surroundings, |rejection| {
            work.metrics.dead_letter(rejection);
        })
        .await;
        work.metrics.batch_ended(begun.elapsed(), &result);
        next = match result {
            Ok(_) => context.complete(lane, ticket, batch),
            Err(error) => {
                context.fail(lane, error);
                None
            }
        };
        // A handler that never waits must not keep the runtime from probes and signals.
        tokio::task::yield_now().await;
    }
}
