//! Reaching the cache with what the stack says of it.

use std::time::Duration;

use anyhow::{Context, Result};
use aws_config::BehaviorVersion;
use tag_store::connection::{Credentials, Endpoint, Store};
use tokio_util::sync::CancellationToken;
use worker_contract::{CacheAuthentication, CacheConfiguration};

use crate::token::{self, TokenRequest};

/// How often the cache is connected to anew, with a new token: sooner than a token ends, so that a node that comes at
/// any time takes the one that is there.
const RENEW_EVERY: Duration = Duration::from_secs(600);

/// How soon that is tried again when it failed.
const RENEW_AGAIN: Duration = Duration::from_secs(15);

/// Connects to the cache, and sees to it that the connections are made anew before their token ends, until `stop`.
///
/// # Errors
///
/// When no node answers, or the credentials are refused.
pub async fn connect(cache: &CacheConfiguration, stop: &CancellationToken) -> Result<Store> {
    let (host, port) = cache.address();
    let place = format!("the cache at {}", cache.endpoint);
    let endpoint = |tls| Endpoint { host: host.to_owned(), port, tls };
    let CacheAuthentication::MemoryDbIam { region, cluster, user } = cache.authentication.clone() else {
        return Store::connect(endpoint(false), None).await.with_context(|| place);
    };
    let aws = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let sign = async move || -> Result<Credentials> {
        let request = TokenRequest { region: &region, cluster: &cluster, user: &user };
        token::credentials(&aws, &request, std::time::SystemTime::now()).await
    };
    let store = Store::connect(endpoint(true), Some(sign().await?)).await.with_context(|| place)?;
    let (renewed, stop) = (store.clone(), stop.clone());
    tokio::spawn(async move {
        let mut wait = RENEW_EVERY;
        while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            let outcome = match sign().await {
                Ok(credentials) => renewed.renew(Some(credentials)).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            wait = match outcome {
                Ok(()) => RENEW_EVERY,
                Err(error) => {
                    tracing::warn!("the connection to the cache was not renewed: {error:#}");
                    RENEW_AGAIN
                }
            };
        }
    });
    Ok(store)
}
