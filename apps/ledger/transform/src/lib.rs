//! The ledger's transform: checks and normalises events, keys them by entity, and puts aside what nobody can read.

use std::time::{Duration, Instant};

use ledger_events::Envelope;
use rdkafka::{
    config::FromClientConfigAndContext,
    error::KafkaError,
    producer::{FutureProducer, FutureRecord},
};
use worker_contract::ledger::TransformConfiguration;
use worker_kit::{
    batch::{Batch, Record},
    dead_letters::{DeadLetterSink, DeadLetterTopic, Rejection},
    emf::{self, Unit},
    kafka::{ProducerContext, TokenSource, producer_config},
    kafka_event::{BatchResponse, KafkaEvent},
    processing::{BatchHandler, HandleError, Machine, Outcome, process},
    retry::RetryPolicy,
};

/// Where checked events go.
pub struct BufferTopic {
    producer: FutureProducer<ProducerContext>,
    topic: String,
}

impl BufferTopic {
    fn new(configuration: &TransformConfiguration, tokens: TokenSource) -> Result<Self, KafkaError> {
        let config = producer_config(&configuration.kafka, "ledger-transform");
        let producer = FutureProducer::from_config_and_context(&config, ProducerContext::new(tokens))?;
        Ok(Self { producer, topic: configuration.buffer_topic.clone() })
    }
}

/// Understands a record as an event.
///
/// # Errors
///
/// Why it is none, with a word for its kind.
pub fn check(record: Record<'_>) -> Result<Envelope, Rejection> {
    let payload = record
        .payload
        .ok_or_else(|| Rejection { cause: "null", error: "a record without a value".to_owned() })?;
    Envelope::parse(payload).map_err(|error| Rejection { cause: error.cause(), error: error.to_string() })
}

/// An event that goes on, with the time that it came with: so that its age at the end is that of all its way.
pub struct Checked {
    envelope: Envelope,
    came_ms: Option<i64>,
}

impl BatchHandler for BufferTopic {
    type Item = Checked;

    fn decode(&self, record: Record<'_>) -> Result<Checked, Rejection> {
        let came_ms = record.origin.timestamp_ms;
        check(record).map(|envelope| Checked { envelope, came_ms })
    }

    /// Sends all events and waits until all are acknowledged. The producer keeps their order; where one fails, all
    /// are sent again, which the writer takes for the repetitions that they are.
    async fn handle(&self, items: &[Checked]) -> Result<(), HandleError> {
        let mut deliveries = Vec::with_capacity(items.len());
        for Checked { envelope, came_ms } in items {
            let (key, payload) = (envelope.key(), envelope.to_bytes());
            let mut record: FutureRecord<'_, [u8], [u8]> =
                FutureRecord::to(&self.topic).key(&key.as_bytes()[..]).payload(&payload[..]);
            if let Some(came_ms) = came_ms {
                record = record.timestamp(*came_ms);
            }
            match self.producer.send_result(record) {
                Ok(delivery) => deliveries.push(delivery),
                // The client's queue is full: what is in it is waited for, and all come again.
                Err((error, _)) => return Err(HandleError::Retriable(error.to_string())),
            }
        }
        for delivery in deliveries {
            delivery
                .await
                .map_err(|_| HandleError::Retriable("the producer ended".to_owned()))?
                .map_err(|(error, _)| HandleError::Retriable(error.to_string()))?;
        }
        Ok(())
    }
}

/// The function's state between invocations.
pub struct Transform {
    buffer: BufferTopic,
    dead_letters: DeadLetterTopic,
    safety: Duration,
    name: String,
}

impl Transform {
    /// Connects to the topics. The runtime signs the clients' tokens.
    ///
    /// # Errors
    ///
    /// When a client refuses its settings.
    pub fn new(
        configuration: &TransformConfiguration,
        runtime: tokio::runtime::Handle,
        name: &str,
    ) -> Result<Self, KafkaError> {
        let tokens = TokenSource::new(&configuration.kafka, runtime);
        Ok(Self {
            buffer: BufferTopic::new(configuration, tokens.clone())?,
            dead_letters: DeadLetterTopic::new(
                &configuration.kafka,
                &configuration.dead_letter_topic,
                &configuration.source_topic,
                tokens,
            )?,
            safety: Duration::from_secs_f64(configuration.safety_seconds),
            name: name.to_owned(),
        })
    }

    /// Handles an invocation. Where an event could not be passed on in time, all come again.
    pub async fn handle(&self, event: KafkaEvent, deadline: Instant) -> BatchResponse {
        let now = Instant::now();
        let records = event.into_records();
        let mut batch = Batch::default();
        for record in &records {
            batch.push(record.record());
        }
        let policy = RetryPolicy::until(deadline.checked_sub(self.safety).unwrap_or(now), now);
        let result = pass_on(&batch, &self.buffer, &self.dead_letters, &policy).await;
        let (outcome, returned) = match result {
            Ok(outcome) => (outcome, 0),
            Err(error) => {
                tracing::error!(error, records = records.len(), "records go back");
                (Outcome::default(), records.len())
            }
        };
        let count = |value: usize| value as f64;
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let line = emf::line(
            "Floodgate/Ledger",
            &[("Function", &self.name)],
            &[
                ("Records", Unit::Count, count(records.len())),
                ("DeadLetters", Unit::Count, count(outcome.dead_letters)),
                ("Returned", Unit::Count, count(returned)),
            ],
            &[],
            &[],
            i64::try_from(unix.as_millis()).unwrap_or(i64::MAX),
        );
        println!("{line}");
        let failed = if returned == 0 { &[][..] } else { &records };
        BatchResponse::failed(
            failed.iter().map(|record| (record.topic_partition.as_str(), record.origin.offset)),
        )
    }
}

async fn pass_on<H: BatchHandler, S: DeadLetterSink>(
    batch: &Batch,
    buffer: &H,
    dead_letters: &S,
    policy: &RetryPolicy,
) -> Result<Outcome, String> {
    process(batch, buffer, dead_letters, policy, &Machine, |rejection| {
        tracing::warn!(cause = rejection.cause, error = rejection.error, "a dead letter");
    })
    .await
    .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use ledger_events::traffic::BROKEN;
    use worker_kit::batch::Origin;

    use super::*;

    fn record(payload: Option<&[u8]>) -> Record<'_> {
        Record { origin: Origin { partition: 0, offset: 0, timestamp_ms: None }, key: None, payload }
    }

    /// Defect 5b: a value that was no JSON, or of no known shape, became nothing and was left out in silence.
    #[test]
    fn nothing_is_left_out_in_silence() {
        assert_eq!(check(record(None)).unwrap_err().cause, "null");
        for broken in BROKEN {
            let rejection = check(record(Some(broken))).unwrap_err();
            assert!(!rejection.error.is_empty(), "{rejection:?}");
        }
    }
}
