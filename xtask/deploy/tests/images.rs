//! Images into a registry over the real protocol: what is there is not sent, and a push that was cut off goes on.

#![allow(clippy::unwrap_used)]

#[path = "support/registry.rs"]
mod held_registry;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cfn::{Json, architecture::Architecture};
use deploy_engine::assets::{
    image::{self, Described, Image},
    registry::{Pushed, Registry},
    store::Store,
};
use held_registry::{Server, digest};
use oci_client::secrets::RegistryAuth;
use serde_json::json;
use tempfile::TempDir;

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
