//! The function's event and its answer.

use std::time::{Duration, Instant};

use aws_lambda_events::{
    event::kinesis::{KinesisEvent, KinesisEventRecord},
    event::streams::KinesisEventResponse,
};
use worker_kit::processing::Surroundings;

use crate::{
    enricher::{Enricher, Incoming},
    metrics::Counts,
    ports::{Stream, Tables},
};

/// What of the invocation's time is kept back, so that the answer is sent before Lambda ends it.
pub const SAFETY: Duration = Duration::from_secs(3);

/// Processes an event. For each shard the answer has the first record that is not done: Lambda sends it and all
/// behind it again.
pub async fn handle<T: Tables, S: Stream, E: Surroundings>(
    enricher: &Enricher<T, S, E>,
    event: KinesisEvent,
    deadline: Instant,
) -> (KinesisEventResponse, Counts) {
    let mut answer = KinesisEventResponse::default();
    let mut counts = Counts::default();
    for records in by_shard(event.records.into_iter().map(incoming)) {
        let outcome = enricher.process(&records, deadline).await;
        if let Some(first) = records.get(outcome.done) {
            answer.add_failure(&first.sequence_number);
        }
        counts += outcome.counts;
    }
    (answer, counts)
}

/// The records of each shard, in their order. Lambda sends those of one shard alone.
fn by_shard(records: impl Iterator<Item = Incoming>) -> Vec<Vec<Incoming>> {
    let mut shards: Vec<Vec<Incoming>> = Vec::new();
    for record in records {
        let same = |shard: &&mut Vec<Incoming>| {
            shard.first().is_some_and(|first| {
                first.shard_id == record.shard_id && first.stream_arn == record.stream_arn
            })
        };
        match shards.iter_mut().find(same) {
            Some(shard) => shard.push(record),
            None => shards.push(vec![record]),
        }
    }
    shards
}

fn incoming(record: KinesisEventRecord) -> Incoming {
    // An event's id is `shardId-000000000000:` and the sequence number.
    let shard_id =
        record.event_id.as_deref().and_then(|id| Some(id.split_once(':')?.0.to_owned())).unwrap_or_default();
    Incoming {
        stream_arn: record.event_source_arn.unwrap_or_default(),
        shard_id,
        sequence_number: record.kinesis.sequence_number,
        partition_key: record.kinesis.partition_key,
        arrived_at: record.kinesis.approximate_arrival_timestamp.0,
        data: record.kinesis.data.0,
    }
}
