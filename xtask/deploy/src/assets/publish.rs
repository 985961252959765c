//! Makes what a deployment needs of assets known: packs functions, uploads them, names images.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use aws_sdk_s3::primitives::DateTime;
use cfn::{
    architecture::{Architecture, of_assets},
    assembly::{AssetEntry, AssetKind, Manifest, ParameterWiring, Source, StackEntry, sha256_hex},
    diff::Side,
};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use oci_client::secrets::RegistryAuth;
use serde::Serialize;
use tokio::sync::{Notify, OnceCell, Semaphore};

use super::{
    bucket::{ASSETS, Bucket, Published, TEMPLATES},
    image::{self, Image},
    pack::{self, Form, Packed, Place},
    registry::Registry,
    store::Store,
};
use crate::{
    loopback::is_loopback,
    release::index,
    report::Reporter,
    wiring::{Known, resolve},
};

/// What the live line of assets is known by.
const LIVE: &str = "assets";

/// How many uploads are under way at a time: they share what goes out of a machine, and the first stacks wait for
/// the first.
const UPLOADS: usize = 2;

/// How many images are pushed at a time: the layers of each are in memory meanwhile.
const PUSHES: usize = 3;

/// Field -> value of an asset.
type Fields = BTreeMap<String, String>;

/// The assets of an assembly.
pub struct Assets<'a> {
    manifest: &'a Manifest,
    /// What AWS runs the assets on; `None` where this machine does.
    architectures: Option<BTreeMap<String, Architecture>>,
    /// Where the binaries are, each by its package's name.
    binaries: PathBuf,
    store: Store,
    s3: aws_sdk_s3::Client,
    ecr: aws_sdk_ecr::Client,
    endpoint_url: Option<String>,
    reporter: &'a Reporter,
    /// Stacks to be deployed; all when empty.
    only: Vec<String>,
    /// What was packed in this run, and published, by the asset's name: whoever needs it first has it done, others wait.
    packed: BTreeMap<String, OnceCell<Packed>>,
    functions: BTreeMap<String, OnceCell<Fields>>,
    packing: Semaphore,
    uploading: Semaphore,
    /// The bucket, from the moment on at which its stack is deployed.
    there: OnceCell<Bucket>,
    has_come: Notify,
    /// What is deployed of a release, instead of being packed.
    released: Option<BTreeMap<String, index::Asset>>,
    registry: OnceCell<Registry>,
}

/// Where things are that assets are made from and go to.
pub struct Places<'a> {
    /// The assembly's directory.
    pub assembly: &'a Path,
    /// The directory of the binaries.
    pub binaries: PathBuf,
    /// The directory of what is packed.
    pub store: PathBuf,
    /// S3; addressed by path where it is not AWS's.
    pub s3: aws_sdk_s3::Client,
    /// ECR, for images' repositories.
    pub ecr: aws_sdk_ecr::Client,
    /// Where S3 is, instead of AWS.
    pub endpoint_url: Option<String>,
    /// The assets of a release, which are in the store; without it they are packed from the binaries.
    pub released: Option<BTreeMap<String, index::Asset>>,
}

impl<'a> Assets<'a> {
    /// Of an assembly. Nothing is read but the assembly until it is needed.
    ///
    /// # Errors
    ///
    /// When the assembly cannot be read, or wants an asset for two processors.
    pub fn new(
        manifest: &'a Manifest,
        places: Places<'_>,
        reporter: &'a Reporter,
        only: Vec<String>,
    ) -> Result<Self> {
        Ok(Self {
            manifest,
            architectures: architectures(manifest, places.assembly)?,
            binaries: places.binaries,
            store: Store::new(places.store),
            s3: places.s3,
            ecr: places.ecr,
            endpoint_url: places.endpoint_url,
            reporter,
            only,
            packed: once(manifest),
            functions: once(manifest),
            packing: Semaphore::new(cores()),
            uploading: Semaphore::new(UPLOADS),
            there: OnceCell::new(),
            has_come: Notify::new(),
            released: places.released,
            registry: OnceCell::new(),
        })
    }

