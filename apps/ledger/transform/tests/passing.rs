//! The transform on a real broker: what is well-formed goes on, keyed and in order, what is not is kept with its cause.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::Engine;
use ledger_events::{
    Envelope,
    traffic::{BROKEN, Mix, Traffic},
};
use ledger_transform::Transform;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};
use worker_contract::{KafkaAuthentication, KafkaConfiguration, ledger::TransformConfiguration};
use worker_kit::kafka_event::{EventRecord, KafkaEvent};

/// A record that was read: partition, key, payload, cause.
type Read = (i32, Vec<u8>, Vec<u8>, Option<String>);

struct Broker {
    process: Child,
    servers: String,
    _directory: tempfile::TempDir,
}

impl Broker {
    fn start() -> Self {
        let beside =
            || std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("local-environment");
        let program = std::env::var_os("FLOODGATE_LOCAL_ENVIRONMENT").map_or_else(beside, PathBuf::from);
        let parts = std::env::var_os("FLOODGATE_LOCAL_ROOT").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target/local"),
            PathBuf::from,
        );
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(program)
            .arg("--root")
            .arg(parts)
            .arg("kafka")
            .arg("--directory")
            .arg(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        let servers = told["bootstrap_servers"].as_str().unwrap().to_owned();
        Self { process, servers, _directory: directory }
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers).set("group.id", "test").set("log_level", "0");
        config
    }

    async fn topics(&self, names: &[&str]) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let topics: Vec<_> =
            names.iter().map(|name| NewTopic::new(name, 3, TopicReplication::Fixed(1))).collect();
        let begun = Instant::now();
        loop {
            let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(5)));
            match admin.create_topics(&topics, &options).await {
                Ok(results) if results.iter().all(Result::is_ok) => return,
                told => assert!(begun.elapsed() < Duration::from_secs(60), "{told:?}"),
            }
        }
    }

    /// All records of a topic, once there are as many.
    fn read(&self, topic: &str, count: usize) -> Vec<Read> {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..3 {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let begun = Instant::now();
        let mut records = Vec::new();
        while records.len() < count {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} of {count} in {topic}", records.len());
            let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
            let message = message.unwrap();
            let cause = message.headers().and_then(|headers| {
                headers
                    .iter()
                    .find(|header| header.key == "cause")
                    .and_then(|header| header.value.map(|value| String::from_utf8_lossy(value).into_owned()))
            });
            records.push((
                message.partition(),
                message.key().unwrap_or_default().to_vec(),
                message.payload().unwrap_or_default().to_vec(),
                cause,
            ));
        }
        records
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn event(payloads: &[Vec<u8>]) -> KafkaEvent {
    let encoded = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let records = (0..)
        .zip(payloads)
        .map(|(offset, payload)| EventRecord {
            partition: 0,
            offset,
            timestamp: Some(1_700_000_000_000),
            key: None,
            value: Some(encoded(payload)),
        })
        .collect();
    KafkaEvent { records: BTreeMap::from([("ledger-source-0".to_owned(), records)]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_percent_malformed_is_kept_aside_and_the_rest_goes_on_in_order() {
    let broker = Broker::start();
    broker.topics(&["ledger-buffer", "ledger-dlq"]).await;
    let configuration = TransformConfiguration {
        kafka: KafkaConfiguration {
            bootstrap_servers: broker.servers.clone(),
            authentication: KafkaAuthentication::None,
        },
        source_topic: "ledger-source".to_owned(),
        buffer_topic: "ledger-buffer".to_owned(),
        dead_letter_topic: "ledger-dlq".to_owned(),
        safety_seconds: 0.5,
    };
    let transform = Transform::new(&configuration, tokio::runtime::Handle::current(), "t").unwrap();
    let mut traffic = Traffic::new(5, Mix { deletes: 0.1 });
    let events: Vec<Envelope> = (0..800).flat_map(|step| traffic.next(1_700_000_000_000 + step)).collect();
    let mut payloads: Vec<Vec<u8>> = events.iter().map(Envelope::to_bytes).collect();
    let mut broken = 0;
    for position in (0..payloads.len()).step_by(100) {
        payloads.insert(position, BROKEN[broken % BROKEN.len()].to_vec());
        broken += 1;
    }
    for batch in payloads.chunks(100) {
        let response = transform.handle(event(batch), Instant::now() + Duration::from_secs(30)).await;
        assert!(response.batch_item_failures.is_empty(), "{response:?}");
    }

    let passed = broker.read("ledger-buffer", events.len());
    let mut by_key: BTreeMap<Vec<u8>, (i32, Vec<Vec<u8>>)> = BTreeMap::new();
    for (partition, key, payload, _) in passed {
        let entry = by_key.entry(key).or_insert((partition, Vec::new()));
        assert_eq!(entry.0, partition, "a key has one partition");
        entry.1.push(payload);
    }
    let mut expected: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for event in &events {
        expected.entry(event.key().as_bytes().to_vec()).or_default().push(event.to_bytes());
    }
    let found: BTreeMap<_, _> = by_key.into_iter().map(|(key, (_, payloads))| (key, payloads)).collect();
    assert_eq!(found, expected);

    let letters = broker.read("ledger-dlq", broken);
    assert!(letters.iter().all(|(_, _, payload, cause)| {
        let refused = Envelope::parse(payload).unwrap_err();
        cause.as_deref() == Some(refused.cause())
    }));

    // Brokers that are away: nothing is told as done, and it ends in time.
    drop(broker);
    let begun = Instant::now();
    let response = transform.handle(event(&payloads[..10]), Instant::now() + Duration::from_secs(3)).await;
    let named = response.batch_item_failures.iter().map(|failure| failure.item_identifier.offset);
    assert_eq!(named.collect::<Vec<_>>(), (0..10).collect::<Vec<i64>>(), "every one of them comes again");
    assert!(begun.elapsed() < Duration::from_secs(4));
}
