//! The worker between a real broker and a real cache: every change arrives, in the order of its object, and what
//! comes again changes nothing.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use local_testing::{Broker, Running, Valkey, eventually, header, settings};
use serde_json::json;
use tag_store::{
    Channel,
    connection::{Endpoint, Store},
    reader::{Following, Reader},
    writer::Writer,
};
use tag_worker::{
    message::Bounds,
    worker::{TagWriter, machine_time_ms},
};

const CHANNELS: usize = 20;
const OBJECTS: usize = 5;
const CHANGES: usize = 3000;

fn channel(number: usize) -> Channel {
    Channel { app_id: "app".to_owned(), tag: format!("room-{number}"), scope: "application".to_owned() }
}

/// Changes of all objects in turn; each seventh deletes, each hundredth is no change.
fn changes() -> Vec<(String, Option<Vec<u8>>)> {
    (0..CHANGES)
        .map(|number| {
            let (room, object) = (number % CHANNELS, number / CHANNELS % OBJECTS);
            let key = format!("{room}/{object}");
            if number % 100 == 99 {
                return (key, Some(b"no change".to_vec()));
            }
            let message = json!({
                "identifier": {
                    "app_id": "app", "tag": format!("room-{room}"), "scope": "application",
                    "name": format!("object-{object}")
                },
                "deleted": number % 7 == 6, "lifetime": 3600, "data": number.to_string(),
            });
            (key, Some(message.to_string().into_bytes()))
        })
        .collect()
}

/// What each channel holds at the end, and how many changes it had.
fn expected() -> Vec<(BTreeMap<String, String>, u64)> {
    let mut channels = vec![(BTreeMap::new(), 0); CHANNELS];
    for number in (0..CHANGES).filter(|number| number % 100 != 99) {
        let (objects, count) = &mut channels[number % CHANNELS];
        let name = format!("object-{}", number / CHANNELS % OBJECTS);
        if number % 7 == 6 {
            objects.remove(&name);
        } else {
            objects.insert(name, number.to_string());
        }
        *count += 1;
    }
    channels
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_arrives_in_order_and_what_comes_again_changes_nothing() {
    let valkey = Valkey::start(2);
    let store = async || {
        let endpoint = Endpoint { host: valkey.host(), port: valkey.port(), tls: false };
        Store::connect(endpoint, None).await.unwrap()
    };
    let broker = Broker::start().await;
    broker.topic("tag-data", 6).await;
    broker.topic("tag-data-dlq", 1).await;
    broker.send("tag-data", changes()).await;
    let reader = Reader::new(store().await);
    let malformed = CHANGES / 100;
    let bounds = Bounds { message_bytes_max: 10_000, expiry_seconds: 60 };
    let mut sequences = Vec::new();
    // A second group reads everything again, as a worker does that was killed before it committed.
    for group in ["first", "again"] {
        let writer = TagWriter::new(Writer::new(store().await), bounds, machine_time_ms);
        let running = Running::start(settings(&broker, "tag-data", group, 4), "tag-data-dlq", writer);
        eventually("all is processed", || std::future::ready(running.metrics.done_total() >= CHANGES as u64))
            .await;
        running.stop().await;
        let mut numbers = Vec::new();
        for (number, (objects, count)) in expected().into_iter().enumerate() {
            let snapshot = reader.snapshot(&channel(number), machine_time_ms()).await.unwrap();
            let held: BTreeMap<String, String> =
                snapshot.objects.into_iter().map(|(name, object)| (name, object.data)).collect();
            assert_eq!(held, objects, "{group}: room-{number}");
            // The numbers begin at a multiple of a thousand, and each change took one.
            let Following::Deltas(deltas) =
                reader.after(&channel(number), snapshot.sequence - count + 1).await.unwrap()
            else {
                panic!("{group}: room-{number} has not had {count} changes")
            };
            assert_eq!(deltas.len() as u64, count - 1);
            assert_eq!((snapshot.sequence - count) % 1000, 0, "{group}: room-{number}");
            numbers.push(snapshot.sequence);
        }
        sequences.push(numbers);
    }
    assert_eq!(sequences[0], sequences[1], "what came again took no number");
    let letters = broker.read_all("tag-data-dlq").await;
    assert_eq!(letters.len(), 2 * malformed);
    assert!(letters.iter().all(|letter| header(letter, "cause") == "malformed"));
}
