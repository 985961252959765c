//! The function as Lambda runs it: its program, under the runtime API, with Parameter Store and Secrets Manager behind
//! their endpoints, on a real PostgreSQL.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ledger_events::{
    Envelope, Mode,
    traffic::{Mix, Traffic},
};
use local_testing::eventually;
use serde_json::{Value as Json, json};
use sqlx::{Connection, Executor};
use support::{Ledger, Server, deliver_all, delivery, is_done, record};
use tokio::sync::{mpsc, oneshot};
use worker_kit::kafka_event::{BatchResponse, Delivered, KafkaEvent};

type Invocation = (Json, Duration, oneshot::Sender<Json>);

/// What the function sees of AWS.
#[derive(Clone)]
struct Cloud {
    invocations: Arc<tokio::sync::Mutex<mpsc::Receiver<Invocation>>>,
    waiting: Arc<Mutex<VecDeque<oneshot::Sender<Json>>>>,
    mode: Arc<Mutex<Option<String>>>,
    secret: Arc<Mutex<Json>>,
}

/// The runtime API: the next invocation, when there is one.
async fn next(State(cloud): State<Cloud>) -> Response {
    let Some((event, time, answer)) = cloud.invocations.lock().await.recv().await else {
        return StatusCode::GONE.into_response();
    };
    cloud.waiting.lock().unwrap().push_back(answer);
    let deadline = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + time;
    let headers = [
        ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd".to_owned()),
        ("lambda-runtime-deadline-ms", deadline.as_millis().to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:eu-west-1:111111111111:function:w".to_owned(),
        ),
    ];
    (headers, event.to_string()).into_response()
}

async fn answered(
    State(cloud): State<Cloud>,
    Path((_, how)): Path<(String, String)>,
    body: Bytes,
) -> StatusCode {
    let told: Json = serde_json::from_slice(&body).unwrap_or_default();
    let answer = cloud.waiting.lock().unwrap().pop_front();
    if let Some(answer) = answer {
        // Nobody waits any more where the test has given it up.
        let _ = answer.send(json!({ "how": how, "body": told }));
    }
    StatusCode::ACCEPTED
}

/// Parameter Store and Secrets Manager.
async fn api(State(cloud): State<Cloud>, headers: HeaderMap) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let (status, answer) = match target {
        "AmazonSSM.GetParameter" => match cloud.mode.lock().unwrap().clone() {
            Some(value) => {
                (StatusCode::OK, json!({ "Parameter": { "Name": "/ledger/mode", "Value": value } }))
            }
            None => (StatusCode::BAD_REQUEST, json!({ "__type": "ParameterNotFound", "message": "none" })),
        },
        "secretsmanager.GetSecretValue" => {
            (StatusCode::OK, json!({ "SecretString": cloud.secret.lock().unwrap().to_string() }))
        }
        other => (StatusCode::BAD_REQUEST, json!({ "__type": "UnknownOperation", "message": other })),
    };
    (status, [("content-type", "application/x-amz-json-1.1")], answer.to_string()).into_response()
}

