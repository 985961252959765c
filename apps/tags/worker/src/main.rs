//! Brings tags from a topic to the cache. Configured by environment variables
//! (`worker_contract::tags::WorkerConfiguration`).

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tag_store::writer::Writer;
use tag_worker::{
    cache,
    worker::{TagWriter, bounds, machine_time_ms, settings},
};
use worker_contract::tags::WorkerConfiguration;
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
    let configuration = WorkerConfiguration::from_environment(|name| std::env::var(name).ok())?;
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
    let store = cache::connect(&configuration.cache, &stop).await?;
    let client_id = std::env::var("POD_NAME").unwrap_or_else(|_| "tag-worker".to_owned());
    tracing::info!(
        %address,
        topic = configuration.topic,
        group = configuration.consumer_group,
        cache = configuration.cache.endpoint,
        batches_in_flight = configuration.batches_in_flight,
        "consuming"
    );
    let dead_letters = Arc::new(DeadLetterTopic::new(
        &configuration.kafka,
        &configuration.dead_letter_topic,
        &configuration.topic,
        TokenSource::new(&configuration.kafka, tokio::runtime::Handle::current()),
    )?);
    let writer = Arc::new(TagWriter::new(Writer::new(store), bounds(&configuration), machine_time_ms));
    let ended = consumer::run(
        settings(&configuration, &client_id),
        writer.clone(),
        dead_letters.clone(),
        metrics.clone(),
        stop,
    )
    .await;
    let flushed = tokio::task::spawn_blocking(move || dead_letters.flush(FLUSH_TIMEOUT)).await?;
    tracing::info!(
        done = metrics.done_total(),
        applied = writer.applied(),
        known = writer.known(),
        dead_letters = metrics.dead_letters_total(),
        "worker stopped"
    );
    ended?;
    Ok(flushed?)
}
