//! Events at a rate, on a schedule that does not wait: where the brokers or the machine are too slow, that shows as what
//! was not sent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use ledger_events::{
    Envelope,
    traffic::{BROKEN, Disorder, Disturber, Mix, Traffic},
};
use rdkafka::{
    ClientContext,
    client::OAuthToken,
    config::FromClientConfigAndContext,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker_contract::KafkaConfiguration;
use worker_kit::{
    kafka::{TokenSource, producer_config},
    schedule::Schedule,
};

/// How often is told how far it is.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);

/// How long the end waits for acknowledgements.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// What is to be sent.
pub(crate) struct Plan {
    pub(crate) topic: String,
    pub(crate) rate: f64,
    pub(crate) period: Duration,
    pub(crate) seed: u64,
    pub(crate) deletes: f64,
    pub(crate) disorder: Disorder,
}

#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    failed: AtomicU64,
}

struct Deliveries {
    counts: Arc<Counts>,
    tokens: TokenSource,
}

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client");
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.tokens.token()
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() { &self.counts.acknowledged } else { &self.counts.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends until the time is over. Tells what was sent.
pub(crate) async fn run(
    kafka: &KafkaConfiguration,
    plan: &Plan,
    stop: &CancellationToken,
) -> Result<serde_json::Value> {
    let counts = Arc::new(Counts::default());
    let tokens = TokenSource::new(kafka, tokio::runtime::Handle::current());
    let context = Deliveries { counts: counts.clone(), tokens };
    let producer = ThreadedProducer::from_config_and_context(&producer_config(kafka, "ledger-load"), context)
        .context("the Kafka client refuses its settings")?;
    let mut traffic = Traffic::new(plan.seed, Mix { deletes: plan.deletes });
    let mut disturber = Disturber::new(plan.seed, plan.disorder);
    let begun = Instant::now();
    let end = begun + plan.period;
    let mut schedule = Schedule::new(plan.rate, begun);
    let mut told = begun;
    let (mut made, mut malformed, mut refused) = (0u64, 0u64, 0u64);
    let mut send = |key: Option<&[u8]>, payload: &[u8]| -> Result<()> {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&plan.topic).payload(payload);
        if let Some(key) = key {
            record = record.key(key);
        }
        match producer.send(record) {
            Ok(()) => Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                refused += 1;
                Ok(())
            }
            Err((error, _)) => Err(error).context("the Kafka client refuses an event"),
        }
    };
    // An invoice comes with its items, which count as events of their own.
    let mut ready: Vec<Envelope> = Vec::new();
    while Instant::now() < end && !stop.is_cancelled() {
        let due = schedule.next().unwrap_or(end).min(end);
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            () = stop.cancelled() => break,
        }
        while schedule.take(Instant::now()) {
            if ready.is_empty() {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                ready = traffic.next(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
                ready.reverse();
            }
            let Some(envelope) = ready.pop() else { continue };
            made += 1;
            for envelope in disturber.push(envelope) {
                send(Some(envelope.key().as_bytes()), &envelope.to_bytes())?;
            }
            if let Some(broken) = disturber.breaks().and_then(|number| BROKEN.get(number)) {
                malformed += 1;
                send(None, broken)?;
            }
        }
        if told.elapsed() >= STATISTICS_INTERVAL {
            told = Instant::now();
            let acknowledged = counts.acknowledged.load(Ordering::Relaxed);
            if !crate::tell(&json!({ "events": made, "records_acknowledged": acknowledged })) {
                break;
            }
        }
    }
    for envelope in disturber.finish() {
        send(Some(envelope.key().as_bytes()), &envelope.to_bytes())?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    producer.flush(FLUSH_TIMEOUT).context("some events were not acknowledged in time")?;
    Ok(json!({
        "events": made,
        "seconds": seconds,
        "events_per_second": made as f64 / seconds,
        "records_acknowledged": counts.acknowledged.load(Ordering::Relaxed),
        "records_failed": counts.failed.load(Ordering::Relaxed) + refused,
        "malformed": malformed,
        "seed": plan.seed,
    }))
}
