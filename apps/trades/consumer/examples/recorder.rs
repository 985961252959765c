//! A consumer that writes down what it has processed, for tests that kill it: one `partition offset` a line,
//! a batch at a time.

use std::{env, fs::OpenOptions, io::Write, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;
use worker_contract::trades::ConsumerConfiguration;
use worker_kit::{
    batch::{Origin, Record},
    consumer::{self, ConsumerMetrics},
    dead_letters::{DeadLetterTopic, Rejection},
    kafka::TokenSource,
    processing::{BatchHandler, HandleError},
};

struct Notebook {
    path: String,
    takes: Duration,
}

impl BatchHandler for Notebook {
    type Item = Origin;

    fn decode(&self, record: Record<'_>) -> Result<Origin, Rejection> {
        Ok(record.origin)
    }

    async fn handle(&self, items: &[Origin]) -> Result<(), HandleError> {
        tokio::time::sleep(self.takes).await;
        let lines: String =
            items.iter().map(|item| format!("{} {}\n", item.partition, item.offset)).collect();
        let write = || -> std::io::Result<()> {
            OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(lines.as_bytes())
        };
        write().map_err(|error| HandleError::Fatal(error.to_string()))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let configuration = ConsumerConfiguration::from_environment(|name| env::var(name).ok())?;
    let path = env::args().nth(1).context("the file to write to is the only argument")?;
    let tokens = TokenSource::new(&configuration.kafka, tokio::runtime::Handle::current());
    let sink = DeadLetterTopic::new(
        &configuration.kafka,
        &configuration.dead_letter_topic,
        &configuration.topic,
        tokens,
    )?;
    let takes = Duration::from_secs_f64(configuration.batch_processing_seconds);
    consumer::run(
        trade_consumer::settings(&configuration, "recorder"),
        Arc::new(Notebook { path, takes }),
        Arc::new(sink),
        Arc::new(ConsumerMetrics::new()?),
        CancellationToken::new(),
    )
    .await?;
    Ok(())
}
