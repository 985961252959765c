//! Images into a registry, and the base out of one. What a registry has is not sent again, so that a push that was
//! cut off goes on where it was.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cfn::{Json, architecture::Architecture, assembly::sha256_hex};
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use serde::{Deserialize, Serialize};

use super::{
    image::{Described, Image, MANIFEST_TYPE, in_index},
    store::Store,
};
use crate::sdk::told;

/// How often a blob is sent before the push is given up.
const ATTEMPTS: u32 = 4;

/// How long is waited after the first attempt that failed; each time twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// What a registry may answer with for a manifest.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    MANIFEST_TYPE,
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A registry's client.
#[derive(Clone)]
pub struct Registry {
    client: Arc<Client>,
    auth: RegistryAuth,
}

/// A base image for one processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Base {
    /// Its manifest.
    pub manifest: Json,
    /// Its configuration.
    pub config: Json,
}

/// What a push did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Blobs that were sent.
    pub sent: usize,
    /// Blobs that were there.
    pub present: usize,
    /// Whether the whole image was there, and nothing was looked at further.
    pub whole: bool,
}

impl Registry {
    /// A client that signs in like this. Registries named in `without_tls` are asked without TLS: for loopback.
    #[must_use]
    pub fn new(auth: RegistryAuth, without_tls: Vec<String>) -> Self {
        let config = ClientConfig {
            protocol: if without_tls.is_empty() {
                ClientProtocol::Https
            } else {
                ClientProtocol::HttpsExcept(without_tls)
            },
            // ECR keeps only the first of several chunks.
            use_monolithic_push: true,
            connect_timeout: Some(Duration::from_secs(10)),
            read_timeout: Some(Duration::from_secs(60)),
            ..ClientConfig::default()
        };
        Self { client: Arc::new(Client::new(config)), auth }
    }

    /// The registry of an account, with a token of ECR. Registries named in `without_tls` are asked without TLS: for
    /// loopback.
    ///
    /// # Errors
    ///
    /// What ECR says.
    pub async fn of_ecr(client: &aws_sdk_ecr::Client, without_tls: Vec<String>) -> Result<Self> {
        let answer = client
            .get_authorization_token()
            .send()
            .await
            .map_err(|error| told(error, "ECR gives no token to push images with"))?;
        let token = answer
            .authorization_data()
            .first()
            .and_then(|data| data.authorization_token())
            .context("ECR gives no token to push images with")?;
        let token = STANDARD.decode(token).context("ECR's token is not what it should be")?;
        let token = String::from_utf8(token).context("ECR's token is not what it should be")?;
        let (user, password) = token.split_once(':').context("ECR's token is not what it should be")?;
        Ok(Self::new(RegistryAuth::Basic(user.to_owned(), password.to_owned()), without_tls))
    }

    /// The base's manifest and configuration for a processor, from the store where they are known. The digest in
    /// its name says what they must be.
    ///
    /// # Errors
    ///
    /// What the registry says, or that it gives something else.
    pub async fn base(&self, store: &Store, name: &str, architecture: Architecture) -> Result<Base> {
        let reference: Reference = name.parse().with_context(|| format!("`{name}` names no image"))?;
        let digest = reference.digest().with_context(|| format!("{name} is not named by digest"))?.to_owned();
        let note = format!("base/{}-{}.json", digest.replace(':', "-"), architecture.in_images());
        if let Some(base) = store.read::<Base>(&note) {
            return Ok(base);
        }
        let mut manifest = self.manifest(&reference, &digest).await?;
        if let Some(digest) = in_index(&manifest, architecture)? {
            manifest = self.manifest(&at_digest(&reference, &digest), &digest).await?;
        }
        let digest = manifest
            .pointer("/config/digest")
            .and_then(Json::as_str)
            .with_context(|| format!("{name} has no configuration"))?
            .to_owned();
        let config = self.blob(&reference, &digest).await?;
        let base = Base { manifest, config: serde_json::from_slice(&config)? };
        store.write_json(&note, &base)?;
        Ok(base)
    }

