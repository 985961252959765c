//! The supervisor: keeps the parts and the workloads running until it is told to stop.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};

use crate::{
    autoscaler::Autoscaler,
    control::{
        self, AwsEndpoint, KafkaEndpoint, PartStatus, Replicas, Request, Response, State, Status,
        WorkloadStatus,
    },
    emulator, event_sources,
    install::{self, Broker},
    kafka,
    layout::Layout,
    manifest::{self, Workload},
    postgresql,
    process::{Identity, free_port},
    supervised::{Probe, Supervised, note},
    valkey,
};

/// How often the supervisor looks around.
const TICK: Duration = Duration::from_millis(50);

/// The grace of a part.
const PART_GRACE: Duration = Duration::from_secs(10);

/// The part that uses the others: it ends before they do.
const EVENT_SOURCES: &str = "event-sources";

/// Its grace: batches in flight are waited for.
const EVENT_SOURCES_GRACE: Duration = Duration::from_secs(20);

struct Part {
    name: &'static str,
    endpoint: String,
    implementation: String,
    /// `None` for a part that is not ours.
    process: Option<Supervised>,
}

struct Running {
    workload: Workload,
    /// Replicas that there are to be.
    desired: u32,
    /// What sees to their number, where it is not the manifest.
    scaler: Option<Autoscaler>,
    replicas: Vec<(Supervised, u16)>,
}

impl Running {
    fn ready(&self) -> u32 {
        let ready = self.replicas.iter().filter(|(replica, _)| replica.is_ready()).count();
        u32::try_from(ready).unwrap_or(u32::MAX)
    }
}

struct Supervisor {
    layout: Layout,
    state: State,
    parts: Vec<Part>,
    workloads: BTreeMap<String, Running>,
    /// Replicas on their way out.
    leaving: Vec<Supervised>,
    replica_numbers: u64,
    /// Whether `state.json` is behind.
    unwritten: bool,
}

/// Supervises until it is asked to stop or gets SIGTERM.
///
/// # Errors
///
/// When the parts cannot be set up.
pub fn run(layout: &Layout, region: &str) -> Result<()> {
    let terminated = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, terminated.clone())?;
    }
    let broker = install::install(layout)?;
    let mut supervisor = Supervisor::new(layout, &broker, region)?;
    let listener = control::listen(layout)?;
    let mut down = false;
    loop {
        while let Ok((stream, _)) = listener.accept() {
            down |= supervisor.answer(&stream).unwrap_or_else(|error| {
                note(&format!("a request failed: {error:#}"));
                false
            });
        }
        down |= terminated.load(Ordering::Relaxed);
        if supervisor.tick(down) {
            break;
        }
        std::thread::sleep(TICK);
    }
    let _ = fs::remove_file(layout.state_file());
    Ok(())
}

