//! Consumes trades in microbatches. Configured by environment variables
//! (`worker_contract::trades::ConsumerConfiguration`).

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use trade_consumer::{TradeWriter, settings};
use worker_contract::trades::ConsumerConfiguration;
use worker_kit::{
    consumer::{self, ConsumerMetrics},
    dead_letters::DeadLetterTopic,
    kafka::TokenSource,
    shutdown, telemetry,
};

/// How long the end waits for dead letters that are not acknowledged yet.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    telemetry::init_log();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let configuration = ConsumerConfiguration::from_environment(|name| std::env::var(name).ok())?;
    let stop = shutdown::on_signals().context("cannot listen to signals")?;
    let metrics = Arc::new(ConsumerMetrics::new()?);
    let address = telemetry::serve(
        &configuration.metrics_address,
        metrics.registry(),
        metrics.clone(),
        axum::Router::new(),
        stop.clone(),
    )
    .await?;
    let client_id = std::env::var("POD_NAME").unwrap_or_else(|_| "trade-consumer".to_owned());
    tracing::info!(
        %address,
        topic = configuration.topic,
        group = configuration.consumer_group,
        batch_size = configuration.batch_size,
        batch_timeout_seconds = configuration.batch_timeout_seconds,
        batches_in_flight = configuration.batches_in_flight,
        "consuming"
    );
    let dead_letters = Arc::new(DeadLetterTopic::new(
        &configuration.kafka,
        &configuration.dead_letter_topic,
        &configuration.topic,
        TokenSource::new(&configuration.kafka, tokio::runtime::Handle::current()),
    )?);
    let writer = Arc::new(TradeWriter::new(&configuration));
    let ended = consumer::run(
        settings(&configuration, &client_id),
        writer,
        dead_letters.clone(),
        metrics.clone(),
        stop,
    )
    .await;
    let flushed = tokio::task::spawn_blocking(move || dead_letters.flush(FLUSH_TIMEOUT)).await?;
    tracing::info!(
        done = metrics.done_total(),
        dead_letters = metrics.dead_letters_total(),
        "consumer stopped"
    );
    ended?;
    Ok(flushed?)
}
