//! The enricher with the real SDK on tables and streams of the emulator, behind a front that fails: everything that
//! comes in goes out or to the failed ones, and no table goes back.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use chrono::DateTime;
use lesson_events::{Event, Lesson, Operation, Received, Subscription, User};
use lessons_enricher::{
    enricher::Enricher, function, metrics::Counts, stream::KinesisStream, tables::DynamoTables,
};
use local_testing::Emulator;
use serde_json::Value as Json;
use support::{
    front::Front,
    lambda_event, make_table,
    streams::{make_stream, one_try, records},
    versions,
};
use worker_kit::processing::Machine;

const USERS: usize = 25;

fn uuid(user: usize) -> String {
    format!("018f3c5e-7b1a-7c3d-9e2f-{user:012x}")
}

fn received(number: usize, sequence: u64, event: Event) -> Received {
    let occurred_at = DateTime::from_timestamp_millis(1_767_225_600_000).unwrap();
    Received { id: format!("e-{number}"), occurred_at, sequence, event }
}

fn user(number: usize, sequence: u64, user: usize) -> Received {
    let user = User {
        operation: Operation::Update,
        name: "n".to_owned(),
        uuid: uuid(user),
        firstname: "f".to_owned(),
        lastname: "l".to_owned(),
        country: format!("country-{sequence}"),
        active: true,
    };
    received(number, sequence, Event::User(user))
}

fn subscription(number: usize, sequence: u64, user: usize) -> Received {
    let subscription = Subscription {
        operation: Operation::Update,
        name: "n".to_owned(),
        user_uuid: uuid(user),
        language: "pt-BR".to_owned(),
        subscription_status: "active".to_owned(),
        subscription_type: "yearly".to_owned(),
        subscription_period: 365,
    };
    received(number, sequence, Event::Subscription(subscription))
}

fn lesson(number: usize, sequence: u64, user: usize, language: &str) -> Received {
    let lesson = Lesson {
        content_release_id: "r".to_owned(),
        title: format!("lesson {number}"),
        language: language.to_owned(),
        course_uuid: uuid(0),
        course_title: "c".to_owned(),
        number_of_lessons_in_course: 10,
        completed_lessons_in_course: 1,
        percentage_completed_in_course: 10,
        user_uuid: uuid(user),
    };
    received(number, sequence, Event::Lesson(lesson))
}

/// Users, subscriptions and lessons; of seven events one is older than what came before it, some lessons lack a
/// subscription, some records are no events.
fn input(count: usize) -> Vec<Vec<u8>> {
    let mut input = Vec::new();
    for number in 0..count {
        let (of, round) = (number % USERS, number / USERS);
        let sequence = 100 + number as u64 - if number % 7 == 3 && round > 1 { 60 } else { 0 };
        let event = match round {
            0 => user(number, sequence, of),
            1 => subscription(number, sequence, of),
            _ => match number % 11 {
                0 => user(number, sequence, of),
                1 => subscription(number, sequence, of),
                2 => lesson(number, sequence, of, "fr"),
                3 => {
                    input.push(format!("no event {number}").into_bytes());
                    continue;
                }
                _ => lesson(number, sequence, of, "pt-br"),
            },
        };
        input.push(event.to_json().to_string().into_bytes());
    }
    input
}

/// The place in the input of a record that came out.
fn place(json: &Json) -> usize {
    let id = json["id"].as_str().unwrap();
    match id.strip_suffix(":failed") {
        Some(of_shard) => of_shard.rsplit_once(':').unwrap().1.parse().unwrap(),
        None => id.trim_end_matches(":enriched").strip_prefix("e-").unwrap().parse().unwrap(),
    }
}

struct System {
    _emulator: Emulator,
    front: Front,
    enricher: Enricher<DynamoTables, KinesisStream, Machine>,
    tables: aws_sdk_dynamodb::Client,
    streams: aws_sdk_kinesis::Client,
}

impl System {
    async fn start(through_front: bool) -> Self {
        let emulator = Emulator::start();
        let front = Front::before(emulator.endpoint()).await;
        let direct = one_try(emulator.endpoint()).await;
        let (tables, streams) =
            (aws_sdk_dynamodb::Client::new(&direct), aws_sdk_kinesis::Client::new(&direct));
        make_table(&tables, "users", &["user_uuid"]).await;
        make_table(&tables, "subscriptions", &["user_uuid", "language"]).await;
        make_stream(&streams, "output", 2).await;
        make_stream(&streams, "failed", 1).await;
        let used = if through_front { one_try(&front.endpoint).await } else { direct };
        let kinesis = aws_sdk_kinesis::Client::new(&used);
        let enricher = Enricher {
            tables: DynamoTables::new(aws_sdk_dynamodb::Client::new(&used), "users", "subscriptions"),
            output: KinesisStream::new(kinesis.clone(), "output"),
            failed: KinesisStream::new(kinesis, "failed"),
            surroundings: Machine,
        };
        Self { _emulator: emulator, front, enricher, tables, streams }
    }

