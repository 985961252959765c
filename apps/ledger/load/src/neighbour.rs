//! The noisy neighbour: another service on the same database, whose queries keep its processors busy. It reads no table
//! and locks nothing, so that what suffers, suffers from its load alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use worker_contract::DatabaseConfiguration;
use worker_kit::database::{Database, credentials};

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
    let database = std::sync::Arc::new(Database::new(&configuration, credentials, "ledger-noisy-neighbour")?);
    let end = Instant::now() + period;
    let mut tasks: JoinSet<Result<u64>> = JoinSet::new();
    for _ in 0..sessions {
        let (database, stop) = (database.clone(), stop.clone());
        tasks.spawn(async move {
            let mut session = database.session().await.context("the database cannot be reached")?;
            let mut queries = 0;
            while Instant::now() < end && !stop.is_cancelled() {
                sqlx::query(QUERY).persistent(false).execute(&mut *session).await?;
                queries += 1;
            }
            Ok(queries)
        });
    }
    let mut queries = 0;
    while let Some(result) = tasks.join_next().await {
        queries += result??;
    }
    Ok(json!({ "sessions": sessions, "queries": queries, "seconds": period.as_secs() }))
}
