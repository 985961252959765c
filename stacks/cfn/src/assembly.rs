//! The rendered app: templates, manifests and the manifest that wires them together.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    app::AppProperties,
    canonical::{to_canonical_bytes, to_canonical_string},
    stack::Provenance,
    value::Json,
};

/// The version of the manifest's format that this crate writes and reads. A list that may be absent does not raise
/// it: what was written before still reads, and means the same.
pub const SCHEMA_VERSION: u32 = 1;

/// Where an assembly's text files are, and what their names end with.
pub(crate) const TEXT_FOLDERS: [(&str, &str); 3] =
    [("kubernetes", ".yaml"), ("kubernetes/helm", ".yaml"), ("dashboards", ".json")];

/// CloudFormation takes a template of at most this many bytes within a request; a larger one it reads from a bucket.
pub const INLINE_TEMPLATE_BYTES_MAX: usize = 51_200;

/// The file that says where in Rust each resource is declared: stack id -> logical id -> `file:line`. It is beside the
/// templates and not of the digest, because a moved line changes nothing that is deployed.
pub const PROVENANCE_FILE: &str = "provenance.json";

/// The manifest's file name in an assembly's directory.
pub const MANIFEST_FILE: &str = "manifest.json";

/// What an assembly holds and how its parts hang together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The environment's name.
    pub environment: String,
    /// `aws` or `local`.
    pub provider: String,
    /// The account, 12 digits.
    pub account: String,
    /// The region.
    pub region: String,
    /// What every stack's name begins with.
    pub prefix: String,
    /// SHA-256 over everything else in the assembly.
    pub digest: String,
    /// The stacks, producers before consumers.
    pub stacks: Vec<StackEntry>,
    /// What is built and published.
    pub assets: Vec<AssetEntry>,
    /// The name of the bucket that zips and large templates are published to, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_bucket: Option<Source>,
    /// What runs in the cluster.
    pub workloads: Vec<WorkloadEntry>,
    /// What others publish and the cluster gets installed, in the order of installing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub helm_releases: Vec<HelmReleaseEntry>,
    /// What is applied to the cluster beside the workloads, in the order of applying.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_manifests: Vec<ClusterManifestEntry>,
    /// The cluster's name, when there is one.
    pub cluster: Option<Source>,
    /// The systems by name.
    pub systems: BTreeMap<String, SystemEntry>,
    /// The systems whose work functions do, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flows: BTreeMap<String, FlowEntry>,
    /// The systems whose work a function does on a stream, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub streams: BTreeMap<String, StreamEntry>,
    /// The systems whose workers keep a cache, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub caches: BTreeMap<String, CacheEntry>,
    /// What makes a system's traffic, by the system's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub loads: BTreeMap<String, LoadEntry>,
}

impl Manifest {
    /// The programs that try, in a moment, whether a system works; by system.
    pub fn trials(&self) -> impl Iterator<Item = (&String, &LoadEntry)> {
        self.loads.iter().filter(|(_, load)| !load.trial.is_empty())
    }

    /// Reads the manifest of an assembly directory.
    ///
    /// # Errors
    ///
    /// When the file is absent, does not parse, or has another schema version.
    pub fn read(directory: &Path) -> Result<Self, ManifestError> {
        let path = directory.join(MANIFEST_FILE);
        let text = fs::read_to_string(&path)
            .map_err(|source| ManifestError::Unreadable { path: path.clone(), source })?;
        let json: Json = serde_json::from_str(&text)
            .map_err(|source| ManifestError::Malformed { path: path.clone(), source })?;
        let found = json.get("schema_version").and_then(Json::as_u64);
        if found != Some(u64::from(SCHEMA_VERSION)) {
            return Err(ManifestError::OtherVersion { path, found });
        }
        serde_json::from_value(json).map_err(|source| ManifestError::Malformed { path, source })
    }

    /// That of the same environment with nothing in it.
    #[must_use]
    pub fn emptied(&self) -> Self {
        let properties = AppProperties {
            environment: self.environment.clone(),
            provider: self.provider.clone(),
            account: self.account.clone(),
            region: self.region.clone(),
            prefix: self.prefix.clone(),
            tags: BTreeMap::new(),
        };
        properties.empty_manifest()
    }

