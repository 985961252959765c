//! An app: the stacks of one environment, in order, and what runs beside them.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    assembly::{Assembly, AssetKind, Manifest, SCHEMA_VERSION},
    resource::AnyResource,
    stack::{Lookup, Stack, StackProperties},
    synth::{self, SynthError},
    value::Value,
};

/// What all stacks of an app share.
#[derive(Clone, Debug)]
pub struct AppProperties {
    /// The environment's name, such as `dev`.
    pub environment: String,
    /// Who stands behind the endpoints: `aws` or `local`.
    pub provider: String,
    /// The account, 12 digits.
    pub account: String,
    /// The region.
    pub region: String,
    /// What every stack's name begins with.
    pub prefix: String,
    /// Tags of every taggable resource.
    pub tags: BTreeMap<String, String>,
}

impl AppProperties {
    /// The manifest of an app in which there is nothing yet. Its digest is empty, because it is told of what is rendered.
    #[must_use]
    pub fn empty_manifest(&self) -> Manifest {
        Manifest {
            schema_version: SCHEMA_VERSION,
            environment: self.environment.clone(),
            provider: self.provider.clone(),
            account: self.account.clone(),
            region: self.region.clone(),
            prefix: self.prefix.clone(),
            ..Manifest::default()
        }
    }

    /// Properties for AWS, with no tags.
    pub fn new(environment: &str, account: &str, region: &str, prefix: &str) -> Self {
        Self {
            environment: environment.to_owned(),
            provider: "aws".to_owned(),
            account: account.to_owned(),
            region: region.to_owned(),
            prefix: prefix.to_owned(),
            tags: BTreeMap::new(),
        }
    }
}

/// A value that the deploy engine finds out after the stacks are there, for a workload's manifest.
#[derive(Clone, Debug)]
pub enum DeployValue {
    /// An attribute of a resource, or a literal.
    Value(Value<String>),
    /// A fact that CloudFormation cannot tell.
    Lookup(Lookup),
    /// A field of a published asset: `image_uri`, `s3_bucket` or `s3_key`.
    Asset {
        /// The asset's name.
        name: String,
        /// The field.
        field: String,
    },
}

/// A Kubernetes workload: its manifest and what is filled into it.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The system that it belongs to.
    pub system: String,
    /// Its name, as in the manifest.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The manifest: YAML documents with `${{ name }}` where a deploy-time value goes.
    pub manifest: String,
    /// The deploy-time values by name.
    pub values: BTreeMap<String, DeployValue>,
}

/// A Helm release: a chart that others publish, with our values.
#[derive(Clone, Debug)]
pub struct HelmRelease {
    /// The release's name.
    pub name: String,
    /// The chart, as `REPOSITORY/CHART`; the repository by the name that it is customarily added under.
    pub chart: String,
    /// The chart's version.
    pub version: String,
    /// The namespace that it is installed into.
    pub namespace: String,
    /// The values, as YAML.
    pub values: String,
    /// What must be there first, by name: releases, workloads and cluster manifests that were added before.
    pub after: Vec<String>,
}

/// A manifest that is applied to the cluster and is no workload. Only a real cluster gets it: a local environment
/// reads workloads alone.
#[derive(Clone, Debug)]
pub struct ClusterManifest {
    /// Its name.
    pub name: String,
    /// The manifest: YAML documents with `${{ name }}` where a deploy-time value goes.
    pub manifest: String,
    /// The deploy-time values by name.
    pub values: BTreeMap<String, DeployValue>,
    /// What must be there first, by name: releases, workloads and cluster manifests that were added before.
    pub after: Vec<String>,
}

/// What the command line knows of a system: where its work arrives and who does it.
pub type System = crate::assembly::SystemEntry;

/// What the command line knows of a system whose work functions do.
pub type Flow = crate::assembly::FlowEntry;

/// What the command line knows of a system whose work a function does on a stream.
pub type StreamSystem = crate::assembly::StreamEntry;

/// What the command line knows of a system whose workers keep a cache.
pub type CacheSystem = crate::assembly::CacheEntry;

/// A program that makes a system's traffic.
#[derive(Clone, Debug)]
pub struct Load {
    /// The cargo package whose binary it is.
    pub package: String,
    /// Its environment variables by name.
    pub variables: BTreeMap<String, DeployValue>,
    /// Its arguments for a short trial of the system, which it ends with 0 when all came out; none where it cannot know.
    pub trial: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Asset {
    pub(crate) name: String,
    pub(crate) kind: AssetKind,
    pub(crate) package: String,
    pub(crate) repository: Option<DeployValue>,
}

/// The stacks of one environment.
#[derive(Debug)]
pub struct App {
    pub(crate) properties: AppProperties,
    pub(crate) stacks: Vec<Stack>,
    pub(crate) assets: Vec<Asset>,
    /// The stack and its output that is the bucket's name.
    pub(crate) artifact_bucket: Option<(String, String)>,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) helm_releases: Vec<HelmRelease>,
    pub(crate) cluster_manifests: Vec<ClusterManifest>,
    /// Who wants to come after what was not there: (who, what).
    pub(crate) not_before: Vec<(String, String)>,
    pub(crate) systems: BTreeMap<String, System>,
    pub(crate) flows: BTreeMap<String, Flow>,
    pub(crate) streams: BTreeMap<String, StreamSystem>,
    pub(crate) caches: BTreeMap<String, CacheSystem>,
    pub(crate) loads: BTreeMap<String, Load>,
    pub(crate) cluster: Option<DeployValue>,
    pub(crate) dashboards: BTreeMap<String, String>,
}

