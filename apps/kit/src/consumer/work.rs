//! The tasks that process batches: one a lane, for as long as the lane has batches.

use std::{sync::Arc, time::Instant};

use super::{ConsumerMetrics, context::EngineContext};
use crate::{
    dead_letters::DeadLetterSink,
    lanes::Dispatch,
    processing::{BatchHandler, Machine, ProcessingError, process},
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

async fn run_lane<H: BatchHandler, S: DeadLetterSink>(
    work: Arc<Work<H, S>>,
    context: Arc<EngineContext>,
    dispatch: Dispatch,
) {
    let mut next = Some(dispatch);
    while let Some(Dispatch { lane, ticket, batch }) = next {
        let begun = Instant::now();
        work.metrics.batch_begun(&batch);
        let result = process(&batch, &*work.handler, &*work.sink, &work.policy, &Machine, |rejection| {
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
