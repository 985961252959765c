//! Kinesis data streams.

use std::collections::BTreeMap;

use cfn::{Handle, Json, Scope, Value};
use cfn_resources::{
    cloudwatch::AlarmStatistic,
    kinesis::{
        Stream, StreamEnhancedMetric, StreamStreamEncryption, StreamStreamEncryptionEncryptionType,
        StreamStreamModeDetails, StreamStreamModeDetailsStreamMode,
    },
    kms::Key,
};

use crate::{DataPolicy, alarm::Metric, iam, network::as_text};

/// A stream, encrypted with a key of the account's own.
#[derive(Clone, Debug)]
pub struct DataStream {
    /// The stream.
    pub stream: Handle<Stream>,
    key_arn: Value<String>,
}

impl DataStream {
    /// A stream of provisioned shards, whose records stay for some hours (24 to 8,760).
    #[track_caller]
    pub fn new(
        scope: &mut Scope<'_>,
        name: &str,
        key: &Handle<Key>,
        shards: i64,
        retention_hours: i64,
        data: DataPolicy,
    ) -> Self {
        let metrics = [
            StreamEnhancedMetric::IncomingBytes,
            StreamEnhancedMetric::IncomingRecords,
            StreamEnhancedMetric::IteratorAgeMilliseconds,
            StreamEnhancedMetric::WriteProvisionedThroughputExceeded,
        ];
        let stream = scope.add(
            name,
            Stream::new()
                .stream_mode_details(StreamStreamModeDetails::new(
                    StreamStreamModeDetailsStreamMode::Provisioned,
                ))
                .shard_count(shards)
                .retention_period_hours(retention_hours)
                .desired_shard_level_metrics(metrics)
                .stream_encryption(StreamStreamEncryption::new(
                    StreamStreamEncryptionEncryptionType::Kms,
                    as_text(&key.arn()),
                )),
        );
        scope.removal(stream.raw(), data.removal());
        Self { stream, key_arn: as_text(&key.arn()) }
    }

    /// The stream's ARN.
    #[must_use]
    pub fn arn(&self) -> Value<String> {
        as_text(&self.stream.arn())
    }

    /// The stream's name.
    #[must_use]
    pub fn name(&self) -> Value<String> {
        self.stream.reference()
    }

    /// Reads the stream. `sid` tells the statements of several streams apart.
    #[must_use]
    pub fn grant_read(&self, sid: &str) -> Vec<Json> {
        let actions = [
            "kinesis:DescribeStream",
            "kinesis:DescribeStreamSummary",
            "kinesis:GetRecords",
            "kinesis:GetShardIterator",
            "kinesis:ListShards",
            "kinesis:SubscribeToShard",
        ];
        vec![
            iam::allow(sid, &actions, &[self.arn()]),
            iam::allow(&format!("{sid}Decrypt"), &["kms:Decrypt"], std::slice::from_ref(&self.key_arn)),
        ]
    }

    /// Writes to the stream.
    #[must_use]
    pub fn grant_write(&self, sid: &str) -> Vec<Json> {
        vec![
            iam::allow(sid, &["kinesis:PutRecord", "kinesis:PutRecords"], &[self.arn()]),
            iam::allow(
                &format!("{sid}Encrypt"),
                &["kms:GenerateDataKey"],
                std::slice::from_ref(&self.key_arn),
            ),
        ]
    }

    /// Changes the number of shards.
    #[must_use]
    pub fn grant_scale(&self, sid: &str) -> Vec<Json> {
        vec![iam::allow(sid, &["kinesis:DescribeStreamSummary", "kinesis:UpdateShardCount"], &[self.arn()])]
    }

    /// A metric of the stream.
    #[must_use]
    pub fn metric(&self, name: &'static str, statistic: AlarmStatistic) -> Metric {
        Metric {
            namespace: "AWS/Kinesis",
            name,
            dimensions: BTreeMap::from([("StreamName", self.name())]),
            statistic,
        }
    }
}