    /// Makes known what a stack's parameters or a manifest's values need of assets: packed and published, side by
    /// side, unless that is done or under way.
    ///
    /// # Errors
    ///
    /// What is not built, cannot run where it should, or cannot be uploaded.
    pub async fn ready(&self, wired: &[ParameterWiring], known: &mut Known) -> Result<()> {
        if !self.there.initialized()
            && let Ok(bucket) = self.bucket(known)
            && self.there.set(bucket).is_ok()
        {
            self.has_come.notify_one();
        }
        let mut asked: Vec<&AssetEntry> = Vec::new();
        for name in asked_for(wired).into_iter().filter(|name| !known.assets.contains_key(*name)) {
            let asset = self.manifest.assets.iter().find(|asset| asset.name == name);
            asked.push(asset.with_context(|| format!("nothing says how the asset `{name}` is built"))?);
        }
        let (functions, images): (Vec<&AssetEntry>, Vec<&AssetEntry>) =
            asked.into_iter().partition(|asset| asset.kind == AssetKind::Zip);
        let published: Vec<(String, Fields)> = stream::iter(functions)
            .map(|asset| async {
                let bucket = self.bucket(known)?;
                Ok((asset.name.clone(), self.published_function(asset, &bucket).await?))
            })
            .buffer_unordered(UPLOADS)
            .try_collect::<Vec<_>>()
            .await
            .inspect_err(|_: &anyhow::Error| self.reporter.settle(LIVE))?;
        known.assets.extend(published);
        let of = &*known;
        let published: Vec<(String, Fields)> = stream::iter(images)
            .map(|asset| async { Ok((asset.name.clone(), self.published_image(asset, of).await?)) })
            .buffer_unordered(PUSHES)
            .try_collect::<Vec<_>>()
            .await
            .inspect_err(|_: &anyhow::Error| self.reporter.settle(LIVE))?;
        known.assets.extend(published);
        Ok(())
    }

    /// Finds what would stop images from being built: a program that is not there or cannot run there, or a base
    /// that nobody has said the place of. Pushes nothing.
    ///
    /// # Errors
    ///
    /// What it is.
    pub async fn prepare(&self, wired: &[ParameterWiring]) -> Result<()> {
        let asked = asked_for(wired);
        let images =
            |asset: &&AssetEntry| asset.kind == AssetKind::Image && asked.contains(asset.name.as_str());
        for asset in self.manifest.assets.iter().filter(images) {
            if self.architecture(asset).is_some() {
                base_name()?;
            }
            self.pack(asset).await?;
        }
        self.reporter.settle(LIVE);
        Ok(())
    }

