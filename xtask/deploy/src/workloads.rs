//! Workloads: their manifests with every deploy-time value filled in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use cfn::assembly::Manifest;

use crate::wiring::{Known, fill, resolve_all};

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
