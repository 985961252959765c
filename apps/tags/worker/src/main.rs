//! Brings tags from a topic to the cache. Configured by environment variables
//! (`worker_contract::tags::WorkerConfiguration`).

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use aws_config::BehaviorVersion;
use tag_store::{
    connection::{Credentials, Endpoint, Store},
    writer::Writer,
};
use tag_worker::{
    token::{self, TokenRequest},
    worker::{TagWriter, bounds, machine_time_ms, settings},
};
use tokio_util::sync::CancellationToken;
use worker_contract::tags::{CacheAuthentication, WorkerConfiguration};
use worker_kit::{
    consumer::{self, ConsumerMetrics},
    dead_letters::DeadLetterTopic,
    kafka::TokenSource,
    shutdown, telemetry,
};

/// How long the end waits for dead letters that are not acknowledged yet.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the cache is connected to anew, with a new token: sooner than a token ends, so that a node that comes at
/// any time takes the one that is there.
const RENEW_EVERY: Duration = Duration::from_secs(600);

/// How soon that is tried again when it failed.
const RENEW_AGAIN: Duration = Duration::from_secs(15);

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
    let store = connect(&configuration, &stop).await?;
    let client_id = std::env::var("POD_NAME").unwrap_or_else(|_| "tag-worker".to_owned());
    tracing::info!(
        %address,
        topic = configuration.topic,
        group = configuration.consumer_group,
        cache = configuration.cache_endpoint,
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

/// Connects to the cache, and sees to it that the connections are made anew before their token ends.
async fn connect(configuration: &WorkerConfiguration, stop: &CancellationToken) -> Result<Store> {
    let (host, port) = configuration.cache_address();
    let place = format!("the cache at {}", configuration.cache_endpoint);
    let endpoint = |tls| Endpoint { host: host.to_owned(), port, tls };
    let CacheAuthentication::MemoryDbIam { region, cluster, user } =
        configuration.cache_authentication.clone()
    else {
        return Store::connect(endpoint(false), None).await.with_context(|| place);
    };
    let aws = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let sign = async move || -> Result<Credentials> {
        let request = TokenRequest { region: &region, cluster: &cluster, user: &user };
        token::credentials(&aws, &request, std::time::SystemTime::now()).await
    };
    let store = Store::connect(endpoint(true), Some(sign().await?)).await.with_context(|| place)?;
    let (renewed, stop) = (store.clone(), stop.clone());
    tokio::spawn(async move {
        let mut wait = RENEW_EVERY;
        while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            let outcome = match sign().await {
                Ok(credentials) => renewed.renew(Some(credentials)).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            wait = match outcome {
                Ok(()) => RENEW_EVERY,
                Err(error) => {
                    tracing::warn!("the connection to the cache was not renewed: {error:#}");
                    RENEW_AGAIN
                }
            };
        }
    });
    Ok(store)
}
