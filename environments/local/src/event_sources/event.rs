//! What a function gets: the events of Kafka and Kinesis, as Lambda writes them.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use super::record::Record;

/// A Kafka record before it is written.
#[derive(Clone, Debug)]
pub struct KafkaRecord<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// `CREATE_TIME` or `LOG_APPEND_TIME`.
    pub timestamp_type: &'static str,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; a record that says that something is gone has none.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Vec<(&'a str, &'a [u8])>,
}

impl KafkaRecord<'_> {
    /// As it stands in an event. Bytes of headers are signed, as Java writes them.
    #[must_use]
    pub fn json(&self) -> Json {
        let encoded = |bytes: Option<&[u8]>| bytes.map_or(Json::Null, |bytes| STANDARD.encode(bytes).into());
        let signed = |bytes: &[u8]| bytes.iter().map(|byte| byte.cast_signed()).collect::<Vec<i8>>();
        let headers: Vec<Json> =
            self.headers.iter().map(|(name, value)| json!({ *name: signed(value) })).collect();
        json!({
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "timestamp": self.timestamp_ms,
            "timestampType": self.timestamp_type,
            "key": encoded(self.key),
            "value": encoded(self.value),
            "headers": headers,
        })
    }
}

/// The event of a Kafka batch.
#[must_use]
pub fn of_kafka(source_arn: &str, bootstrap_servers: &str, records: &[Record]) -> String {
    let mut parts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for record in records {
        parts.entry(&record.part).or_default().push(&record.json);
    }
    let parts: Vec<String> = parts
        .into_iter()
        .map(|(part, records)| format!("{}:[{}]", Json::from(part), records.join(",")))
        .collect();
    format!(
        r#"{{"eventSource":"aws:kafka","eventSourceArn":{},"bootstrapServers":{},"records":{{{}}}}}"#,
        Json::from(source_arn),
        Json::from(bootstrap_servers),
        parts.join(",")
    )
}

/// The event of a Kinesis batch.
#[must_use]
pub fn of_kinesis(records: &[Record]) -> String {
    let records: Vec<&str> = records.iter().map(|record| record.json.as_str()).collect();
    format!(r#"{{"Records":[{}]}}"#, records.join(","))
}

/// A record of a stream as it stands in an event, from what `GetRecords` answers.
#[must_use]
pub fn kinesis_record(record: &Json, shard: &str, source_arn: &str, region: &str, role_arn: &str) -> Json {
    let field = |name: &str| record.get(name).cloned().unwrap_or(Json::Null);
    let sequence_number = field("SequenceNumber");
    let event_id = format!("{shard}:{}", sequence_number.as_str().unwrap_or_default());
    json!({
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": field("PartitionKey"),
            "sequenceNumber": sequence_number,
            "data": field("Data"),
            "approximateArrivalTimestamp": field("ApproximateArrivalTimestamp"),
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": event_id,
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": role_arn,
        "awsRegion": region,
        "eventSourceARN": source_arn,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_sources::record::Position;

    fn kafka_record(partition: i32, offset: i64) -> Record {
        let json = KafkaRecord {
            topic: "trades",
            partition,
            offset,
            timestamp_ms: 1_749_116_692_330,
            timestamp_type: "CREATE_TIME",
            key: (offset == 0).then_some(b"account".as_slice()),
            value: Some(b"{\"price\":1}"),
            headers: vec![("trace", &[1, 200])],
        };
        Record {
            part: format!("trades-{partition}").into(),
            position: Position::from(offset),
            timestamp_ms: 1_749_116_692_330,
            key: None,
            json: json.json().to_string(),
        }
    }

    #[test]
    fn a_kafka_event_is_what_lambda_writes() {
        let event = of_kafka(
            "arn:aws:kafka:eu-west-1:000000000000:cluster/floodgate/1-2",
            "127.0.0.1:9092",
            &[kafka_record(0, 0), kafka_record(0, 1), kafka_record(1, 7)],
        );
        let event: Json = serde_json::from_str(&event).unwrap();
        insta::assert_snapshot!(serde_json::to_string_pretty(&event).unwrap());
    }

    #[test]
    fn a_kinesis_event_is_what_lambda_writes() {
        let answered = json!({
            "SequenceNumber": "49590338271490256608559692538361571095921575989136588898",
            "ApproximateArrivalTimestamp": 1_545_084_650.987,
            "Data": "SGVsbG8=",
            "PartitionKey": "learner",
        });
        let record = Record {
            part: "shardId-000000000006".into(),
            position: Position::new("49590338271490256608559692538361571095921575989136588898"),
            timestamp_ms: 1_545_084_650_987,
            key: None,
            json: kinesis_record(
                &answered,
                "shardId-000000000006",
                "arn:aws:kinesis:eu-west-1:000000000000:stream/lessons",
                "eu-west-1",
                "arn:aws:iam::000000000000:role/enricher",
            )
            .to_string(),
        };
        let event: Json = serde_json::from_str(&of_kinesis(&[record])).unwrap();
        insta::assert_snapshot!(serde_json::to_string_pretty(&event).unwrap());
    }
}
