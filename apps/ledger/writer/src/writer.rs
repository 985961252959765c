//! An invocation: the mode first, then lanes of chunks inside the limit, and what does not fit goes back.

use std::{
    future::Future,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::future::join_all;
use ledger_events::Mode;
use serde_json::{Value as Json, json};
use tokio::sync::Mutex;
use worker_contract::ledger::WriterConfiguration;
use worker_kit::{
    batch::Batch,
    concurrency::{Ending, Gate, Limit},
    dead_letters::DeadLetterSink,
    emf::{self, Unit},
    kafka_event::{BatchResponse, Delivered, KafkaEvent},
    processing::{Machine, ProcessingError, process},
    retry::RetryPolicy,
};

use crate::{
    chunks::{Lane, plan},
    mode_watch::ModeWatch,
    tables::{Tables, Tally},
};

/// How long the mode's parameter is waited for.
const MODE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a chunk costs beside its rows, in rows: round trips of chunks of unlike sizes are compared by it.
const CHUNK_COST_ROWS: f64 = 10.0;

/// Where the mode is read.
pub trait ModeSource: Send + Sync {
    /// The parameter's text; none where there is no parameter.
    ///
    /// # Errors
    ///
    /// Why it cannot be read.
    fn read(&self) -> impl Future<Output = Result<Option<String>, String>> + Send;
}

/// What the writer keeps between invocations.
pub struct Writer<M, S> {
    tables: Tables,
    dead_letters: S,
    mode_source: M,
    watch: Mutex<ModeWatch>,
    gate: Gate,
    chunk_records: usize,
    ceilings: [u32; 3],
    safety: Duration,
    name: String,
    instance: String,
    tell: Box<dyn Fn(&str) + Send + Sync>,
}

/// What became of a chunk's records.
#[derive(Default)]
struct LaneOutcome {
    dead_letters: usize,
    retries: u32,
    /// Positions of the records that go back.
    returned: Vec<usize>,
}

impl<M: ModeSource, S: DeadLetterSink> Writer<M, S> {
    /// A writer that has not read its mode yet. `name` and `instance` tell it from others in its metrics, a line an
    /// invocation that `tell` takes.
    pub fn new(
        configuration: &WriterConfiguration,
        tables: Tables,
        dead_letters: S,
        mode_source: M,
        name: &str,
        instance: &str,
        tell: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let [green, yellow, _] = configuration.chunk_concurrency;
        Self {
            tables,
            dead_letters,
            mode_source,
            watch: Mutex::new(ModeWatch::new(Duration::from_secs_f64(configuration.mode_ttl_seconds))),
            gate: Gate::new(Limit::new(
                usize::try_from(green).unwrap_or(1),
                usize::try_from(yellow).unwrap_or(1),
            )),
            chunk_records: usize::try_from(configuration.chunk_records).unwrap_or(1),
            ceilings: configuration.chunk_concurrency,
            safety: Duration::from_secs_f64(configuration.safety_seconds),
            name: name.to_owned(),
            instance: instance.to_owned(),
            tell: Box::new(tell),
        }
    }

    /// Handles an invocation. Nothing that was not written is told as done: it comes again.
    pub async fn handle(&self, event: KafkaEvent, deadline: Instant) -> BatchResponse {
        let begun = Instant::now();
        let stop = deadline.checked_sub(self.safety).unwrap_or(begun);
        // Before the first chunk, so that a cold start in RED begins as one.
        self.apply_mode().await;
        let records = event.into_records();
        let lanes = plan(&records, self.chunk_records);
        let outcomes = join_all(lanes.iter().map(|lane| self.write_lane(lane, &records, stop))).await;
        let mut total = LaneOutcome::default();
        for outcome in outcomes {
            total.dead_letters += outcome.dead_letters;
            total.retries += outcome.retries;
            total.returned.extend(outcome.returned);
        }
        let response = BatchResponse::failed(
            total
                .returned
                .iter()
                .filter_map(|position| records.get(*position))
                .map(|record| (record.topic_partition.as_str(), record.origin.offset)),
        );
        self.tell(&records, &total, begun).await;
        response
    }

    /// The chunks at once, at most, now.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.gate.snapshot().limit()
    }

    async fn apply_mode(&self) -> Mode {
        let mut watch = self.watch.lock().await;
        if watch.is_due(Instant::now()) {
            let outcome = tokio::time::timeout(MODE_TIMEOUT, self.mode_source.read())
                .await
                .unwrap_or_else(|_| Err("no answer in time".to_owned()));
            watch.take(outcome, Instant::now(), rand::random());
        }
        let mode = watch.mode(Instant::now(), unix_ms());
        let [green, yellow, red] = self.ceilings;
        let ceiling = match mode {
            Mode::Green => green,
            Mode::Yellow => yellow,
            Mode::Red => red,
        };
        self.gate.set_ceiling(usize::try_from(ceiling).unwrap_or(1));
        mode
    }

    async fn write_lane(&self, lane: &Lane, records: &[Delivered], stop: Instant) -> LaneOutcome {
        let mut outcome = LaneOutcome::default();
        for (number, chunk) in lane.iter().enumerate() {
            match self.write_chunk(chunk, records, stop, &mut outcome).await {
                Ok(()) => {}
                Err(error) => {
                    let rest = lane.iter().skip(number).flatten();
                    outcome.returned.extend(rest);
                    match error {
                        ProcessingError::Exhausted { .. } => {
                            tracing::warn!(%error, records = outcome.returned.len(), "records go back");
                        }
                        ProcessingError::Fatal(_) => {
                            tracing::error!(%error, records = outcome.returned.len(), "records go back");
                        }
                    }
                    break;
                }
            }
        }
        outcome
    }

    async fn write_chunk(
        &self,
        chunk: &[usize],
        records: &[Delivered],
        stop: Instant,
        outcome: &mut LaneOutcome,
    ) -> Result<(), ProcessingError> {
        let time_up = || ProcessingError::Exhausted { tries: 0, error: "the time is up".to_owned() };
        // The way to the first chunk can be long, and the mode can change on it.
        self.apply_mode().await;
        let passage = tokio::time::timeout_at(stop.into(), self.gate.pass()).await.map_err(|_| time_up())?;
        let begun = Instant::now();
        if begun >= stop {
            return Err(time_up());
        }
        let mut batch = Batch::default();
        for record in chunk.iter().filter_map(|position| records.get(*position)) {
            batch.push(record.record());
        }
        let policy = RetryPolicy::until(stop, begun);
        let result = process(&batch, &self.tables, &self.dead_letters, &policy, &Machine, |rejection| {
            tracing::warn!(cause = rejection.cause, error = rejection.error, "a dead letter");
        })
        .await;
        let ending = match &result {
            Ok(done) if done.retries > 0 => Ending::Pushback,
            Ok(done) if done.dead_letters == 0 => Ending::Success,
            // Its time went into looking for culprits.
            Ok(_) | Err(ProcessingError::Fatal(_)) => Ending::Other,
            Err(ProcessingError::Exhausted { .. }) => Ending::Pushback,
        };
        let comparable =
            (self.chunk_records as f64 + CHUNK_COST_ROWS) / (batch.len() as f64 + CHUNK_COST_ROWS);
        passage.finish(begun.elapsed().mul_f64(comparable), ending, Instant::now());
        let done = result?;
        outcome.dead_letters += done.dead_letters;
        outcome.retries += done.retries;
        Ok(())
    }

    /// One line with the invocation's metrics, which CloudWatch takes from the log.
    async fn tell(&self, records: &[Delivered], total: &LaneOutcome, begun: Instant) {
        let Tally { rows, duplicates, regressions_refused, statements, took } = self.tables.take_tally();
        let watch = self.watch.lock().await;
        let mode = watch.mode(Instant::now(), unix_ms());
        let held = watch.held();
        let limit = self.gate.snapshot();
        let now = unix_ms();
        // The transform passes the time on that an event came to the first topic with: this is all of its way.
        let ages = records
            .iter()
            .filter_map(|record| record.origin.timestamp_ms)
            .map(|came| (now - came).max(0) as f64)
            .collect();
        let count = |value: usize| value as f64;
        let chunk_ms = took.as_secs_f64() * 1000.0 / f64::from(statements.max(1));
        let line = emf::line(
            "Floodgate/Ledger",
            &[("Function", &self.name)],
            &[
                ("Records", Unit::Count, count(records.len())),
                ("Rows", Unit::Count, count(rows)),
                ("Duplicates", Unit::Count, count(duplicates)),
                ("RegressionsRefused", Unit::Count, count(regressions_refused)),
                ("DeadLetters", Unit::Count, count(total.dead_letters)),
                ("Returned", Unit::Count, count(total.returned.len())),
                ("Retries", Unit::Count, f64::from(total.retries)),
                ("Limit", Unit::Count, count(limit.limit())),
                ("Severity", Unit::Count, f64::from(mode as u8)),
                ("ChunkMilliseconds", Unit::Milliseconds, chunk_ms),
                ("InvocationMilliseconds", Unit::Milliseconds, begun.elapsed().as_secs_f64() * 1000.0),
            ],
            &[("AgeMilliseconds", Unit::Milliseconds, emf::distribution(ages))],
            &[
                ("instance", self.instance.as_str().into()),
                ("mode", mode.as_str().into()),
                ("mode_version", held.map_or(Json::Null, |held| json!(held.version))),
                ("mode_alarm", held.and_then(|held| held.alarm.as_deref()).into()),
                ("mode_since_ms", held.map_or(Json::Null, |held| json!(held.since_at(now)))),
            ],
            now,
        );
        (self.tell)(&line);
    }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
