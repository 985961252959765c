//! `whoami`, which `cargo xtask doctor` calls.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use crate::engine::Engine;

/// Tells whose the credentials are, whether they are of the environment's account, and what Lambda allows there. What
/// only some may ask is left out for the others.
///
/// # Errors
///
/// When there are no credentials, or they are of another account.
pub(crate) async fn run(engine: &Engine) -> Result<ExitCode> {
    let arn = engine.check_account().await?;
    let limits = engine.clients.functions.get_account_settings().send().await.ok();
    let concurrency = limits.and_then(|answer| Some(answer.account_limit()?.concurrent_executions()));
    let told = json!({
        "arn": arn,
        "account": engine.manifest.account,
        "region": engine.manifest.region,
        "lambda_concurrency": concurrency,
    });
    println!("{told}");
    Ok(ExitCode::SUCCESS)
}
