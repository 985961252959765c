//! Consumes trades in microbatches, or puts dead letters back (`redrive`). Configured by environment variables
//! (`worker_contract::trades::ConsumerConfiguration`).

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use clap::{Parser, Subcommand};
use trade_consumer::{TradeWriter, membership, settings};
use worker_contract::trades::ConsumerConfiguration;
use worker_kit::{
    kafka::TokenSource,
    redrive::Redrive,
    worker::{self, ConsumingWorker},
};

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

fn main() -> ExitCode {
    let Some(Command::Redrive { causes, limit, dry_run }) = Cli::parse().command else {
        return worker::main(run());
    };
    match redrive(causes, limit, dry_run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // It has no log: it is a person's tool.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
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
    let worker = ConsumingWorker::begin("trade-consumer", &configuration.metrics_address).await?;
    tracing::info!(
        address = %worker.address,
        topic = configuration.topic,
        group = configuration.consumer_group,
        batch_size = configuration.batch_size,
        batch_timeout_seconds = configuration.batch_timeout_seconds,
        batches_in_flight = configuration.batches_in_flight,
        "consuming"
    );
    let writer = Arc::new(TradeWriter::new(&configuration));
    let settings = settings(&configuration, &worker.client_id);
    let letters = &configuration.dead_letter_topic;
    let ended = worker.consume(settings, membership(&configuration), letters, writer).await;
    tracing::info!(
        done = worker.metrics.done_total(),
        dead_letters = worker.metrics.dead_letters_total(),
        "consumer stopped"
    );
    Ok(ended?)
}