    /// Packs and publishes the functions of all stacks that are to be deployed, first those of the stacks that most
    /// wait for, while stacks are deployed that need none: packs as many at a time as there are cores, and uploads
    /// once there is a bucket, for which this waits. What cannot be packed or uploaded is told when it is needed.
    pub async fn publish_ahead(&self) {
        let stacks = most_awaited_first(self.manifest)
            .into_iter()
            .filter(|entry| self.only.is_empty() || self.only.contains(&entry.id));
        let mut names: Vec<&str> = Vec::new();
        for name in stacks.flat_map(|entry| asked_for(&entry.parameters)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let functions = names.into_iter().filter_map(|name| {
            self.manifest.assets.iter().find(|asset| asset.name == name && asset.kind == AssetKind::Zip)
        });
        let bucket = async {
            loop {
                if let Some(bucket) = self.there.get() {
                    return bucket;
                }
                self.has_come.notified().await;
            }
        }
        .shared();
        stream::iter(functions.map(|asset| async move { (asset, self.pack(asset).await) }))
            .buffered(cores())
            .map(|(asset, packed)| {
                let bucket = bucket.clone();
                async move {
                    if packed.is_ok() {
                        let _ = self.published_function(asset, bucket.await).await;
                    }
                }
            })
            .buffer_unordered(UPLOADS)
            .for_each(|()| async {})
            .await;
        self.reporter.settle(LIVE);
    }

    /// Makes known where functions will lie and, of a release, which images it has, without publishing them: for who
    /// only looks. Before there is a bucket nothing is known.
    ///
    /// # Errors
    ///
    /// What is not built, or cannot run where it should.
    pub async fn named(&self, known: &mut Known) -> Result<()> {
        match self.named_as_built(known).await.into_iter().next() {
            Some((_, why)) => Err(why),
            None => Ok(()),
        }
    }

    /// The same for who only plans. Gives the functions that are not built here, or not for what they run on, each with
    /// what is missing: where those will lie is not known.
    pub async fn named_as_built(&self, known: &mut Known) -> Vec<(String, anyhow::Error)> {
        let Ok(bucket) = self.bucket(known) else { return Vec::new() };
        let mut unknown = Vec::new();
        for asset in self.manifest.assets.iter().filter(|asset| asset.kind == AssetKind::Zip) {
            match self.pack(asset).await {
                Ok(packed) => {
                    let fields = fields(&bucket, format!("{ASSETS}{}", packed.file));
                    known.assets.insert(asset.name.clone(), fields);
                }
                Err(why) => unknown.push((asset.name.clone(), why)),
            }
        }
        self.reporter.settle(LIVE);
        for (name, released) in self.released.iter().flatten() {
            let asset = self.manifest.assets.iter().find(|asset| asset.name == *name);
            let repository = asset.and_then(|asset| resolve(asset.repository.as_ref()?, known).ok());
            if let (Some(repository), Some(image)) = (repository, &released.image) {
                known.assets.insert(name.clone(), image_fields(&repository, image));
            }
        }
        unknown
    }

    /// The bucket, once its stack is deployed.
    ///
    /// # Errors
    ///
    /// When it is not, in words that say what to deploy first.
    pub fn bucket(&self, known: &Known) -> Result<Bucket> {
        let source =
            self.manifest.artifact_bucket.as_ref().context("the environment has no bucket of artifacts")?;
        let name = resolve(source, known).with_context(|| match source {
            Source::Output { stack, .. } => format!(
                "the bucket of artifacts is not there yet: `cargo xtask deploy --env {} --stack {stack}` makes it",
                self.manifest.environment
            ),
            _ => "the bucket of artifacts is not known".to_owned(),
        })?;
        Ok(Bucket::new(self.s3.clone(), name, self.manifest.region.clone(), self.endpoint_url.clone()))
    }

    /// Uploads a template that is too large for a request, and gives where it is.
    ///
    /// # Errors
    ///
    /// When there is no bucket yet, or S3 refuses.
    pub async fn template_url(&self, entry: &StackEntry, body: &str, known: &Known) -> Result<String> {
        let bucket = self.bucket(known).with_context(|| {
            format!(
                "the template of {} has {} bytes, more than CloudFormation takes within a request; it is read from the bucket of artifacts",
                entry.name,
                body.len()
            )
        })?;
        let sha256 = sha256_hex(body.as_bytes());
        let key = format!("{TEMPLATES}{sha256}.json");
        bucket.publish_bytes(&key, body.as_bytes().to_vec(), &sha256, now()).await?;
        Ok(bucket.url(&key))
    }

    /// Where a function lies, once it is packed and uploaded.
    async fn published_function(&self, asset: &AssetEntry, bucket: &Bucket) -> Result<Fields> {
        let publish = || async {
            let packed = self.pack(asset).await?;
            let key = format!("{ASSETS}{}", packed.file);
            let file = self.store.path(&packed.file);
            let _one_of = self.uploading.acquire().await?;
            let size = megabytes(packed.bytes);
            self.reporter.progress(LIVE, &format!("{}  uploading {size:.1} MB", asset.name));
            let published = bucket.publish_file(&key, &file, &packed.sha256, now()).await?;
            self.reporter.settle(LIVE);
            if published == Published::Uploaded {
                let to = format!("{size:.1} MB to {}/{key}", bucket.name());
                self.reporter.asset(&asset.name, "uploaded", &to);
            }
            Ok(fields(bucket, key))
        };
        match self.functions.get(&asset.name) {
            Some(once) => once.get_or_try_init(publish).await.cloned(),
            None => publish().await,
        }
    }

    /// An asset's program, packed; told when it was packed just now.
    async fn pack(&self, asset: &AssetEntry) -> Result<Packed> {
        let pack = || async {
            let _one_of = self.packing.acquire().await?;
            let (packed, fresh) = self.program(asset).await?;
            if fresh {
                let (size, unpacked) = (megabytes(packed.bytes), megabytes(packed.unpacked_bytes));
                self.reporter.asset(
                    &asset.name,
                    "packed",
                    &format!("{size:.1} MB, {unpacked:.1} MB unpacked"),
                );
                for remark in &packed.remarks {
                    self.reporter.say(&format!("  {}: {remark}", asset.name));
                }
            }
            Ok(packed)
        };
        match self.packed.get(&asset.name) {
            Some(once) => once.get_or_try_init(pack).await.cloned(),
            None => pack().await,
        }
    }

    /// What an asset runs on in AWS; `None` where this machine runs it.
    fn architecture(&self, asset: &AssetEntry) -> Option<Architecture> {
        let found = self.architectures.as_ref()?;
        // Every asset is there: `of_assets` fills in what nothing asks for.
        Some(found.get(&asset.name).copied().unwrap_or(Architecture::Arm64))
    }

    /// An asset's program, packed; and whether it was packed just now.
    async fn program(&self, asset: &AssetEntry) -> Result<(Packed, bool)> {
        if let Some(released) = &self.released {
            let found = released.get(&asset.name);
            let found = found.with_context(|| format!("the release has no asset {}", asset.name))?;
            return Ok((found.packed.clone(), false));
        }
        let place = self.architecture(asset).map_or(Place::Here, Place::Aws);
        let form = match asset.kind {
            AssetKind::Zip => Form::Zip,
            AssetKind::Image => Form::Layer,
        };
        let (store, package) = (self.store.clone(), asset.package.clone());
        let binary = self.binaries.join(&package);
        self.reporter.progress(LIVE, &format!("{package}  packing"));
        tokio::task::spawn_blocking(move || pack::pack(&store, &package, &binary, place, form)).await?
    }

    /// Packs the assets named, or all, without publishing them.
    ///
    /// # Errors
    ///
    /// A name that no asset has; what is not built or cannot run where it should.
    pub async fn packed(&self, names: &[String]) -> Result<Vec<PackedAsset>> {
        let known: Vec<&str> = self.manifest.assets.iter().map(|asset| asset.name.as_str()).collect();
        if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
            bail!("there is no asset `{unknown}`; {} has: {}", self.manifest.environment, known.join(", "));
        }
        let mut all = Vec::new();
        for asset in
            self.manifest.assets.iter().filter(|asset| names.is_empty() || names.contains(&asset.name))
        {
            all.push(match asset.kind {
                AssetKind::Zip => {
                    let (packed, _) = self.program(asset).await?;
                    let path = self.store.path(&packed.file);
                    PackedAsset {
                        name: asset.name.clone(),
                        kind: asset.kind,
                        content: format!("sha256:{}", packed.sha256),
                        bytes: packed.bytes,
                        path,
                        remarks: packed.remarks,
                    }
                }
                AssetKind::Image => match self.architecture(asset) {
                    Some(architecture) => {
                        let (packed, _) = self.program(asset).await?;
                        let image = self.image(asset, &packed, architecture).await?;
                        PackedAsset {
                            name: asset.name.clone(),
                            kind: asset.kind,
                            content: image.digest,
                            bytes: packed.bytes,
                            path: self.store.path(&packed.file),
                            remarks: packed.remarks,
                        }
                    }
                    None => {
                        let path = self.binaries.join(&asset.package);
                        PackedAsset {
                            name: asset.name.clone(),
                            kind: asset.kind,
                            content: self.local_image(asset).await?,
                            bytes: tokio::fs::metadata(&path).await.map_or(0, |file| file.len()),
                            path,
                            remarks: Vec::new(),
                        }
                    }
                },
            });
            self.reporter.settle(LIVE);
        }
        Ok(all)
    }

