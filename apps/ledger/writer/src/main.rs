//! The Lambda function `ledger-writer`.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, anyhow};
use ledger_writer::{
    tables::Tables,
    writer::{ModeSource, Writer},
};
use worker_contract::ledger::WriterConfiguration;
use worker_kit::{
    database::{Database, credentials},
    dead_letters::DeadLetterTopic,
    function,
    kafka::TokenSource,
    kafka_event::KafkaEvent,
};

/// The mode in Parameter Store.
struct ModeParameter {
    client: aws_sdk_ssm::Client,
    name: String,
}

impl ModeSource for ModeParameter {
    async fn read(&self) -> Result<Option<String>, String> {
        match self.client.get_parameter().name(&self.name).send().await {
            Ok(answer) => {
                Ok(answer.parameter.and_then(|parameter| parameter.value).filter(|value| !value.is_empty()))
            }
            Err(error) if error.as_service_error().is_some_and(|told| told.is_parameter_not_found()) => {
                Ok(None)
            }
            Err(error) => Err(aws_sdk_ssm::error::DisplayErrorContext(error).to_string()),
        }
    }
}

fn main() -> ExitCode {
    function::main(run())
}

async fn run() -> Result<()> {
    let configuration = WriterConfiguration::from_environment(|name| std::env::var(name).ok())?;
    let aws = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
    let credentials = credentials(&configuration.database, &aws)?;
    let database = Database::new(&configuration.database, credentials, "ledger-writer")?;
    let tokens = TokenSource::new(&configuration.kafka, tokio::runtime::Handle::current());
    let dead_letters = DeadLetterTopic::new(
        &configuration.kafka,
        &configuration.dead_letter_topic,
        &configuration.source_topic,
        tokens,
    )?;
    let ssm = aws_sdk_ssm::config::Builder::from(&aws)
        .timeout_config(
            aws_sdk_ssm::config::timeout::TimeoutConfig::builder()
                .operation_timeout(Duration::from_secs(1))
                .build(),
        )
        .build();
    let mode = ModeParameter {
        client: aws_sdk_ssm::Client::from_conf(ssm),
        name: configuration.mode_parameter.clone(),
    };
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let writer = Writer::new(
        &configuration,
        Tables::new(database),
        dead_letters,
        mode,
        &variable("AWS_LAMBDA_FUNCTION_NAME"),
        &variable("AWS_LAMBDA_LOG_STREAM_NAME"),
        |line| println!("{line}"),
    );
    function::serve(async |event: KafkaEvent, invocation: function::Invocation| {
        Result::<_>::Ok(writer.handle(event, invocation.deadline).await)
    })
    .await
    .map_err(|error| anyhow!(error))
}
