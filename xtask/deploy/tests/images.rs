//! Images into a registry over the real protocol: what is there is not sent, and a push that was cut off goes on.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cfn::{Json, architecture::Architecture, assembly::sha256_hex};
use deploy_engine::assets::{
    image::{self, Described, Image},
    registry::{Pushed, Registry},
    store::Store,
};
use oci_client::secrets::RegistryAuth;
use serde_json::json;
use tempfile::TempDir;

/// What a registry holds and was asked.
#[derive(Default)]
struct Held {
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, Vec<u8>>,
    /// Uploads of blobs that were begun, by digest.
    uploads: Vec<String>,
    /// Uploads from this one on fail.
    fails_from: Option<usize>,
    /// Uploads that still fail, whatever their number.
    failures_left: usize,
    /// The `Authorization` that is wanted.
    wants: Option<String>,
    requests: usize,
}

/// A registry on loopback, of the distribution protocol; like ECR it takes blobs whole, signs in by user and
/// password, and does not tell the location of a manifest.
#[derive(Clone, Default)]
struct Server {
    held: Arc<Mutex<Held>>,
}

impl Server {
    async fn start(self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().fallback(answer).with_state(self);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap()
    }

    fn add_blob(&self, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.held().blobs.insert(digest.clone(), bytes.to_vec());
        digest
    }

    fn add_manifest(&self, manifest: &Json) -> String {
        let bytes = manifest.to_string().into_bytes();
        let digest = digest(&bytes);
        self.held().manifests.insert(digest.clone(), bytes);
        digest
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256_hex(bytes))
}

fn plain(status: StatusCode) -> Response {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
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
        (&Method::POST, _, "uploads") => Response::builder()
            .status(StatusCode::ACCEPTED)
            .header(header::LOCATION, format!("{path}one"))
            .body(Body::empty())
            .unwrap(),
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

/// A base for two processors in a registry, and an image on it.
struct Scene {
    base: Server,
    base_name: String,
    from: Registry,
    target: Server,
    repository: String,
    to: Registry,
    store: Store,
    _directory: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let (base, target) = (Server::default(), Server::default());
        let layers: Vec<String> = (0..3).map(|n| base.add_blob(format!("layer {n}").as_bytes())).collect();
        let mut entries = Vec::new();
        for architecture in ["amd64", "arm64"] {
            let config = json!({
                "architecture": architecture, "os": "linux", "config": { "Env": ["PATH=/bin"] },
                "rootfs": { "type": "layers", "diff_ids": ["sha256:0", "sha256:1", "sha256:2"] },
            });
            let config = base.add_blob(config.to_string().as_bytes());
            let layers: Vec<Json> = layers
                .iter()
                .map(|digest| json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": 7 }))
                .collect();
            let manifest = base.add_manifest(&json!({
                "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 7 },
                "layers": layers,
            }));
            entries.push(json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": 7,
                "platform": { "os": "linux", "architecture": architecture },
            }));
        }
        let index = base.add_manifest(&json!({ "schemaVersion": 2, "manifests": entries }));
        target.held().wants = Some(format!("Basic {}", STANDARD.encode("AWS:secret")));
        let (base_host, target_host) = (base.clone().start().await, target.clone().start().await);
        let directory = TempDir::new().unwrap();
        Self {
            base_name: format!("{base_host}/distroless/cc@{index}"),
            from: Registry::new(RegistryAuth::Anonymous, vec![base_host]),
            repository: format!("{target_host}/fg/trade-consumer"),
            to: Registry::new(RegistryAuth::Basic("AWS".to_owned(), "secret".to_owned()), vec![target_host]),
            store: Store::new(directory.path().to_owned()),
            base,
            target,
            _directory: directory,
        }
    }

    async fn image(&self, program: &[u8], architecture: Architecture) -> (Image, Described, Vec<u8>) {
        let base = self.from.base(&self.store, &self.base_name, architecture).await.unwrap();
        let layer = image::layer("trade-consumer", program).unwrap();
        let described = Described {
            digest: digest(&layer.compressed),
            bytes: layer.compressed.len() as u64,
            unpacked_sha256: layer.unpacked_sha256,
        };
        let image =
            image::image("trade-consumer", &described, &base.manifest, &base.config, architecture).unwrap();
        (image, described, layer.compressed)
    }

    async fn push(&self, program: &[u8]) -> anyhow::Result<(Pushed, Image)> {
        let (image, described, layer) = self.image(program, Architecture::X86_64).await;
        let from = (&self.from, self.base_name.as_str());
        let pushed = self.to.push(&self.repository, &image, (&described, layer), from).await?;
        Ok((pushed, image))
    }
}