    /// The image of a local environment: named by the content of the binary that it would hold.
    async fn local_image(&self, asset: &AssetEntry) -> Result<String> {
        let (store, binary) = (self.store.clone(), self.binaries.join(&asset.package));
        let digest = tokio::task::spawn_blocking(move || store.digest_of(&binary)).await??;
        Ok(format!("local/{}@sha256:{digest}", asset.package))
    }

    /// The image of a packed program on the base, which is asked for once and then known.
    async fn image(&self, asset: &AssetEntry, packed: &Packed, architecture: Architecture) -> Result<Image> {
        let name = base_name()?;
        let base = self.public_registry(&name).base(&self.store, &name, architecture).await?;
        let layer = packed.described();
        let image = image::image(&asset.package, &layer, &base.manifest, &base.config, architecture)?;
        let released = self.released.as_ref().and_then(|released| released.get(&asset.name)?.image.as_ref());
        if let Some(released) = released.filter(|released| **released != image.digest) {
            bail!(
                "the image of {} would be {}, the release has {released}: this tool packs otherwise than the one that made the release; deploy it from the release's revision",
                asset.name,
                image.digest
            );
        }
        Ok(image)
    }

    /// Where the base comes from: open to all.
    fn public_registry(&self, name: &str) -> Registry {
        Registry::new(RegistryAuth::Anonymous, self.without_tls(name))
    }

