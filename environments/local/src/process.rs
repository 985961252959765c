//! Processes: who they are beyond a number that may be reused, and how they end.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// A process, known by its number and the time of its start: a number alone may be somebody else's by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process number, also that of its group.
    pub pid: i32,
    /// The start, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub started_ticks: u64,
}

impl Identity {
    /// Of a running process.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        Some(Self { pid, started_ticks: started_ticks(pid)? })
    }

    /// Whether that very process runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        started_ticks(self.pid) == Some(self.started_ticks)
    }

    /// Sends a signal to the process and its group. One that is gone is no error.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match killpg(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Ends processes, all at the same time: SIGTERM, and SIGKILL after the grace period.
///
/// # Errors
///
/// When the system refuses, or a process outlives SIGKILL.
pub fn stop_all(processes: &[Identity], grace: Duration) -> io::Result<()> {
    for (signal, patience) in [(Signal::SIGTERM, grace), (Signal::SIGKILL, Duration::from_secs(5))] {
        for process in processes {
            process.signal(signal)?;
        }
        if wait_until(patience, || !processes.iter().any(Identity::is_alive)) {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("{processes:?} do not end")))
}

/// Field 22 of `/proc/PID/stat`; `None` for a process that is gone or a zombie. The name, field 2, may hold spaces and
/// brackets, so fields are counted from its last closing one.
fn started_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Waits for a condition, looking every 20 ms; whether it came.
pub fn wait_until(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Locks a file, made if it is not there, until the answer is dropped. Says whom it waits for when it must.
///
/// # Errors
///
/// When the file cannot be made or locked.
pub fn lock(path: &Path, holder: &str) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    if file.try_lock().is_err() {
        eprintln!("waiting for {holder}");
        file.lock()?;
    }
    Ok(file)
}

/// The path of a program that `PATH` finds.
#[must_use]
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// What a program prints, on either stream; `None` when it cannot be started or fails.
#[must_use]
pub fn output_of(program: &std::path::Path, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// The first port that is handed out, and how many there are. They lie below those that systems give to
/// outgoing connections (32768 and up on Linux): a client that tries again and again to reach a server which is
/// being restarted may otherwise get the server's own port, be connected with itself, and keep the server out.
const PORTS: (u32, u32) = (20_000, 12_000);

/// How far apart two processes begin to look for ports.
const PORT_STRIDE: u32 = 41;

/// Ports that this process has looked at, so that it gives none out twice before somebody listens on it.
static PORTS_TRIED: AtomicU32 = AtomicU32::new(0);

/// A loopback port that nobody listens on: the preferred one if it is free.
///
/// # Errors
///
/// When the system has none.
pub fn free_port(preferred: Option<u16>) -> io::Result<u16> {
    let bound = |port| std::net::TcpListener::bind(("127.0.0.1", port)).and_then(|bound| bound.local_addr());
    if let Some(address) = preferred.and_then(|port| bound(port).ok()) {
        return Ok(address.port());
    }
    let (first, count) = PORTS;
    let start = std::process::id().wrapping_mul(PORT_STRIDE);
    for _ in 0..count {
        let offset = start.wrapping_add(PORTS_TRIED.fetch_add(1, Ordering::Relaxed)) % count;
        let Ok(port) = u16::try_from(first + offset) else { continue };
        if let Ok(address) = bound(port) {
            return Ok(address.port());
        }
    }
    Ok(bound(0)?.port())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends_and_is_ended_with_its_group() {
        let mut child = Command::new("sh").args(["-c", "sleep 600 & wait"]).process_group(0).spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        assert!(identity.is_alive());
        let another = Identity { started_ticks: identity.started_ticks + 1, ..identity };
        assert!(!another.is_alive(), "the same number at another time is another process");
        another.signal(Signal::SIGKILL).unwrap();
        assert!(identity.is_alive(), "a reused number is never signalled");
        identity.signal(Signal::SIGTERM).unwrap();
        child.wait().unwrap();
        assert!(!identity.is_alive());
    }

    #[test]
    fn a_taken_port_gives_way_to_another() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_ne!(free_port(Some(port)).unwrap(), port);
        drop(taken);
        assert_eq!(free_port(Some(port)).unwrap(), port);
    }

    #[test]
    fn no_port_is_given_out_twice_or_lies_among_those_of_outgoing_connections() {
        let ports: std::collections::BTreeSet<u16> = (0..50).map(|_| free_port(None).unwrap()).collect();
        assert_eq!(ports.len(), 50);
        assert!(ports.iter().all(|port| *port < 32_768), "{ports:?}");
    }
}