impl Supervisor {
    fn new(layout: &Layout, broker: &Broker, region: &str) -> Result<Self> {
        let (before, scaling) =
            State::read(layout).map(|state| (state.ports, state.scaling)).unwrap_or_default();
        let port = |name: &str| before.get(name).copied();
        let aws_port = free_port(port("aws"))?;
        let ports = kafka::Ports::free(port("kafka"), port("kafka-controller"))?;
        let postgresql_port = free_port(port("postgresql"))?;
        // One shard: a client of a cluster does not see how many there are.
        let cache = valkey::Cluster::open(layout, &layout.valkey(), 1, None)?;
        let cache_node = *cache.nodes.first().context("a cluster without nodes")?;
        let bootstrap_servers = match broker {
            Broker::External { bootstrap_servers } => bootstrap_servers.clone(),
            _ => ports.bootstrap_servers(),
        };
        let state = State {
            schema_version: 1,
            supervisor: Identity::of(std::process::id()).context("this process is not in /proc")?,
            aws: AwsEndpoint {
                endpoint_url: format!("http://127.0.0.1:{aws_port}"),
                region: region.to_owned(),
            },
            kafka: KafkaEndpoint {
                bootstrap_servers: bootstrap_servers.clone(),
                implementation: broker.implementation(),
            },
            postgresql: Some(postgresql::Endpoint {
                host: postgresql::HOST.to_owned(),
                port: postgresql_port,
                superuser: postgresql::SUPERUSER.to_owned(),
                password_file: postgresql::password_file(&layout.postgresql()),
            }),
            valkey: Some(valkey::Endpoint { host: valkey::HOST.to_owned(), port: cache_node.port }),
            ports: BTreeMap::from([
                ("aws".to_owned(), aws_port),
                ("kafka".to_owned(), ports.broker),
                ("kafka-controller".to_owned(), ports.controller),
                ("postgresql".to_owned(), postgresql_port),
                ("valkey".to_owned(), cache_node.port),
            ]),
            processes: BTreeMap::new(),
            scaling,
        };
        let kafka = Part {
            name: "kafka",
            endpoint: bootstrap_servers.clone(),
            implementation: broker.implementation(),
            process: match broker {
                Broker::External { .. } => None,
                _ => Some(broker_process(layout, broker, ports)),
            },
        };
        let database = Part {
            name: "postgresql",
            endpoint: format!("{}:{postgresql_port}", postgresql::HOST),
            implementation: format!("PostgreSQL {}", postgresql::VERSION),
            process: Some(postgresql_process(layout, postgresql_port)?),
        };
        let valkey = Part {
            name: "valkey",
            endpoint: cache_node.address().to_string(),
            implementation: format!("Valkey {}", valkey::VERSION),
            process: Some(valkey_process(cache, cache_node)),
        };
        let emulator = Part {
            name: "aws",
            endpoint: format!("127.0.0.1:{aws_port}"),
            implementation: "ministack 1.5.33".to_owned(),
            process: Some(emulator_process(layout, aws_port, &state)?),
        };
        let metrics = Part {
            name: "metrics",
            endpoint: format!("127.0.0.1:{aws_port}"),
            implementation: "told to CloudWatch".to_owned(),
            process: Some(metrics_process(layout)?),
        };
        let event_sources = Part {
            name: EVENT_SOURCES,
            endpoint: format!("127.0.0.1:{aws_port}"),
            implementation: "local-environment".to_owned(),
            process: Some(event_sources_process(layout, &state)?),
        };
        Ok(Self {
            layout: layout.clone(),
            state,
            parts: vec![kafka, database, valkey, emulator, metrics, event_sources],
            workloads: BTreeMap::new(),
            leaving: Vec::new(),
            replica_numbers: 0,
            unwritten: true,
        })
    }

