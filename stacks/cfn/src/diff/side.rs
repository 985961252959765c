//! One side of a comparison.

use std::{collections::BTreeMap, fs, path::Path};

use crate::{
    assembly::{Assembly, Manifest, ManifestError, TEXT_FOLDERS},
    value::Json,
};

/// What is compared: an assembly, rendered, read, or as it is deployed.
#[derive(Clone, Debug)]
pub struct Side {
    /// Its manifest.
    pub manifest: Manifest,
    /// The templates by stack id.
    pub templates: BTreeMap<String, Json>,
    /// What is outside the stacks: text files by path, and whether workloads, assets and systems of the manifest
    /// are known. `None` where nobody can tell, as of what is deployed; then only stacks are compared.
    pub files: Option<BTreeMap<String, String>>,
}

impl From<Assembly> for Side {
    fn from(assembly: Assembly) -> Self {
        Self { manifest: assembly.manifest, templates: assembly.templates, files: Some(assembly.files) }
    }
}

impl Side {
    /// Reads an assembly's directory.
    ///
    /// # Errors
    ///
    /// When the manifest or a file that it names cannot be read.
    pub fn read(directory: &Path) -> Result<Self, ManifestError> {
        let manifest = Manifest::read(directory)?;
        let text = |relative: &str| {
            let path = directory.join(relative);
            fs::read_to_string(&path).map_err(|source| ManifestError::Unreadable { path, source })
        };
        let mut templates = BTreeMap::new();
        for stack in &manifest.stacks {
            let template = serde_json::from_str(&text(&stack.template)?).map_err(|source| {
                ManifestError::Malformed { path: directory.join(&stack.template), source }
            })?;
            templates.insert(stack.id.clone(), template);
        }
        let mut files = BTreeMap::new();
        for (folder, suffix) in TEXT_FOLDERS {
            let Ok(entries) = fs::read_dir(directory.join(folder)) else { continue };
            for name in entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()) {
                if name.ends_with(suffix) {
                    let relative = format!("{folder}/{name}");
                    let content = text(&relative)?;
                    files.insert(relative, content);
                }
            }
        }
        Ok(Self { manifest, templates, files: Some(files) })
    }

    /// The resource of a stack.
    pub(super) fn resource(&self, stack: &str, logical_id: &str) -> Option<&Json> {
        self.templates.get(stack)?.get("Resources")?.get(logical_id)
    }

    /// The resources of a stack.
    pub(super) fn resources(&self, stack: &str) -> impl Iterator<Item = (&String, &Json)> {
        self.templates
            .get(stack)
            .and_then(|template| template.get("Resources"))
            .and_then(Json::as_object)
            .into_iter()
            .flatten()
    }
}

pub(super) fn kind(resource: &Json) -> &str {
    resource.get("Type").and_then(Json::as_str).unwrap_or_default()
}

pub(super) fn properties(resource: &Json) -> &Json {
    resource.get("Properties").unwrap_or(&Json::Null)
}