    async fn manifest(&self, reference: &Reference, digest: &str) -> Result<Json> {
        let (bytes, _) = self
            .client
            .pull_manifest_raw(reference, &self.auth, &MANIFEST_TYPES)
            .await
            .with_context(|| format!("cannot pull {reference}"))?;
        check(&bytes, digest).with_context(|| format!("cannot pull {reference}"))?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// A blob of the base.
    ///
    /// # Errors
    ///
    /// What the registry says, or that it gives something else.
    pub async fn blob(&self, reference: &Reference, digest: &str) -> Result<Vec<u8>> {
        self.client.store_auth_if_needed(reference.resolve_registry(), &self.auth).await;
        let mut bytes = Vec::new();
        self.client
            .pull_blob(reference, digest, &mut bytes)
            .await
            .with_context(|| format!("cannot pull {digest} of {reference}"))?;
        check(&bytes, digest)?;
        Ok(bytes)
    }

    /// Pushes an image to a repository, as `repository@digest`; what is there is not sent.
    ///
    /// # Errors
    ///
    /// What the registry says after several attempts; pushed again, it goes on where it was.
    pub async fn push(
        &self,
        repository: &str,
        image: &Image,
        layer: (&Described, Vec<u8>),
        from: (&Registry, &str),
    ) -> Result<Pushed> {
        let (registry, path) =
            repository.split_once('/').with_context(|| format!("`{repository}` is no repository"))?;
        // A tag that says the content never moves. By the digest alone, images would be untagged, which rules of
        // repositories are fond of deleting.
        let tag: String = image.digest.chars().skip("sha256:".len()).take(40).collect();
        let to = Reference::with_tag(registry.to_owned(), path.to_owned(), tag);
        if self.has(&to, &image.digest).await? {
            return Ok(Pushed { whole: true, ..Pushed::default() });
        }
        let mut pushed = Pushed::default();
        let base: Reference = from.1.parse().with_context(|| format!("`{}` names no image", from.1))?;
        for (digest, _) in &image.base_layers {
            if self.is_there(&to, digest).await? {
                pushed.present += 1;
            } else {
                let bytes = from.0.blob(&base, digest).await?;
                self.send(&to, digest, bytes).await?;
                pushed.sent += 1;
            }
        }
        for (digest, bytes) in [(&layer.0.digest, layer.1), (&image.config_digest, image.config.clone())] {
            if self.is_there(&to, digest).await? {
                pushed.present += 1;
            } else {
                self.send(&to, digest, bytes).await?;
                pushed.sent += 1;
            }
        }
        let kind = MANIFEST_TYPE.parse().context("a media type is text")?;
        self.client
            .push_manifest_raw(&to, image.manifest.clone(), kind)
            .await
            .with_context(|| format!("cannot push the manifest of {to}"))?;
        Ok(pushed)
    }

    /// Whether the registry has the image.
    async fn has(&self, to: &Reference, digest: &str) -> Result<bool> {
        match self.client.fetch_manifest_digest(to, &self.auth).await {
            Ok(found) if found == digest => Ok(true),
            Ok(found) => bail!("{to} is {found} and not {digest}: somebody else has pushed it"),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot look for {to}")),
        }
    }

    async fn is_there(&self, to: &Reference, digest: &str) -> Result<bool> {
        self.client.blob_exists(to, digest).await.with_context(|| format!("cannot look for {digest} in {to}"))
    }

    async fn send(&self, to: &Reference, digest: &str, bytes: Vec<u8>) -> Result<()> {
        let bytes: bytes::Bytes = bytes.into();
        let mut pause = PAUSE;
        for attempt in 1.. {
            match self.client.push_blob(to, bytes.clone(), digest).await {
                Ok(_) => break,
                Err(error) if attempt >= ATTEMPTS => {
                    return Err(error).with_context(|| {
                        format!("{digest} could not be pushed to {to} in {ATTEMPTS} attempts; deploy again, it goes on where it was")
                    });
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause *= 2;
        }
        Ok(())
    }
}

fn at_digest(reference: &Reference, digest: &str) -> Reference {
    let (registry, repository) = (reference.registry().to_owned(), reference.repository().to_owned());
    Reference::with_digest(registry, repository, digest.to_owned())
}

fn check(bytes: &[u8], digest: &str) -> Result<()> {
    let found = format!("sha256:{}", sha256_hex(bytes));
    if found != digest {
        bail!("{digest} is asked for and {found} comes");
    }
    Ok(())
}

fn is_absent(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        OciDistributionError::ServerError { code, .. } => *code == 404,
        OciDistributionError::RequestError(error) => {
            error.status().is_some_and(|status| status.as_u16() == 404)
        }
        OciDistributionError::RegistryError { envelope, .. } => envelope
            .errors
            .iter()
            .any(|error| matches!(error.code, oci_client::errors::OciErrorCode::ManifestUnknown)),
        _ => false,
    }
}
