//! Consumes trades in microbatches, or puts dead letters back (`redrive`). Configured by environment variables
//! (`worker_contract::trades::ConsumerConfiguration`).

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use trade_consumer::{TradeWriter, membership, settings};
use worker_contract::trades::ConsumerConfiguration;
use worker_kit::{
    consumer::{self, ConsumerMetrics},
    dead_letters::DeadLetterTopic,
    kafka::TokenSource,
    redrive::Redrive,
    shutdown, telemetry,
};

/// How long the end waits for dead letters that are not acknowledged yet.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Consumes trades in microbatches, configured by environment variables.
#[derive(Parser)]
#[command(name = "trade-consumer", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Put dead letters back into the topic that they came from, once their cause is repaired.
    Redrive {
        /// Letters of this cause alone (malformed, null, oversized, rejected); may be given several times.
        #[arg(long = "cause")]
        causes: Vec<String>,
        /// Letters to put back, at most.
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
        /// Tell what would be put back, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        None => {
            telemetry::init_log();
            run().await
        }
        Some(Command::Redrive { causes, limit, dry_run }) => redrive(causes, limit, dry_run).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            // A redrive has no log: it is a person's tool.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn redrive(causes: Vec<String>, limit: usize, dry_run: bool) -> Result<()> {
    let configuration = ConsumerConfiguration::from_environment(|name| std::env::var(name).ok())?;
    let redrive = Redrive {
        group: format!("{}-redrive", configuration.consumer_group),
        dead_letter_topic: configuration.dead_letter_topic,
        source_topic: configuration.topic,
        kafka: configuration.kafka,
        causes,
        limit,
        dry_run,
    };
    let tokens = TokenSource::new(&redrive.kafka, tokio::runtime::Handle::current());
    let report = redrive.run(tokens).await?;
    let verb = if dry_run { "would be put back" } else { "put back" };
    let (topic, letters) = (&redrive.source_topic, &redrive.dead_letter_topic);
    println!("{} letters of {letters} {verb} into {topic}", report.put_back.values().sum::<usize>());
    for (cause, count) in &report.put_back {
        println!("  {count:>8}  {cause}");
    }
    for (reason, count) in &report.left {
        println!("  {count:>8}  left: {reason}");
    }
    Ok(())
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
    let ended = consumer::run_as(
        settings(&configuration, &client_id),
        membership(&configuration),
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
