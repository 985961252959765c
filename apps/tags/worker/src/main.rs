//! Brings tags from a topic to the cache. Configured by environment variables
//! (`worker_contract::tags::WorkerConfiguration`).

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use tag_store::writer::Writer;
use tag_worker::{
    cache,
    worker::{TagWriter, bounds, machine_time_ms, settings},
};
use worker_contract::tags::WorkerConfiguration;
use worker_kit::{
    consumer::Membership,
    worker::{self, ConsumingWorker},
};

fn main() -> ExitCode {
    worker::main(run())
}

async fn run() -> Result<()> {
    let configuration = WorkerConfiguration::from_environment(|name| std::env::var(name).ok())?;
    let worker = ConsumingWorker::begin("tag-worker", &configuration.metrics_address).await?;
    let store = cache::connect(&configuration.cache, &worker.stop).await?;
    tracing::info!(
        address = %worker.address,
        topic = configuration.topic,
        group = configuration.consumer_group,
        cache = configuration.cache.endpoint,
        batches_in_flight = configuration.batches_in_flight,
        "consuming"
    );
    let writer = Arc::new(TagWriter::new(Writer::new(store), bounds(&configuration), machine_time_ms));
    let settings = settings(&configuration, &worker.client_id);
    let letters = &configuration.dead_letter_topic;
    let ended = worker.consume(settings, Membership::default(), letters, writer.clone()).await;
    tracing::info!(
        done = worker.metrics.done_total(),
        applied = writer.applied(),
        known = writer.known(),
        dead_letters = worker.metrics.dead_letters_total(),
        "worker stopped"
    );
    Ok(ended?)
}