    /// The registry of an image, where it is asked without TLS: on this machine's loopback, and only where AWS
    /// itself is said to be there by `--endpoint-url`.
    fn without_tls(&self, image: &str) -> Vec<String> {
        let registry = image.split('/').next().unwrap_or_default();
        let here = self.endpoint_url.as_deref().is_some_and(is_loopback) && is_loopback(registry);
        here.then(|| registry.to_owned()).into_iter().collect()
    }

    /// Where an image is, after it was pushed if need be.
    async fn published_image(&self, asset: &AssetEntry, known: &Known) -> Result<Fields> {
        let Some(architecture) = self.architecture(asset) else {
            return Ok(BTreeMap::from([("image_uri".to_owned(), self.local_image(asset).await?)]));
        };
        let repository = asset
            .repository
            .as_ref()
            .with_context(|| format!("nothing says which repository the image {} goes to", asset.name))?;
        let repository = resolve(repository, known)?;
        let packed = self.pack(asset).await?;
        let image = self.image(asset, &packed, architecture).await?;
        let without_tls = self.without_tls(&repository);
        let registry = self.registry.get_or_try_init(|| Registry::of_ecr(&self.ecr, without_tls)).await?;
        let file = self.store.path(&packed.file);
        let bytes =
            tokio::fs::read(&file).await.with_context(|| format!("cannot read {}", file.display()))?;
        self.reporter.progress(LIVE, &format!("{}  pushing {:.1} MB", asset.name, megabytes(packed.bytes)));
        let name = base_name()?;
        let from = (&self.public_registry(&name), name.as_str());
        let pushed = registry.push(&repository, &image, (&packed.described(), bytes), from).await?;
        let fields = image_fields(&repository, &image.digest);
        if !pushed.whole {
            let detail = format!(
                "{} blobs sent, {} were there: {repository}@{}",
                pushed.sent, pushed.present, image.digest
            );
            self.reporter.asset(&asset.name, "pushed", &detail);
        }
        self.reporter.settle(LIVE);
        Ok(fields)
    }
}

/// What is known of an image: its name by its content.
fn image_fields(repository: &str, digest: &str) -> Fields {
    BTreeMap::from([("image_uri".to_owned(), format!("{repository}@{digest}"))])
}

