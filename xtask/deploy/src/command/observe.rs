//! `observe`.

use std::{collections::BTreeMap, io::Write, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use deploy_engine::flow::Flow;
use serde_json::Value as Json;

use crate::engine::{Engine, interrupt};

/// How far back each look goes, in milliseconds: a line is there a moment after the time that it bears.
const OVERLAP_MS: i64 = 5_000;

/// Prints what is seen of a system, a JSON line a look, until it is interrupted or nobody reads any more. A look that
/// fails is a line with an `error`.
///
/// # Errors
///
/// When there is no such system, or it is not deployed.
pub(crate) async fn run(engine: &Engine, system: &str, every: Duration) -> Result<ExitCode> {
    let Engine { manifest, clients, .. } = engine;
    let Some(entry) = manifest.flows.get(system) else {
        let known: Vec<&str> = manifest.flows.keys().map(String::as_str).collect();
        bail!("`{system}` is no system of functions; there are: {}", known.join(", "));
    };
    let flow = Flow::find(manifest, &clients.stacks, clients.flow(), entry).await?;
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
        let line = match flow.observe(since_ms, now_ms).await {
            Ok(mut seen) => {
                seen.lines.retain(|line| known.insert(line.to_string(), now_ms).is_none());
                known.retain(|_, last| *last >= now_ms - 2 * OVERLAP_MS);
                serde_json::to_value(&seen)?
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
