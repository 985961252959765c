//! A front before the emulator that fails as it is told.

// Each test program looks at some of its faults.
#![allow(dead_code)]

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Value as Json, json};

/// What a front did.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) calls: u64,
    pub(crate) busy: u64,
    pub(crate) unprocessed_keys: u64,
    pub(crate) refused_records: u64,
    pub(crate) lost_answers: u64,
}

struct FrontState {
    upstream: String,
    faults: std::sync::Mutex<(u64, Faults)>,
}

impl FrontState {
    /// A number from 0 to 99 (xorshift), the same in each run.
    fn percent(&self) -> u64 {
        let seed = &mut self.faults.lock().unwrap().0;
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed % 100
    }

    fn count(&self, count: impl FnOnce(&mut Faults)) {
        count(&mut self.faults.lock().unwrap().1);
    }

    /// Counts a call; one in seven comes at a bad time. By turns and not by chance, as the answers that get lost:
    /// few calls have their share too.
    fn is_busy(&self) -> bool {
        let faults = &mut self.faults.lock().unwrap().1;
        faults.calls += 1;
        let busy = faults.calls.is_multiple_of(7);
        faults.busy += u64::from(busy);
        busy
    }

    /// Of the calls that were done, one in twenty is not told so.
    fn loses_the_answer(&self) -> bool {
        let faults = &mut self.faults.lock().unwrap().1;
        let done = faults.calls - faults.busy;
        let lost = done / 20 > faults.lost_answers;
        faults.lost_answers += u64::from(lost);
        lost
    }
}

/// A front before the emulator that does what AWS does under load and the emulator does not: leaves keys
/// unprocessed, takes a part of the records, is busy, loses answers.
pub(crate) struct Front {
    pub(crate) endpoint: String,
    state: Arc<FrontState>,
}

impl Front {
    pub(crate) async fn before(upstream: &str) -> Self {
        let state = Arc::new(FrontState {
            upstream: upstream.to_owned(),
            faults: std::sync::Mutex::new((0x5eed, Faults::default())),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { endpoint, state }
    }

    pub(crate) fn faults(&self) -> Faults {
        std::mem::take(&mut self.state.faults.lock().unwrap().1)
    }
}

async fn answer(State(front): State<Arc<FrontState>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers["x-amz-target"].to_str().unwrap().to_owned();
    let operation = target.rsplit('.').next().unwrap().to_owned();
    if front.is_busy() {
        return error(StatusCode::BAD_REQUEST, "ProvisionedThroughputExceededException");
    }
    let mut request: Json = serde_json::from_slice(&body).unwrap();
    let response = match operation.as_str() {
        "BatchGetItem" => {
            let mut left = serde_json::Map::new();
            let tables = request["RequestItems"].as_object_mut().unwrap();
            for (table, keys) in tables.iter_mut() {
                let asked = std::mem::take(keys["Keys"].as_array_mut().unwrap());
                let (later, now): (Vec<_>, Vec<_>) = asked.into_iter().partition(|_| front.percent() < 30);
                front.count(|faults| faults.unprocessed_keys += later.len() as u64);
                if !later.is_empty() {
                    left.insert(table.clone(), json!({ "Keys": later, "ConsistentRead": true }));
                }
                keys["Keys"] = Json::Array(now);
            }
            tables.retain(|_, keys| !keys["Keys"].as_array().unwrap().is_empty());
            let mut response = if tables.is_empty() {
                (StatusCode::OK, json!({ "Responses": {} }))
            } else {
                forward(&front, &headers, request).await
            };
            response.1["UnprocessedKeys"] = Json::Object(left);
            response
        }
        "PutRecords" => {
            let asked = std::mem::take(request["Records"].as_array_mut().unwrap());
            let refused: Vec<bool> = asked.iter().map(|_| front.percent() < 25).collect();
            let taken: Vec<Json> = asked
                .into_iter()
                .zip(&refused)
                .filter(|(_, refused)| !**refused)
                .map(|(record, _)| record)
                .collect();
            front.count(|faults| {
                faults.refused_records += refused.iter().filter(|refused| **refused).count() as u64;
            });
            let mut results = if taken.is_empty() {
                Vec::new()
            } else {
                request["Records"] = Json::Array(taken);
                let (status, response) = forward(&front, &headers, request).await;
                assert_eq!(status, StatusCode::OK, "{response}");
                response["Records"].as_array().unwrap().clone()
            }
            .into_iter();
            let busy =
                json!({ "ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "busy" });
            let records: Vec<Json> = refused
                .iter()
                .map(|refused| if *refused { busy.clone() } else { results.next().unwrap() })
                .collect();
            let failed = refused.iter().filter(|refused| **refused).count();
            (StatusCode::OK, json!({ "FailedRecordCount": failed, "Records": records }))
        }
        _ => forward(&front, &headers, request).await,
    };
    if front.loses_the_answer() {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError");
    }
    (response.0, [("content-type", "application/x-amz-json-1.1")], response.1.to_string()).into_response()
}

fn error(status: StatusCode, code: &str) -> Response {
    let body = json!({ "__type": code, "message": "the front says so" }).to_string();
    (status, [("content-type", "application/x-amz-json-1.1")], body).into_response()
}

async fn forward(front: &FrontState, headers: &HeaderMap, request: Json) -> (StatusCode, Json) {
    let upstream = front.upstream.clone();
    let headers: Vec<(String, String)> = ["x-amz-target", "content-type", "authorization", "x-amz-date"]
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), headers.get(*name)?.to_str().ok()?.to_owned())))
        .collect();
    tokio::task::spawn_blocking(move || {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut call = agent.post(&upstream);
        for (name, value) in &headers {
            call = call.header(name, value);
        }
        let mut answer = call.send(request.to_string()).unwrap();
        let status = StatusCode::from_u16(answer.status().as_u16()).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Json::Null))
    })
    .await
    .unwrap()
}
