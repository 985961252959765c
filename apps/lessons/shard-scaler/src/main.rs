//! The Lambda function that follows the load with the shards of a stream. Configured by environment variables
//! (`worker_contract::lessons::ScalerConfiguration`).

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Result;
use lessons_shard_scaler::{notification::Notification, scaler::Scaler};
use worker_contract::lessons::ScalerConfiguration;
use worker_kit::{
    function::{Invocation, aws_config, run},
    processing::Machine,
};

/// What of the invocation's time is kept back, so that an error is told before Lambda ends it.
const SAFETY: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> ExitCode {
    run(
        set_up(),
        |scaler: Arc<Scaler<Machine>>, notification: Notification, invocation: Invocation| async move {
            let deadline = invocation.deadline.checked_sub(SAFETY).unwrap_or(invocation.deadline);
            scaler.handle(&notification, deadline).await
        },
    )
    .await
}

async fn set_up() -> Result<Scaler<Machine>> {
    let configuration = ScalerConfiguration::from_environment(|name| std::env::var(name).ok())?;
    let client = aws_sdk_kinesis::Client::new(&aws_config().await);
    Ok(Scaler { client, configuration, surroundings: Machine })
}
