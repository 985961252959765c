//! The Lambda function that enriches lessons. Configured by environment variables
//! (`worker_contract::lessons::EnricherConfiguration`).

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use aws_lambda_events::event::kinesis::KinesisEvent;
use futures::{FutureExt, future::LocalBoxFuture};
use lambda_runtime::Diagnostic;
use lessons_enricher::{
    enricher::Enricher, function as invocation, stream::KinesisStream, tables::DynamoTables,
};
use serde_json::Value as Json;
use worker_contract::lessons::EnricherConfiguration;
use worker_kit::{aws, function, function::Invocation, processing::Machine};

type OnAws = Enricher<DynamoTables, KinesisStream, Machine>;

fn main() -> ExitCode {
    function::main(run().boxed_local())
}

async fn run() -> Result<()> {
    let name = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|_| "lessons-enricher".to_owned());
    let enricher = set_up().await?;
    let handle = |event: KinesisEvent, Invocation { deadline, .. }: Invocation| {
        let (enricher, name) = (&enricher, &name);
        // Boxed: inside the runtime's own futures, the SDK's are nested deeper than the compiler likes.
        let handled: LocalBoxFuture<'_, Result<Json, Diagnostic>> = Box::pin(async move {
            let deadline = deadline.checked_sub(invocation::SAFETY).unwrap_or(deadline);
            let (answer, counts) = invocation::handle(enricher, event, deadline).await;
            // Not a log record: CloudWatch reads metrics from lines of this form alone.
            println!("{}", counts.to_line(name, chrono::Utc::now().timestamp_millis()));
            serde_json::to_value(answer).map_err(|error| Diagnostic {
                error_type: "Answer".to_owned(),
                error_message: error.to_string(),
            })
        });
        handled
    };
    function::serve(handle).await.map_err(|error| anyhow!("{error}"))
}

async fn set_up() -> Result<OnAws> {
    let configuration = EnricherConfiguration::from_environment(|name| std::env::var(name).ok())?;
    let sdk = aws::for_functions().await;
    let kinesis = aws_sdk_kinesis::Client::new(&sdk);
    Ok(Enricher {
        tables: DynamoTables::new(
            aws_sdk_dynamodb::Client::new(&sdk),
            &configuration.user_table,
            &configuration.user_subscription_table,
        ),
        output: KinesisStream::new(kinesis.clone(), &configuration.output_stream),
        failed: KinesisStream::new(kinesis, &configuration.failed_stream),
        surroundings: Machine,
    })
}
