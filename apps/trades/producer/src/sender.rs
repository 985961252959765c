//! Sending: hands messages to the client and counts what becomes of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Registry};
use rdkafka::{
    ClientContext,
    client::OAuthToken,
    config::FromClientConfigAndContext,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};
use tokio::sync::Notify;
use worker_contract::KafkaConfiguration;
use worker_kit::{
    kafka::{TokenSource, producer_config},
    telemetry::Health,
};

use crate::trade::Trade;

/// What has been sent, and how it went.
pub(crate) struct SendMetrics {
    pub(crate) registry: Registry,
    pub(crate) sent: IntCounter,
    pub(crate) failed: IntCounter,
    pub(crate) target: Gauge,
    waiting: IntGauge,
    delivery_seconds: Histogram,
    delivery_micros: AtomicU64,
    room: Notify,
}

impl SendMetrics {
    pub(crate) fn new() -> Result<Self> {
        let registry = Registry::new();
        let sent = IntCounter::new("trades_sent_total", "Trades that the brokers have acknowledged.")?;
        let failed = IntCounter::new("trades_failed_total", "Trades that were given up.")?;
        let target = Gauge::new("trades_target_per_second", "The rate asked for, in messages per second.")?;
        let waiting = IntGauge::new("trades_waiting", "Trades that are not acknowledged yet.")?;
        let delivery_seconds = Histogram::with_opts(
            HistogramOpts::new("trades_delivery_seconds", "Time from sending to acknowledgement.")
                .buckets(vec![0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0]),
        )?;
        registry.register(Box::new(sent.clone()))?;
        registry.register(Box::new(failed.clone()))?;
        registry.register(Box::new(target.clone()))?;
        registry.register(Box::new(waiting.clone()))?;
        registry.register(Box::new(delivery_seconds.clone()))?;
        Ok(Self {
            registry,
            sent,
            failed,
            target,
            waiting,
            delivery_seconds,
            delivery_micros: AtomicU64::new(0),
            room: Notify::new(),
        })
    }

    /// The mean delivery time since the last call, in milliseconds.
    pub(crate) fn take_mean_delivery_ms(&self, delivered: u64) -> f64 {
        let micros = self.delivery_micros.swap(0, Ordering::Relaxed);
        if delivered == 0 { 0.0 } else { micros as f64 / 1000.0 / delivered as f64 }
    }
}

impl Health for SendMetrics {
    fn live(&self, _now: Instant) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self, _now: Instant) -> Result<(), String> {
        // Idle is ready; a backlog with nothing delivered yet is not.
        if self.waiting.get() > 0 && self.sent.get() == 0 {
            return Err("no trade has been acknowledged yet".to_owned());
        }
        Ok(())
    }
}

struct DeliveryContext {
    metrics: Arc<SendMetrics>,
    tokens: TokenSource,
}

impl ClientContext for DeliveryContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client");
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.tokens.token()
    }
}

impl ProducerContext for DeliveryContext {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, begun: Box<Instant>) {
        self.metrics.waiting.dec();
        match result {
            Ok(_) => {
                let took = begun.elapsed();
                self.metrics.sent.inc();
                self.metrics.delivery_seconds.observe(took.as_secs_f64());
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.metrics.delivery_micros.fetch_add(micros, Ordering::Relaxed);
            }
            Err((error, _)) => {
                self.metrics.failed.inc();
                tracing::error!(%error, "a trade was given up");
            }
        }
        self.metrics.room.notify_waiters();
    }
}

/// Sends trades, keyed by account.
pub(crate) struct Sender {
    producer: ThreadedProducer<DeliveryContext>,
    topic: String,
    metrics: Arc<SendMetrics>,
}

impl Sender {
    pub(crate) fn new(kafka: &KafkaConfiguration, topic: &str, metrics: Arc<SendMetrics>) -> Result<Self> {
        let tokens = TokenSource::new(kafka, tokio::runtime::Handle::current());
        let context = DeliveryContext { metrics: metrics.clone(), tokens };
        let producer =
            ThreadedProducer::from_config_and_context(&producer_config(kafka, "trade-producer"), context)
                .context("the Kafka client refuses its settings")?;
        Ok(Self { producer, topic: topic.to_owned(), metrics })
    }

    /// Hands a trade to the client; where its queue is full, waits for deliveries to make room.
    pub(crate) async fn send(&self, trade: &Trade) -> Result<()> {
        let payload = serde_json::to_vec(trade)?;
        loop {
            let room = self.metrics.room.notified();
            let record = BaseRecord::with_opaque_to(&self.topic, Box::new(Instant::now()))
                .key(&trade.account_id)
                .payload(&payload);
            match self.producer.send(record) {
                Ok(()) => {
                    self.metrics.waiting.inc();
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    // The timeout covers a delivery between the refusal and the wait.
                    let _ = tokio::time::timeout(Duration::from_millis(100), room).await;
                }
                Err((error, _)) => return Err(error).context("the Kafka client refuses a trade"),
            }
        }
    }

    /// Waits until everything is acknowledged.
    pub(crate) fn flush(&self, timeout: Duration) -> Result<()> {
        self.producer.flush(timeout).context("some trades were not acknowledged in time")
    }
}
