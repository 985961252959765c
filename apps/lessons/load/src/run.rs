//! A run: sends events until the time is over, and counts what came of them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, bail};
use aws_config::SdkConfig;
use chrono::{DateTime, Utc};
use lessons_enricher::{
    ports::{CallError, Outgoing, Stream},
    stream::KinesisStream,
};
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use worker_contract::lessons::LoadConfiguration;
use worker_kit::{
    load::{Course, at_rate, tell},
    retry::RetryPolicy,
};

use crate::{
    outbox::Outbox,
    reading::{self, Arrivals, Outcome},
    traffic::{Kind, RunId, Traffic},
};

/// Requests that are under way at once.
const REQUESTS: usize = 4;

/// How soon is looked again where nothing waits.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How often is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How long the end waits for what the stream has not taken.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the enricher may take to bring the last events.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Events that were made.
    pub events: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Events made per second.
    pub events_per_second: f64,
    /// Records that the stream has.
    pub records_acknowledged: u64,
    /// Records that it does not have.
    pub records_failed: u64,
    /// Times that a record was sent again because the stream refused it.
    pub records_repeated: u64,
    /// Makes the same events again.
    pub seed: u64,
    /// Which run it was.
    pub run: u64,
    /// What came of them; nothing where that was not asked, or the run was stopped.
    pub outcome: Option<Outcome>,
}

impl Report {
    /// Whether all that was sent was taken, and came to what it should, as far as that was looked at.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.records_failed == 0 && self.outcome.as_ref().is_none_or(Outcome::is_well)
    }
}

/// What the senders share.
#[derive(Default)]
struct Shared {
    outbox: Mutex<Outbox>,
    acknowledged: Mutex<BTreeMap<u64, Kind>>,
    repeated: AtomicU64,
    is_over: AtomicBool,
}

impl Shared {
    fn outbox(&self) -> std::sync::MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledged(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Kind>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what waits until all is sent and no more comes, or until `ended`.
async fn send(shared: Arc<Shared>, stream: KinesisStream, ended: CancellationToken) -> Result<()> {
    let retry = RetryPolicy::within(Duration::MAX / 2);
    let mut attempt = 0;
    while !ended.is_cancelled() {
        let batch = shared.outbox().take();
        if batch.is_empty() {
            if shared.is_over.load(Ordering::Relaxed) && shared.outbox().unsettled() == 0 {
                return Ok(());
            }
            let _ = ended.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await;
            continue;
        }
        let records: Vec<Outgoing> = batch
            .iter()
            .enumerate()
            .map(|(index, made)| Outgoing { index, partition_key: made.key.clone(), data: made.data.clone() })
            .collect();
        let taken = match stream.put(&records).await {
            Ok(taken) => taken,
            Err(CallError::Retriable(error)) => {
                tracing::warn!(error, "the stream does not take a request");
                vec![false; records.len()]
            }
            Err(CallError::Fatal(error)) => bail!("the stream takes no events: {error}"),
        };
        let there = shared.outbox().settle(batch, &taken);
        let refused = records.len() - there.len();
        shared.acknowledged().extend(there.into_iter().map(|made| (made.number, made.kind)));
        shared.repeated.fetch_add(u64::try_from(refused).unwrap_or(u64::MAX), Ordering::Relaxed);
        attempt = if refused == 0 { 0 } else { attempt + 1 };
        if attempt > 0 {
            let wait = retry.wait(attempt, Duration::ZERO, rand::random()).unwrap_or(retry.cap);
            let _ = ended.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }
    Ok(())
}

/// Carries a run out, until its time is over or `stop` is cancelled.
///
/// # Errors
///
/// When the streams cannot be reached, or what is written to refuses for good.
pub async fn run(
    configuration: &LoadConfiguration,
    aws: &SdkConfig,
    id: RunId,
    stop: &CancellationToken,
) -> Result<Report> {
    configuration.shape.check()?;
    let client = aws_sdk_kinesis::Client::new(aws);
    let ended = CancellationToken::new();
    let _ends = ended.clone().drop_guard();
    let mut arrivals: Option<[Arrivals; 2]> = None;
    if let Some(streams) = configuration.verified_streams() {
        let output =
            reading::follow(&client, &streams.output, ended.clone(), move |json| reading::enriched(json, id));
        let failed =
            reading::follow(&client, &streams.failed, ended.clone(), move |json| reading::failed(json, id));
        arrivals = Some([output.await?, failed.await?]);
    }
    let shared = Arc::new(Shared::default());
    let mut senders = JoinSet::new();
    for _ in 0..REQUESTS {
        let stream = KinesisStream::new(client.clone(), &configuration.input_stream);
        senders.spawn(send(shared.clone(), stream, ended.clone()));
    }
    // Who started this and is gone ends the run.
    let unread = stop.child_token();
    let mut traffic = Traffic::new(id, configuration.shape.clone());
    let make = || -> Result<()> {
        if let Some(result) = senders.try_join_next() {
            result??;
        }
        // What finds no room is not sent, and so counts as failed.
        let _ = shared.outbox().push(traffic.event(DateTime::<Utc>::from(SystemTime::now())));
        Ok(())
    };
    let period = Duration::from_secs(configuration.period_seconds);
    let course = Course { per_second: configuration.events_per_second, period, tell_every: TELL_EVERY };
    let pace = at_rate(course, &unread, make, |pace| {
        let acknowledged = shared.acknowledged().len();
        if !tell(&json!({ "events": pace.made, "records_acknowledged": acknowledged })) {
            unread.cancel();
        }
    })
    .await?;
    shared.is_over.store(true, Ordering::Relaxed);
    let flushed = tokio::time::timeout(FLUSH_TIMEOUT, async {
        while let Some(result) = senders.join_next().await {
            result??;
        }
        anyhow::Ok(())
    });
    if let Ok(result) = flushed.await {
        result?;
    }
    let acknowledged = std::mem::take(&mut *shared.acknowledged());
    let outcome = match &arrivals {
        Some(arrivals) if !unread.is_cancelled() => Some(outcome(&acknowledged, arrivals, stop).await),
        _ => None,
    };
    let count = u64::try_from(acknowledged.len()).unwrap_or(u64::MAX);
    Ok(Report {
        events: pace.made,
        seconds: pace.seconds,
        events_per_second: pace.per_second(),
        records_acknowledged: count,
        records_failed: pace.made.saturating_sub(count),
        records_repeated: shared.repeated.load(Ordering::Relaxed),
        seed: id.seed,
        run: id.run,
        outcome,
    })
}

/// Waits until all has come out, for as long as there is patience.
async fn outcome(
    acknowledged: &BTreeMap<u64, Kind>,
    arrivals: &[Arrivals; 2],
    stop: &CancellationToken,
) -> Outcome {
    let begun = Instant::now();
    loop {
        let outcome = {
            let [enriched, failed] =
                arrivals.each_ref().map(|arrivals| arrivals.lock().unwrap_or_else(PoisonError::into_inner));
            let ages = enriched.ages.told();
            Outcome { ages, ..Outcome::of(acknowledged, &enriched.times, &failed.times) }
        };
        if outcome.is_well() {
            return Outcome { settled_seconds: Some(begun.elapsed().as_secs_f64()), ..outcome };
        }
        if begun.elapsed() >= PATIENCE {
            return outcome;
        }
        if stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(200))).await.is_none() {
            return outcome;
        }
    }
}
