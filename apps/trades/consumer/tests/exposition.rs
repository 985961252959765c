//! What a running consumer really exports: Prometheus takes it, and it is what dashboard and rules are checked against.

#![allow(clippy::unwrap_used)]

#[path = "../../../../stacks/platform/tests/support/promtool.rs"]
mod promtool;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

use local_testing::{Broker, eventually};
use support::numbered;
use worker_contract::trades::ConsumerConfiguration;

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Name, type and labels of each family, one a line.
fn families(exposition: &str) -> String {
    let mut families: BTreeMap<&str, (&str, BTreeSet<&str>)> = BTreeMap::new();
    for line in exposition.lines() {
        if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').unwrap();
            families.insert(name, (kind, BTreeSet::new()));
        } else if let Some((name, labels)) = line.split_once('{') {
            let name = families.keys().copied().rfind(|family| name.starts_with(family)).unwrap();
            let labels = labels.split_once('}').unwrap().0;
            let names = labels.split(',').map(|label| label.split_once('=').unwrap().0);
            families.get_mut(name).unwrap().1.extend(names.filter(|label| *label != "le"));
        }
    }
    families
        .into_iter()
        .map(|(name, (kind, labels))| {
            format!("{name} {kind} {}", Vec::from_iter(labels).join(",")).trim_end().to_owned() + "\n"
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_consumer_exports_is_what_prometheus_takes_and_rules_ask_for() {
    let broker = Broker::start().await;
    broker.topic("exported", 2).await;
    broker.topic("exported-dlq", 1).await;
    let good = r#"{"account_id":"ACC1","trade_id":"TRD1","symbol":"AAPL","trade_type":"BUY","quantity":1,"price":1.5,"timestamp":"2026-01-01T00:00:00Z"}"#;
    let records = (0..200).map(|number| (format!("ACC{number}"), Some(good.into())));
    broker.send("exported", records.chain(numbered(1, 5))).await;
    let configuration = ConsumerConfiguration {
        kafka: broker.kafka(),
        topic: "exported".to_owned(),
        dead_letter_topic: "exported-dlq".to_owned(),
        consumer_group: "g".to_owned(),
        group_instance_id: None,
        session_timeout_seconds: 10.0,
        batch_size: 100,
        batch_bytes: 1 << 20,
        batch_timeout_seconds: 0.1,
        batch_processing_seconds: 0.01,
        batches_in_flight: 2,
        message_bytes_max: 64 << 10,
        retry_budget_seconds: 10.0,
        drain_timeout_seconds: 5.0,
        metrics_address: "127.0.0.1:0".to_owned(),
    };
    let mut consumer = Command::new(env!("CARGO_BIN_EXE_trade-consumer"))
        .envs(configuration.to_environment())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(consumer.stdout.take().unwrap()).lines();
    let address = log
        .find_map(|line| {
            let told: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            told["address"].as_str().map(str::to_owned)
        })
        .unwrap();
    // Nobody may be held up by a full pipe.
    std::thread::spawn(move || log.for_each(drop));
    eventually("all is done and the lag is known", || async {
        let told = get(&address, "/metrics");
        told.contains("kafka_messages_processed_total{status=\"success\"} 200\n")
            && told.contains("kafka_messages_processed_total{status=\"dead_letter\"} 5\n")
            && told.contains("kafka_consumer_lag_records{partition=\"0\"} 0\n")
            && told.contains("kafka_consumer_lag_records{partition=\"1\"} 0\n")
    })
    .await;
    assert_eq!(get(&address, "/readyz"), "ok\n");
    let exposition = get(&address, "/metrics");
    consumer.kill().unwrap();
    consumer.wait().unwrap();
    promtool::check_metrics(&exposition);
    insta::assert_snapshot!(families(&exposition));
}
