//! The transform on a real broker: what is well-formed goes on, keyed and in order, what is not is kept with its cause.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use base64::Engine;
use ledger_events::{
    Envelope,
    traffic::{BROKEN, Mix, Traffic},
};
use ledger_transform::Transform;
use local_testing::{Broker, header};
use rdkafka::Message;
use worker_contract::ledger::TransformConfiguration;
use worker_kit::kafka_event::{EventRecord, KafkaEvent};

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
    let broker = Broker::start().await;
    for topic in ["ledger-buffer", "ledger-dlq"] {
        broker.topic(topic, 3).await;
    }
    let configuration = TransformConfiguration {
        kafka: broker.kafka(),
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

    let bytes = |part: Option<&[u8]>| part.unwrap_or_default().to_vec();
    let mut by_key: BTreeMap<Vec<u8>, (i32, Vec<Vec<u8>>)> = BTreeMap::new();
    for passed in broker.read_all("ledger-buffer").await {
        let entry = by_key.entry(bytes(passed.key())).or_insert((passed.partition(), Vec::new()));
        assert_eq!(entry.0, passed.partition(), "a key has one partition");
        entry.1.push(bytes(passed.payload()));
    }
    let mut expected: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for event in &events {
        expected.entry(event.key().as_bytes().to_vec()).or_default().push(event.to_bytes());
    }
    let found: BTreeMap<_, _> = by_key.into_iter().map(|(key, (_, payloads))| (key, payloads)).collect();
    assert_eq!(found, expected);

    let letters = broker.read_all("ledger-dlq").await;
    assert_eq!(letters.len(), broken);
    for letter in &letters {
        let refused = Envelope::parse(letter.payload().unwrap_or_default()).unwrap_err();
        assert_eq!(header(letter, "cause"), refused.cause());
    }

    // Brokers that are away: nothing is told as done, and it ends in time.
    drop(broker);
    let begun = Instant::now();
    let response = transform.handle(event(&payloads[..10]), Instant::now() + Duration::from_secs(3)).await;
    let named = response.batch_item_failures.iter().map(|failure| failure.item_identifier.offset);
    assert_eq!(named.collect::<Vec<_>>(), (0..10).collect::<Vec<i64>>(), "every one of them comes again");
    assert!(begun.elapsed() < Duration::from_secs(4));
}