/// A place for what is done once for each asset.
fn once<T>(manifest: &Manifest) -> BTreeMap<String, OnceCell<T>> {
    manifest.assets.iter().map(|asset| (asset.name.clone(), OnceCell::new())).collect()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// What came of an asset, to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackedAsset {
    /// The asset.
    pub name: String,
    /// How it is packed.
    pub kind: AssetKind,
    /// By what it is known.
    pub content: String,
    /// Its size.
    pub bytes: u64,
    /// Where it is.
    pub path: PathBuf,
    /// What is to be known of it.
    pub remarks: Vec<String>,
}

impl fmt::Display for PackedAsset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            AssetKind::Zip => "zip",
            AssetKind::Image => "image",
        };
        let (size, path) = (megabytes(self.bytes), self.path.display());
        write!(formatter, "{:<22} {kind:<6} {size:>6.1} MB  {}  {path}", self.name, self.content)?;
        self.remarks.iter().try_for_each(|remark| write!(formatter, "\n  {remark}"))
    }
}

/// What the assets of an environment on AWS run on; `None` for one on this machine.
pub(crate) fn architectures(
    manifest: &Manifest,
    assembly: &Path,
) -> Result<Option<BTreeMap<String, Architecture>>> {
    if manifest.provider == "local" {
        return Ok(None);
    }
    let side = Side::read(assembly)?;
    Ok(Some(of_assets(manifest, &side.templates, &side.files.unwrap_or_default())?))
}

/// The assets that values come from.
fn asked_for(wired: &[ParameterWiring]) -> BTreeSet<&str> {
    wired
        .iter()
        .filter_map(|parameter| match &parameter.source {
            Source::Asset { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

/// The stacks, those first with the longest row of others that wait for one another behind them.
fn most_awaited_first(manifest: &Manifest) -> Vec<&StackEntry> {
    let mut behind: BTreeMap<&str, usize> = BTreeMap::new();
    // Producers come first in a manifest.
    for entry in manifest.stacks.iter().rev() {
        let row = behind.get(entry.id.as_str()).copied().unwrap_or_default() + 1;
        for producer in &entry.depends_on {
            let known = behind.entry(producer).or_default();
            *known = row.max(*known);
        }
    }
    let mut stacks: Vec<&StackEntry> = manifest.stacks.iter().collect();
    stacks.sort_by_key(|entry| Reverse(behind.get(entry.id.as_str()).copied().unwrap_or_default()));
    stacks
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn now() -> DateTime {
    DateTime::from(SystemTime::now())
}

/// The base's whole name, as this machine is told.
pub(crate) fn base_name() -> Result<String> {
    Ok(image::base_name(std::env::var(image::BASE_REGISTRY).ok().as_deref())?)
}

/// What a function's parameters take of where it lies.
fn fields(bucket: &Bucket, key: String) -> Fields {
    BTreeMap::from([("s3_bucket".to_owned(), bucket.name().to_owned()), ("s3_key".to_owned(), key)])
}

#[cfg(test)]
mod tests {
    use cfn::assembly::{Manifest, StackEntry};

    use super::most_awaited_first;

    #[test]
    fn what_a_row_of_stacks_waits_for_is_uploaded_first() {
        let stack = |id: &str, after: &[&str]| StackEntry {
            id: id.to_owned(),
            depends_on: after.iter().map(|id| (*id).to_owned()).collect(),
            ..StackEntry::default()
        };
        let stacks = vec![
            stack("lessons", &[]),
            stack("network", &[]),
            stack("database", &["network"]),
            stack("tags", &["network"]),
            stack("ledger", &["network", "database"]),
        ];
        let manifest = Manifest { stacks, ..Manifest::default() };
        let order: Vec<&str> = most_awaited_first(&manifest).iter().map(|entry| entry.id.as_str()).collect();
        assert_eq!(order, ["network", "database", "lessons", "tags", "ledger"]);
    }
}
