//! `observe`.

use std::{collections::BTreeMap, io::Write, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use cfn::assembly::Manifest;
use deploy_engine::{
    cache_system::CacheSystem, flow::Flow, local::LocalEnvironment, stream_system::StreamSystem,
};
use serde_json::Value as Json;

use crate::engine::{Engine, interrupt};

/// How far back each look goes, in milliseconds: a line is there a moment after the time that it bears.
const OVERLAP_MS: i64 = 5_000;

/// What is looked at.
enum Watched<'a> {
    Flow(Flow<'a>),
    Stream(Box<StreamSystem>),
    Cache(CacheSystem<'a>),
}

impl<'a> Watched<'a> {
    async fn find(engine: &'a Engine, system: &str) -> Result<Self> {
        let Engine { manifest, clients, .. } = engine;
        let (stacks, signals) = (&clients.stacks, clients.signals());
        let Manifest { flows, streams, caches, .. } = manifest;
        Ok(match (flows.get(system), streams.get(system), caches.get(system)) {
            (Some(entry), ..) => Self::Flow(Flow::find(manifest, stacks, signals, entry).await?),
            (_, Some(entry), _) => {
                Self::Stream(Box::new(StreamSystem::find(manifest, stacks, signals, entry).await?))
            }
            (.., Some(entry)) => Self::Cache(CacheSystem::find(manifest, stacks, signals, entry).await?),
            (None, None, None) => {
                let known = flows.keys().chain(streams.keys()).chain(caches.keys());
                let known: Vec<&str> = known.map(String::as_str).collect();
                bail!("`{system}` is not looked at like this; there are: {}", known.join(", "))
            }
        })
    }

    async fn observe(&self, local: Option<&LocalEnvironment>, since_ms: i64, now_ms: i64) -> Result<Json> {
        Ok(match self {
            Self::Flow(flow) => serde_json::to_value(flow.observe(since_ms, now_ms).await?)?,
            Self::Stream(stream) => serde_json::to_value(stream.observe(local, since_ms, now_ms).await?)?,
            Self::Cache(cache) => serde_json::to_value(cache.observe(local, now_ms).await?)?,
        })
    }
}

/// Prints what is seen of a system, a JSON line a look, until it is interrupted or nobody reads any more. A look that
/// fails is a line with an `error`.
///
/// # Errors
///
/// When there is no such system, or it is not deployed.
pub(crate) async fn run(engine: &Engine, system: &str, every: Duration) -> Result<ExitCode> {
    let watched = Watched::find(engine, system).await?;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let begun_ms = chrono::Utc::now().timestamp_millis();
    // Lines that were told, by text, with the look that saw them last.
    let mut known: BTreeMap<String, i64> = BTreeMap::new();
    let stopped = interrupt();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            signal = &mut stopped => return signal.map(|()| ExitCode::SUCCESS),
        }
        let now_ms = chrono::Utc::now().timestamp_millis();
        let since_ms = (now_ms - OVERLAP_MS).max(begun_ms);
        let line = match watched.observe(engine.local.as_ref(), since_ms, now_ms).await {
            Ok(mut seen) => {
                if let Some(Json::Array(lines)) = seen.get_mut("lines") {
                    lines.retain(|line| known.insert(line.to_string(), now_ms).is_none());
                }
                known.retain(|_, last| *last >= now_ms - 2 * OVERLAP_MS);
                seen
            }
            Err(error) => serde_json::json!({ "at_ms": now_ms, "error": format!("{error:#}") }),
        };
        if !tell(&line) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Whether somebody reads it.
fn tell(line: &Json) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}
