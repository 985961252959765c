//! The Lambda function `ledger-mode`.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, anyhow};
use aws_sdk_cloudwatch::types::AlarmType;
use ledger_events::{
    AlarmState, ModeRecord,
    control::{ControlMessage, KEY},
};
use ledger_mode::{Alarms, ModeStore, handle};
use rdkafka::{
    config::FromClientConfigAndContext,
    producer::{FutureProducer, FutureRecord},
};
use serde_json::Value as Json;
use worker_contract::ledger::ModeConfiguration;
use worker_kit::{
    function,
    kafka::{ProducerContext, TokenSource, producer_config},
};

/// How long the control topic is waited for.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

struct CloudWatch(aws_sdk_cloudwatch::Client);

impl Alarms for CloudWatch {
    async fn states(&self, names: &[String]) -> Result<Vec<(String, AlarmState)>> {
        let answer = self
            .0
            .describe_alarms()
            .set_alarm_names(Some(names.to_vec()))
            .alarm_types(AlarmType::MetricAlarm)
            .alarm_types(AlarmType::CompositeAlarm)
            .send()
            .await
            .map_err(|error| {
                anyhow!("the alarms: {}", aws_sdk_cloudwatch::error::DisplayErrorContext(error))
            })?;
        let state = |value: Option<&aws_sdk_cloudwatch::types::StateValue>| {
            AlarmState::named(value.map_or("", |value| value.as_str()))
        };
        let metric = answer
            .metric_alarms()
            .iter()
            .map(|alarm| (alarm.alarm_name().unwrap_or_default().to_owned(), state(alarm.state_value())));
        let composite = answer
            .composite_alarms()
            .iter()
            .map(|alarm| (alarm.alarm_name().unwrap_or_default().to_owned(), state(alarm.state_value())));
        Ok(metric.chain(composite).collect())
    }
}

struct Store {
    ssm: aws_sdk_ssm::Client,
    parameter: String,
    producer: FutureProducer<ProducerContext>,
    topic: String,
}

impl ModeStore for Store {
    async fn read(&self) -> Result<Option<String>> {
        match self.ssm.get_parameter().name(&self.parameter).send().await {
            Ok(answer) => Ok(answer.parameter.and_then(|parameter| parameter.value)),
            Err(error) if error.as_service_error().is_some_and(|told| told.is_parameter_not_found()) => {
                Ok(None)
            }
            Err(error) => {
                Err(anyhow!("the mode parameter: {}", aws_sdk_ssm::error::DisplayErrorContext(error)))
            }
        }
    }

    async fn write(&self, record: &ModeRecord) -> Result<()> {
        self.ssm
            .put_parameter()
            .name(&self.parameter)
            .value(record.to_text())
            .overwrite(true)
            .send()
            .await
            .map(drop)
            .map_err(|error| {
                anyhow!("the mode parameter: {}", aws_sdk_ssm::error::DisplayErrorContext(error))
            })
    }

    async fn send(&self, record: &ModeRecord) -> Result<()> {
        let payload = ControlMessage { control: record.clone() }.to_bytes();
        let message = FutureRecord::to(&self.topic).key(KEY).payload(&payload);
        tokio::time::timeout(SEND_TIMEOUT, self.producer.send(message, SEND_TIMEOUT))
            .await
            .map_err(|_| {
                anyhow!("the control topic did not take the mode within {} s", SEND_TIMEOUT.as_secs())
            })?
            .map(drop)
            .map_err(|(error, _)| anyhow!("the control topic: {error}"))
    }
}

fn main() -> ExitCode {
    function::main(run())
}

async fn run() -> Result<()> {
    let configuration = ModeConfiguration::from_environment(|name| std::env::var(name).ok())?;
    let aws = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
    let tokens = TokenSource::new(&configuration.kafka, tokio::runtime::Handle::current());
    let config = producer_config(&configuration.kafka, "ledger-mode");
    let store = Store {
        ssm: aws_sdk_ssm::Client::new(&aws),
        parameter: configuration.mode_parameter.clone(),
        producer: FutureProducer::from_config_and_context(&config, ProducerContext::new(tokens))?,
        topic: configuration.control_topic.clone(),
    };
    let alarms = CloudWatch(aws_sdk_cloudwatch::Client::new(&aws));
    let hold_ms = i64::try_from(Duration::from_secs_f64(configuration.hold_seconds).as_millis())?;
    function::serve(async |event: Json, _| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        handle(&event, &configuration.alarms, hold_ms, now_ms, &alarms, &store).await
    })
    .await
    .map_err(|error| anyhow!(error))
}
