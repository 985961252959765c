//! Logs as JSON lines, metrics and probes over HTTP.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Starts the log: JSON lines to standard output, at the level that `RUST_LOG` says (`info` otherwise).
pub fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second start (in a test) keeps the first.
    let _ = tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).try_init();
}

/// What the probes ask.
pub trait Health: Send + Sync + 'static {
    /// `Ok` when the process can make progress; else why not. A process that is not alive is restarted.
    ///
    /// # Errors
    ///
    /// The reason, for the probe's answer.
    fn live(&self, now: Instant) -> Result<(), String>;

    /// `Ok` when it does its work; else what it waits for.
    ///
    /// # Errors
    ///
    /// The reason, for the probe's answer.
    fn ready(&self, now: Instant) -> Result<(), String>;

    /// Brings gauges up to date before they are read.
    fn refresh(&self, _now: Instant) {}
}

#[derive(Clone)]
struct Shared {
    registry: Registry,
    health: Arc<dyn Health>,
}

/// Serves `GET /metrics`, `/livez`, `/readyz` and the routes of `more` until the token is cancelled.
/// Returns the address that it listens on once it does. Routes can ask who calls by
/// [`axum::extract::ConnectInfo`] of a [`SocketAddr`].
///
/// # Errors
///
/// When the address cannot be bound.
pub async fn serve(
    address: &str,
    registry: Registry,
    health: Arc<dyn Health>,
    more: Router,
    stop: CancellationToken,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        std::io::Error::new(
            error.kind(),
            format!("cannot listen on {address}: {error}; set METRICS_ADDRESS to a free address"),
        )
    })?;
    let bound = listener.local_addr()?;
    let shared = Shared { registry, health };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|state: State<Shared>| async move { answer(state.health.live(Instant::now())) }))
        .route(
            "/readyz",
            get(|state: State<Shared>| async move { answer(state.health.ready(Instant::now())) }),
        )
        .with_state(shared)
        .merge(more);
    tokio::spawn(async move {
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let served =
            axum::serve(listener, service).with_graceful_shutdown(async move { stop.cancelled().await });
        if let Err(error) = served.await {
            tracing::error!(%error, "the metrics server stopped");
        }
    });
    Ok(bound)
}

async fn metrics(State(shared): State<Shared>) -> (StatusCode, String) {
    shared.health.refresh(Instant::now());
    let mut text = Vec::new();
    match TextEncoder::new().encode(&shared.registry.gather(), &mut text) {
        Ok(()) => (StatusCode::OK, String::from_utf8_lossy(&text).into_owned()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn answer(health: Result<(), String>) -> (StatusCode, String) {
    match health {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}

/// A count over a sliding window, for a rate gauge.
#[derive(Debug)]
pub struct RateWindow {
    window: Duration,
    marks: std::collections::VecDeque<(Instant, u64)>,
}

impl RateWindow {
    /// An empty window of that length.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window, marks: std::collections::VecDeque::new() }
    }

    /// Notes the total so far and gives the events per second over the window.
    pub fn rate(&mut self, total: u64, now: Instant) -> f64 {
        self.marks.push_back((now, total));
        while self.marks.len() > 2
            && self.marks.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= self.window)
        {
            self.marks.pop_front();
        }
        match self.marks.front() {
            Some((at, before)) if now > *at => {
                total.saturating_sub(*before) as f64 / now.duration_since(*at).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_forgets_what_is_older_than_its_window() {
        let start = Instant::now();
        let mut window = RateWindow::new(Duration::from_secs(10));
        for second in 0..=20u64 {
            // 100 a second for ten seconds, then nothing.
            let rate = window.rate(100 * second.min(10), start + Duration::from_secs(second));
            match second {
                10 => assert!((rate - 100.0).abs() < 1.0, "{rate}"),
                20 => assert!(rate < 1.0, "{rate}"),
                _ => {}
            }
        }
    }
}
