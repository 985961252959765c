//! Makes a release of rendered environments and built binaries.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use cfn::{
    architecture::Architecture,
    assembly::{AssetKind, MANIFEST_FILE, Manifest, PROVENANCE_FILE},
    diff::Side,
};
use oci_client::secrets::RegistryAuth;

use super::{
    bundle::{self, Content},
    index::{ASSEMBLIES, ASSETS, Asset, Contents, Entry, Release, Revision, SCHEMA_VERSION},
};
use crate::{
    assets::{
        image,
        pack::{self, Form, Place},
        publish::{architectures, base_name},
        registry::Registry,
        store::Store,
    },
    report::Reporter,
};

/// What the live line is known by.
const LIVE: &str = "release";

/// An environment that a release is made for.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// Its assembly's directory.
    pub assembly: PathBuf,
    /// Where its binaries are, each by its package's name.
    pub binaries: PathBuf,
}

/// What a release is made from, beside the environments.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The state of the sources.
    pub source: Revision,
    /// The compiler, as it names itself.
    pub compiler: String,
    /// The version of this tool.
    pub tool_version: String,
}

/// A release that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The archive.
    pub file: PathBuf,
    /// Its digest.
    pub digest: String,
    /// The index.
    pub release: Release,
}

/// Packs what the environments need and writes one archive to `out`, named by its digest.
///
/// # Errors
///
/// What is not built, cannot run where it should, or cannot be written.
pub async fn make(
    environments: &[Rendered],
    origin: Origin,
    store: &Store,
    out: &Path,
    reporter: &Reporter,
) -> Result<Made> {
    let mut contents: BTreeMap<String, Content> = BTreeMap::new();
    let mut all = BTreeMap::new();
    for rendered in environments {
        let side = Side::read(&rendered.assembly)?;
        let name = side.manifest.environment.clone();
        for (relative, content) in files(&rendered.assembly, &side)? {
            contents.insert(format!("{ASSEMBLIES}/{name}/{relative}"), Content::Bytes(content));
        }
        let wanted = architectures(&side.manifest, &rendered.assembly)?;
        let mut assets = BTreeMap::new();
        for asset in &side.manifest.assets {
            let architecture =
                wanted.as_ref().map(|wanted| wanted.get(&asset.name).copied().unwrap_or(Architecture::Arm64));
            reporter.progress(LIVE, &format!("{name}: packing {}", asset.name));
            let packed = packed(store, &rendered.binaries, asset.kind, &asset.package, architecture).await?;
            let image = match (asset.kind, architecture) {
                (AssetKind::Image, Some(architecture)) => {
                    let base = Registry::new(RegistryAuth::Anonymous, Vec::new())
                        .base(store, &base_name()?, architecture)
                        .await?;
                    let layer = packed.described();
                    Some(
                        image::image(&asset.package, &layer, &base.manifest, &base.config, architecture)?
                            .digest,
                    )
                }
                _ => None,
            };
            contents.insert(format!("{ASSETS}/{}", packed.file), Content::File(store.path(&packed.file)));
            // Remarks are for whoever packs.
            let packed = pack::Packed { remarks: Vec::new(), ..packed };
            assets.insert(asset.name.clone(), Asset { packed, image });
        }
        let mut programs = BTreeMap::new();
        for package in tried_with(&side.manifest) {
            reporter.progress(LIVE, &format!("{name}: packing {package}"));
            let packed = packed(store, &rendered.binaries, AssetKind::Image, &package, None).await?;
            contents.insert(format!("{ASSETS}/{}", packed.file), Content::File(store.path(&packed.file)));
            programs.insert(package, pack::Packed { remarks: Vec::new(), ..packed });
        }
        let Manifest { provider, region, digest, .. } = side.manifest;
        if all
            .insert(name.clone(), Contents { provider, region, assembly: digest, assets, programs })
            .is_some()
        {
            bail!("the environment {name} is named twice");
        }
    }
    let mut files = BTreeMap::new();
    for (path, content) in &contents {
        let entry = match content {
            Content::Bytes(bytes) => Entry::of(bytes),
            Content::File(file) => {
                Entry::of(&fs::read(file).with_context(|| format!("cannot read {}", file.display()))?)
            }
        };
        files.insert(path.clone(), entry);
    }
    let Origin { source, compiler, tool_version } = origin;
    let release =
        Release { schema_version: SCHEMA_VERSION, tool_version, compiler, source, environments: all, files };
    // What was made is read as it will be.
    let (release, digest) = Release::parse(&release.bytes()?)?;
    let file = out.join(format!("{digest}.tar"));
    reporter.progress(LIVE, "writing");
    bundle::write(&release, &contents, &file)?;
    reporter.settle(LIVE);
    Ok(Made { file, digest, release })
}

/// The files of an assembly that belong to it, by path within it.
fn files(assembly: &Path, side: &Side) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![MANIFEST_FILE.to_owned()];
    names.extend(side.manifest.stacks.iter().map(|stack| stack.template.clone()));
    names.extend(side.files.iter().flat_map(|files| files.keys().cloned()));
    if assembly.join(PROVENANCE_FILE).is_file() {
        names.push(PROVENANCE_FILE.to_owned());
    }
    names
        .into_iter()
        .map(|name| {
            let path = assembly.join(&name);
            let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((name, content))
        })
        .collect()
}

/// The packages that try systems of a local environment and are no assets of it. On AWS nothing is sent unasked.
fn tried_with(manifest: &Manifest) -> BTreeSet<String> {
    let is_asset = |package: &str| {
        manifest.assets.iter().any(|asset| asset.kind == AssetKind::Image && asset.package == package)
    };
    let packages = manifest.trials().map(|(_, load)| load.package.clone());
    packages.filter(|package| manifest.provider == "local" && !is_asset(package)).collect()
}

async fn packed(
    store: &Store,
    binaries: &Path,
    kind: AssetKind,
    package: &str,
    architecture: Option<Architecture>,
) -> Result<pack::Packed> {
    let (store, package, binary) = (store.clone(), package.to_owned(), binaries.join(package));
    let place = architecture.map_or(Place::Here, Place::Aws);
    let form = match kind {
        AssetKind::Zip => Form::Zip,
        AssetKind::Image => Form::Layer,
    };
    let (packed, _) =
        tokio::task::spawn_blocking(move || pack::pack(&store, &package, &binary, place, form)).await??;
    Ok(packed)
}
