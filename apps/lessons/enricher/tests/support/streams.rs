//! Streams of the emulator: made and read, by clients whose every fault is seen.

use aws_config::{SdkConfig, retry::RetryConfig};
use aws_sdk_kinesis::types::ShardIteratorType;
use local_testing::eventually;
use serde_json::Value as Json;

/// The settings of clients at an endpoint. The SDK itself makes one try.
pub(crate) async fn one_try(endpoint: &str) -> SdkConfig {
    let config = local_testing::config(endpoint).await.into_builder();
    config.retry_config(RetryConfig::disabled()).build()
}

pub(crate) async fn make_stream(client: &aws_sdk_kinesis::Client, name: &str, shards: i32) {
    client.create_stream().stream_name(name).shard_count(shards).send().await.unwrap();
    eventually(&format!("{name} is active"), || async {
        let told = client.describe_stream_summary().stream_name(name).send().await.unwrap();
        told.stream_description_summary().unwrap().stream_status().as_str() == "ACTIVE"
    })
    .await;
}

/// All that a stream holds, shard by shard, in order.
pub(crate) async fn records(client: &aws_sdk_kinesis::Client, stream: &str) -> Vec<Json> {
    let mut all = Vec::new();
    for shard in client.list_shards().stream_name(stream).send().await.unwrap().shards() {
        let mut iterator = client
            .get_shard_iterator()
            .stream_name(stream)
            .shard_id(shard.shard_id())
            .shard_iterator_type(ShardIteratorType::TrimHorizon)
            .send()
            .await
            .unwrap()
            .shard_iterator;
        while let Some(at) = iterator {
            let page = client.get_records().shard_iterator(at).send().await.unwrap();
            if page.records().is_empty() {
                break;
            }
            all.extend(
                page.records()
                    .iter()
                    .map(|record| serde_json::from_slice::<Json>(record.data().as_ref()).unwrap()),
            );
            iterator = page.next_shard_iterator;
        }
    }
    all
}
