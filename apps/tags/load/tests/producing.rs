//! The load on a real broker, by counting: what is told as acknowledged is there, each channel's updates in one order.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, UNIX_EPOCH},
};

use local_testing::{Broker, eventually};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rdkafka::{Message as _, message::OwnedMessage};
use tag_load::{
    run::{id, run},
    traffic::Data,
};
use tag_worker::message::Message;
use tokio_util::sync::CancellationToken;
use worker_contract::tags::{LoadConfiguration, LoadShape};

const TOPIC: &str = "tag-data";

fn configuration(broker: &Broker, updates_per_second: f64, period_seconds: u64) -> LoadConfiguration {
    LoadConfiguration {
        kafka: broker.kafka(),
        topic: TOPIC.to_owned(),
        cache: None,
        updates_per_second,
        period_seconds,
        shape: LoadShape {
            channels: 20,
            objects_per_channel: 4,
            message_bytes: 300,
            delete_share: 0.2,
            lifetime_seconds: 0,
        },
        generator_seed: Some(42),
        verify: false,
        number: 0,
    }
}

/// What the records of a topic say, in the order of each key: (object, version, whether deleted).
fn by_key(records: &[OwnedMessage]) -> BTreeMap<String, Vec<(String, Option<u32>)>> {
    let mut partitions: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    let mut keys: BTreeMap<String, Vec<(i64, String, Option<u32>)>> = BTreeMap::new();
    for record in records {
        let key = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
        let message: Message = serde_json::from_slice(record.payload().unwrap()).unwrap();
        let identifier = message.identifier;
        assert_eq!(key, format!("{}/{}/{}", identifier.app_id, identifier.tag, identifier.scope));
        partitions.entry(key.clone()).or_default().insert(record.partition());
        let version = Data::parse(&message.data).map(|data| data.version);
        assert_eq!(version.is_none(), message.deleted);
        keys.entry(key).or_default().push((record.offset(), identifier.name, version));
    }
    assert!(partitions.values().all(|partitions| partitions.len() == 1), "a channel is in one partition");
    keys.into_iter()
        .map(|(key, mut updates)| {
            updates.sort();
            (key, updates.into_iter().map(|(_, name, version)| (name, version)).collect())
        })
        .collect()
}

/// Every version of every object is there once, in order. Gives the deletions.
fn every_update_is_there_in_order(records: &[OwnedMessage]) -> u64 {
    let mut deletions = 0;
    for updates in by_key(records).into_values() {
        let mut versions: BTreeMap<String, u32> = BTreeMap::new();
        for (name, version) in updates {
            let known = versions.entry(name).or_default();
            *known += 1;
            deletions += u64::from(version.is_none());
            assert!(version.is_none_or(|version| version == *known), "{version:?} comes as {known}");
        }
    }
    deletions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_there_in_the_order_of_its_channel_and_can_be_repeated() {
    let broker = Broker::start().await;
    broker.topic(TOPIC, 6).await;
    let configuration = configuration(&broker, 500.0, 2);
    let first = id(&configuration, UNIX_EPOCH + Duration::from_secs(1), 0);
    assert_eq!((first.seed, first.run), (42, 1000));
    let stop = CancellationToken::new();
    let report = run(&configuration, first, &stop).await.unwrap();
    // 500 a second for two seconds; what a busy machine is late with for more than a second is left out.
    assert!((1..=1001).contains(&report.updates), "{report:?}");
    assert_eq!((report.records_acknowledged, report.records_failed), (report.updates, 0));
    assert!(report.is_well());
    let records = broker.read_all(TOPIC).await;
    assert_eq!(records.len() as u64, report.records_acknowledged);
    assert_eq!(every_update_is_there_in_order(&records), report.deletions);
    assert!(report.deletions > 0);
    let sizes: BTreeSet<usize> = records
        .iter()
        .filter_map(|record| Some(record.payload()?.len()))
        .filter(|length| *length >= 300)
        .collect();
    assert_eq!(sizes, BTreeSet::from([300]), "but for deletions, all have the size that was asked for");

    broker.topic("again", 6).await;
    let again = LoadConfiguration { topic: "again".to_owned(), ..configuration };
    let repeated = run(&again, first, &stop).await.unwrap();
    let (mut once, mut twice) = (by_key(&records), by_key(&broker.read_all("again").await));
    // One of the two may have been stopped by the clock a few updates before the other.
    let shorter = report.updates.min(repeated.updates);
    assert!(report.updates.max(repeated.updates) - shorter < 500, "{report:?} {repeated:?}");
    for (key, updates) in &mut once {
        let others = twice.entry(key.clone()).or_default();
        let common = updates.len().min(others.len());
        assert_eq!(updates[..common], others[..common], "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_brokers_refuse_is_a_failure_and_not_a_run_that_went_well() {
    let broker = Broker::start().await;
    broker.topic("other", 1).await;
    broker.configure_topic("other", "max.message.bytes", "100").await;
    let configuration = LoadConfiguration { topic: "other".to_owned(), ..configuration(&broker, 50.0, 1) };
    let began = id(&configuration, UNIX_EPOCH, 0);
    let report = run(&configuration, began, &CancellationToken::new()).await.unwrap();
    assert_eq!(report.records_acknowledged, 0, "{report:?}");
    assert_eq!(report.records_failed, report.updates, "{report:?}");
    assert!(!report.is_well());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_it_with_all_that_was_sent_acknowledged_and_told() {
    let broker = Broker::start().await;
    broker.topic(TOPIC, 6).await;
    let mut load = Command::new(env!("CARGO_BIN_EXE_tag-load"))
        .env_clear()
        .envs(configuration(&broker, 200.0, 3600).to_environment())
        .args(["--channels", "3"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("updates arrive", || std::future::ready(broker.ends(TOPIC).values().sum::<i64>() > 100)).await;
    kill(Pid::from_raw(i32::try_from(load.id()).unwrap()), Signal::SIGTERM).unwrap();
    let lines: Vec<String> =
        BufReader::new(load.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(load.wait().unwrap().success(), "{lines:?}");
    let report: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    let records = broker.read_all(TOPIC).await;
    assert_eq!(report["updates"], records.len(), "{report}");
    assert_eq!(report["records_acknowledged"], records.len(), "{report}");
    assert_eq!((&report["records_failed"], &report["seed"]), (&0.into(), &42.into()), "{report}");
    assert!(by_key(&records).len() <= 3, "the option replaces the variable");
    every_update_is_there_in_order(&records);
}

#[test]
fn what_is_missing_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_tag-load")).env_clear().output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("KAFKA_BOOTSTRAP_SERVERS"), "{output:?}");
}