/// The function's environment: its cloud, and its process, which can be killed and started again.
struct Function {
    cloud: Cloud,
    invoke: mpsc::Sender<Invocation>,
    address: String,
    variables: Vec<(&'static str, String)>,
    process: Child,
    log: Arc<Mutex<Vec<Json>>>,
}

impl Function {
    async fn start(ledger: &Ledger, mode: Option<Mode>) -> Self {
        let (invoke, invocations) = mpsc::channel(1);
        let secret = json!({ "username": ledger.user, "password": "first" });
        let cloud = Cloud {
            invocations: Arc::new(tokio::sync::Mutex::new(invocations)),
            waiting: Arc::default(),
            mode: Arc::new(Mutex::new(mode.map(|mode| record(mode, 1).to_text()))),
            secret: Arc::new(Mutex::new(secret)),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{how}", post(answered))
            .route("/", post(api))
            .with_state(cloud.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let variables = vec![
            ("DATABASE_HOST", ledger.address()),
            ("DATABASE_NAME", ledger.name.clone()),
            ("DATABASE_AUTHENTICATION", "secret".to_owned()),
            ("DATABASE_SECRET_ARN", "writer".to_owned()),
            ("DATABASE_CONNECTIONS", "2".to_owned()),
        ];
        let log = Arc::default();
        let process = run(&address, &variables, &log);
        Self { cloud, invoke, address, variables, process, log }
    }

    /// As when the environment is gone, in the middle of whatever it does.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.cloud.waiting.lock().unwrap().clear();
    }

    fn start_again(&mut self) {
        self.process = run(&self.address, &self.variables, &self.log);
    }

    /// Invokes it; none where it was killed.
    async fn invoke(&self, event: KafkaEvent, seconds: u64) -> oneshot::Receiver<Json> {
        let (answer, answered) = oneshot::channel();
        let records: Json = event
            .records
            .iter()
            .map(|(partition, records)| {
                let records: Vec<Json> = records
                    .iter()
                    .map(|record| {
                        json!({
                            "topic": "ledger-buffer", "partition": record.partition, "offset": record.offset,
                            "timestamp": record.timestamp, "timestampType": "CREATE_TIME",
                            "key": record.key, "value": record.value, "headers": []
                        })
                    })
                    .collect();
                (partition.clone(), Json::from(records))
            })
            .collect::<serde_json::Map<_, _>>()
            .into();
        let event =
            json!({ "eventSource": "aws:kafka", "bootstrapServers": "127.0.0.1:9", "records": records });
        self.invoke.send((event, Duration::from_secs(seconds), answer)).await.unwrap();
        answered
    }

    async fn answer(&self, records: &[Delivered], seconds: u64) -> BatchResponse {
        let answer = self.invoke(delivery(records), seconds).await.await.unwrap();
        assert_eq!(answer["how"], "response", "{answer}");
        serde_json::from_value(answer["body"].clone()).unwrap()
    }

    /// The metrics of its invocations.
    fn metrics(&self) -> Vec<Json> {
        self.log.lock().unwrap().iter().filter(|line| line.get("_aws").is_some()).cloned().collect()
    }

    fn log_has(&self, text: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line.to_string().contains(text))
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(address: &str, variables: &[(&'static str, String)], log: &Arc<Mutex<Vec<Json>>>) -> Child {
    let mut process = Command::new(env!("CARGO_BIN_EXE_ledger-writer"))
        .env_clear()
        .env("AWS_LAMBDA_RUNTIME_API", address)
        .env("AWS_LAMBDA_FUNCTION_NAME", "ledger-writer")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("AWS_LAMBDA_LOG_STREAM_NAME", "instance-1")
        .env("AWS_ENDPOINT_URL", format!("http://{address}"))
        .env("AWS_REGION", "eu-west-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
        .env("SOURCE_TOPIC", "ledger-buffer")
        .env("DEAD_LETTER_TOPIC", "ledger-dlq")
        .env("MODE_PARAMETER", "/ledger/mode")
        .env("CHUNK_CONCURRENCY", "2")
        .envs(variables.iter().cloned())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (lines, log) = (BufReader::new(process.stdout.take().unwrap()).lines(), log.clone());
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            log.lock().unwrap().extend(serde_json::from_str::<Json>(&line));
        }
    });
    process
}

fn traffic(seed: u64, count: usize) -> Vec<Envelope> {
    let mut traffic = Traffic::new(seed, Mix { deletes: 0.1 });
    let mut events: Vec<_> =
        (0..).flat_map(|step| traffic.next(1_700_000_000_000 + step)).take(count).collect();
    events.truncate(count);
    events
}

/// Defects 2 and 3: a cold start in RED ran at its defaults, and only one warm environment heard of a change.
#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_in_red_begins_as_one_and_a_warm_one_hears_of_green_within_five_seconds() {
    let ledger = Server::common().ledger(2).await;
    let function = Function::start(&ledger, Some(Mode::Red)).await;
    let events = traffic(1, 90);
    let records = deliver_all(&events);
    assert_eq!(function.answer(&records, 20).await, BatchResponse::default());
    let told = || async { !function.metrics().is_empty() };
    eventually("the metrics are told", told).await;
    let first = function.metrics().remove(0);
    assert_eq!((&first["mode"], &first["Limit"]), (&json!("RED"), &json!(1.0)), "{first}");
    // Several changes of one row that come together are one write.
    let rows = ledger_writer::merge::merge(&events).rows.len() as f64;
    assert_eq!((&first["Rows"], &first["instance"]), (&json!(rows), &json!("instance-1")), "{first}");

    *function.cloud.mode.lock().unwrap() = Some(record(Mode::Green, 2).to_text());
    let changed = std::time::Instant::now();
    eventually("the mode is heard of", || async {
        function.answer(&records, 20).await;
        function.metrics().last().is_some_and(|line| line["mode"] == "GREEN")
    })
    .await;
    assert!(changed.elapsed() < Duration::from_secs(5), "{:?}", changed.elapsed());
    // Older, absent, unknown: none makes it milder, and each has its line.
    for (parameter, line) in [
        (Some(record(Mode::Red, 1).to_text()), "an older mode"),
        (None, "there is no mode parameter"),
        (Some("BLUE".to_owned()), "is no mode record"),
    ] {
        *function.cloud.mode.lock().unwrap() = parameter;
        eventually(line, || async {
            function.answer(&records, 20).await;
            function.log_has(line)
        })
        .await;
    }
    eventually("not known is YELLOW", || async {
        function.metrics().last().is_some_and(|line| line["mode"] == "YELLOW")
    })
    .await;
    ledger.assert_holds(&events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_is_killed_amid_a_transaction_leaves_all_or_nothing() {
    let ledger = Server::common().ledger(4).await;
    let mut function = Function::start(&ledger, Some(Mode::Green)).await;
    let events = traffic(2, 60);
    let records = deliver_all(&events);
    let mut administrator = ledger.administrator().await;
    for round in 0..3 {
        let mut blocker = ledger.administrator().await;
        let mut lock = blocker.begin().await.unwrap();
        // The statements have begun and wait for this, their work half done.
        lock.execute("LOCK TABLE chunk_totals IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let answer = function.invoke(delivery(&records), 20).await;
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' AND wait_event_type = 'Lock'",
            ledger.user
        );
        eventually("the statements wait", || async { ledger.number(&sql).await > 0 }).await;
        function.kill();
        assert!(answer.await.is_err(), "no answer, so Lambda delivers them again");
        if round == 1 {
            // What nobody waits for any more may still take effect: it counts once.
            lock.rollback().await.unwrap();
        } else {
            let user = &ledger.user;
            let terminate =
                format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'");
            administrator.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(terminate))).await.unwrap();
            lock.rollback().await.unwrap();
        }
        function.start_again();
    }
    let response = function.answer(&records, 20).await;
    assert!(records.iter().all(|record| is_done(&response, record)), "{response:?}");
    ledger.assert_holds(&events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_runs_out_of_time_gives_its_records_back() {
    let ledger = Server::common().ledger(2).await;
    let function = Function::start(&ledger, Some(Mode::Green)).await;
    let events = traffic(3, 60);
    let records = deliver_all(&events);
    let mut blocker = ledger.administrator().await;
    let mut lock = blocker.begin().await.unwrap();
    lock.execute("LOCK TABLE applied_events IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let response = function.answer(&records, 4).await;
    assert!(records.iter().all(|record| !is_done(&response, record)), "{response:?}");
    lock.rollback().await.unwrap();
    let response = function.answer(&records, 20).await;
    assert_eq!(response, BatchResponse::default());
    ledger.assert_holds(&events).await;
}

#[test]
fn a_function_that_is_not_configured_says_what_is_missing() {
    let output = Command::new(env!("CARGO_BIN_EXE_ledger-writer")).env_clear().output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("KAFKA_BOOTSTRAP_SERVERS"), "{text}");
}