    /// Sends a batch as Lambda does: again from the first record that is not done.
    async fn send(&self, batch: &[(usize, &[u8])], budget: Duration) -> (Counts, usize) {
        let (mut counts, mut left, mut invocations) = (Counts::default(), batch, 0);
        while !left.is_empty() {
            invocations += 1;
            assert!(invocations < 1000, "it does not get on");
            let (answer, told) =
                function::handle(&self.enricher, lambda_event(left), Instant::now() + budget).await;
            assert_eq!(told.received, told.enriched + told.passed + told.failed_total() + told.returned);
            counts += told;
            let Some(failure) = answer.batch_item_failures.first() else { break };
            let first: usize = failure.item_identifier.as_ref().unwrap().parse().unwrap();
            left = &left[left.iter().position(|(number, _)| *number == first).unwrap()..];
        }
        (counts, invocations)
    }
}

/// The newest version that the input tells, by user, and by user and language.
fn newest(input: &[Vec<u8>]) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let (mut users, mut subscriptions) = (BTreeMap::new(), BTreeMap::new());
    for received in input.iter().filter_map(|data| Received::parse(data).ok()) {
        let (map, key) = match &received.event {
            Event::User(user) => (&mut users, user.uuid.clone()),
            Event::Subscription(told) => {
                (&mut subscriptions, format!("{} {}", told.user_uuid, told.language.to_ascii_lowercase()))
            }
            Event::Lesson(_) => continue,
        };
        let version = map.entry(key).or_default();
        *version = received.sequence.max(*version);
    }
    (users, subscriptions)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_faults_each_record_comes_out_once_and_a_batch_sent_again_changes_no_table() {
    let system = System::start(false).await;
    let input = input(400);
    let numbered: Vec<(usize, &[u8])> = input.iter().map(Vec::as_slice).enumerate().collect();
    let mut counts = Counts::default();
    for batch in numbered.chunks(100) {
        let (told, invocations) = system.send(batch, Duration::from_secs(60)).await;
        assert_eq!(invocations, 1);
        counts += told;
    }
    let (output, failed) =
        (records(&system.streams, "output").await, records(&system.streams, "failed").await);
    assert_eq!(output.len() as u64, counts.enriched + counts.passed);
    assert_eq!(failed.len() as u64, counts.failed_total());
    assert_eq!(output.len() + failed.len(), input.len());
    let places: BTreeSet<usize> = output.iter().chain(&failed).map(place).collect();
    assert_eq!(places, (0..input.len()).collect());
    assert!(counts.enriched > 100 && counts.older > 0, "{counts:?}");
    assert!(counts.failed["malformed"] > 0 && counts.failed["subscription_unknown"] > 0, "{counts:?}");
    let enriched = output.iter().find(|json| json["type"] == "enriched_lesson").unwrap();
    assert_eq!(enriched["data"]["subscription_type"], "yearly");
    assert!(enriched["data"]["country"].as_str().unwrap().starts_with("country-"));

    let (users, subscriptions) = newest(&input);
    assert_eq!(versions(&system.tables, "users").await, users);
    assert_eq!(versions(&system.tables, "subscriptions").await, subscriptions);
    let (again, _) = system.send(&numbered[..100], Duration::from_secs(60)).await;
    // All that the batch tells is known by now, or something newer is.
    assert_eq!(again.known + again.older, again.passed);
    assert_eq!(versions(&system.tables, "users").await, users);
    assert_eq!(versions(&system.tables, "subscriptions").await, subscriptions);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_calls_are_throttled_and_answers_get_lost() {
    let system = System::start(true).await;
    let input = input(300);
    let numbered: Vec<(usize, &[u8])> = input.iter().map(Vec::as_slice).enumerate().collect();
    let (mut counts, mut invocations) = (Counts::default(), 0);
    for batch in numbered.chunks(100) {
        // Too short for all that goes wrong: some batches come back in part.
        let (told, more) = system.send(batch, Duration::from_millis(900)).await;
        counts += told;
        invocations += more;
    }
    let faults = system.front.faults();
    println!("{invocations} invocations, {counts:?}, {faults:?}");
    assert!(faults.unprocessed_keys > 10 && faults.refused_records > 10, "{faults:?}");
    assert!(faults.busy > 5 && faults.lost_answers > 0, "{faults:?}");
    let (output, failed) =
        (records(&system.streams, "output").await, records(&system.streams, "failed").await);
    let places: BTreeSet<usize> = output.iter().chain(&failed).map(place).collect();
    assert_eq!(places, (0..input.len()).collect());
    assert_eq!(counts.received - counts.returned, input.len() as u64);
    let (users, subscriptions) = newest(&input);
    assert_eq!(versions(&system.tables, "users").await, users);
    assert_eq!(versions(&system.tables, "subscriptions").await, subscriptions);
    // Order: what is new of a user never comes before what is older.
    let mut last: BTreeMap<usize, usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for number in output.iter().map(place).filter(|number| seen.insert(*number)) {
        let before = last.insert(number % USERS, number);
        assert!(before.is_none_or(|before| before < number), "{before:?} before {number}");
    }
}