    /// The stack with that id.
    pub fn stack(&self, id: &str) -> Option<&StackEntry> {
        self.stacks.iter().find(|stack| stack.id == id)
    }

    /// The stack that somebody asks for by its id.
    ///
    /// # Errors
    ///
    /// When there is none, with those that there are.
    pub fn stack_named(&self, id: &str) -> Result<&StackEntry, UnknownStacks> {
        self.stack(id).ok_or_else(|| self.without([id]))
    }

    /// Whether there are all stacks that somebody asks for by their ids.
    ///
    /// # Errors
    ///
    /// Those that there are not, with those that there are.
    pub fn check_named(&self, ids: &[String]) -> Result<(), UnknownStacks> {
        let unknown = self.without(ids.iter().map(String::as_str).filter(|id| self.stack(id).is_none()));
        if unknown.unknown.is_empty() { Ok(()) } else { Err(unknown) }
    }

    fn without<'a>(&self, unknown: impl IntoIterator<Item = &'a str>) -> UnknownStacks {
        UnknownStacks {
            unknown: unknown.into_iter().map(str::to_owned).collect(),
            all: self.stacks.iter().map(|stack| stack.id.clone()).collect(),
        }
    }
}

/// Stacks that are asked for and that there are not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no stack {}; there are: {}", unknown.join(", "), all.join(", "))]
pub struct UnknownStacks {
    /// What is asked for, by id.
    pub unknown: Vec<String>,
    /// What there is, by id.
    pub all: Vec<String>,
}

/// Why a manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be opened.
    #[error("cannot read {path}: {source}; render the environment first with `cargo xtask synth`", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not a manifest.
    #[error("{path} is not an assembly manifest: {source}; render it again with `cargo xtask synth`", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where parsing stopped.
        source: serde_json::Error,
    },
    /// The file was written by another version.
    #[error(
        "{path} has schema version {found:?}, this program reads {SCHEMA_VERSION}; render it again with `cargo xtask synth`",
        path = path.display()
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: Option<u64>,
    },
}

/// One stack of an assembly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StackEntry {
    /// Its id in the app.
    pub id: String,
    /// Its name in CloudFormation.
    pub name: String,
    /// The template's file, relative to the assembly.
    pub template: String,
    /// SHA-256 of the template, keys sorted, without white space.
    pub template_sha256: String,
    /// The ids of the stacks that come before it.
    pub depends_on: Vec<String>,
    /// What CloudFormation must be told to accept.
    pub capabilities: Vec<String>,
    /// Whether the stack is protected against deletion.
    pub termination_protection: bool,
    /// The stack's tags.
    pub tags: BTreeMap<String, String>,
    /// Where the values of its parameters come from. A parameter with a default may be absent here.
    pub parameters: Vec<ParameterWiring>,
    /// What is invoked each time the stack has been deployed, before the stacks that depend on it, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invocations: Vec<Invocation>,
}

/// A function that is invoked when its stack has been deployed. It is invoked on every deployment, so it must
/// find out by itself what there is left to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invocation {
    /// The stack's output that holds the function's name.
    pub output: String,
}

/// A parameter and where its value comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParameterWiring {
    /// The parameter's name.
    pub name: String,
    /// Where its value comes from.
    pub source: Source,
}

/// Where a deploy-time value comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Known when rendered.
    Literal(String),
    /// An output of an earlier stack.
    Output {
        /// That stack's id.
        stack: String,
        /// The output's name.
        output: String,
    },
    /// Looked up through the SDK.
    Lookup(LookupSource),
    /// A field of a published asset.
    Asset {
        /// The asset's name.
        name: String,
        /// `image_uri`, `s3_bucket` or `s3_key`.
        field: String,
    },
}

impl Source {
    pub(crate) fn asset(name: &str, field: &str) -> Self {
        Source::Asset { name: name.to_owned(), field: field.to_owned() }
    }
}

