//! An environment: one TOML file with everything that differs between environments.

use std::path::{Path, PathBuf};

use constructs::DataPolicy;
use serde::Deserialize;

mod bounds;
mod systems;

pub use systems::{
    Cache, Database, Ledger, LedgerOverride, Lessons, LessonsOverride, ScalingTarget, Tags, TagsOverride,
    Trades, TradesOverride, TradesScaling,
};

/// Where the environments' files are, relative to the workspace.
pub const DIRECTORY: &str = "environments";

/// Who stands behind the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// AWS.
    Aws,
    /// This machine.
    Local,
}

impl Provider {
    /// As the manifest spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Provider::Aws => "aws",
            Provider::Local => "local",
        }
    }
}

/// Whether an environment's data is worth more than the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Data {
    /// It goes with the environment.
    Disposable,
    /// It is kept, and stacks are protected against deletion.
    Kept,
}

/// A system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// MSK to microbatch consumers on EKS.
    Trades,
    /// MSK to Lambda writers to RDS Proxy.
    Ledger,
    /// Kinesis to Lambda to DynamoDB to Kinesis.
    Lessons,
    /// MSK to MemoryDB.
    Tags,
}

/// How releases get in.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// The repository at GitHub whose workflows may deploy, as `OWNER/NAME`.
    #[serde(default)]
    pub github_repository: Option<String>,
    /// The project at GitLab whose pipelines may deploy, as `GROUP/NAME`.
    #[serde(default)]
    pub gitlab_project: Option<String>,
    /// The environment that releases go to from here; without it they end here.
    #[serde(default)]
    pub promotes_to: Option<String>,
    /// How long a release must have run here without an alarm before it goes on; [`BAKE_MINUTES`] where nothing is said.
    #[serde(default)]
    pub bake_minutes: Option<u32>,
}

/// How long a release must have run in an environment that does not say so, in minutes.
pub const BAKE_MINUTES: u32 = 10;

impl Delivery {
    /// How long a release must have run here before it goes on, in minutes.
    #[must_use]
    pub fn bake(&self) -> u32 {
        self.bake_minutes.unwrap_or(BAKE_MINUTES)
    }
}

/// An environment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// The file's name without its ending.
    #[serde(skip)]
    pub name: String,
    /// Who stands behind the endpoints.
    pub provider: Provider,
    /// The account, 12 digits.
    pub account: String,
    /// The region.
    pub region: String,
    /// What every stack's name begins with.
    pub prefix: String,
    /// What its data is worth.
    pub data: Data,
    /// Days that logs are kept.
    pub log_retention_days: u32,
    /// The policy that bounds what every role of the environment may do, where the account asks for one.
    #[serde(default)]
    pub permissions_boundary_arn: Option<String>,
    /// The systems that it has.
    pub systems: Vec<System>,
    /// Who brings releases in; without it the environment is deployed from wherever one signs in, and has no roles
    /// for it.
    #[serde(default)]
    pub delivery: Option<Delivery>,
    /// The network.
    pub network: Network,
    /// The Kafka cluster.
    pub kafka: Kafka,
    /// The Kubernetes cluster.
    pub cluster: Cluster,
    /// The trades system.
    pub trades: Trades,
    /// The ledger system.
    pub ledger: Ledger,
    /// The lessons system.
    pub lessons: Lessons,
    /// The tags system.
    pub tags: Tags,
    /// The ledger's database.
    pub database: Database,
    /// The tags' cache.
    pub cache: Cache,
}

/// The network.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The VPC's block: /16 to /20.
    pub cidr: String,
    /// 2 or 3.
    pub zones: u32,
    /// A NAT gateway in each zone instead of one for all.
    pub nat_gateway_per_zone: bool,
    /// Interface endpoints, by service.
    #[serde(default)]
    pub interface_endpoints: Vec<String>,
}

/// The Kafka cluster.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// A KRaft version as MSK spells it.
    pub version: String,
    /// Such as `kafka.m7g.large`.
    pub instance_type: String,
    /// Brokers in each zone.
    pub brokers_per_zone: u32,
    /// Overrides the derived volume, in GiB a broker.
    #[serde(default)]
    pub volume_gib: Option<u32>,
    /// Overrides the replicas of a partition, which are else as many as zones.
    #[serde(default)]
    pub replication_factor: Option<u32>,
}

