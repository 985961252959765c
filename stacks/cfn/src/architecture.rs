//! Which processor an asset's binary must be built for: what its function or pod asks for.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    assembly::{AssetKind, Manifest, Source},
    value::Json,
};

/// A processor architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Architecture {
    /// 64-bit Arm, such as Graviton.
    #[serde(rename = "arm64")]
    Arm64,
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
}

impl Architecture {
    /// As Lambda's `Architectures` spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Architecture::Arm64 => "arm64",
            Architecture::X86_64 => "x86_64",
        }
    }

    /// As images and Kubernetes spell it.
    #[must_use]
    pub fn in_images(self) -> &'static str {
        match self {
            Architecture::Arm64 => "arm64",
            Architecture::X86_64 => "amd64",
        }
    }

    /// The Rust target with glibc.
    #[must_use]
    pub fn rust_target(self) -> &'static str {
        match self {
            Architecture::Arm64 => "aarch64-unknown-linux-gnu",
            Architecture::X86_64 => "x86_64-unknown-linux-gnu",
        }
    }

    /// By any of its customary names.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "arm64" | "aarch64" => Some(Architecture::Arm64),
            "x86_64" | "amd64" => Some(Architecture::X86_64),
            _ => None,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// An asset that two users want for different processors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the asset `{asset}` is wanted for {first} and for {second}; give its functions and pods one architecture, or make two assets"
)]
pub struct TwoArchitectures {
    /// The asset.
    pub asset: String,
    /// What one wants.
    pub first: Architecture,
    /// What the other wants.
    pub second: Architecture,
}

/// What each asset is wanted for. Lambda's functions say it (x86_64 where they do not), and so do pods by a node
/// selector; pods without one get amd64 nodes, which is what the pool of EKS Auto Mode for general purposes has.
///
/// # Errors
///
/// When an asset is wanted for two.
pub fn of_assets(
    manifest: &Manifest,
    templates: &BTreeMap<String, Json>,
    files: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Architecture>, TwoArchitectures> {
    let mut found: BTreeMap<String, Architecture> = BTreeMap::new();
    let mut wanted =
        |asset: &str, architecture: Architecture| match found.insert(asset.to_owned(), architecture) {
            Some(other) if other != architecture => {
                Err(TwoArchitectures { asset: asset.to_owned(), first: other, second: architecture })
            }
            _ => Ok(()),
        };
    for stack in &manifest.stacks {
        let resources = templates
            .get(&stack.id)
            .and_then(|template| template.get("Resources")?.as_object())
            .into_iter()
            .flat_map(|resources| resources.values());
        for properties in resources.filter_map(|resource| resource.get("Properties")) {
            let Some(key) = properties.pointer("/Code/S3Key/Ref").and_then(Json::as_str) else { continue };
            let parameter = stack.parameters.iter().find(|parameter| parameter.name == key);
            if let Some(Source::Asset { name, .. }) = parameter.map(|parameter| &parameter.source) {
                let architecture = properties.pointer("/Architectures/0").and_then(Json::as_str);
                let architecture = architecture.and_then(Architecture::named);
                wanted(name, architecture.unwrap_or(Architecture::X86_64))?;
            }
        }
    }
    for workload in &manifest.workloads {
        let text = files.get(&workload.manifest).map(String::as_str).unwrap_or_default();
        let selected = text
            .split_once("kubernetes.io/arch:")
            .and_then(|(_, rest)| rest.lines().next())
            .and_then(|value| Architecture::named(value.trim().trim_matches(['"', '\''])));
        for value in &workload.values {
            if let Source::Asset { name, .. } = &value.source {
                wanted(name, selected.unwrap_or(Architecture::X86_64))?;
            }
        }
    }
    // What nobody uses yet is built as the usual of its kind.
    for asset in &manifest.assets {
        found.entry(asset.name.clone()).or_insert(match asset.kind {
            AssetKind::Zip => Architecture::Arm64,
            AssetKind::Image => Architecture::X86_64,
        });
    }
    Ok(found)
}
