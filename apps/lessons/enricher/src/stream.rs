//! A Kinesis stream to write to.

use aws_sdk_kinesis::{Client, primitives::Blob, types::PutRecordsRequestEntry};

use crate::{
    call_error::Retriable,
    ports::{CallError, Outgoing, Stream},
};

/// Error codes of calls that may succeed later, beside those of the servers (5xx).
const RETRIABLE: Retriable = Retriable(&[
    "InternalFailure",
    "KMSThrottlingException",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
]);

/// A stream.
#[derive(Clone, Debug)]
pub struct KinesisStream {
    client: Client,
    name: String,
}

impl KinesisStream {
    /// The stream of this name.
    #[must_use]
    pub fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }
}

impl Stream for KinesisStream {
    async fn put(&self, records: &[Outgoing]) -> Result<Vec<bool>, CallError> {
        let mut entries = Vec::with_capacity(records.len());
        for record in records {
            let entry = PutRecordsRequestEntry::builder()
                .partition_key(&record.partition_key)
                .data(Blob::new(record.data.clone()))
                .build()
                .map_err(|error| CallError::Fatal(error.to_string()))?;
            entries.push(entry);
        }
        let answer = self
            .client
            .put_records()
            .stream_name(&self.name)
            .set_records(Some(entries))
            .send()
            .await
            .map_err(|error| RETRIABLE.call_error(&error))?;
        if let Some(refused) = answer.records().iter().find(|result| result.error_code().is_some()) {
            tracing::warn!(
                stream = self.name,
                refused = answer.failed_record_count(),
                code = refused.error_code(),
                message = refused.error_message(),
                "the stream did not take all records"
            );
        }
        Ok(answer.records().iter().map(|result| result.error_code().is_none()).collect())
    }
}