impl App {
    /// An app without stacks.
    pub fn new(properties: AppProperties) -> Self {
        Self {
            properties,
            stacks: Vec::new(),
            assets: Vec::new(),
            artifact_bucket: None,
            workloads: Vec::new(),
            helm_releases: Vec::new(),
            cluster_manifests: Vec::new(),
            not_before: Vec::new(),
            systems: BTreeMap::new(),
            flows: BTreeMap::new(),
            streams: BTreeMap::new(),
            caches: BTreeMap::new(),
            loads: BTreeMap::new(),
            cluster: None,
            dashboards: BTreeMap::new(),
        }
    }

    /// What all stacks share.
    pub fn properties(&self) -> &AppProperties {
        &self.properties
    }

    /// Begins a stack. The order of beginning is the order of deploying.
    ///
    /// One stack at a time can be worked on, and a handle is there only once its resource is: so a stack refers
    /// to itself and to earlier stacks, and the wrong direction cannot be written.
    pub fn stack(&mut self, id: &str, properties: StackProperties) -> &mut Stack {
        let name = format!("{}-{id}", self.properties.prefix);
        self.stacks.push_mut(Stack::new(id, name, properties))
    }

    /// A stack that was begun before, by its id: to give it what a later one has made, where that one is deployed first.
    /// A circle of references fails the synthesis.
    pub fn reopen(&mut self, id: &str) -> Option<&mut Stack> {
        self.stacks.iter_mut().find(|stack| &*stack.id == id)
    }

    /// Moves a stack to the front of the order of deploying: for one that is rendered from what the others hold, and
    /// that they need. A reference from it to another stack then fails the synthesis.
    pub fn deploy_first(&mut self, id: &str) {
        if let Some(position) = self.stacks.iter().position(|stack| &*stack.id == id) {
            self.stacks[..=position].rotate_right(1);
        }
    }

    /// Names the bucket that zips and large templates are published to: `output` of `stack` is its name. Stacks that
    /// need it are deployed after that stack.
    pub fn artifact_bucket(&mut self, stack: &str, output: &str) {
        self.artifact_bucket = Some((stack.to_owned(), output.to_owned()));
    }

    /// The resource types of the stacks that were added so far.
    #[must_use]
    pub fn resource_types(&self) -> BTreeSet<&'static str> {
        self.stacks
            .iter()
            .flat_map(|stack| stack.nodes.iter().map(|node| node.resource.resource_type()))
            .collect()
    }

    /// Visits every resource of every stack that was added so far, with its construct path: to set what all of
    /// a kind must have.
    pub fn visit(&mut self, mut visitor: impl FnMut(&str, &mut dyn AnyResource)) {
        for stack in &mut self.stacks {
            stack.visit(&mut visitor);
        }
    }

    /// Adds something that is built and published before the stacks that use it: `package` is the cargo
    /// package whose binary it holds, `repository` the registry repository of an image.
    pub fn asset(&mut self, name: &str, kind: AssetKind, package: &str, repository: Option<DeployValue>) {
        self.assets.push(Asset { name: name.to_owned(), kind, package: package.to_owned(), repository });
    }

    /// Adds a workload.
    pub fn workload(&mut self, workload: Workload) {
        self.workloads.push(workload);
    }

    /// Adds a Helm release. The order of adding is the order of installing.
    pub fn helm_release(&mut self, release: HelmRelease) {
        self.note_missing(&release.name, &release.after);
        self.helm_releases.push(release);
    }

    /// Adds a manifest that is no workload. The order of adding is the order of applying.
    pub fn cluster_manifest(&mut self, manifest: ClusterManifest) {
        self.note_missing(&manifest.name, &manifest.after);
        self.cluster_manifests.push(manifest);
    }

    fn note_missing(&mut self, who: &str, after: &[String]) {
        let known: BTreeSet<&String> = self
            .workloads
            .iter()
            .map(|workload| &workload.name)
            .chain(self.helm_releases.iter().map(|release| &release.name))
            .chain(self.cluster_manifests.iter().map(|manifest| &manifest.name))
            .collect();
        let missing: Vec<_> = after.iter().filter(|name| !known.contains(name)).cloned().collect();
        self.not_before.extend(missing.into_iter().map(|name| (who.to_owned(), name)));
    }

    /// Names the Kubernetes cluster on which the workloads run.
    pub fn cluster(&mut self, name: DeployValue) {
        self.cluster = Some(name);
    }

    /// Describes a system.
    pub fn system(&mut self, name: &str, system: System) {
        self.systems.insert(name.to_owned(), system);
    }

    /// Describes a system whose work functions do.
    pub fn flow(&mut self, name: &str, flow: Flow) {
        self.flows.insert(name.to_owned(), flow);
    }

    /// Describes a system whose work a function does on a stream.
    pub fn stream_system(&mut self, name: &str, system: StreamSystem) {
        self.streams.insert(name.to_owned(), system);
    }

    /// Describes a system whose workers keep a cache.
    pub fn cache_system(&mut self, name: &str, system: CacheSystem) {
        self.caches.insert(name.to_owned(), system);
    }

    /// Says what makes a system's traffic.
    pub fn load(&mut self, system: &str, load: Load) {
        self.loads.insert(system.to_owned(), load);
    }

    /// Adds a dashboard file.
    pub fn dashboard(&mut self, file: &str, text: String) {
        self.dashboards.insert(file.to_owned(), text);
    }

    /// Renders everything.
    ///
    /// # Errors
    ///
    /// All that is wrong in the construct tree: names used twice, references to a stack that comes later or
    /// is not there, handles used in the wrong stack.
    pub fn synth(self) -> Result<Assembly, SynthError> {
        synth::synth(self)
    }
}
