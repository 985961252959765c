//! What Lambda's event source mapping of a Kafka topic hands to a function, and what it takes back.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use serde::{Deserialize, Serialize};

use crate::batch::{Origin, Record};

/// An invocation's records by `topic-partition`, in order within each.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct KafkaEvent {
    /// The records.
    #[serde(default)]
    pub records: BTreeMap<String, Vec<EventRecord>>,
}

/// A record as Lambda hands it over. Headers are not read.
#[derive(Clone, Debug, Deserialize)]
pub struct EventRecord {
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
    /// In milliseconds since the epoch.
    #[serde(default)]
    pub timestamp: Option<i64>,
    /// The key in Base64.
    #[serde(default)]
    pub key: Option<String>,
    /// The value in Base64.
    #[serde(default)]
    pub value: Option<String>,
}

/// A record with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The topic and partition, as the event names them.
    pub topic_partition: String,
    /// Where it comes from.
    pub origin: Origin,
    /// Its key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Its payload, if it has one.
    pub payload: Option<Vec<u8>>,
}

impl Delivered {
    /// The record for the engine.
    #[must_use]
    pub fn record(&self) -> Record<'_> {
        Record { origin: self.origin, key: self.key.as_deref(), payload: self.payload.as_deref() }
    }
}

impl KafkaEvent {
    /// All records, in order within each partition.
    #[must_use]
    pub fn into_records(self) -> Vec<Delivered> {
        // What is no Base64 is handed on as it is, to be refused with its text for what it is.
        let bytes = |text: String| {
            base64::engine::general_purpose::STANDARD.decode(&text).unwrap_or_else(|_| text.into_bytes())
        };
        self.records
            .into_iter()
            .flat_map(|(topic_partition, records)| {
                records.into_iter().map(move |record| (topic_partition.clone(), record))
            })
            .map(|(topic_partition, record)| Delivered {
                topic_partition,
                origin: Origin {
                    partition: record.partition,
                    offset: record.offset,
                    timestamp_ms: record.timestamp,
                },
                key: record.key.map(bytes),
                payload: record.value.map(bytes),
            })
            .collect()
    }
}

/// What a function with `ReportBatchItemFailures` answers: what is to come again. No failure means that all is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchResponse {
    /// One entry a record that is not done.
    pub batch_item_failures: Vec<BatchItemFailure>,
}

/// A record that is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchItemFailure {
    /// Which one.
    pub item_identifier: ItemIdentifier,
}

/// A place in a partition (AWS Lambda developer guide, "Configuring error handling controls for Kafka event
/// sources").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemIdentifier {
    /// `topic-partition`, as the event names it.
    pub partition: String,
    /// Its offset.
    pub offset: i64,
}

impl BatchResponse {
    /// The answer where these records are not done. It names all of them: whether Lambda delivers what is named, or each
    /// partition from the first that is named, each of them comes again. Naming the first alone would lose the others
    /// in the first case.
    #[must_use]
    pub fn failed<'a>(records: impl IntoIterator<Item = (&'a str, i64)>) -> Self {
        let named: BTreeSet<(&str, i64)> = records.into_iter().collect();
        let failure = |(partition, offset): (&str, i64)| BatchItemFailure {
            item_identifier: ItemIdentifier { partition: partition.to_owned(), offset },
        };
        Self { batch_item_failures: named.into_iter().map(failure).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_lambda_is_read() {
        let event = serde_json::json!({
            "eventSource": "aws:kafka",
            "eventSourceArn": "arn:aws:kafka:eu-west-1:111111111111:cluster/c/u",
            "bootstrapServers": "b-1:9098",
            "records": {
                "ledger-buffer-0": [{
                    "topic": "ledger-buffer", "partition": 0, "offset": 15, "timestamp": 1545084650987_i64,
                    "timestampType": "CREATE_TIME", "key": "AQ==", "value": "eyJ4IjoxfQ==",
                    "headers": [{ "trace": [104, -1, 200] }]
                }, { "topic": "ledger-buffer", "partition": 0, "offset": 16, "timestamp": 1, "value": "~no base64" }],
                "ledger-buffer-1": [{ "topic": "ledger-buffer", "partition": 1, "offset": 3, "key": null }]
            }
        });
        let records = serde_json::from_value::<KafkaEvent>(event).unwrap().into_records();
        let told: Vec<_> = records
            .iter()
            .map(|record| (record.topic_partition.as_str(), record.origin.offset, record.payload.as_deref()))
            .collect();
        assert_eq!(told[0], ("ledger-buffer-0", 15, Some(&b"{\"x\":1}"[..])));
        assert_eq!(told[1], ("ledger-buffer-0", 16, Some(&b"~no base64"[..])));
        assert_eq!(told[2], ("ledger-buffer-1", 3, None));
        assert_eq!(records[0].key.as_deref(), Some(&[1][..]));
    }

    #[test]
    fn every_record_that_is_not_done_is_named() {
        let response = BatchResponse::failed([("t-1", 9), ("t-0", 5), ("t-1", 7), ("t-1", 9)]);
        assert_eq!(
            serde_json::to_value(&response).unwrap(),
            serde_json::json!({ "batchItemFailures": [
                { "itemIdentifier": { "partition": "t-0", "offset": 5 } },
                { "itemIdentifier": { "partition": "t-1", "offset": 7 } },
                { "itemIdentifier": { "partition": "t-1", "offset": 9 } }
            ] })
        );
        assert_eq!(serde_json::to_string(&BatchResponse::failed([])).unwrap(), r#"{"batchItemFailures":[]}"#);
    }
}