#[tokio::test]
async fn an_image_arrives_whole_and_is_sent_once() {
    let scene = Scene::new().await;
    let (pushed, image) = scene.push(b"one").await.unwrap();
    assert_eq!(
        pushed,
        Pushed { sent: 5, present: 0, whole: false },
        "three of the base, the program, the configuration"
    );
    // What a node would pull by the digest is what was built.
    assert_eq!(scene.target.held().manifests[&image.digest], image.manifest);
    let tags = scene.target.held().manifests.keys().filter(|name| !name.contains(':')).count();
    assert_eq!(tags, 1, "an image without a tag is collected by rules of repositories");

    let (again, _) = scene.push(b"one").await.unwrap();
    assert_eq!(again, Pushed { whole: true, ..Pushed::default() });
    assert_eq!(scene.target.held().uploads.len(), 5);

    // Another program shares the base.
    let (other, other_image) = scene.push(b"two").await.unwrap();
    assert_eq!((other.sent, other.present), (2, 3));
    assert_ne!(other_image.digest, image.digest);
    // The base is asked for once: its manifests, its configuration, its layers.
    let asked = scene.base.held().requests;
    scene.image(b"three", Architecture::X86_64).await;
    assert_eq!(scene.base.held().requests, asked);
}

#[tokio::test]
async fn a_push_that_was_cut_off_goes_on_where_it_was() {
    let scene = Scene::new().await;
    scene.target.held().fails_from = Some(2);
    let error = format!("{:#}", scene.push(b"one").await.unwrap_err());
    assert!(error.contains("deploy again, it goes on where it was"), "{error}");
    assert!(scene.target.held().manifests.is_empty(), "no image without all of its parts");
    let tried = scene.target.held().uploads.len();
    assert_eq!(tried, 2 + 4, "the third blob in four attempts");

    scene.target.held().fails_from = None;
    let (pushed, image) = scene.push(b"one").await.unwrap();
    assert_eq!((pushed.sent, pushed.present), (3, 2));
    assert!(scene.target.held().manifests.contains_key(&image.digest));
}

#[tokio::test]
async fn a_failed_upload_is_tried_again() {
    let scene = Scene::new().await;
    scene.target.held().failures_left = 2;
    let (pushed, _) = scene.push(b"one").await.unwrap();
    assert_eq!(pushed.sent, 5);
    assert_eq!(scene.target.held().uploads.len(), 7);
}

#[tokio::test]
async fn a_base_that_is_not_what_its_digest_says_is_refused() {
    let scene = Scene::new().await;
    for manifest in scene.base.held().manifests.values_mut() {
        manifest.push(b' ');
    }
    let error = scene.from.base(&scene.store, &scene.base_name, Architecture::Arm64).await.unwrap_err();
    assert!(format!("{error:#}").contains("sha256:"), "{error:#}");
    assert!(scene.from.base(&scene.store, "localhost/base:latest", Architecture::Arm64).await.is_err());
}

#[tokio::test]
async fn each_processor_has_its_own_image() {
    let scene = Scene::new().await;
    let (intel, ..) = scene.image(b"one", Architecture::X86_64).await;
    let (arm, ..) = scene.image(b"one", Architecture::Arm64).await;
    let config: Json = serde_json::from_slice(&arm.config).unwrap();
    assert_eq!(config["architecture"], "arm64");
    assert_ne!(intel.digest, arm.digest);
}

#[tokio::test]
async fn wrong_credentials_are_told() {
    let scene = Scene::new().await;
    scene.target.held().wants = Some("Basic other".to_owned());
    let error = format!("{:#}", scene.push(b"one").await.unwrap_err());
    assert!(error.contains("Not authorized") || error.contains("401"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}
