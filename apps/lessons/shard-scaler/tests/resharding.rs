//! The scaler with the real SDK on a stream of the emulator.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use aws_sdk_kinesis::Client;
use lessons_shard_scaler::{notification::Notification, scaler::Scaler};
use local_testing::{Emulator, PATIENCE, config};
use serde_json::json;
use worker_contract::lessons::ScalerConfiguration;
use worker_kit::processing::Machine;

async fn open_shards(client: &Client) -> i32 {
    let told = client.describe_stream_summary().stream_name("input").send().await.unwrap();
    told.stream_description_summary().unwrap().open_shard_count()
}

/// As SNS calls a function when CloudWatch tells it of an alarm.
fn notification(alarm: &str, state: &str) -> Notification {
    let message = json!({
        "AlarmName": alarm, "AlarmDescription": null, "AWSAccountId": "000000000000",
        "NewStateValue": state, "NewStateReason": "Threshold Crossed", "OldStateValue": "OK",
        "StateChangeTime": "2026-01-01T00:00:00.000+0000", "Region": "EU (Ireland)",
        "Trigger": { "MetricName": "IncomingRecords", "Namespace": "AWS/Kinesis", "Threshold": 48000.0 }
    });
    serde_json::from_value(json!({
        "Records": [{
            "EventSource": "aws:sns", "EventVersion": "1.0", "EventSubscriptionArn": "arn",
            "Sns": { "Type": "Notification", "MessageId": "1", "TopicArn": "arn", "Message": message.to_string() }
        }]
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_follow_the_alarms_up_and_down_and_repeated_calls_change_nothing() {
    let emulator = Emulator::start();
    let client = Client::new(&config(emulator.endpoint()).await);
    client.create_stream().stream_name("input").shard_count(1).send().await.unwrap();
    let names = |kind: &str| (0..3).map(|level| format!("{kind}{level}")).collect();
    let scaler = Scaler {
        client: client.clone(),
        configuration: ScalerConfiguration {
            stream: "input".to_owned(),
            shards_min: 1,
            shards_max: 8,
            alarms_above: names("above"),
            alarms_used: names("used"),
        },
        surroundings: Machine,
    };
    // Two steps up at once are two changes: Kinesis takes no more than a doubling.
    for (alarm, state, open) in [
        ("above0", "ALARM", 2),
        ("above0", "ALARM", 2),
        ("above2", "ALARM", 8),
        ("above0", "ALARM", 8),
        ("above2", "OK", 8),
        ("another-alarm", "ALARM", 8),
        ("used2", "OK", 4),
        ("used0", "INSUFFICIENT_DATA", 4),
        ("used0", "OK", 1),
        ("used0", "OK", 1),
    ] {
        scaler.handle(&notification(alarm, state), Instant::now() + PATIENCE).await.unwrap();
        assert_eq!(open_shards(&client).await, open, "after {alarm} {state}");
    }
    // A stream that is not there is an error, so that the call comes again and then is a dead letter.
    let elsewhere = Scaler {
        client: client.clone(),
        configuration: ScalerConfiguration { stream: "nothing".to_owned(), ..scaler.configuration.clone() },
        surroundings: Machine,
    };
    let error =
        elsewhere.handle(&notification("above0", "ALARM"), Instant::now() + PATIENCE).await.unwrap_err();
    assert!(format!("{error:#}").contains("ResourceNotFoundException"), "{error:#}");
}