/// The Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The Kubernetes version.
    pub version: String,
    /// Blocks from which the API may be reached over the internet.
    #[serde(default)]
    pub public_access_cidrs: Vec<String>,
    /// Roles that administer the cluster.
    #[serde(default)]
    pub admin_role_arns: Vec<String>,
}

/// Why an environment cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// There is no file of that name.
    #[error("there is no environment `{name}`{nearest}; there are: {known}", nearest = suggestion(nearest.as_deref()), known = known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// The known name that is most like it.
        nearest: Option<String>,
        /// All names.
        known: Vec<String>,
    },
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file says something that cannot be.
    #[error("{file}:{line}: {message}")]
    Invalid {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong and what would be right.
        message: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!(" (did you mean `{nearest}`?)")).unwrap_or_default()
}

impl Environment {
    /// The names of all environments, sorted.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn names(workspace: &Path) -> Result<Vec<String>, EnvironmentError> {
        let directory = workspace.join(DIRECTORY);
        let unreadable = |source| EnvironmentError::Unreadable { path: directory.clone(), source };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == "toml")
                && path.file_name().is_some_and(|name| name != "Cargo.toml")
                && let Some(stem) = path.file_stem()
            {
                names.push(stem.to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Reads an environment by name.
    ///
    /// # Errors
    ///
    /// When there is none of that name, or its file says something that cannot be.
    pub fn load(workspace: &Path, name: &str) -> Result<Self, EnvironmentError> {
        let known = Self::names(workspace)?;
        if !known.iter().any(|known| known == name) {
            let nearest = nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
            return Err(EnvironmentError::Unknown { name: name.to_owned(), nearest, known });
        }
        let file = format!("{DIRECTORY}/{name}.toml");
        let path = workspace.join(&file);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| EnvironmentError::Unreadable { path: path.clone(), source })?;
        Self::parse(name, &file, &text)
    }

    /// Reads an environment from text; `file` is for messages.
    ///
    /// # Errors
    ///
    /// When it says something that cannot be.
    pub fn parse(name: &str, file: &str, text: &str) -> Result<Self, EnvironmentError> {
        let invalid = |line, message| EnvironmentError::Invalid { file: file.to_owned(), line, message };
        let mut environment: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_at(text, span.start));
            invalid(line, explain(error.message()))
        })?;
        environment.name = name.to_owned();
        match bounds::complaint(&environment) {
            Some((key, message)) => Err(invalid(line_of_key(text, key), format!("{key}: {message}"))),
            None => Ok(environment),
        }
    }

    /// Whether it has a system.
    #[must_use]
    pub fn has(&self, system: System) -> bool {
        self.systems.contains(&system)
    }

    /// What happens to data with its stack.
    #[must_use]
    pub fn data_policy(&self) -> DataPolicy {
        match self.data {
            Data::Disposable => DataPolicy::Disposable,
            Data::Kept => DataPolicy::Kept,
        }
    }
}

/// TOML's message, with the nearest right name where a name is wrong.
fn explain(message: &str) -> String {
    let message = message.trim();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let wrong_name = message.starts_with("unknown field") || message.starts_with("unknown variant");
    if let [wrong, known @ ..] = quoted.as_slice()
        && wrong_name
        && let Some(nearest) = nearest(wrong, known.iter().copied())
    {
        let what = if message.starts_with("unknown field") { "key" } else { "value" };
        return format!(
            "unknown {what} `{wrong}` (did you mean `{nearest}`?); known are: {}",
            known.join(", ")
        );
    }
    message.to_owned()
}

/// The known name that is most like a wrong one, if any is.
fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::damerau_levenshtein(wrong, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(wrong.len()) / 2)
        .min()
        .map(|(_, known)| known)
}

fn line_at(text: &str, offset: usize) -> usize {
    text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1)
}

/// The line on which a dotted key is set.
fn line_of_key(text: &str, key: &str) -> usize {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut current = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            header.clone_into(&mut current);
        } else if current == table && line.split('=').next().is_some_and(|left| left.trim() == name) {
            return index + 1;
        }
    }
    1
}
