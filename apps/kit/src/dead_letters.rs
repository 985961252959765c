//! Dead letters: what cannot be processed, with its cause, in a topic of its own.

use std::{future::Future, time::Duration};

use rdkafka::{
    config::FromClientConfigAndContext,
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer},
};
use worker_contract::KafkaConfiguration;

use crate::{
    batch::Record,
    kafka::{ProducerContext, TokenSource, producer_config},
};

/// The longest payload that is put into a dead letter whole, in bytes: a broker takes records up to 1 MB
/// unless told otherwise. A longer one is cut here, and its header `payload_bytes` tells its real length.
pub const PAYLOAD_BYTES_MAX: usize = 512 << 10;

/// The longest error text in a header, in bytes.
const ERROR_BYTES_MAX: usize = 1024;

/// Why a record cannot be processed, now or ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// A word for metrics: `malformed`, `null`, `oversized`…
    pub cause: &'static str,
    /// What exactly is wrong.
    pub error: String,
}

/// Where dead letters go.
pub trait DeadLetterSink: Send + Sync + 'static {
    /// Keeps a record with its cause. The record counts as done only after this.
    ///
    /// # Errors
    ///
    /// When it was not kept; it is tried again.
    fn put(
        &self,
        record: Record<'_>,
        rejection: &Rejection,
    ) -> impl Future<Output = Result<(), String>> + Send;
}

/// A dead-letter topic.
#[derive(Clone)]
pub struct DeadLetterTopic {
    producer: FutureProducer<ProducerContext>,
    topic: String,
    source_topic: String,
}

impl DeadLetterTopic {
    /// The topic `topic` for what comes from `source_topic`.
    ///
    /// # Errors
    ///
    /// When the client refuses its settings.
    pub fn new(
        kafka: &KafkaConfiguration,
        topic: &str,
        source_topic: &str,
        tokens: TokenSource,
    ) -> Result<Self, KafkaError> {
        let config = producer_config(kafka, &format!("{source_topic}-dead-letters"));
        let producer = FutureProducer::from_config_and_context(&config, ProducerContext::new(tokens))?;
        Ok(Self { producer, topic: topic.to_owned(), source_topic: source_topic.to_owned() })
    }

    /// Waits until everything is acknowledged.
    ///
    /// # Errors
    ///
    /// When that takes longer than the timeout.
    pub fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.producer.flush(timeout)
    }
}

impl DeadLetterSink for DeadLetterTopic {
    async fn put(&self, record: Record<'_>, rejection: &Rejection) -> Result<(), String> {
        let origin = record.origin;
        let timestamp = origin.timestamp_ms.map(|timestamp| timestamp.to_string()).unwrap_or_default();
        let payload_bytes = record.payload.map(<[u8]>::len);
        let error = &rejection.error[..rejection.error.floor_char_boundary(ERROR_BYTES_MAX)];
        let mut headers = OwnedHeaders::new();
        for (key, value) in [
            ("source_topic", self.source_topic.as_str()),
            ("source_partition", &origin.partition.to_string()),
            ("source_offset", &origin.offset.to_string()),
            ("source_timestamp", &timestamp),
            ("cause", rejection.cause),
            ("error", error),
            ("payload_bytes", &payload_bytes.map(|bytes| bytes.to_string()).unwrap_or_default()),
        ] {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut letter: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&self.topic).headers(headers);
        if let Some(key) = record.key {
            letter = letter.key(&key[..key.len().min(PAYLOAD_BYTES_MAX / 8)]);
        }
        if let Some(payload) = record.payload {
            letter = letter.payload(&payload[..payload.len().min(PAYLOAD_BYTES_MAX)]);
        }
        self.producer
            .send(letter, Duration::from_secs(30))
            .await
            .map(drop)
            .map_err(|(error, _)| error.to_string())
    }
}
