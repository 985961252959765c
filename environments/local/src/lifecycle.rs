//! Starting and stopping the environment from outside.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    control::{self, Request, State, Status},
    install,
    layout::Layout,
    manifest::Workload,
    process::{Identity, lock, stop_all, wait_until},
};

/// How long the parts may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// How long everything may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// The grace of what a killed supervisor left behind.
const ORPHAN_GRACE: Duration = Duration::from_secs(10);

/// Whom a command waits for.
const LOCK_HOLDER: &str = "another command that starts or stops the local environment";

/// Installs what is missing and starts what does not run. What runs already is left alone, in the region that it was
/// started for.
///
/// # Errors
///
/// What did not start, with the end of its log.
pub fn up(layout: &Layout, region: &str) -> Result<State> {
    let _lock = lock(&layout.lock_file(), LOCK_HOLDER)?;
    install::install(layout)?;
    let mut supervisor = None;
    if !control::is_running(layout) {
        clean_up(layout)?;
        supervisor = Some(start_supervisor(layout, region)?);
    }
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let status = control::status(layout);
        if status.as_ref().is_ok_and(Status::parts_run)
            && let Some(state) = State::read(layout)
        {
            return Ok(state);
        }
        if let Some(ended) = supervisor.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
            bail!("the supervisor ended ({ended}):\n{}", tail(layout, "supervisor"));
        }
        if Instant::now() >= deadline {
            bail!(
                "the local environment did not start within {} s; its logs are in {}:\n{}",
                START_TIMEOUT.as_secs(),
                layout.root().join("logs").display(),
                ["supervisor", "kafka", "postgresql", "valkey", "aws", "metrics"]
                    .map(|name| tail(layout, name))
                    .join("\n")
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Starts it; it outlives this process.
fn start_supervisor(layout: &Layout, region: &str) -> Result<Child> {
    use std::os::unix::process::CommandExt;
    let path = layout.log_file("supervisor");
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Command::new(std::env::current_exe()?)
        .arg("--root")
        .arg(layout.root())
        .arg("--parts")
        .arg(layout.parts())
        .args(["supervise", "--region", region])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start the supervisor")
}

/// Ends what a supervisor that was killed has left behind.
fn clean_up(layout: &Layout) -> Result<()> {
    let Some(state) = State::read(layout) else { return Ok(()) };
    let alive: Vec<(&String, Identity)> = state
        .processes
        .iter()
        .map(|(name, identity)| (name, *identity))
        .filter(|(_, identity)| identity.is_alive())
        .collect();
    for (name, _) in &alive {
        eprintln!("ending {name}, left behind by a supervisor that was killed");
    }
    // Workloads before the parts that they use: without a broker they could not leave their group in time.
    let (parts, workloads): (Vec<_>, Vec<_>) =
        alive.into_iter().partition(|(name, _)| state.ports.contains_key(*name));
    let supervisor = vec![state.supervisor];
    for group in [supervisor, identities(&workloads), identities(&parts)] {
        stop_all(&group, ORPHAN_GRACE).context("what a killed supervisor left behind cannot be ended")?;
    }
    Ok(())
}

fn identities(named: &[(&String, Identity)]) -> Vec<Identity> {
    named.iter().map(|(_, identity)| *identity).collect()
}

/// Stops everything that was started. Nothing to stop is no error.
///
/// # Errors
///
/// When something does not end.
pub fn down(layout: &Layout) -> Result<()> {
    let _lock = lock(&layout.lock_file(), LOCK_HOLDER)?;
    let state = State::read(layout);
    if control::ask(layout, &Request::Down).is_ok() {
        let gone = || state.as_ref().is_none_or(|state| !state.supervisor.is_alive());
        wait_until(STOP_TIMEOUT, gone);
    }
    clean_up(layout)?;
    let _ = fs::remove_file(layout.state_file());
    // Records, offsets and stacks go with the environment: the next one begins anew, as a new account would.
    for directory in [
        layout.kafka_data(),
        layout.postgresql(),
        layout.valkey(),
        layout.emulator_data(),
        layout.event_sources(),
    ] {
        install::remove(&directory)?;
    }
    Ok(())
}

/// What runs when nobody starts or stops it any more; parts that are being started again are waited for.
///
/// # Errors
///
/// When nothing runs.
pub fn settled(layout: &Layout) -> Result<Status> {
    let _lock = lock(&layout.lock_file(), LOCK_HOLDER)?;
    wait_until(START_TIMEOUT, || control::status(layout).map_or(true, |status| status.parts_run()));
    control::status(layout)
}

/// What an application of workloads came to.
#[derive(Debug, serde::Serialize)]
pub struct Applied {
    /// The names of the workloads that are other than they were.
    pub changed: Vec<String>,
    /// What runs.
    #[serde(flatten)]
    pub status: Status,
}

/// Makes the running workloads those wanted and waits until all are ready.
///
/// # Errors
///
/// What did not become ready in time, with the end of its log.
pub fn apply(
    layout: &Layout,
    workloads: Vec<Workload>,
    binaries: &std::path::Path,
    timeout: Duration,
) -> Result<Applied> {
    let changed = control::apply(layout, workloads, binaries.canonicalize()?)?;
    Ok(Applied { changed, status: wait_ready(layout, timeout)? })
}

/// Waits until every workload has as many ready processes as it should.
///
/// # Errors
///
/// What did not become ready in time, with the end of its log.
pub fn wait_ready(layout: &Layout, timeout: Duration) -> Result<Status> {
    let deadline = Instant::now() + timeout;
    loop {
        let status = control::status(layout)?;
        let waiting: Vec<&str> = status
            .workloads
            .iter()
            .filter(|workload| workload.replicas.ready < workload.replicas.desired)
            .map(|workload| workload.name.as_str())
            .collect();
        if waiting.is_empty() {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            let logs: Vec<String> = waiting.iter().map(|name| tail(layout, name)).collect();
            bail!("not ready within {} s: {}\n{}", timeout.as_secs(), waiting.join(", "), logs.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The log files of a process, or of all replicas of a workload, newest last.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn logs_of(layout: &Layout, name: &str) -> Result<Vec<std::path::PathBuf>> {
    let directory = layout.root().join("logs");
    let mut found = Vec::new();
    for entry in
        fs::read_dir(&directory).with_context(|| format!("there are no logs in {}", directory.display()))?
    {
        let path = entry?.path();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let replica = stem.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        if stem == name || replica.is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit())) {
            found.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The last lines of a process's newest log.
fn tail(layout: &Layout, name: &str) -> String {
    let newest = logs_of(layout, name).ok().and_then(|mut logs| logs.pop());
    let text = newest.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let end = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n");
    format!("--- {name}:\n{end}")
}
