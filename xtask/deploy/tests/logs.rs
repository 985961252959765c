//! Logs, against a CloudWatch Logs and a Kubernetes API that this test serves: pages, throttling, what comes late, and
//! nothing twice.

#![allow(clippy::unwrap_used)]

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_sdk_cloudwatchlogs::{
    Client,
    config::{BehaviorVersion, Config, Credentials, Region, retry::RetryConfig},
};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::IntoResponse,
};
use deploy_engine::logs::{
    functions::{Group, look, show},
    pods,
    tail::Tail,
};
use serde_json::{Value as Json, json};

/// How many events a page has.
const PAGE: usize = 3;

/// Log groups as CloudWatch Logs has them: events with their times, in the order in which they came.
#[derive(Default)]
struct Groups {
    events: BTreeMap<String, Vec<(i64, String)>>,
    calls: Vec<Json>,
    /// How many calls are throttled before one is answered.
    throttled: usize,
}

type Shared = Arc<Mutex<Groups>>;

async fn serve(State(shared): State<Shared>, headers: HeaderMap, body: String) -> impl IntoResponse {
    let mut groups = shared.lock().unwrap();
    let refused =
        |code: &str| (StatusCode::BAD_REQUEST, json!({ "__type": code, "message": code }).to_string());
    assert_eq!(headers["x-amz-target"], "Logs_20140328.FilterLogEvents");
    let asked: Json = serde_json::from_str(&body).unwrap();
    groups.calls.push(asked.clone());
    if groups.throttled > 0 {
        groups.throttled -= 1;
        return refused("ThrottlingException");
    }
    let Some(events) = groups.events.get(asked["logGroupName"].as_str().unwrap()) else {
        return refused("ResourceNotFoundException");
    };
    let from = asked["startTime"].as_i64().unwrap();
    let wanted = asked["filterPattern"].as_str().map(|pattern| pattern.trim_matches('"').to_owned());
    let mut found: Vec<(usize, &(i64, String))> = events
        .iter()
        .enumerate()
        .filter(|(_, (at, text))| *at >= from && wanted.as_ref().is_none_or(|wanted| text.contains(wanted)))
        .collect();
    found.sort_by_key(|(_, (at, _))| *at);
    // The first page is empty and has one after it, as happens where much is searched.
    let offset = asked["nextToken"].as_str().map(|token| token.parse::<usize>().unwrap());
    let (page, next) = match offset {
        None => (&found[..0], Some(0)),
        Some(offset) => {
            let end = (offset + PAGE).min(found.len());
            (&found[offset..end], (end < found.len()).then_some(end))
        }
    };
    let events: Vec<Json> = page
        .iter()
        .map(|(number, (at, text))| {
            json!({ "timestamp": at, "message": text, "logStreamName": "s", "eventId": number.to_string() })
        })
        .collect();
    let mut answer = json!({ "events": events });
    if let Some(next) = next {
        answer["nextToken"] = next.to_string().into();
    }
    (StatusCode::OK, answer.to_string())
}

