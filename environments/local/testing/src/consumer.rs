//! A consumer by the microbatch engine, in the test's own process.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use worker_kit::{
    consumer::{self, ConsumerError, ConsumerMetrics, ConsumerSettings, Membership},
    dead_letters::DeadLetterTopic,
    kafka::TokenSource,
    lanes::Limits,
    processing::BatchHandler,
    retry::RetryPolicy,
};

use crate::broker::Broker;

/// Small batches, often: what a test sees much of in a short time.
#[must_use]
pub fn settings(broker: &Broker, topic: &str, group: &str, lanes: usize) -> ConsumerSettings {
    ConsumerSettings {
        kafka: broker.kafka(),
        topic: topic.to_owned(),
        group: group.to_owned(),
        client_id: group.to_owned(),
        limits: Limits {
            records: 50,
            bytes: 1 << 20,
            timeout: Duration::from_millis(50),
            in_flight: lanes,
            waiting: 2,
        },
        retry: RetryPolicy::within(Duration::from_secs(20)),
        drain_timeout: Duration::from_secs(5),
    }
}

/// A consumer that runs.
pub struct Running {
    /// Cancelled, it ends as on SIGTERM.
    pub stop: CancellationToken,
    /// What it counts.
    pub metrics: Arc<ConsumerMetrics>,
    task: JoinHandle<Result<(), ConsumerError>>,
}

impl Running {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// When its producer of dead letters cannot be made.
    pub fn start<H: BatchHandler>(settings: ConsumerSettings, dead_letter_topic: &str, handler: H) -> Self {
        Self::start_as(settings, Membership::default(), dead_letter_topic, handler)
    }

    /// Starts one as a member that the group knows.
    ///
    /// # Panics
    ///
    /// As [`Running::start`].
    pub fn start_as<H: BatchHandler>(
        settings: ConsumerSettings,
        membership: Membership,
        dead_letter_topic: &str,
        handler: H,
    ) -> Self {
        // Warnings of clients whose broker is killed would bury everything else.
        if std::env::var_os("RUST_LOG").is_some() {
            worker_kit::telemetry::init_log();
        }
        let stop = CancellationToken::new();
        let metrics = Arc::new(ConsumerMetrics::new().unwrap());
        let tokens = TokenSource::new(&settings.kafka, tokio::runtime::Handle::current());
        let sink = Arc::new(
            DeadLetterTopic::new(&settings.kafka, dead_letter_topic, &settings.topic, tokens).unwrap(),
        );
        let task = tokio::spawn(consumer::run_as(
            settings,
            membership,
            Arc::new(handler),
            sink,
            metrics.clone(),
            stop.clone(),
        ));
        Self { stop, metrics, task }
    }

    /// Ends it, and waits for that.
    ///
    /// # Panics
    ///
    /// When it ended with an error.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}
