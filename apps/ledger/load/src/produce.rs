//! Events at a rate, as `worker_kit::load` has it.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use ledger_events::{
    Envelope,
    traffic::{BROKEN, Disorder, Disturber, Mix, Traffic},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker_contract::KafkaConfiguration;
use worker_kit::load::{Course, LoadProducer, at_rate, tell};

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

/// Sends until the time is over. Tells what was sent.
pub(crate) async fn run(
    kafka: &KafkaConfiguration,
    plan: &Plan,
    stop: &CancellationToken,
) -> Result<serde_json::Value> {
    let producer =
        LoadProducer::new(kafka, "ledger-load", |()| ()).context("the Kafka client refuses its settings")?;
    let send = |key: Option<&[u8]>, payload: &[u8]| {
        producer.send(&plan.topic, key, payload, ()).context("the Kafka client refuses an event")
    };
    let mut traffic = Traffic::new(plan.seed, Mix { deletes: plan.deletes });
    let mut disturber = Disturber::new(plan.seed, plan.disorder);
    let mut malformed = 0u64;
    // An invoice comes with its items, which count as events of their own.
    let mut ready: VecDeque<Envelope> = VecDeque::new();
    let make = || -> Result<()> {
        let envelope = loop {
            if let Some(envelope) = ready.pop_front() {
                break envelope;
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            ready = traffic.next(i64::try_from(now.as_millis()).unwrap_or(i64::MAX)).into();
        };
        for envelope in disturber.push(envelope) {
            send(Some(envelope.key().as_bytes()), &envelope.to_bytes())?;
        }
        if let Some(broken) = disturber.breaks().and_then(|number| BROKEN.get(number)) {
            malformed += 1;
            send(None, broken)?;
        }
        Ok(())
    };
    let course = Course { per_second: plan.rate, period: plan.period, tell_every: STATISTICS_INTERVAL };
    // Nobody may read any more: then it ends.
    let unread = stop.child_token();
    let pace = at_rate(course, &unread, make, |pace| {
        let acknowledged = producer.counts().acknowledged;
        if !tell(&json!({ "events": pace.made, "records_acknowledged": acknowledged })) {
            unread.cancel();
        }
    })
    .await?;
    for envelope in disturber.finish() {
        send(Some(envelope.key().as_bytes()), &envelope.to_bytes())?;
    }
    let counts = producer.finish(FLUSH_TIMEOUT).await;
    Ok(json!({
        "events": pace.made,
        "seconds": pace.seconds,
        "events_per_second": pace.per_second(),
        "records_acknowledged": counts.acknowledged,
        "records_failed": counts.not_taken(),
        "malformed": malformed,
        "seed": plan.seed,
    }))
}
