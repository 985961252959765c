//! One process under supervision: started, probed, started again when it ends, stopped with grace.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

use crate::{lag, layout::Layout, postgresql, process::Identity, valkey};

/// A process that has run this long is taken for well: its next start is not put off.
const WELL_AFTER: Duration = Duration::from_secs(30);

/// The longest wait before another start.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// How often what is not ready is probed, and how often what is.
const PROBE_EVERY: Duration = Duration::from_millis(100);
const PROBE_READY_EVERY: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How a process shows that it is ready.
#[derive(Clone, Debug)]
pub enum Probe {
    /// It listens.
    Listens(SocketAddr),
    /// It is a Kafka broker at this address and answers.
    ServesKafka(String),
    /// It is a PostgreSQL server at this address and takes connections.
    ServesPostgresql(SocketAddr),
    /// It is a node of a Valkey cluster at this address, and the cluster is whole.
    ServesValkey(SocketAddr),
    /// It answers 200 to a GET.
    Answers(String),
    /// It runs.
    Runs,
}

/// A supervised process.
pub struct Supervised {
    name: String,
    make: Box<dyn Fn() -> Result<Command> + Send>,
    probe: Probe,
    stop_signal: Signal,
    grace: Duration,
    child: Option<Child>,
    identity: Option<Identity>,
    started: Instant,
    next_start: Instant,
    starts: u32,
    failures: u32,
    ready: Arc<AtomicBool>,
    probing: Arc<AtomicBool>,
    probed: Instant,
    stopping: Option<Instant>,
}

impl Supervised {
    /// A process that is not started yet. `make` makes its command, each time it is started.
    pub fn new(
        name: &str,
        probe: Probe,
        grace: Duration,
        make: impl Fn() -> Result<Command> + Send + 'static,
    ) -> Self {
        let now = Instant::now();
        Self {
            name: name.to_owned(),
            make: Box::new(make),
            probe,
            stop_signal: Signal::SIGTERM,
            grace,
            child: None,
            identity: None,
            started: now,
            next_start: now,
            starts: 0,
            failures: 0,
            ready: Arc::new(AtomicBool::new(false)),
            probing: Arc::new(AtomicBool::new(false)),
            probed: now,
            stopping: None,
        }
    }

    /// Stopped by another signal than SIGTERM.
    #[must_use]
    pub fn stopped_by(mut self, signal: Signal) -> Self {
        self.stop_signal = signal;
        self
    }

    /// Its name, also of its log.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The running process.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Whether its probe has succeeded since it was started.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.child.is_some() && self.ready.load(Ordering::Relaxed)
    }

    /// Whether it has ended, by itself, and is not ready again.
    #[must_use]
    pub fn is_recovering(&self) -> bool {
        self.failures > 0 && !self.is_ready()
    }

    /// Times that it was started again.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }

    /// Looks after it; whether something changed that `state.json` tells.
    pub fn tick(&mut self, layout: &Layout) -> bool {
        let now = Instant::now();
        if let Some(child) = &mut self.child {
            end_group_of_ended(child);
            match child.try_wait() {
                Ok(None) => {
                    self.probe(now);
                    if let Some(deadline) = self.stopping
                        && now >= deadline
                        && let Some(identity) = self.identity
                    {
                        let _ = identity.signal(Signal::SIGKILL);
                    }
                    return false;
                }
                Ok(Some(status)) => self.ended(&status.to_string(), now),
                Err(error) => self.ended(&error.to_string(), now),
            }
            return true;
        }
        if self.stopping.is_none() && now >= self.next_start {
            if let Err(error) = self.start(layout, now) {
                note(&format!("{}: {error:#}", self.name));
                self.failures += 1;
                self.next_start = now + back_off(self.failures);
            }
            return true;
        }
        false
    }

    fn start(&mut self, layout: &Layout, now: Instant) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let path = layout.log_file(&self.name);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = (self.make)()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        self.identity = Identity::of(child.id());
        self.child = Some(child);
        self.started = now;
        self.starts += 1;
        self.ready = Arc::new(AtomicBool::new(matches!(self.probe, Probe::Runs)));
        self.probing = Arc::new(AtomicBool::new(false));
        Ok(())
    }

    fn ended(&mut self, how: &str, now: Instant) {
        let well = now.duration_since(self.started) >= WELL_AFTER;
        self.failures = if well { 1 } else { self.failures + 1 };
        self.next_start = now + back_off(self.failures);
        if self.stopping.is_none() {
            note(&format!("{} ended ({how}); starting it again", self.name));
        }
        self.child = None;
        self.identity = None;
    }

    /// Probes in a thread of its own: an answer may take its time.
    fn probe(&mut self, now: Instant) {
        let every = if self.is_ready() { PROBE_READY_EVERY } else { PROBE_EVERY };
        if now.duration_since(self.probed) < every || self.probing.swap(true, Ordering::Relaxed) {
            return;
        }
        self.probed = now;
        let (ready, probing, probe) = (self.ready.clone(), self.probing.clone(), self.probe.clone());
        std::thread::spawn(move || {
            ready.store(probe.succeeds(), Ordering::Relaxed);
            probing.store(false, Ordering::Relaxed);
        });
    }

    /// Asks it to end; [`Supervised::tick`] sees to the rest.
    pub fn stop(&mut self) {
        if self.stopping.is_none() {
            self.stopping = Some(Instant::now() + self.grace);
            if let Some(identity) = self.identity {
                let _ = identity.signal(self.stop_signal);
            }
        }
    }

    /// Whether it was stopped and has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.stopping.is_some() && self.child.is_none()
    }
}

/// Writes a line to the supervisor's log. A full disk is no reason to end, as it is for `eprintln!`.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Ends what a process that has ended left in its group. It is looked at before it is waited for: until then
/// nobody else can have its number.
fn end_group_of_ended(child: &Child) {
    let Ok(pid) = i32::try_from(child.id()).map(Pid::from_raw) else { return };
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    if matches!(waitid(Id::Pid(pid), look), Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))) {
        let _ = killpg(pid, Signal::SIGKILL);
    }
}

impl Probe {
    fn succeeds(&self) -> bool {
        match self {
            Probe::Runs => true,
            Probe::Listens(address) => TcpStream::connect_timeout(address, PROBE_TIMEOUT).is_ok(),
            Probe::ServesKafka(address) => lag::answers(address, PROBE_TIMEOUT),
            Probe::ServesPostgresql(address) => postgresql::answers(*address, PROBE_TIMEOUT),
            Probe::ServesValkey(address) => valkey::answers(*address, PROBE_TIMEOUT),
            Probe::Answers(url) => {
                let agent: ureq::Agent =
                    ureq::Agent::config_builder().timeout_global(Some(PROBE_TIMEOUT)).build().into();
                agent.get(url).call().is_ok()
            }
        }
    }
}

/// 0.25 s, doubled with each failure in a row.
fn back_off(failures: u32) -> Duration {
    Duration::from_millis(250)
        .saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(8)))
        .min(BACK_OFF_MAX)
}
