//! What a destination is told of records that were given up: the invocation record that AWS documents.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value as Json, json};

use super::{delivery::Condition, record::Record};

/// What is known of an invocation that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The service's id of the request.
    pub request_id: String,
    /// `$LATEST` or a version.
    pub executed_version: String,
    /// `Unhandled` or `Handled`; `None` where the function said which records failed.
    pub function_error: Option<String>,
}

/// Records that were given up.
#[derive(Clone, Copy, Debug)]
pub struct GivenUp<'a> {
    /// The function's ARN.
    pub function_arn: &'a str,
    /// The source's ARN.
    pub source_arn: &'a str,
    /// Why.
    pub condition: Condition,
    /// How often they were in an invocation.
    pub invocations: u32,
    /// The last of these.
    pub last: Option<&'a Failure>,
    /// An id for records that were in none.
    pub request_id: &'a str,
    /// When, in milliseconds since 1970.
    pub now_ms: i64,
    /// The records.
    pub records: &'a [Record],
    /// The event with them.
    pub event: &'a str,
}

impl GivenUp<'_> {
    /// For SQS and SNS: what is known of the batch, without its records.
    #[must_use]
    pub fn of_kafka(&self, bootstrap_servers: &str) -> Json {
        let mut parts: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
        for record in self.records {
            parts.entry(&record.part).or_default().push(record);
        }
        let infos: Map<String, Json> = parts
            .into_iter()
            .filter_map(|(part, records)| {
                let (first, last) = (records.first()?, records.last()?);
                let info = json!({
                    "firstRecordOffset": first.position.as_str(),
                    "lastRecordOffset": last.position.as_str(),
                    "firstRecordTimestamp": moment(first.timestamp_ms),
                    "lastRecordTimestamp": moment(last.timestamp_ms),
                });
                Some((part.to_owned(), info))
            })
            .collect();
        self.with_kafka(bootstrap_servers, "recordsInfo", infos.into())
    }

    fn with_kafka(&self, bootstrap_servers: &str, key: &str, info: Json) -> Json {
        self.with(
            "KafkaBatchInfo",
            json!({
                "batchSize": self.records.len(),
                "eventSourceArn": self.source_arn,
                "bootstrapServers": bootstrap_servers,
                "payloadSize": self.event.len(),
                (key): info,
            }),
        )
    }

    /// For a topic of the cluster: one record, with the event that holds it alone.
    #[must_use]
    pub fn of_kafka_record(&self, bootstrap_servers: &str) -> Json {
        let info = self.records.first().map(
            |record| json!({ "offset": record.position.as_str(), "timestamp": moment(record.timestamp_ms) }),
        );
        let document = self.with_kafka(bootstrap_servers, "recordInfo", info.into());
        with_payload(document, serde_json::from_str(self.event).unwrap_or(Json::Null))
    }

    /// For SQS and SNS: what is known of the batch, without its records.
    #[must_use]
    pub fn of_kinesis(&self) -> Json {
        let (first, last) = (self.records.first(), self.records.last());
        self.with(
            "KinesisBatchInfo",
            json!({
                "shardId": first.map(|record| &*record.part),
                "startSequenceNumber": first.map(|record| record.position.as_str()),
                "endSequenceNumber": last.map(|record| record.position.as_str()),
                "approximateArrivalOfFirstRecord": first.map(|record| moment(record.timestamp_ms)),
                "approximateArrivalOfLastRecord": last.map(|record| moment(record.timestamp_ms)),
                "batchSize": self.records.len(),
                "streamArn": self.source_arn,
            }),
        )
    }

    fn with(&self, name: &str, info: Json) -> Json {
        let response = self.last.map(|last| {
            let mut response =
                json!({ "statusCode": 200, "executedVersion": last.executed_version, "functionError": null });
            match &last.function_error {
                Some(error) => response["functionError"] = error.as_str().into(),
                None => drop(response.as_object_mut().and_then(|fields| fields.remove("functionError"))),
            }
            response
        });
        json!({
            "requestContext": {
                "requestId": self.last.map_or(self.request_id, |last| &last.request_id),
                "functionArn": self.function_arn,
                "condition": self.condition.as_str(),
                "approximateInvokeCount": self.invocations,
            },
            "responseContext": response,
            "version": "1.0",
            "timestamp": moment(self.now_ms),
            name: info,
        })
    }
}

/// For S3: the document with the whole event, as text.
#[must_use]
pub fn with_event(document: Json, event: &str) -> Json {
    with_payload(document, event.into())
}

fn with_payload(mut document: Json, payload: Json) -> Json {
    document["payload"] = payload;
    document
}

/// The key of a document in a bucket (Lambda developer guide, "Example Amazon S3 invocation record").
#[must_use]
pub fn object_key(mapping: &str, part: &str, now_ms: i64, id: &str) -> String {
    let moment = at(now_ms);
    format!(
        "aws/lambda/{mapping}/{part}/{}/{}-{id}",
        moment.format("%Y/%m/%d"),
        moment.format("%Y-%m-%dT%H.%M.%S")
    )
}

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

fn moment(ms: i64) -> String {
    at(ms).to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_sources::record::Position;

    fn record(part: &str, position: &str) -> Record {
        Record {
            part: part.into(),
            position: Position::new(position),
            timestamp_ms: 1_573_691_884_835,
            key: None,
            json: "{\"offset\":1}".to_owned(),
        }
    }

    #[test]
    fn destinations_are_told_what_aws_documents() {
        let failure = Failure {
            request_id: "316aa6d0".to_owned(),
            executed_version: "$LATEST".to_owned(),
            function_error: Some("Unhandled".to_owned()),
        };
        let records = [record("trades-0", "100"), record("trades-0", "104"), record("trades-1", "7")];
        let event = super::super::event::of_kafka("arn:aws:kafka:::cluster", "127.0.0.1:9092", &records[..1]);
        let kafka = GivenUp {
            function_arn: "arn:aws:lambda:eu-west-1:000000000000:function:writer",
            source_arn: "arn:aws:kafka:::cluster",
            condition: Condition::RetryAttemptsExhausted,
            invocations: 3,
            last: Some(&failure),
            request_id: "unused",
            now_ms: 1_573_691_886_021,
            records: &records,
            event: &event,
        };
        let old = GivenUp {
            condition: Condition::RecordAgeExceeded,
            invocations: 0,
            last: None,
            request_id: "made here",
            source_arn: "arn:aws:kinesis:::stream/lessons",
            records: &[record("shardId-000000000001", "49601"), record("shardId-000000000001", "49602")],
            ..kafka
        };
        let documents = [
            kafka.of_kafka("127.0.0.1:9092"),
            GivenUp { records: &records[..1], ..kafka }.of_kafka_record("127.0.0.1:9092"),
            with_event(old.of_kinesis(), "{\"Records\":[]}"),
        ];
        let texts = documents.map(|document| serde_json::to_string_pretty(&document).unwrap());
        insta::assert_snapshot!(texts.join("\n"));
        assert_eq!(
            object_key("5f6d", "shardId-000000000001", 1_573_691_886_021, "77"),
            "aws/lambda/5f6d/shardId-000000000001/2019/11/14/2019-11-14T00.38.06-77"
        );
    }
}
