//! How the supervisor is talked to: one JSON line each way, over a Unix socket.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Write},
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    autoscaler::{Memory, ScalingStatus},
    event_sources::status::MappingStatus,
    layout::Layout,
    manifest::Workload,
    postgresql,
    process::Identity,
    valkey,
};

const SOCKET: &str = "supervisor.sock";

/// What the supervisor is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub enum Request {
    /// What runs.
    Status,
    /// Make the running workloads these.
    Apply {
        /// All workloads, those that run already among them.
        workloads: Vec<Workload>,
        /// Where their binaries are.
        binaries: PathBuf,
    },
    /// Change the number of a workload's processes. Where a scaler sees to that, it is paused.
    Scale {
        /// The workload.
        name: String,
        /// How many.
        replicas: u32,
    },
    /// Let a paused scaler go on.
    Resume {
        /// The workload.
        name: String,
    },
    /// Stop everything and end.
    Down,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Response {
    /// Done.
    Done,
    /// The running workloads are those that were asked for.
    Applied {
        /// The names of those that are other than they were: new, gone, with other processes or scaled otherwise.
        changed: Vec<String>,
    },
    /// What runs.
    Status(Status),
    /// Not done.
    Refused {
        /// Why.
        message: String,
    },
}

/// What runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The stand-ins for AWS.
    pub parts: Vec<PartStatus>,
    /// The workloads.
    pub workloads: Vec<WorkloadStatus>,
    /// The event source mappings of functions.
    #[serde(default)]
    pub event_sources: Vec<MappingStatus>,
}

impl Status {
    /// Whether every part answers.
    #[must_use]
    pub fn parts_run(&self) -> bool {
        !self.parts.is_empty()
            && self.parts.iter().all(|part| part.state == "running" || part.state == "external")
    }
}

/// One part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartStatus {
    /// `kafka`, `postgresql`, `valkey`, `aws` or `event-sources`.
    pub name: String,
    /// `starting`, `running`, `restarting` or `external`.
    pub state: String,
    /// `host:port`.
    pub endpoint: String,
    /// Which program it is.
    pub implementation: String,
    /// Times that it was started again.
    pub restarts: u32,
    /// Its process, if it is ours and runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadStatus {
    /// Its name.
    pub name: String,
    /// Its processes.
    pub replicas: Replicas,
    /// Times that processes were started again.
    pub restarts: u32,
    /// Their process numbers.
    pub pids: Vec<i32>,
    /// Where they serve metrics and probes.
    pub metrics_endpoints: Vec<String>,
    /// How it is scaled, where a ScaledObject says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,
}

/// How many there should be, and how many are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicas {
    /// Wanted.
    pub desired: u32,
    /// Ready by their probe.
    pub ready: u32,
}

/// `state.json`: what others need to find what runs, and what it takes to clean up after a supervisor that
/// was killed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// 1.
    pub schema_version: u32,
    /// The supervisor.
    pub supervisor: Identity,
    /// The AWS APIs.
    pub aws: AwsEndpoint,
    /// The broker.
    pub kafka: KafkaEndpoint,
    /// The database server; absent in what an older version wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgresql: Option<postgresql::Endpoint>,
    /// The cache; absent in what an older version wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valkey: Option<valkey::Endpoint>,
    /// The ports in use, to be taken again after a restart.
    pub ports: BTreeMap<String, u16>,
    /// All processes.
    pub processes: BTreeMap<String, Identity>,
    /// What the scalers remember, by workload.
    #[serde(default)]
    pub scaling: BTreeMap<String, Memory>,
}

/// Where the AWS APIs are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AwsEndpoint {
    /// For `AWS_ENDPOINT_URL`.
    pub endpoint_url: String,
    /// The region whose alarms are told of the parts.
    #[serde(default = "default_region")]
    pub region: String,
}

/// The region that is meant where none is named, as the emulator has it.
#[must_use]
pub fn default_region() -> String {
    "us-east-1".to_owned()
}

/// Where the broker is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KafkaEndpoint {
    /// `host:port`.
    pub bootstrap_servers: String,
    /// Which program it is.
    pub implementation: String,
}

impl State {
    /// Reads it; `None` when there is none that can be read.
    #[must_use]
    pub fn read(layout: &Layout) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(layout.state_file()).ok()?).ok()
    }

    /// Writes it, readable by this user alone.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, layout: &Layout) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = layout.state_file();
        let partial = path.with_extension("partial");
        let write = || -> Result<()> {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&partial)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            std::fs::rename(&partial, &path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {} (is the disk full?)", path.display()))
    }
}

/// The socket's address by way of an open directory: a socket's path may have no more than 108 bytes, and a
/// checkout may lie deep.
fn short_path(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

/// Listens; replaces the socket of a supervisor that is gone.
///
/// # Errors
///
/// When it cannot.
pub fn listen(layout: &Layout) -> Result<UnixListener> {
    let _ = std::fs::remove_file(layout.root().join(SOCKET));
    let directory = File::open(layout.root())?;
    let listener =
        UnixListener::bind(short_path(&directory)).context("cannot listen on the supervisor's socket")?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Asks the supervisor.
///
/// # Errors
///
/// When none runs, or it refuses.
pub fn ask(layout: &Layout, request: &Request) -> Result<Response> {
    let directory = File::open(layout.root())?;
    let mut stream = UnixStream::connect(short_path(&directory))
        .context("the local environment does not run; `cargo xtask deploy --env local` starts it")?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("the supervisor does not answer")?;
    match serde_json::from_str(&answer).context("the supervisor's answer cannot be read")? {
        Response::Refused { message } => bail!(message),
        answer => Ok(answer),
    }
}

/// Asks what runs.
///
/// # Errors
///
/// When no supervisor runs.
pub fn status(layout: &Layout) -> Result<Status> {
    match ask(layout, &Request::Status)? {
        Response::Status(status) => Ok(status),
        other => bail!("the supervisor answers {other:?} to who asks what runs"),
    }
}

/// Makes the running workloads these, from the binaries of a directory; gives the names of those that are other than
/// they were. Nothing is waited for.
///
/// # Errors
///
/// When no supervisor runs, or a binary is not there.
pub fn apply(layout: &Layout, workloads: Vec<Workload>, binaries: PathBuf) -> Result<Vec<String>> {
    let all = workloads.iter().map(|workload| workload.name.clone()).collect();
    match ask(layout, &Request::Apply { workloads, binaries })? {
        Response::Applied { changed } => Ok(changed),
        // A supervisor that is older than this program does not tell: any may be.
        Response::Done => Ok(all),
        other => bail!("the supervisor answers {other:?} to who changes the workloads"),
    }
}

/// Whether a supervisor answers.
#[must_use]
pub fn is_running(layout: &Layout) -> bool {
    status(layout).is_ok()
}
