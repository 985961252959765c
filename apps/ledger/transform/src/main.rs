//! The Lambda function `ledger-transform`.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use ledger_transform::Transform;
use worker_contract::ledger::TransformConfiguration;
use worker_kit::{function, kafka_event::KafkaEvent};

fn main() -> ExitCode {
    function::main(run())
}

async fn run() -> Result<()> {
    let configuration = TransformConfiguration::from_environment(|name| std::env::var(name).ok())?;
    let name = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
    let transform = Transform::new(&configuration, tokio::runtime::Handle::current(), &name)?;
    function::serve(async |event: KafkaEvent, invocation: function::Invocation| {
        Result::<_>::Ok(transform.handle(event, invocation.deadline).await)
    })
    .await
    .map_err(|error| anyhow!(error))
}
