//! Tables of the emulator, and what Lambda would send.

pub(crate) mod front;
pub(crate) mod streams;

use std::collections::{BTreeMap, HashMap};

use aws_lambda_events::event::kinesis::KinesisEvent;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

pub(crate) async fn make_table(client: &aws_sdk_dynamodb::Client, name: &str, keys: &[&str]) {
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
pub(crate) async fn versions(client: &aws_sdk_dynamodb::Client, table: &str) -> BTreeMap<String, u64> {
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

/// An event as Lambda sends it.
pub(crate) fn lambda_event(records: &[(usize, &[u8])]) -> KinesisEvent {
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
