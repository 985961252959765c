//! OCI images without a Docker daemon: a program as one layer on a base that others publish. Pure, and the same
//! bytes for the same program and base: no time, no owner but root, keys in order.

use std::io::{self, Write};

use cfn::{Json, architecture::Architecture, assembly::sha256_hex, to_canonical_bytes};
use flate2::{Compression, GzBuilder};
use serde_json::json;

use super::elf::Glibc;

/// The base: glibc, libgcc, certificate authorities, time zones and a user that is not root; no shell, no package
/// manager. Workers are linked against glibc and ask AWS over TLS, so an empty base would not do, and a static
/// program gains nothing from another one. Named by digest, so that it never changes by itself.
pub const BASE: &str =
    "distroless/cc-debian12@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f";

/// The variable that names the host of a registry that has the base: its publisher's, or a mirror of yours.
pub const BASE_REGISTRY: &str = "FLOODGATE_BASE_REGISTRY";

/// Nobody has said where the base is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "images are built on {BASE}: set {BASE_REGISTRY} to the host of a registry that has it, its publisher's or a mirror of yours"
)]
pub struct NoRegistry;

/// The base's whole name, in the registry that the variable names.
///
/// # Errors
///
/// When it names none.
pub fn base_name(registry: Option<&str>) -> Result<String, NoRegistry> {
    let host = registry.map(str::trim).filter(|host| !host.is_empty()).ok_or(NoRegistry)?;
    Ok(format!("{}/{BASE}", host.trim_end_matches('/')))
}

/// The base's glibc, which is Debian 12's.
pub const BASE_GLIBC: Glibc = Glibc(2, 36, 0);

/// The user that the base has for those who are not root; the workloads' manifests name it too.
const USER: &str = "65532:65532";

/// The directory of the program.
const PLACE: &str = "app";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What images are dated: the first moment of 1970, because a build has no moment.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// A layer: compressed bytes, and the digest of what they unpack to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The layer as it is sent: a tar archive, compressed.
    pub compressed: Vec<u8>,
    /// SHA-256 of the tar archive, in hexadecimal digits.
    pub unpacked_sha256: String,
}

/// Packs a program as a layer.
///
/// # Errors
///
/// When its name is longer than an archive takes.
pub fn layer(package: &str, program: &[u8]) -> io::Result<Layer> {
    let mut archive = tar::Builder::new(Vec::with_capacity(program.len() + 4096));
    let header = |kind: tar::EntryType, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    };
    archive.append_data(&mut header(tar::EntryType::Directory, 0), format!("{PLACE}/"), io::empty())?;
    let path = format!("{PLACE}/{package}");
    archive.append_data(&mut header(tar::EntryType::Regular, program.len()), path, program)?;
    let archive = archive.into_inner()?;
    // Without a time; and the same operating system, which is none.
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::new(6));
    encoder.write_all(&archive)?;
    Ok(Layer { compressed: encoder.finish()?, unpacked_sha256: sha256_hex(&archive) })
}

/// A layer as a manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// `sha256:…` of the compressed bytes.
    pub digest: String,
    /// Their number.
    pub bytes: u64,
    /// SHA-256 of the tar archive, in hexadecimal digits.
    pub unpacked_sha256: String,
}

/// An image, but for its layers' bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The manifest as it is sent.
    pub manifest: Vec<u8>,
    /// `sha256:…` of the manifest: the image's name.
    pub digest: String,
    /// The configuration as it is sent.
    pub config: Vec<u8>,
    /// `sha256:…` of the configuration.
    pub config_digest: String,
    /// The base's layers, as (digest, bytes).
    pub base_layers: Vec<(String, u64)>,
}

/// The media type of manifests that are sent.
pub const MANIFEST_TYPE: &str = MANIFEST;

/// What is wrong with a base.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the base image {BASE} cannot be built on: {0}")]
pub struct WrongBase(pub String);

