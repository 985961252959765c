//! A private emulator, a front before it that fails as it is told, and what Lambda would send.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig};
use aws_lambda_events::event::kinesis::KinesisEvent;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use aws_sdk_kinesis::types::ShardIteratorType;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

/// How long a test waits for something to come about.
const PATIENCE: Duration = Duration::from_secs(60);

fn local_environment() -> PathBuf {
    if let Some(program) = std::env::var_os("FLOODGATE_LOCAL_ENVIRONMENT") {
        return program.into();
    }
    let built =
        std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("local-environment");
    assert!(
        built.is_file(),
        "these tests need the AWS emulator: run them by `cargo xtask test`, or build local-environment first ({} is not there)",
        built.display()
    );
    built
}

/// Where the emulator is installed: shared with the local environment of this workspace.
fn parts() -> PathBuf {
    std::env::var_os("FLOODGATE_LOCAL_ROOT")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target/local"), Into::into)
}

/// An AWS of the test's own.
pub struct Emulator {
    process: Child,
    directory: tempfile::TempDir,
    pub endpoint: String,
}

impl Emulator {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(local_environment())
            .arg("--root")
            .arg(directory.path().join("local"))
            .arg("--parts")
            .arg(parts())
            .args(["aws", "--directory"])
            .arg(directory.path().join("aws"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Json = serde_json::from_str(&line).unwrap();
        let emulator =
            Self { process, directory, endpoint: told["endpoint_url"].as_str().unwrap().to_owned() };
        let client = aws_sdk_kinesis::Client::new(&config(&emulator.endpoint).await);
        let deadline = Instant::now() + PATIENCE;
        while client.list_streams().send().await.is_err() {
            assert!(Instant::now() < deadline, "the emulator does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        emulator
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The settings of clients at an endpoint. The SDK itself makes one try, so that each fault is seen.
pub async fn config(endpoint: &str) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .endpoint_url(endpoint)
        .credentials_provider(aws_sdk_kinesis::config::Credentials::new("test", "test", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .load()
        .await
}

pub async fn make_table(client: &aws_sdk_dynamodb::Client, name: &str, keys: &[&str]) {
    let mut table = client.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
    for (key, kind) in keys.iter().zip([KeyType::Hash, KeyType::Range]) {
        table = table
            .key_schema(KeySchemaElement::builder().attribute_name(*key).key_type(kind).build().unwrap())
            .attribute_definitions(
                AttributeDefinition::builder()
                    .attribute_name(*key)
                    .attribute_type(ScalarAttributeType::S)
                    .build()
                    .unwrap(),
            );
    }
    table.send().await.unwrap();
}

/// All items of a table: key (both parts together) to version.
pub async fn versions(client: &aws_sdk_dynamodb::Client, table: &str) -> BTreeMap<String, u64> {
    let mut versions = BTreeMap::new();
    let mut pages = client.scan().table_name(table).consistent_read(true).into_paginator().items().send();
    while let Some(item) = pages.next().await {
        let item: HashMap<String, AttributeValue> = item.unwrap();
        let text = |name: &str| item.get(name).map(|value| value.as_s().unwrap().clone()).unwrap_or_default();
        let version = item["version"].as_n().unwrap().parse().unwrap();
        versions.insert(format!("{} {}", text("user_uuid"), text("language")).trim_end().to_owned(), version);
    }
    versions
}

pub async fn make_stream(client: &aws_sdk_kinesis::Client, name: &str, shards: i32) {
    client.create_stream().stream_name(name).shard_count(shards).send().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let told = client.describe_stream_summary().stream_name(name).send().await.unwrap();
        if told.stream_description_summary().unwrap().stream_status().as_str() == "ACTIVE" {
            return;
        }
        assert!(Instant::now() < deadline, "{name} does not become active");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All that a stream holds, shard by shard, in order.
pub async fn records(client: &aws_sdk_kinesis::Client, stream: &str) -> Vec<Json> {
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

/// An event as Lambda sends it.
pub fn lambda_event(records: &[(usize, &[u8])]) -> KinesisEvent {
    let records: Vec<Json> = records
        .iter()
        .map(|(number, data)| {
            json!({
                "kinesis": {
                    "kinesisSchemaVersion": "1.0", "partitionKey": format!("key-{}", number % 7),
                    "sequenceNumber": format!("{number:056}"), "data": STANDARD.encode(data),
                    "approximateArrivalTimestamp": 1_767_225_600.25
                },
                "eventSource": "aws:kinesis", "eventVersion": "1.0",
                "eventID": format!("shardId-000000000000:{number:056}"),
                "eventName": "aws:kinesis:record", "awsRegion": "eu-west-1",
                "invokeIdentityArn": "arn:aws:iam::000000000000:role/enricher",
                "eventSourceARN": "arn:aws:kinesis:eu-west-1:000000000000:stream/input"
            })
        })
        .collect();
    serde_json::from_value(json!({ "Records": records })).unwrap()
}

/// What a front did.
#[derive(Debug, Default)]
pub struct Faults {
    pub calls: u64,
    pub busy: u64,
    pub unprocessed_keys: u64,
    pub refused_records: u64,
    pub lost_answers: u64,
}

struct FrontState {
    upstream: String,
    faults: std::sync::Mutex<(u64, Faults)>,
}

impl FrontState {
    /// A number from 0 to 99 (xorshift), the same in each run.
    fn percent(&self) -> u64 {
        let seed = &mut self.faults.lock().unwrap().0;
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed % 100
    }

    fn count(&self, count: impl FnOnce(&mut Faults)) {
        count(&mut self.faults.lock().unwrap().1);
    }
}

/// A front before the emulator that does what AWS does under load and the emulator does not: leaves keys
/// unprocessed, takes a part of the records, is busy, loses answers.
pub struct Front {
    pub endpoint: String,
    state: Arc<FrontState>,
}

impl Front {
    pub async fn before(upstream: &str) -> Self {
        let state = Arc::new(FrontState {
            upstream: upstream.to_owned(),
            faults: std::sync::Mutex::new((0x5eed, Faults::default())),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { endpoint, state }
    }

    pub fn faults(&self) -> Faults {
        std::mem::take(&mut self.state.faults.lock().unwrap().1)
    }
}

async fn answer(State(front): State<Arc<FrontState>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers["x-amz-target"].to_str().unwrap().to_owned();
    let operation = target.rsplit('.').next().unwrap().to_owned();
    front.count(|faults| faults.calls += 1);
    if front.percent() < 15 {
        front.count(|faults| faults.busy += 1);
        return error(StatusCode::BAD_REQUEST, "ProvisionedThroughputExceededException");
    }
    let mut request: Json = serde_json::from_slice(&body).unwrap();
    let response = match operation.as_str() {
        "BatchGetItem" => {
            let mut left = serde_json::Map::new();
            let tables = request["RequestItems"].as_object_mut().unwrap();
            for (table, keys) in tables.iter_mut() {
                let asked = std::mem::take(keys["Keys"].as_array_mut().unwrap());
                let (later, now): (Vec<_>, Vec<_>) = asked.into_iter().partition(|_| front.percent() < 30);
                front.count(|faults| faults.unprocessed_keys += later.len() as u64);
                if !later.is_empty() {
                    left.insert(table.clone(), json!({ "Keys": later, "ConsistentRead": true }));
                }
                keys["Keys"] = Json::Array(now);
            }
            tables.retain(|_, keys| !keys["Keys"].as_array().unwrap().is_empty());
            let mut response = if tables.is_empty() {
                (StatusCode::OK, json!({ "Responses": {} }))
            } else {
                forward(&front, &headers, request).await
            };
            response.1["UnprocessedKeys"] = Json::Object(left);
            response
        }
        "PutRecords" => {
            let asked = std::mem::take(request["Records"].as_array_mut().unwrap());
            let refused: Vec<bool> = asked.iter().map(|_| front.percent() < 25).collect();
            let taken: Vec<Json> = asked
                .into_iter()
                .zip(&refused)
                .filter(|(_, refused)| !**refused)
                .map(|(record, _)| record)
                .collect();
            front.count(|faults| {
                faults.refused_records += refused.iter().filter(|refused| **refused).count() as u64;
            });
            let mut results = if taken.is_empty() {
                Vec::new()
            } else {
                request["Records"] = Json::Array(taken);
                let (status, response) = forward(&front, &headers, request).await;
                assert_eq!(status, StatusCode::OK, "{response}");
                response["Records"].as_array().unwrap().clone()
            }
            .into_iter();
            let busy =
                json!({ "ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "busy" });
            let records: Vec<Json> = refused
                .iter()
                .map(|refused| if *refused { busy.clone() } else { results.next().unwrap() })
                .collect();
            let failed = refused.iter().filter(|refused| **refused).count();
            (StatusCode::OK, json!({ "FailedRecordCount": failed, "Records": records }))
        }
        _ => forward(&front, &headers, request).await,
    };
    if front.percent() < 5 {
        front.count(|faults| faults.lost_answers += 1);
        return error(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError");
    }
    (response.0, [("content-type", "application/x-amz-json-1.1")], response.1.to_string()).into_response()
}

fn error(status: StatusCode, code: &str) -> Response {
    let body = json!({ "__type": code, "message": "the front says so" }).to_string();
    (status, [("content-type", "application/x-amz-json-1.1")], body).into_response()
}

async fn forward(front: &FrontState, headers: &HeaderMap, request: Json) -> (StatusCode, Json) {
    let upstream = front.upstream.clone();
    let headers: Vec<(String, String)> = ["x-amz-target", "content-type", "authorization", "x-amz-date"]
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), headers.get(*name)?.to_str().ok()?.to_owned())))
        .collect();
    tokio::task::spawn_blocking(move || {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut call = agent.post(&upstream);
        for (name, value) in &headers {
            call = call.header(name, value);
        }
        let mut answer = call.send(request.to_string()).unwrap();
        let status = StatusCode::from_u16(answer.status().as_u16()).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Json::Null))
    })
    .await
    .unwrap()
}