async fn client() -> (Client, Shared) {
    let shared = Shared::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(serve).with_state(shared.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let retries = RetryConfig::standard().with_max_attempts(8).with_initial_backoff(Duration::from_millis(5));
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .retry_config(retries)
        .endpoint_url(format!("http://{address}"))
        .build();
    (Client::from_conf(config), shared)
}

fn group(name: &str) -> Group {
    Group { name: name.to_owned(), label: name.to_owned() }
}

#[tokio::test]
async fn a_growing_log_is_read_through_all_pages_and_nothing_is_shown_twice() {
    let (client, shared) = client().await;
    let add = |at: i64, text: &str| {
        let mut groups = shared.lock().unwrap();
        groups.events.entry("g".to_owned()).or_default().push((at, text.to_owned()));
    };
    let mut tail = Tail::new(1_000);
    assert!(look(&client, &group("g"), &mut tail, None).await.unwrap().is_empty(), "not there yet");
    add(500, "too old");
    for at in 0..10 {
        add(100_000 + at, &format!("event {at}"));
    }
    shared.lock().unwrap().throttled = 3;
    let first = look(&client, &group("g"), &mut tail, None).await.unwrap();
    assert_eq!(first.len(), 10);
    assert!(first.is_sorted_by_key(|event| event.timestamp_ms));
    add(100_005, "late");
    add(120_000, "new");
    let second = look(&client, &group("g"), &mut tail, None).await.unwrap();
    assert_eq!(second.iter().map(|event| event.message.as_str()).collect::<Vec<_>>(), ["late", "new"]);
    assert!(look(&client, &group("g"), &mut tail, None).await.unwrap().is_empty());
    let calls = &shared.lock().unwrap().calls;
    let last = calls.last().unwrap()["startTime"].as_i64().unwrap();
    assert_eq!(last, 110_000, "what was shown long ago is not asked for again: {calls:?}");
}

#[tokio::test]
async fn following_shows_what_comes_of_all_groups_and_a_filter_is_asked_of_the_service() {
    let (client, shared) = client().await;
    shared.lock().unwrap().events = BTreeMap::from([
        ("a".to_owned(), vec![(10, "a keep".to_owned()), (30, "a drop".to_owned())]),
        ("b".to_owned(), vec![(20, "b keep".to_owned())]),
    ]);
    let shown = RefCell::new(Vec::new());
    let enough = tokio::sync::Notify::new();
    let print = |whose: &str, what: &str| {
        let mut shown = shown.borrow_mut();
        shown.push(format!("{whose}: {what}"));
        match shown.len() {
            2 => shared.lock().unwrap().events.get_mut("a").unwrap().push((40, "a keep more".to_owned())),
            3 => enough.notify_one(),
            _ => {}
        }
        Ok(())
    };
    let groups = [group("a"), group("b")];
    let follow = show(&client, &groups, 0, Some("keep"), Some(Duration::from_millis(5)), &print);
    tokio::select! {
        ended = follow => panic!("{ended:?}"),
        () = enough.notified() => {}
    }
    assert_eq!(*shown.borrow(), ["a: a keep", "b: b keep", "a: a keep more"]);
    assert!(shared.lock().unwrap().calls.iter().all(|call| call["filterPattern"] == "\"keep\""));
}

#[tokio::test]
async fn pods_are_found_by_their_workload_and_read_line_by_line() {
    async fn serve(uri: Uri) -> (StatusCode, String) {
        let pod =
            |name: &str, phase: &str| json!({ "metadata": { "name": name }, "status": { "phase": phase } });
        match uri.path() {
            "/api/v1/namespaces/trades/pods" => {
                assert_eq!(uri.query(), Some("&labelSelector=app.kubernetes.io%2Fname%3Dtrade-consumer"));
                let items = [pod("c-1", "Running"), pod("c-2", "Running"), pod("c-3", "Pending")];
                let list = json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items });
                (StatusCode::OK, list.to_string())
            }
            "/api/v1/namespaces/trades/pods/c-1/log" => {
                assert!(uri.query().unwrap().contains("sinceSeconds=600"), "{uri}");
                (StatusCode::OK, "one\nkeep two\nkeep three".to_owned())
            }
            "/api/v1/namespaces/trades/pods/c-2/log" => (StatusCode::OK, "keep four\n".to_owned()),
            _ => panic!("{uri}"),
        }
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(serve)).await.unwrap() });
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    let client = kube::Client::try_from(config).unwrap();
    let shown = RefCell::new(Vec::new());
    let print = |whose: &str, what: &str| {
        shown.borrow_mut().push(format!("{whose}: {what}"));
        Ok(())
    };
    let workload = pods::Workload { namespace: "trades".to_owned(), name: "trade-consumer".to_owned() };
    let asked = pods::Asked { since_seconds: Some(600), filter: Some("keep"), follow: false };
    pods::show(&client, &[workload], asked, &print).await.unwrap();
    let mut shown = shown.into_inner();
    shown.sort();
    assert_eq!(shown, ["c-1: keep three", "c-1: keep two", "c-2: keep four"]);
}