    /// Reads a request, answers it; whether it is the one to stop.
    fn answer(&mut self, stream: &UnixStream) -> Result<bool> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let request: Request = serde_json::from_str(&line).context("not a request")?;
        let mut down = false;
        let response = match request {
            Request::Status => Response::Status(self.status()),
            Request::Down => {
                down = true;
                Response::Done
            }
            Request::Apply { workloads, binaries } => match self.apply(workloads, &binaries) {
                Ok(changed) => Response::Applied { changed },
                Err(error) => refused(&error),
            },
            Request::Scale { name, replicas } => done(self.scale_by_hand(&name, replicas)),
            Request::Resume { name } => done(self.resume(&name)),
        };
        let mut text = serde_json::to_string(&response)?;
        text.push('\n');
        (&*stream).write_all(text.as_bytes())?;
        Ok(down)
    }

    fn status(&self) -> Status {
        let parts = self.parts.iter().map(|part| {
            let (state, restarts) = match &part.process {
                None => ("external", 0),
                Some(process) if process.is_ready() => ("running", process.restarts()),
                Some(process) if process.is_recovering() => ("restarting", process.restarts()),
                Some(process) => ("starting", process.restarts()),
            };
            PartStatus {
                name: part.name.to_owned(),
                state: state.to_owned(),
                endpoint: part.endpoint.clone(),
                implementation: part.implementation.clone(),
                restarts,
                pid: part.process.as_ref().and_then(|process| Some(process.identity()?.pid)),
            }
        });
        let workloads = self.workloads.values().map(|running| WorkloadStatus {
            name: running.workload.name.clone(),
            replicas: Replicas { desired: running.desired, ready: running.ready() },
            restarts: running.replicas.iter().map(|(replica, _)| replica.restarts()).sum(),
            pids: running.replicas.iter().filter_map(|(replica, _)| Some(replica.identity()?.pid)).collect(),
            metrics_endpoints: running.replicas.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect(),
            scaling: running.scaler.as_ref().map(Autoscaler::status),
        });
        let event_sources = event_sources::status::read(&event_sources::status::file(&self.layout));
        Status { parts: parts.collect(), workloads: workloads.collect(), event_sources }
    }

    /// Makes the running workloads those wanted, and gives the names of those that are other than they were. A
    /// workload whose pod is the same keeps its processes.
    fn apply(&mut self, wanted: Vec<Workload>, binaries: &Path) -> Result<Vec<String>> {
        for workload in &wanted {
            self.keep_binary(workload, binaries)?;
        }
        let names: Vec<String> = wanted.iter().map(|workload| workload.name.clone()).collect();
        let gone: Vec<String> = self.workloads.keys().filter(|name| !names.contains(name)).cloned().collect();
        for name in &gone {
            if let Some(running) = self.workloads.remove(name) {
                self.leave(running.replicas);
            }
            self.state.scaling.remove(name);
        }
        let mut changed = gone;
        for workload in wanted {
            let name = workload.name.clone();
            let kept = self.workloads.remove(&name);
            let before = kept.as_ref().map(|running| running.desired);
            let is_same = kept.as_ref().is_some_and(|running| running.workload == workload);
            let (replicas, scaler) = match kept {
                Some(running) => {
                    let same_scaler = running.workload.scaled_object == workload.scaled_object;
                    let scaler = running.scaler.filter(|_| same_scaler);
                    if running.workload.same_pod(&workload) {
                        (running.replicas, scaler)
                    } else {
                        self.leave(running.replicas);
                        (Vec::new(), scaler)
                    }
                }
                None => (Vec::new(), None),
            };
            let target = self.replicas_at_first(&workload, before);
            let scaler = match scaler {
                Some(scaler) => Some(scaler),
                None => self.scaler(&workload, target)?,
            };
            self.workloads.insert(name.clone(), Running { workload, desired: target, scaler, replicas });
            self.scale(&name, target)?;
            if !is_same || before != Some(target) {
                changed.push(name);
            }
        }
        self.drop_old_binaries();
        Ok(changed)
    }

    /// The replicas that a deploy begins with. Where a scaler sees to them, a deploy leaves them as they are, and as
    /// they were before a supervisor was killed; a Deployment that does not say begins with one.
    fn replicas_at_first(&self, workload: &Workload, before: Option<u32>) -> u32 {
        let remembered = || {
            let memory = self.state.scaling.get(&workload.name)?;
            memory.paused.or(memory.replicas)
        };
        let kept = workload.scaled_object.as_ref().and_then(|_| before.or_else(remembered));
        kept.or(workload.replicas).unwrap_or(1)
    }

    /// What scales a workload by its ScaledObject, if it has one.
    fn scaler(&self, workload: &Workload, replicas: u32) -> Result<Option<Autoscaler>> {
        let Some(document) = &workload.scaled_object else { return Ok(None) };
        let memory = self.state.scaling.get(&workload.name).cloned().unwrap_or_default();
        Ok(Some(Autoscaler::start(&manifest::scaled_object(document)?, memory, replicas)?))
    }

    /// Removes the binaries that no workload runs any more: each build would add to them. A process that is on
    /// its way out does not need its file.
    fn drop_old_binaries(&self) {
        let kept: Vec<PathBuf> =
            self.workloads.values().map(|running| binary_path(&self.layout, &running.workload)).collect();
        for entry in fs::read_dir(self.layout.binaries()).into_iter().flatten().flatten() {
            if !kept.contains(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn unknown(&self, name: &str) -> anyhow::Error {
        let known: Vec<&str> = self.workloads.keys().map(String::as_str).collect();
        anyhow::anyhow!("there is no workload `{name}`; running are: {}", known.join(", "))
    }

    /// What somebody sets by hand stays: a scaler is paused by it.
    fn scale_by_hand(&mut self, name: &str, target: u32) -> Result<()> {
        if let Some(scaler) = self.workloads.get(name).and_then(|running| running.scaler.as_ref()) {
            scaler.pause(target);
            let memory = self.state.scaling.entry(name.to_owned()).or_default();
            (memory.paused, memory.replicas) = (Some(target), Some(target));
            self.unwritten = true;
        }
        self.scale(name, target)
    }

    fn resume(&mut self, name: &str) -> Result<()> {
        let Some(running) = self.workloads.get(name) else { return Err(self.unknown(name)) };
        let Some(scaler) = &running.scaler else {
            bail!("nothing scales `{name}`: its manifest says how many run")
        };
        scaler.resume();
        self.state.scaling.entry(name.to_owned()).or_default().paused = None;
        self.unwritten = true;
        Ok(())
    }

    /// Follows the scalers; whether there is something new to remember.
    fn follow_scalers(&mut self) -> bool {
        let mut wanted = Vec::new();
        let mut remembered = false;
        for (name, running) in &self.workloads {
            let Some(scaler) = &running.scaler else { continue };
            wanted.extend(
                scaler.exchange(running.desired, running.ready()).map(|replicas| (name.clone(), replicas)),
            );
            if let Some(memory) = scaler.take_memory() {
                self.state.scaling.insert(name.clone(), memory);
                remembered = true;
            }
        }
        for (name, replicas) in wanted {
            if let Err(error) = self.scale(&name, replicas) {
                note(&format!("{name} cannot be scaled to {replicas}: {error:#}"));
            }
        }
        remembered
    }

    fn scale(&mut self, name: &str, target: u32) -> Result<()> {
        let Some(running) = self.workloads.get_mut(name) else { return Err(self.unknown(name)) };
        running.desired = target;
        let mut surplus = Vec::new();
        while running.replicas.len() > target as usize {
            surplus.extend(running.replicas.pop());
        }
        while running.replicas.len() < target as usize {
            self.replica_numbers += 1;
            let port = free_port(None)?;
            let replica =
                replica_process(&self.layout, &running.workload, self.replica_numbers, port, &self.state);
            running.replicas.push((replica, port));
        }
        self.leave(surplus);
        Ok(())
    }

    fn leave(&mut self, replicas: Vec<(Supervised, u16)>) {
        for (mut replica, _) in replicas {
            replica.stop();
            self.leaving.push(replica);
        }
    }

    /// Copies a binary to where it is known by its content, so that a later build does not change what runs.
    fn keep_binary(&self, workload: &Workload, binaries: &Path) -> Result<()> {
        let place = binary_path(&self.layout, workload);
        if place.is_file() {
            return Ok(());
        }
        let source = binaries.join(&workload.binary);
        let bytes = fs::read(&source)
            .with_context(|| format!("cannot read {}; `cargo xtask build` makes it", source.display()))?;
        let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if found != workload.digest {
            bail!(
                "{} has changed since the manifests were made; deploy again (it has {found}, the manifest names {})",
                source.display(),
                workload.digest
            );
        }
        fs::create_dir_all(self.layout.binaries())?;
        let partial = place.with_extension("partial");
        fs::copy(&source, &partial)
            .and_then(|_| fs::rename(&partial, &place))
            .with_context(|| format!("cannot write {} (is the disk full?)", place.display()))
    }

    /// Looks after everything; whether all has ended. Workloads end before the parts that they use.
    fn tick(&mut self, down: bool) -> bool {
        if down {
            let workloads = std::mem::take(&mut self.workloads);
            for (_, running) in workloads {
                self.leave(running.replicas);
            }
        }
        let mut changed = self.follow_scalers();
        let mut users_gone = self.leaving.is_empty();
        for part in self.parts.iter_mut().rev() {
            let Some(process) = &mut part.process else { continue };
            if down && users_gone {
                process.stop();
            }
            users_gone &= part.name != EVENT_SOURCES || process.is_gone();
            changed |= process.tick(&self.layout);
        }
        for (replica, _) in self.workloads.values_mut().flat_map(|running| &mut running.replicas) {
            changed |= replica.tick(&self.layout);
        }
        for replica in &mut self.leaving {
            changed |= replica.tick(&self.layout);
        }
        self.leaving.retain(|replica| !replica.is_gone());
        if changed || self.unwritten {
            let written = self.write_state();
            if let (Err(error), false) = (&written, self.unwritten) {
                note(&format!("{error:#}; trying again until it can be written"));
            }
            self.unwritten = written.is_err();
        }
        let parts_gone = self.parts.iter().filter_map(|part| part.process.as_ref()).all(Supervised::is_gone);
        down && self.leaving.is_empty() && parts_gone
    }

    fn write_state(&mut self) -> Result<()> {
        let parts = self.parts.iter().filter_map(|part| part.process.as_ref());
        let replicas =
            self.workloads.values().flat_map(|running| running.replicas.iter().map(|(replica, _)| replica));
        self.state.processes = parts
            .chain(replicas)
            .chain(&self.leaving)
            .filter_map(|process| Some((process.name().to_owned(), process.identity()?)))
            .collect();
        self.state.write(&self.layout)
    }
}

fn done(result: Result<()>) -> Response {
    match result {
        Ok(()) => Response::Done,
        Err(error) => refused(&error),
    }
}

fn refused(error: &anyhow::Error) -> Response {
    Response::Refused { message: format!("{error:#}") }
}

fn broker_process(layout: &Layout, broker: &Broker, ports: kafka::Ports) -> Supervised {
    let (layout, broker) = (layout.clone(), broker.clone());
    let probe = Probe::ServesKafka(ports.bootstrap_servers());
    Supervised::new("kafka", probe, PART_GRACE, move || {
        kafka::command(&layout, &broker, &layout.kafka_data(), ports)?.context("the broker is not ours")
    })
}

/// This program becomes the server, because it has to be started in its directory.
fn postgresql_process(layout: &Layout, port: u16) -> Result<Supervised> {
    let (program, layout) = (std::env::current_exe()?, layout.clone());
    let probe = Probe::ServesPostgresql(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let supervised = Supervised::new("postgresql", probe, PART_GRACE, move || {
        let mut command = Command::new(&program);
        command.arg("--root").arg(layout.root()).arg("--parts").arg(layout.parts());
        command.args(["serve-postgresql", "--port", &port.to_string()]);
        Ok(command)
    });
    // SIGTERM would have it wait for its clients.
    Ok(supervised.stopped_by(Signal::SIGINT))
}

fn metrics_process(layout: &Layout) -> Result<Supervised> {
    let (program, layout) = (std::env::current_exe()?, layout.clone());
    Ok(Supervised::new("metrics", Probe::Runs, PART_GRACE, move || {
        let mut command = Command::new(&program);
        command.arg("--root").arg(layout.root()).arg("--parts").arg(layout.parts()).arg("metrics");
        Ok(command)
    }))
}

fn valkey_process(cluster: valkey::Cluster, node: valkey::Node) -> Supervised {
    Supervised::new("valkey", Probe::ServesValkey(node.address()), PART_GRACE, move || cluster.command(0))
}

fn emulator_process(layout: &Layout, port: u16, state: &State) -> Result<Supervised> {
    let (layout, directory, others) =
        (layout.clone(), layout.emulator_data(), parts_behind_the_emulator(state));
    // Whatever cannot be written is told now and not at each start.
    emulator::command(&layout, &directory, port, others.clone())?;
    let probe = Probe::Listens(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    Ok(Supervised::new("aws", probe, PART_GRACE, move || {
        emulator::command(&layout, &directory, port, others.clone())
    }))
}

/// Where the emulator finds what stands behind its types. A password is in a file, not in a variable: variables can be
/// seen, and functions inherit them.
fn parts_behind_the_emulator(state: &State) -> Vec<(&'static str, String)> {
    let mut variables = vec![("MINISTACK_MSK_BOOTSTRAP", state.kafka.bootstrap_servers.clone())];
    if let Some(database) = &state.postgresql {
        variables.extend([
            ("FLOODGATE_POSTGRESQL_HOST", database.host.clone()),
            ("FLOODGATE_POSTGRESQL_PORT", database.port.to_string()),
            ("FLOODGATE_POSTGRESQL_SUPERUSER", database.superuser.clone()),
            ("FLOODGATE_POSTGRESQL_PASSWORD_FILE", database.password_file.to_string_lossy().into_owned()),
        ]);
    }
    if let Some(cache) = &state.valkey {
        variables.extend([
            ("FLOODGATE_VALKEY_HOST", cache.host.clone()),
            ("FLOODGATE_VALKEY_PORT", cache.port.to_string()),
        ]);
    }
    variables
}

fn event_sources_process(layout: &Layout, state: &State) -> Result<Supervised> {
    let program = std::env::current_exe()?;
    let (layout, endpoint) = (layout.clone(), state.aws.endpoint_url.clone());
    let bootstrap_servers = state.kafka.bootstrap_servers.clone();
    Ok(Supervised::new(EVENT_SOURCES, Probe::Runs, EVENT_SOURCES_GRACE, move || {
        let mut command = Command::new(&program);
        command
            .env_clear()
            .envs(emulator::inherited())
            .arg("--root")
            .arg(layout.root())
            .arg("--parts")
            .arg(layout.parts())
            .args(["event-sources", "--endpoint", &endpoint])
            .args(["--bootstrap-servers", &bootstrap_servers]);
        Ok(command)
    }))
}

fn replica_process(
    layout: &Layout,
    workload: &Workload,
    number: u64,
    port: u16,
    state: &State,
) -> Supervised {
    let name = format!("{}-{number}", workload.name);
    let address = format!("127.0.0.1:{port}");
    let probe = match &workload.readiness_path {
        Some(path) => Probe::Answers(format!("http://{address}{path}")),
        None => Probe::Runs,
    };
    let (program, pod, workload, endpoint) =
        (binary_path(layout, workload), name.clone(), workload.clone(), state.aws.endpoint_url.clone());
    let grace = Duration::from_secs(workload.grace_seconds);
    Supervised::new(&name, probe, grace, move || {
        let mut command = Command::new(&program);
        command
            .env_clear()
            .envs(emulator::inherited())
            .env("AWS_ENDPOINT_URL", &endpoint)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .envs(&workload.environment)
            .envs(workload.pod_name_variables.iter().map(|variable| (variable, &pod)))
            .env("METRICS_ADDRESS", &address);
        Ok(command)
    })
}

fn binary_path(layout: &Layout, workload: &Workload) -> PathBuf {
    let short = workload.digest.get(..16).unwrap_or(&workload.digest);
    layout.binaries().join(format!("{}-{short}", workload.binary))
}
