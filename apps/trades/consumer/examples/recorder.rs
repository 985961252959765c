//! A consumer whose effect is idempotent: what it is given twice, has its effect once. For tests that kill it, and as the
//! pattern for a sink of one's own.
//!
//! The effect is a line `KEY VALUE` in a journal, a file a partition. A batch is appended under the file's lock,
//! without the lines that are there already: by this process, by the one that had the partition before, or by one
//! that does not know yet that it has lost it. Beside it, `attempts` says what was handed to the sink: one
//! `PARTITION OFFSET` a line.

use std::{
    collections::{BTreeMap, HashSet},
    env,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;
use worker_contract::trades::ConsumerConfiguration;
use worker_kit::{
    batch::Record,
    consumer::{self, ConsumerMetrics},
    dead_letters::{DeadLetterTopic, Rejection},
    kafka::TokenSource,
    processing::{BatchHandler, HandleError},
};

/// An effect to be brought about once.
#[derive(Clone)]
struct Effect {
    partition: i32,
    offset: i64,
    /// What tells it from every other: its line in the journal.
    line: String,
}

/// What is known of a partition's journal: how far it was read, and the lines until there.
#[derive(Default)]
struct Known {
    read_bytes: u64,
    lines: HashSet<String>,
}

/// The sink.
#[derive(Clone)]
struct Journal {
    directory: PathBuf,
    takes: Duration,
    known: Arc<Mutex<BTreeMap<i32, Known>>>,
}

impl Journal {
    fn append(&self, effects: &[Effect]) -> io::Result<()> {
        let attempts: String =
            effects.iter().map(|effect| format!("{} {}\n", effect.partition, effect.offset)).collect();
        appending(&self.directory.join("attempts"))?.write_all(attempts.as_bytes())?;
        let mut by_partition: BTreeMap<i32, Vec<&str>> = BTreeMap::new();
        for effect in effects {
            by_partition.entry(effect.partition).or_default().push(&effect.line);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (partition, lines) in by_partition {
            let mut file = appending(&self.directory.join(format!("partition-{partition}")))?;
            file.lock()?;
            let known = known.entry(partition).or_default();
            known.catch_up(&mut file)?;
            let new: String = lines
                .into_iter()
                .filter(|line| known.lines.insert((*line).to_owned()))
                .map(|line| format!("{line}\n"))
                .collect();
            file.write_all(new.as_bytes())?;
            known.read_bytes += new.len() as u64;
            file.unlock()?;
        }
        Ok(())
    }
}

impl Known {
    /// Reads what others have written since. A line without its end was begun by a process that was killed: it is
    /// taken away, and its record comes again, because it was not committed.
    fn catch_up(&mut self, file: &mut File) -> io::Result<()> {
        file.seek(SeekFrom::Start(self.read_bytes))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.lines.extend(text.get(..whole).unwrap_or_default().lines().map(str::to_owned));
        self.read_bytes += whole as u64;
        if whole < text.len() {
            file.set_len(self.read_bytes)?;
        }
        Ok(())
    }
}

fn appending(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).open(path)
}

impl BatchHandler for Journal {
    type Item = Effect;

    fn decode(&self, record: Record<'_>) -> Result<Effect, Rejection> {
        let text = |part: Option<&[u8]>| String::from_utf8_lossy(part.unwrap_or_default()).into_owned();
        Ok(Effect {
            partition: record.origin.partition,
            offset: record.origin.offset,
            line: format!("{} {}", text(record.key), text(record.payload)),
        })
    }

    async fn handle(&self, effects: &[Effect]) -> Result<(), HandleError> {
        tokio::time::sleep(self.takes).await;
        let (journal, effects) = (self.clone(), effects.to_vec());
        tokio::task::spawn_blocking(move || journal.append(&effects))
            .await
            .map_err(|error| HandleError::Fatal(error.to_string()))?
            .map_err(|error| HandleError::Fatal(error.to_string()))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    worker_kit::telemetry::init_log();
    let configuration = ConsumerConfiguration::from_environment(|name| env::var(name).ok())?;
    let directory = env::args().nth(1).context("the journal's directory is the only argument")?;
    let tokens = TokenSource::new(&configuration.kafka, tokio::runtime::Handle::current());
    let sink = DeadLetterTopic::new(
        &configuration.kafka,
        &configuration.dead_letter_topic,
        &configuration.topic,
        tokens,
    )?;
    let takes = Duration::from_secs_f64(configuration.batch_processing_seconds);
    let journal = Journal { directory: directory.into(), takes, known: Arc::default() };
    consumer::run_as(
        trade_consumer::settings(&configuration, "recorder"),
        trade_consumer::membership(&configuration),
        Arc::new(journal),
        Arc::new(sink),
        Arc::new(ConsumerMetrics::new()?),
        CancellationToken::new(),
    )
    .await?;
    Ok(())
}
