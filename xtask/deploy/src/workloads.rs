//! Workloads: their images, and their manifests with every deploy-time value filled in.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use cfn::assembly::{Manifest, sha256_hex};

use crate::wiring::{Known, fill, resolve_all};

/// The images of a local environment: named by the content of the binary that they would hold.
///
/// # Errors
///
/// When a binary is not there.
pub fn local_images(
    manifest: &Manifest,
    binaries: &Path,
) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    manifest
        .assets
        .iter()
        .map(|asset| {
            let path = binaries.join(&asset.package);
            let bytes = fs::read(&path)
                .with_context(|| format!("cannot read {}; `cargo xtask build` makes it", path.display()))?;
            let image = format!("local/{}@sha256:{}", asset.package, sha256_hex(&bytes));
            Ok((asset.name.clone(), BTreeMap::from([("image_uri".to_owned(), image)])))
        })
        .collect()
}

/// Writes the filled manifests to `resolved/` below the assembly and gives that directory.
///
/// # Errors
///
/// When a value is not to be had or a file cannot be written.
pub fn write_resolved(manifest: &Manifest, assembly: &Path, known: &Known) -> Result<PathBuf> {
    let directory = assembly.join("resolved");
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for workload in &manifest.workloads {
        let source = assembly.join(&workload.manifest);
        let text =
            fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
        let filled = fill(&workload.name, &text, &resolve_all(&workload.values, known)?)?;
        let path = directory.join(format!("{}.yaml", workload.name));
        fs::write(&path, filled)
            .with_context(|| format!("cannot write {} (is the disk full?)", path.display()))?;
    }
    Ok(directory)
}
