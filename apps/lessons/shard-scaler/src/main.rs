//! The Lambda function that follows the load with the shards of a stream. Configured by environment variables
//! (`worker_contract::lessons::ScalerConfiguration`).

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, anyhow};
use lambda_runtime::Diagnostic;
use lessons_shard_scaler::{notification::Notification, scaler::Scaler};
use worker_contract::lessons::ScalerConfiguration;
use worker_kit::{aws, function, function::Invocation, processing::Machine};

/// What of the invocation's time is kept back, so that an error is told before Lambda ends it.
const SAFETY: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    function::main(run())
}

async fn run() -> Result<()> {
    let scaler = set_up().await?;
    let handle = |notification: Notification, Invocation { deadline, .. }: Invocation| {
        let scaler = &scaler;
        async move {
            let deadline = deadline.checked_sub(SAFETY).unwrap_or(deadline);
            scaler.handle(&notification, deadline).await.map_err(|error| {
                tracing::error!("the shards were not changed: {error:#}");
                Diagnostic { error_type: "ShardScaler".to_owned(), error_message: format!("{error:#}") }
            })
        }
    };
    function::serve(handle).await.map_err(|error| anyhow!("{error}"))
}

async fn set_up() -> Result<Scaler<Machine>> {
    let configuration = ScalerConfiguration::from_environment(|name| std::env::var(name).ok())?;
    let client = aws_sdk_kinesis::Client::new(&aws::for_functions().await);
    Ok(Scaler { client, configuration, surroundings: Machine })
}