/// What is looked up through the SDK.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LookupSource {
    /// `kafka:GetBootstrapBrokers`.
    MskBootstrapBrokers {
        /// `iam`, `tls` or `plaintext`.
        authentication: String,
        /// The cluster's ARN.
        cluster_arn: Box<Source>,
    },
    /// The host name of a broker, as `kafka:ListNodes` tells it.
    MskBrokerHost {
        /// The broker's id, from 1.
        broker: u32,
        /// The cluster's ARN.
        cluster_arn: Box<Source>,
    },
}

/// How an asset is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AssetKind {
    /// A container image.
    Image,
    /// A Lambda zip.
    Zip,
}

/// Something that is built and published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssetEntry {
    /// Its name.
    pub name: String,
    /// How it is packed.
    pub kind: AssetKind,
    /// The cargo package whose binary it holds.
    pub package: String,
    /// The repository that an image goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Source>,
}

/// A workload of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadEntry {
    /// The system that it belongs to.
    pub system: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The manifest's file, relative to the assembly.
    pub manifest: String,
    /// What is filled in for `${{ name }}`.
    pub values: Vec<ParameterWiring>,
}

/// A Helm release of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HelmReleaseEntry {
    /// The release's name.
    pub name: String,
    /// The chart, as `REPOSITORY/CHART`; the repository by the name that it is customarily added under.
    pub chart: String,
    /// The chart's version.
    pub version: String,
    /// The namespace that it is installed into.
    pub namespace: String,
    /// The values' file, relative to the assembly.
    pub values: String,
    /// The releases, workloads and cluster manifests that must be there first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
}

/// A manifest that is no workload: what makes workloads scale and be watched, or belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterManifestEntry {
    /// Its name.
    pub name: String,
    /// The manifest's file, relative to the assembly.
    pub manifest: String,
    /// The releases, workloads and cluster manifests that must be there first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// What is filled in for `${{ name }}`.
    pub values: Vec<ParameterWiring>,
}

/// Where a system's work arrives and who does it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SystemEntry {
    /// The topic that is consumed.
    pub topic: String,
    /// Where its dead letters go.
    pub dead_letter_topic: String,
    /// The group that consumes it.
    pub consumer_group: String,
    /// How many partitions the topic has.
    pub partitions: u32,
    /// The workload that produces.
    pub producer: String,
    /// The workload that consumes.
    pub consumer: String,
}

/// A system whose work functions do, one after the other, slowed down by a mode that alarms make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowEntry {
    /// The id of its stack.
    pub stack: String,
    /// The functions, in the order in which a record comes by.
    pub stages: Vec<StageEntry>,
    /// The name of the parameter that holds the mode.
    pub mode_parameter: String,
    /// The alarms that make the mode, by logical id.
    pub alarms: Vec<String>,
}

/// A function that a topic's records come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageEntry {
    /// The function, by logical id.
    pub function: String,
    /// The topic.
    pub topic: String,
    /// The group that commits what is done.
    pub consumer_group: String,
    /// How many partitions the topic has.
    pub partitions: u32,
}

/// A system whose work a function does on a stream. All but the stack is named by logical id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamEntry {
    /// The id of its stack.
    pub stack: String,
    /// The stream that its events come in at.
    pub stream: String,
    /// The function that does the work.
    pub function: String,
    /// What brings the stream's records to the function.
    pub event_source: String,
    /// The queue of batches that were given up.
    pub dead_letters: String,
}

/// A system whose workers bring a topic's records to a cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// The id of its stack.
    pub stack: String,
    /// The name of the Kafka cluster.
    pub kafka_cluster: String,
    /// The topic.
    pub topic: String,
    /// How many partitions the topic has.
    pub partitions: u32,
    /// Where its dead letters go.
    pub dead_letter_topic: String,
    /// The workers' group.
    pub consumer_group: String,
    /// The workload that does the work.
    pub worker: String,
    /// The workload's namespace.
    pub namespace: String,
    /// The name of the cache.
    pub cache: String,
}

