//! The frame of a worker in the cluster: log, signals, probes and metrics, and a consumer from its start until its last
//! dead letter is acknowledged.

use std::{fmt::Display, future::Future, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use rdkafka::error::KafkaError;
use tokio_util::sync::CancellationToken;

use crate::{
    consumer::{self, ConsumerError, ConsumerMetrics, ConsumerSettings, Membership},
    dead_letters::DeadLetterTopic,
    kafka::TokenSource,
    processing::BatchHandler,
    program, shutdown, telemetry,
};

/// How long the end waits for dead letters that are not acknowledged yet.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs a worker's program to its end. What keeps it from going on is told in the log.
pub fn main<E: Display>(worker: impl Future<Output = Result<(), E>>) -> ExitCode {
    telemetry::init_log();
    program::run(worker).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// Why a consuming worker cannot begin, or go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Neither signals nor probes can be listened to.
    #[error(transparent)]
    Listening(#[from] std::io::Error),
    /// Two metrics have one name.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// It consumes no more.
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
    /// Dead letters cannot be written, or the last of them were not acknowledged.
    #[error("the dead letters' producer failed: {0}")]
    DeadLetters(#[from] KafkaError),
    /// The thread that waited for the last dead letters did not come to its end.
    #[error("the last dead letters were not waited for: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// A consuming worker whose probes and metrics are served: it lives, and is not ready before it consumes.
pub struct ConsumingWorker {
    /// Cancelled by SIGTERM and SIGINT.
    pub stop: CancellationToken,
    /// What it counts.
    pub metrics: Arc<ConsumerMetrics>,
    /// Where probes and metrics are served.
    pub address: SocketAddr,
    /// The pod's name, or the program's where there is no pod.
    pub client_id: String,
}

impl ConsumingWorker {
    /// Begins: signals are heard, and `metrics_address` is listened on.
    ///
    /// # Errors
    ///
    /// When one of the two cannot be had.
    pub async fn begin(program: &str, metrics_address: &str) -> Result<Self, WorkerError> {
        let stop = shutdown::on_signals()?;
        let metrics = Arc::new(ConsumerMetrics::new()?);
        let routes = axum::Router::new();
        let address =
            telemetry::serve(metrics_address, metrics.registry(), metrics.clone(), routes, stop.clone())
                .await?;
        let client_id = std::env::var("POD_NAME").unwrap_or_else(|_| program.to_owned());
        Ok(Self { stop, metrics, address, client_id })
    }

    /// Consumes until a signal comes or something fails for good, and waits for the last dead letters.
    ///
    /// # Errors
    ///
    /// See [`WorkerError`].
    pub async fn consume<H: BatchHandler>(
        &self,
        settings: ConsumerSettings,
        membership: Membership,
        dead_letter_topic: &str,
        handler: Arc<H>,
    ) -> Result<(), WorkerError> {
        let tokens = TokenSource::new(&settings.kafka, tokio::runtime::Handle::current());
        let letters =
            Arc::new(DeadLetterTopic::new(&settings.kafka, dead_letter_topic, &settings.topic, tokens)?);
        let (metrics, stop) = (self.metrics.clone(), self.stop.clone());
        let ended = consumer::run_as(settings, membership, handler, letters.clone(), metrics, stop).await;
        let flushed = tokio::task::spawn_blocking(move || letters.flush(FLUSH_TIMEOUT)).await?;
        ended?;
        Ok(flushed?)
    }
}
