//! The noisy neighbour: another service on the same database, whose queries keep its processors busy. It reads no table
//! and locks nothing, so that what suffers, suffers from its load alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use worker_contract::DatabaseConfiguration;
use worker_kit::{
    database::{Database, credentials},
    load::tell,
};

/// How often is told how far it is.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);

/// A query of some 100 ms of pure processor time: short, so that the end comes soon.
const QUERY: &str =
    "SELECT count(*) FROM generate_series(1, 150000) AS number WHERE md5(number::text) LIKE 'f00%'";

/// Keeps sessions busy until the time is over. Tells how many queries they had answered.
pub(crate) async fn burn(
    configuration: &DatabaseConfiguration,
    sessions: u32,
    period: Duration,
    stop: &CancellationToken,
) -> Result<serde_json::Value> {
    let aws = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
    let configuration = DatabaseConfiguration { connections: sessions, ..configuration.clone() };
    let credentials = credentials(&configuration, &aws)?;
    let database = Arc::new(Database::new(&configuration, credentials, "ledger-noisy-neighbour")?);
    let end = Instant::now() + period;
    let queries = Arc::new(AtomicU64::new(0));
    // Ends with whoever reads, not only with who stops it.
    let stop = stop.child_token();
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..sessions {
        let (database, stop, queries) = (database.clone(), stop.clone(), queries.clone());
        tasks.spawn(async move {
            let mut session = database.session().await.context("the database cannot be reached")?;
            while Instant::now() < end && !stop.is_cancelled() {
                sqlx::query(QUERY).persistent(false).execute(&mut *session).await?;
                queries.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    let mut told = tokio::time::interval(STATISTICS_INTERVAL);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(result) => result??,
                None => break,
            },
            _ = told.tick() => {
                if !tell(&json!({ "queries": queries.load(Ordering::Relaxed) })) {
                    stop.cancel();
                }
            }
        }
    }
    let queries = queries.load(Ordering::Relaxed);
    Ok(json!({ "sessions": sessions, "queries": queries, "seconds": period.as_secs() }))
}