/// A program that makes a system's traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadEntry {
    /// The cargo package whose binary it is.
    pub package: String,
    /// Its environment variables.
    pub variables: Vec<ParameterWiring>,
    /// What it is asked for to try, in a moment, whether the system works: it then ends with 0 when all that it sent came
    /// out where it was to. Nothing where it cannot know that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trial: Vec<String>,
}

/// A rendered app, in memory.
#[derive(Clone, Debug)]
pub struct Assembly {
    /// The manifest.
    pub manifest: Manifest,
    /// The templates by stack id.
    pub templates: BTreeMap<String, Json>,
    /// Text files (Kubernetes manifests, dashboards) by path relative to the assembly.
    pub files: BTreeMap<String, String>,
    /// Where each resource comes from, in the order of declaration.
    pub provenance: Vec<Provenance>,
}

impl Assembly {
    /// The template of a stack.
    pub fn template(&self, stack_id: &str) -> Option<&Json> {
        self.templates.get(stack_id)
    }

    /// Writes the assembly below a directory, the manifest last, and removes what an earlier rendering left
    /// there.
    ///
    /// # Errors
    ///
    /// What the file system says, with the path.
    pub fn write(&self, directory: &Path) -> Result<(), WriteError> {
        let write = |relative: &str, text: &str| -> Result<(), WriteError> {
            let path = directory.join(relative);
            let attempt = || -> io::Result<()> {
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent)?;
                }
                if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
                    return Ok(());
                }
                let partial = path.with_extension("partial");
                fs::write(&partial, text)?;
                fs::rename(&partial, &path)
            };
            attempt().map_err(|source| WriteError { path: path.clone(), source })
        };
        let mut kept = vec![MANIFEST_FILE.to_owned()];
        for stack in &self.manifest.stacks {
            if let Some(template) = self.templates.get(&stack.id) {
                write(&stack.template, &to_canonical_string(template))?;
                kept.push(stack.template.clone());
            }
        }
        for (path, text) in &self.files {
            write(path, text)?;
            kept.push(path.clone());
        }
        let mut sources: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
        for resource in &self.provenance {
            sources.entry(&resource.stack).or_default().insert(&resource.logical_id, &resource.source);
        }
        if let Ok(sources) = serde_json::to_value(&sources) {
            write(PROVENANCE_FILE, &to_canonical_string(&sources))?;
        }
        remove_stale(directory, &kept).map_err(|source| WriteError { path: directory.to_owned(), source })?;
        let manifest = serde_json::to_value(&self.manifest).map_err(|error| WriteError {
            path: directory.join(MANIFEST_FILE),
            source: io::Error::other(error),
        })?;
        write(MANIFEST_FILE, &to_canonical_string(&manifest))
    }
}

/// Files of an earlier rendering that this one does not have. Only what a rendering writes is touched.
fn remove_stale(directory: &Path, kept: &[String]) -> io::Result<()> {
    for (folder, suffix) in std::iter::once(("", ".template.json")).chain(TEXT_FOLDERS) {
        let Ok(entries) = fs::read_dir(directory.join(folder)) else { continue };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let relative = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if name.ends_with(suffix) && !kept.contains(&relative) {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// An assembly's file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}", path = path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// SHA-256 as lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash by which a template is known: of its bytes without white space, keys sorted.
pub fn template_sha256(template: &Json) -> String {
    sha256_hex(&to_canonical_bytes(template))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_that_there_are_not_are_told_with_those_that_there_are() {
        let entry = |id: &str| StackEntry { id: id.to_owned(), ..StackEntry::default() };
        let manifest = Manifest {
            stacks: ["network", "kafka"].map(entry).into(),
            ..AppProperties::new("dev", "111111111111", "eu-west-1", "fg").empty_manifest()
        };
        assert!(manifest.check_named(&[]).is_ok() && manifest.check_named(&["kafka".to_owned()]).is_ok());
        assert_eq!(manifest.stack_named("kafka").map(|entry| entry.id.as_str()), Ok("kafka"));
        let ids = ["kafak", "kafka", "netwrok"].map(str::to_owned);
        let error = manifest.check_named(&ids).expect_err("two are wrong").to_string();
        assert_eq!(error, "there is no stack kafak, netwrok; there are: network, kafka");
    }
}