/// The digest of the image for a processor, from an index of images; `None` where the JSON is no index.
///
/// # Errors
///
/// When the index has none for it.
pub fn in_index(index: &Json, architecture: Architecture) -> Result<Option<String>, WrongBase> {
    let Some(entries) = index.get("manifests").and_then(Json::as_array) else { return Ok(None) };
    entries
        .iter()
        .find(|entry| {
            entry.pointer("/platform/os").and_then(Json::as_str) == Some("linux")
                && entry.pointer("/platform/architecture").and_then(Json::as_str)
                    == Some(architecture.in_images())
        })
        .and_then(|entry| entry.get("digest")?.as_str())
        .map(|digest| Some(digest.to_owned()))
        .ok_or_else(|| WrongBase(format!("it has no image for linux/{}", architecture.in_images())))
}

/// The image of a package's program: the base with one layer more, that starts it.
///
/// # Errors
///
/// When the base's manifest or configuration is not what it should be.
pub fn image(
    package: &str,
    layer: &Described,
    base_manifest: &Json,
    base_config: &Json,
    architecture: Architecture,
) -> Result<Image, WrongBase> {
    let wrong = |what: &str| WrongBase(what.to_owned());
    if base_config.get("architecture").and_then(Json::as_str) != Some(architecture.in_images()) {
        return Err(WrongBase(format!("its configuration is not for {}", architecture.in_images())));
    }
    let base_layers = base_manifest
        .get("layers")
        .and_then(Json::as_array)
        .ok_or_else(|| wrong("its manifest has no layers"))?;
    let mut layers = Vec::new();
    let mut base = Vec::new();
    for one in base_layers {
        let (digest, bytes) = (
            one.get("digest").and_then(Json::as_str).ok_or_else(|| wrong("a layer has no digest"))?,
            one.get("size").and_then(Json::as_u64).ok_or_else(|| wrong("a layer has no size"))?,
        );
        let kind = one.get("mediaType").and_then(Json::as_str).unwrap_or_default();
        if !kind.ends_with("tar+gzip") && !kind.ends_with("tar.gzip") {
            return Err(WrongBase(format!("a layer is {kind}")));
        }
        layers.push(json!({ "mediaType": LAYER, "digest": digest, "size": bytes }));
        base.push((digest.to_owned(), bytes));
    }
    layers.push(json!({ "mediaType": LAYER, "digest": layer.digest, "size": layer.bytes }));

    let mut config = base_config.clone();
    config["created"] = CREATED.into();
    let unpacked = config
        .pointer_mut("/rootfs/diff_ids")
        .and_then(Json::as_array_mut)
        .ok_or_else(|| wrong("its configuration names no layers"))?;
    if unpacked.len() != base.len() {
        return Err(wrong("its manifest and configuration name different layers"));
    }
    unpacked.push(format!("sha256:{}", layer.unpacked_sha256).into());
    if let Some(history) = config.get_mut("history").and_then(Json::as_array_mut) {
        history.push(json!({ "created": CREATED, "created_by": format!("floodgate: {package}") }));
    }
    if !config.get("config").is_some_and(Json::is_object) {
        config["config"] = json!({});
    }
    let run = &mut config["config"];
    run["Entrypoint"] = json!([format!("/{PLACE}/{package}")]);
    run["Cmd"] = Json::Null;
    run["User"] = USER.into();
    run["WorkingDir"] = "/".into();
    let config = to_canonical_bytes(&config);
    let config_digest = format!("sha256:{}", sha256_hex(&config));

    let manifest = to_canonical_bytes(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": config_digest, "size": config.len() },
        "layers": layers,
        "annotations": { "org.opencontainers.image.title": package },
    }));
    let digest = format!("sha256:{}", sha256_hex(&manifest));
    Ok(Image { manifest, digest, config, config_digest, base_layers: base })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn base() -> (Json, Json) {
        let layer = json!({ "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": "sha256:aa", "size": 7 });
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"], "User": "0" },
            "rootfs": { "type": "layers", "diff_ids": ["sha256:bb"] }, "history": [{ "created_by": "base" }],
        });
        (json!({ "schemaVersion": 2, "layers": [layer] }), config)
    }

    fn described(layer: &Layer) -> Described {
        Described {
            digest: format!("sha256:{}", sha256_hex(&layer.compressed)),
            bytes: layer.compressed.len() as u64,
            unpacked_sha256: layer.unpacked_sha256.clone(),
        }
    }

    #[test]
    fn the_base_has_a_registry_or_says_how_it_gets_one() {
        assert!(
            base_name(Some("mirror.example/")).is_ok_and(|name| name == format!("mirror.example/{BASE}"))
        );
        assert!(base_name(None).is_err_and(|error| error.to_string().contains(BASE_REGISTRY)));
        assert_eq!(base_name(Some(" ")), Err(NoRegistry));
    }

    #[test]
    fn a_layer_holds_the_program_alone_and_is_always_the_same() {
        let first = layer("trade-consumer", b"program").unwrap();
        assert_eq!(first, layer("trade-consumer", b"program").unwrap());
        assert_ne!(first.unpacked_sha256, layer("trade-consumer", b"other").unwrap().unpacked_sha256);
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&first.compressed[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(sha256_hex(&unpacked), first.unpacked_sha256);
        let mut archive = tar::Archive::new(&unpacked[..]);
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                (
                    entry.path().unwrap().display().to_string(),
                    header.mode().unwrap(),
                    header.mtime().unwrap(),
                    header.uid().unwrap(),
                    header.size().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            entries,
            [("app/".to_owned(), 0o755, 0, 0, 0), ("app/trade-consumer".to_owned(), 0o755, 0, 0, 7)]
        );
    }

    #[test]
    fn an_image_is_its_base_and_the_program_not_as_root() {
        let (manifest, config) = base();
        let layer = described(&layer("trade-consumer", b"program").unwrap());
        let built = image("trade-consumer", &layer, &manifest, &config, Architecture::X86_64).unwrap();
        let again = image("trade-consumer", &layer, &manifest, &config, Architecture::X86_64).unwrap();
        assert_eq!(built, again);
        assert_eq!(built.digest, format!("sha256:{}", sha256_hex(&built.manifest)));
        let config: Json = serde_json::from_slice(&built.config).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["/app/trade-consumer"]));
        assert_eq!(config["config"]["Env"], json!(["PATH=/bin"]));
        assert_eq!((&config["config"]["User"], &config["config"]["Cmd"]), (&json!(USER), &Json::Null));
        let ids = config["rootfs"]["diff_ids"].as_array().unwrap();
        assert_eq!(ids, &[json!("sha256:bb"), json!(format!("sha256:{}", layer.unpacked_sha256))]);
        let manifest: Json = serde_json::from_slice(&built.manifest).unwrap();
        assert_eq!(manifest["config"]["digest"], json!(built.config_digest));
        let kinds: Vec<_> =
            manifest["layers"].as_array().unwrap().iter().map(|one| &one["mediaType"]).collect();
        assert_eq!(kinds, [LAYER, LAYER], "no mixture of Docker's and OCI's");
    }

    #[test]
    fn a_base_that_does_not_fit_is_refused() {
        let (manifest, config) = base();
        let layer = described(&layer("x", b"program").unwrap());
        let other = image("x", &layer, &manifest, &config, Architecture::Arm64).unwrap_err();
        assert!(other.to_string().contains("not for arm64"), "{other}");
        let uneven = image("x", &layer, &json!({ "layers": [] }), &config, Architecture::X86_64).unwrap_err();
        assert!(uneven.to_string().contains("different layers"), "{uneven}");
    }

    #[test]
    fn the_image_of_the_processor_is_found_in_an_index() {
        let entry = |architecture: &str, digest: &str| json!({ "digest": digest, "platform": { "os": "linux", "architecture": architecture } });
        let index = json!({ "manifests": [entry("amd64", "sha256:1"), entry("arm64", "sha256:2")] });
        assert_eq!(in_index(&index, Architecture::Arm64), Ok(Some("sha256:2".to_owned())));
        assert_eq!(in_index(&json!({ "layers": [] }), Architecture::Arm64), Ok(None));
        let none = in_index(&json!({ "manifests": [entry("s390x", "sha256:3")] }), Architecture::Arm64);
        assert!(none.unwrap_err().to_string().contains("linux/arm64"));
    }
}
