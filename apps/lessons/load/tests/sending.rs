//! The load on the emulator's stream, behind a front that fails: what is told as acknowledged is there, each user's events
//! in order, whatever is refused.

#![allow(clippy::unwrap_used)]

// Front and streams are those of the enricher's tests.
#[path = "../../enricher/tests/support/front.rs"]
mod front;
#[path = "../../enricher/tests/support/streams.rs"]
mod streams;

use std::collections::{BTreeMap, BTreeSet};

use front::Front;
use lesson_load::{run::run, traffic::RunId};
use local_testing::Emulator;
use streams::{make_stream, one_try, records};
use tokio_util::sync::CancellationToken;
use worker_contract::lessons::{LoadConfiguration, LoadShape};

fn configuration() -> LoadConfiguration {
    LoadConfiguration {
        input_stream: "input".to_owned(),
        streams: None,
        events_per_second: 150.0,
        period_seconds: 3,
        shape: LoadShape { users: 20, record_bytes: 500, malformed_share: 0.0, unsubscribed_share: 0.1 },
        generator_seed: Some(5),
        verify: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_there_in_the_order_of_its_user_whatever_is_refused() {
    let emulator = Emulator::start();
    let client = aws_sdk_kinesis::Client::new(&one_try(emulator.endpoint()).await);
    make_stream(&client, "input", 2).await;
    let front = Front::before(emulator.endpoint()).await;
    let id = RunId { seed: 5, run: 1_700_000_000_000 };
    let stop = CancellationToken::new();
    let report = run(&configuration(), &one_try(&front.endpoint).await, id, &stop).await.unwrap();
    let faults = front.faults();
    assert!(faults.refused_records > 0 && faults.lost_answers > 0, "{faults:?}");
    assert!((1..=451).contains(&report.events) && report.records_repeated > 0, "{report:?}");
    assert_eq!((report.records_acknowledged, report.records_failed), (report.events, 0));
    assert!(report.is_well());
    let mut users: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for record in records(&client, "input").await {
        ids.insert(record["id"].as_str().unwrap().to_owned());
        let data = &record["data"];
        let user = data.get("user_uuid").or(data.get("uuid")).unwrap().as_str().unwrap().to_owned();
        users.entry(user).or_default().push(record["sequence"].as_u64().unwrap());
    }
    assert_eq!(ids.len() as u64, report.events, "every event is there");
    for (user, sequences) in users {
        // What a lost answer hides is sent again: the same event, before any later one.
        assert!(sequences.is_sorted(), "{user}: {sequences:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_not_there_is_told_and_not_waited_for() {
    let emulator = Emulator::start();
    let configuration = LoadConfiguration { period_seconds: 3600, ..configuration() };
    let id = RunId { seed: 5, run: 1 };
    let error = run(&configuration, &one_try(emulator.endpoint()).await, id, &CancellationToken::new()).await;
    let error = format!("{:#}", error.unwrap_err());
    assert!(error.contains("takes no events") && error.contains("ResourceNotFound"), "{error}");
}
