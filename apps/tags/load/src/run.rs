//! A run: sends updates until the time is over, and verifies where they ended.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;
use tag_store::reader::Reader;
use tag_worker::{cache, worker::machine_time_ms};
use tokio_util::sync::CancellationToken;
use worker_contract::tags::LoadConfiguration;
use worker_kit::load::{Course, LoadProducer, at_rate, tell};

use crate::{
    expectations::Acknowledged,
    following,
    traffic::{ObjectNumber, RunId, Sent, Traffic},
    verification::{PATIENCE, Verification, Written, settle},
};

/// How often is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How long the end waits for acknowledgements; the manifest's grace period is longer.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Updates that were made.
    pub updates: u64,
    /// Those of them that deleted an object.
    pub deletions: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Updates made per second.
    pub updates_per_second: f64,
    /// Updates that all in-sync replicas have.
    pub records_acknowledged: u64,
    /// Updates that are not known to be there.
    pub records_failed: u64,
    /// Makes the same updates again.
    pub seed: u64,
    /// Which run it was, and which pod of it.
    pub run: u64,
    /// See [`RunId::number`].
    pub number: u32,
    /// What the cache holds; nothing where it was not asked, or the run was stopped.
    pub verification: Option<Verification>,
}

impl Report {
    /// Whether all that was sent was taken, and is where it belongs as far as that was verified.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.records_failed == 0 && self.verification.as_ref().is_none_or(Verification::is_well)
    }
}

/// The run that begins at `now`, with the seed that the configuration gives, or `seed`.
#[must_use]
pub fn id(configuration: &LoadConfiguration, now: SystemTime, seed: u64) -> RunId {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    RunId {
        seed: configuration.generator_seed.unwrap_or(seed),
        run: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        number: configuration.number,
    }
}

/// Carries a run out, until its time is over or `stop` is cancelled.
///
/// # Errors
///
/// When it cannot begin: the configuration contradicts itself, the cache that is to be verified is not reached, or the
/// Kafka client refuses its settings or an update.
pub async fn run(configuration: &LoadConfiguration, id: RunId, stop: &CancellationToken) -> Result<Report> {
    let shape = &configuration.shape;
    shape.check()?;
    let period = Duration::from_secs(configuration.period_seconds);
    let mut traffic = Traffic::new(id, shape.clone());
    let names = traffic.names();
    // Ends what reads the cache when this function ends, however it does.
    let ended = CancellationToken::new();
    let _ends = ended.clone().drop_guard();
    let mut reading = None;
    if configuration.verify {
        let needed = period + FLUSH_TIMEOUT + PATIENCE;
        let lifetime = Duration::from_secs(u64::from(shape.lifetime_seconds));
        ensure!(
            lifetime.is_zero() || lifetime > needed,
            "objects that live for {} s are gone before all is verified; they must live for more than {} s",
            lifetime.as_secs(),
            needed.as_secs()
        );
        let cache =
            configuration.cache.as_ref().context("what is verified is the cache; CACHE_ENDPOINT names it")?;
        let reader = Reader::new(cache::connect(cache, &ended).await?);
        let (follower, until) = (reader.clone(), ended.clone());
        let following = tokio::spawn(async move { following::follow(&follower, names, &until).await });
        reading = Some((reader, following));
    }
    let acknowledged = Arc::new(Acknowledged::of(traffic.sent().len()));
    let heard = acknowledged.clone();
    let producer: LoadProducer<(ObjectNumber, Sent)> =
        LoadProducer::new(&configuration.kafka, "tag-load", move |(object, sent)| heard.note(*object, *sent))
            .context("the Kafka client refuses its settings")?;
    let make = || -> Result<()> {
        let change = traffic.change(machine_time_ms())?;
        producer
            .send(
                &configuration.topic,
                Some(change.key.as_bytes()),
                &change.payload,
                (change.object, change.sent),
            )
            .context("the Kafka client refuses an update")
    };
    let course = Course { per_second: configuration.updates_per_second, period, tell_every: TELL_EVERY };
    // Who started this and is gone ends the run.
    let unread = stop.child_token();
    let pace = at_rate(course, &unread, make, |pace| {
        let acknowledged = producer.counts().acknowledged;
        if !tell(&json!({ "updates": pace.made, "records_acknowledged": acknowledged })) {
            unread.cancel();
        }
    })
    .await?;
    let counts = producer.finish(FLUSH_TIMEOUT).await;
    let verification = match reading {
        Some((reader, following)) if !unread.is_cancelled() => {
            let written = Written { names, sent: traffic.sent(), acknowledged: &acknowledged };
            let (tally, channels_unread, settled_seconds) = settle(&reader, written, PATIENCE, stop).await;
            ended.cancel();
            let (following, ages) = following.await.context("the reader of deltas has failed")?;
            let ages = ages.told();
            Some(Verification { tally, channels_unread, settled_seconds, following, ages })
        }
        _ => None,
    };
    Ok(Report {
        updates: pace.made,
        deletions: traffic.deletions(),
        seconds: pace.seconds,
        updates_per_second: pace.per_second(),
        records_acknowledged: counts.acknowledged,
        records_failed: counts.not_taken(),
        seed: id.seed,
        run: id.run,
        number: id.number,
        verification,
    })
}
