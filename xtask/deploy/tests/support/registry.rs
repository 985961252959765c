//! A registry of images on loopback.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::Response,
};
use cfn::{Json, assembly::sha256_hex};

/// What a registry holds and was asked.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) manifests: BTreeMap<String, Vec<u8>>,
    /// Uploads of blobs that were begun, by digest.
    pub(crate) uploads: Vec<String>,
    /// Uploads from this one on fail.
    pub(crate) fails_from: Option<usize>,
    /// Uploads that still fail, whatever their number.
    pub(crate) failures_left: usize,
    /// Repositories of which an upload was begun.
    pub(crate) begun: BTreeSet<String>,
    /// In so many repositories uploads must have begun before one ends; else it fails after a while.
    pub(crate) together: usize,
    /// The `Authorization` that is wanted.
    pub(crate) wants: Option<String>,
    pub(crate) requests: usize,
    /// Where manifests that arrive are written down.
    pub(crate) journal: Arc<Mutex<Vec<String>>>,
}

/// A registry on loopback, of the distribution protocol; like ECR it takes blobs whole, signs in by user and
/// password, and does not tell the location of a manifest.
#[derive(Clone, Default)]
pub(crate) struct Server {
    held: Arc<Mutex<Held>>,
}

impl Server {
    pub(crate) async fn start(self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().fallback(answer).with_state(self);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    }

    pub(crate) fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap()
    }

    /// Waits until uploads have begun in as many repositories as are wanted together; whether they have.
    async fn met(&self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let is_met = {
                let held = self.held();
                held.begun.len() >= held.together
            };
            if is_met || Instant::now() >= deadline {
                return is_met;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn add_blob(&self, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.held().blobs.insert(digest.clone(), bytes.to_vec());
        digest
    }

    pub(crate) fn add_manifest(&self, manifest: &Json) -> String {
        let bytes = manifest.to_string().into_bytes();
        let digest = digest(&bytes);
        self.held().manifests.insert(digest.clone(), bytes);
        digest
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256_hex(bytes))
}

fn plain(status: StatusCode) -> Response {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    if parts.method == Method::PUT && parts.uri.path().contains("/uploads/") && !server.met().await {
        return plain(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let mut held = server.held();
    held.requests += 1;
    let signed = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if held.wants.is_some() && signed != held.wants.as_deref() {
        return Response::builder()
            .status(StatusCode::UNAUTHORIZED)
            .header(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")
            .body(Body::empty())
            .unwrap();
    }
    let path = parts.uri.path();
    let Some((place, name)) = path.trim_end_matches('/').rsplit_once('/') else {
        return plain(StatusCode::OK);
    };
    let found = |bytes: Option<&Vec<u8>>, digest: &str, kind: &str| match bytes {
        Some(bytes) => Response::builder()
            .header("Docker-Content-Digest", digest)
            .header(header::CONTENT_TYPE, kind)
            .body(if parts.method == Method::HEAD { Body::empty() } else { Body::from(bytes.clone()) })
            .unwrap(),
        None => plain(StatusCode::NOT_FOUND),
    };
    match (&parts.method, place, name) {
        (&Method::GET, "", "v2") => plain(StatusCode::OK),
        (&Method::POST, place, "uploads") => {
            held.begun.insert(place.to_owned());
            Response::builder()
                .status(StatusCode::ACCEPTED)
                .header(header::LOCATION, format!("{path}one"))
                .body(Body::empty())
                .unwrap()
        }
        (&Method::PUT, place, _) if place.ends_with("/uploads") => {
            let named = parts.uri.query().unwrap_or_default().replace("%3A", ":");
            let named = named.strip_prefix("digest=").unwrap().to_owned();
            let number = held.uploads.len();
            held.uploads.push(named.clone());
            if held.fails_from.is_some_and(|from| number >= from) || held.failures_left > 0 {
                held.failures_left = held.failures_left.saturating_sub(1);
                return plain(StatusCode::INTERNAL_SERVER_ERROR);
            }
            if digest(&body) != named {
                return plain(StatusCode::BAD_REQUEST);
            }
            held.blobs.insert(named.clone(), body.to_vec());
            let blob = format!("{}/{named}", place.trim_end_matches("/uploads"));
            Response::builder()
                .status(StatusCode::CREATED)
                .header(header::LOCATION, blob)
                .body(Body::empty())
                .unwrap()
        }
        (&Method::PUT, place, tag) if place.ends_with("/manifests") => {
            let manifest: Json = serde_json::from_slice(&body).unwrap();
            let named = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
            let complete =
                named.into_iter().all(|one| held.blobs.contains_key(one["digest"].as_str().unwrap()));
            if !complete {
                return plain(StatusCode::BAD_REQUEST);
            }
            held.journal.lock().unwrap().push(format!("registry manifest {place}"));
            held.manifests.insert(tag.to_owned(), body.to_vec());
            held.manifests.insert(digest(&body), body.to_vec());
            plain(StatusCode::CREATED)
        }
        (_, place, name) if place.ends_with("/blobs") => {
            found(held.blobs.get(name), name, "application/octet-stream")
        }
        (_, place, name) if place.ends_with("/manifests") => {
            let bytes = held.manifests.get(name);
            let digest = bytes.map(|bytes| digest(bytes)).unwrap_or_default();
            found(bytes, &digest, "application/vnd.oci.image.manifest.v1+json")
        }
        _ => plain(StatusCode::METHOD_NOT_ALLOWED),
    }
}
