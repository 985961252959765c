//! Produces simulated trades at a rate that can change while it runs.
//!
//! Configured by environment variables (`worker_contract::trades::ProducerConfiguration`). `GET /rate` gives
//! the target in messages per second, `PUT /rate` with a number sets it.

mod schedule;
mod sender;
mod trade;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::sync::watch;
use worker_contract::trades::{ProducerConfiguration, RATE_BOUNDS};
use worker_kit::{shutdown, telemetry};

use schedule::Schedule;
use sender::{SendMetrics, Sender};
use trade::Generator;

/// How often the statistics line comes.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(5);

/// How long the end waits for acknowledgements; the manifest's grace period is longer.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<()> {
    telemetry::init_log();
    let configuration = ProducerConfiguration::from_environment(|name| std::env::var(name).ok())?;
    let stop = shutdown::on_signals().context("cannot listen to signals")?;
    let metrics = Arc::new(SendMetrics::new()?);
    let (rate, rates) = watch::channel(configuration.messages_per_second);
    let routes = Router::new().route("/rate", get(read_rate).put(set_rate)).with_state(Arc::new(rate));
    let address = telemetry::serve(
        &configuration.metrics_address,
        metrics.registry.clone(),
        metrics.clone(),
        routes,
        stop.clone(),
    )
    .await?;
    tracing::info!(
        %address,
        topic = configuration.topic,
        brokers = configuration.kafka.bootstrap_servers,
        rate = configuration.messages_per_second,
        "producing"
    );
    let sender = Sender::new(&configuration.kafka, &configuration.topic, metrics.clone())?;
    produce(&sender, &metrics, rates, Generator::new(configuration.generator_seed), &stop).await?;
    tokio::task::spawn_blocking(move || sender.flush(FLUSH_TIMEOUT)).await??;
    tracing::info!(sent = metrics.sent.get(), failed = metrics.failed.get(), "producer ended");
    Ok(())
}

async fn read_rate(State(rate): State<Arc<watch::Sender<f64>>>) -> String {
    format!("{}\n", *rate.borrow())
}

async fn set_rate(State(rate): State<Arc<watch::Sender<f64>>>, body: String) -> (StatusCode, String) {
    match body.trim().parse::<f64>() {
        Ok(wanted) if RATE_BOUNDS.contains(&wanted) => {
            rate.send_replace(wanted);
            (StatusCode::OK, format!("{wanted}\n"))
        }
        _ => (
            StatusCode::BAD_REQUEST,
            format!("the body must be a number from {} to {}\n", RATE_BOUNDS.start(), RATE_BOUNDS.end()),
        ),
    }
}

async fn produce(
    sender: &Sender,
    metrics: &SendMetrics,
    mut rates: watch::Receiver<f64>,
    mut generator: Generator,
    stop: &tokio_util::sync::CancellationToken,
) -> Result<()> {
    let mut schedule = Schedule::new(*rates.borrow_and_update(), Instant::now());
    metrics.target.set(*rates.borrow());
    let mut statistics = tokio::time::interval(STATISTICS_INTERVAL);
    statistics.reset();
    let (mut told_at, mut told) = (Instant::now(), 0);
    loop {
        let next = schedule.next().map(tokio::time::Instant::from_std);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = rates.changed() => {
                changed.context("the rate's channel is closed")?;
                let rate = *rates.borrow_and_update();
                schedule.set_rate(rate, Instant::now());
                metrics.target.set(rate);
                tracing::info!(rate, "rate changed");
            }
            _ = statistics.tick() => {
                let (now, sent) = (Instant::now(), metrics.sent.get());
                tracing::info!(
                    sent,
                    rate = (sent - told) as f64 / now.duration_since(told_at).as_secs_f64(),
                    target_rate = metrics.target.get(),
                    failed = metrics.failed.get(),
                    delivery_ms = metrics.take_mean_delivery_ms(sent - told),
                    "statistics"
                );
                (told_at, told) = (now, sent);
            }
            () = due(next) => {
                let now = Instant::now();
                while schedule.take(now) {
                    sender.send(&generator.next(SystemTime::now())).await?;
                    if stop.is_cancelled() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

async fn due(next: Option<tokio::time::Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}
