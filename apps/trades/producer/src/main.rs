//! Produces simulated trades at a rate that can change while it runs.
//!
//! Configured by environment variables (`worker_contract::trades::ProducerConfiguration`). `GET /rate` gives
//! the target in messages per second, `PUT /rate` with a number sets it (from the machine itself alone).

mod sender;
mod trade;

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use axum::{
    Router,
    extract::{ConnectInfo, State},
    http::StatusCode,
    routing::get,
};
use tokio::sync::watch;
use worker_contract::trades::{ProducerConfiguration, RATE_BOUNDS};
use worker_kit::{schedule::Schedule, shutdown, telemetry, worker};

use sender::{SendMetrics, Sender};
use trade::Generator;

/// How often the statistics line comes.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(5);

/// How long the end waits for acknowledgements; the manifest's grace period is longer.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    worker::main(run())
}

async fn run() -> Result<()> {
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
    let ended = produce(&sender, &metrics, rates, Generator::new(configuration.generator_seed), &stop).await;
    let flushed = tokio::task::spawn_blocking(move || sender.flush(FLUSH_TIMEOUT)).await?;
    tracing::info!(sent = metrics.sent.get(), failed = metrics.failed.get(), "producer ended");
    ended.and(flushed)
}

async fn read_rate(State(rate): State<Arc<watch::Sender<f64>>>) -> String {
    format!("{}\n", *rate.borrow())
}

/// The port serves probes and metrics to the whole network; the rate is for whoever may forward a port to it.
async fn set_rate(
    State(rate): State<Arc<watch::Sender<f64>>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: String,
) -> (StatusCode, String) {
    if !peer.ip().is_loopback() {
        return (
            StatusCode::FORBIDDEN,
            "the rate is set from the machine itself or through `kubectl port-forward`\n".to_owned(),
        );
    }
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
                    let trade = generator.next(SystemTime::now());
                    // The client's queue may be full for as long as the brokers are away.
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return Ok(()),
                        sent = sender.send(&trade) => sent?,
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn put(peer: &str, body: &str) -> (StatusCode, f64) {
        let (rate, rates) = watch::channel(10.0);
        let peer = ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 4000));
        let (status, _) = set_rate(State(Arc::new(rate)), peer, body.to_owned()).await;
        (status, *rates.borrow())
    }

    #[tokio::test]
    async fn the_rate_is_bounded_and_set_from_here_alone() {
        assert_eq!(put("127.0.0.1", "250\n").await, (StatusCode::OK, 250.0));
        for nonsense in ["", "-1", "NaN", "inf", "1e99", "many"] {
            assert_eq!(put("::1", nonsense).await, (StatusCode::BAD_REQUEST, 10.0), "{nonsense}");
        }
        assert_eq!(put("10.0.1.7", "250").await, (StatusCode::FORBIDDEN, 10.0));
    }
}
