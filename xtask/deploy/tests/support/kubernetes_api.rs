//! A small Kubernetes API on loopback: what the engine asks of one, and no more.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
};
use serde_json::{Value as Json, json};

/// An answer's body.
struct Body(Json);

impl axum::response::IntoResponse for Body {
    fn into_response(self) -> axum::response::Response {
        ([("content-type", "application/json")], self.0.to_string()).into_response()
    }
}

/// What the API holds, by path.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) objects: BTreeMap<String, Json>,
    pub(crate) versions: u64,
    pub(crate) log: Vec<String>,
    /// Applications after which everything is refused.
    pub(crate) refuse_after: Option<usize>,
    /// Looks at deployments that find the API away, once something was applied.
    pub(crate) away: usize,
    /// Whether deployments ever become available.
    pub(crate) stuck: bool,
    /// Groups that a chart brings, once it is installed.
    pub(crate) groups: BTreeSet<String>,
    /// Whether a token of EKS is wanted.
    pub(crate) wants_token: bool,
    /// Where applications and deletions are written down beside the log.
    pub(crate) journal: Arc<Mutex<Vec<String>>>,
}

impl Store {
    fn note(&mut self, line: String) {
        self.journal.lock().unwrap().push(format!("kubernetes {line}"));
        self.log.push(line);
    }
}

pub(crate) type Shared = Arc<Mutex<Store>>;

fn resources(group: &str) -> Option<Json> {
    let one = |name: &str, kind: &str, namespaced: bool| {
        json!({ "name": name, "singularName": "", "namespaced": namespaced, "kind": kind,
            "verbs": ["get", "list", "patch", "delete"] })
    };
    let list = match group {
        "v1" => json!([
            one("configmaps", "ConfigMap", true),
            one("services", "Service", true),
            one("pods", "Pod", true),
            one("persistentvolumeclaims", "PersistentVolumeClaim", true),
            one("persistentvolumes", "PersistentVolume", false),
            one("namespaces", "Namespace", false)
        ]),
        "apps/v1" => json!([one("deployments", "Deployment", true)]),
        "batch/v1" => json!([one("jobs", "Job", true)]),
        "networking.k8s.io/v1" => json!([one("ingresses", "Ingress", true)]),
        "keda.sh/v1alpha1" => json!([one("scaledobjects", "ScaledObject", true)]),
        _ => return None,
    };
    Some(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": list }))
}

fn not_found() -> (StatusCode, Body) {
    let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
        "message": "not found", "code": 404 });
    (StatusCode::NOT_FOUND, Body(body))
}

async fn serve(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Body) {
    let path = uri.path().trim_end_matches('/').to_owned();
    let mut store = shared.lock().unwrap();
    let token = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if store.wants_token && !token.starts_with("Bearer k8s-aws-v1.") {
        let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Unauthorized",
            "message": "Unauthorized", "code": 401 });
        return (StatusCode::UNAUTHORIZED, Body(body));
    }
    if path == "/version" {
        let version = json!({ "major": "1", "minor": "34", "gitVersion": "v1.34.1", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "linux/amd64" });
        return (StatusCode::OK, Body(version));
    }
    let group = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/api/"));
    let installed = |group: &&str| !group.starts_with("keda.sh") || store.groups.contains(*group);
    if let Some(list) = group.filter(installed).and_then(resources) {
        return (StatusCode::OK, Body(list));
    }
    match method {
        Method::PATCH => {
            let applied = store.log.iter().filter(|line| line.starts_with("apply ")).count();
            if store.refuse_after.is_some_and(|most| applied >= most) {
                let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "InternalError",
                    "message": "the API is away", "code": 500 });
                return (StatusCode::INTERNAL_SERVER_ERROR, Body(body));
            }
            assert!(uri.query().unwrap().contains("fieldManager=floodgate"), "{uri}");
            let mut object: Json = serde_json::from_slice(&body).unwrap();
            let line = format!("apply {path}");
            store.note(line);
            // What a Job runs is settled when it is made.
            let template = |job: &Json| job["spec"]["template"].clone();
            let is_job = object["kind"] == "Job";
            if is_job && store.objects.get(&path).is_some_and(|old| template(old) != template(&object)) {
                let message =
                    "Job.batch \"load\" is invalid: spec.template: Invalid value: {}: field is immutable";
                let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid",
                    "message": message, "code": 422 });
                return (StatusCode::UNPROCESSABLE_ENTITY, Body(body));
            }
            let same = store.objects.get(&path).is_some_and(|old| {
                let mut old = old.clone();
                old["metadata"].as_object_mut().unwrap().remove("resourceVersion");
                old["metadata"].as_object_mut().unwrap().remove("generation");
                old.as_object_mut().unwrap().remove("status");
                old == object
            });
            if !same {
                store.versions += 1;
                object["metadata"]["resourceVersion"] = json!(store.versions.to_string());
                object["metadata"]["generation"] = json!(store.versions);
                if object["kind"] == "Deployment" {
                    let available = if store.stuck { 0 } else { 1 };
                    object["status"] = json!({ "observedGeneration": store.versions, "replicas": 1,
                        "updatedReplicas": 1, "availableReplicas": available });
                    if store.stuck {
                        object["status"]["conditions"] = json!([{ "type": "Progressing",
                            "reason": "ProgressDeadlineExceeded", "message": "has timed out progressing" }]);
                    }
                }
                store.objects.insert(path.clone(), object);
            }
            (StatusCode::OK, Body(store.objects[&path].clone()))
        }
        Method::DELETE => {
            store.note(format!("delete {path}"));
            match store.objects.remove(&path) {
                Some(object) => (StatusCode::OK, Body(object)),
                None => not_found(),
            }
        }
        _ => {
            if path.contains("/deployments/") && store.objects.contains_key(&path) && store.away > 0 {
                store.away -= 1;
                let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "ServiceUnavailable",
                    "message": "the API's server is being replaced", "code": 503 });
                return (StatusCode::SERVICE_UNAVAILABLE, Body(body));
            }
            if let Some(object) = store.objects.get(&path) {
                return (StatusCode::OK, Body(object.clone()));
            }
            // A list: of all namespaces, or of one.
            let (base, plural) = path.rsplit_once('/').unwrap();
            let listed = ["services", "pods", "persistentvolumeclaims", "persistentvolumes", "ingresses"]
                .contains(&plural);
            if !listed {
                return not_found();
            }
            let items: Vec<Json> = store
                .objects
                .iter()
                .filter(|(at, _)| at.starts_with(base) && at.contains(&format!("/{plural}/")))
                .map(|(_, object)| object.clone())
                .collect();
            let list = json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items });
            (StatusCode::OK, Body(list))
        }
    }
}

/// Serves an API and gives its address.
pub(crate) async fn start(shared: &Shared) -> String {
    let router = Router::new().fallback(serve).with_state(shared.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}
