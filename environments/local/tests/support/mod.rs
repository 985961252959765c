//! An environment of a test's own, with the installed parts of the workspace, and ways to look into it.

// Each test program uses its share of this.
#![allow(dead_code)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use local_environment::control::{State, Status};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value as Json;
use tempfile::TempDir;

pub(crate) mod aws;
pub(crate) mod cloudformation;
pub(crate) mod database;
pub(crate) mod function;
pub(crate) mod ledger;
pub(crate) mod ledger_traffic;
pub(crate) mod listener;
pub(crate) mod topics;
pub(crate) mod workload;

/// How long a test waits for something to come about. Nothing takes that long unless it never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_local-environment");

/// Where the workspace's parts are installed: once for all tests, and for `deploy --env local`.
#[must_use]
pub(crate) fn parts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/local")
}

/// Waits for a condition; fails the test, with what it waited for, when it does not come.
#[track_caller]
pub(crate) fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    assert!(local_environment::process::wait_until(PATIENCE, condition), "waited in vain: {what}");
}

/// An environment in a temporary directory, taken down at the end.
pub(crate) struct Environment {
    directory: TempDir,
}

impl Environment {
    /// A new one; nothing runs yet.
    #[must_use]
    pub(crate) fn new() -> Self {
        let environment = Self { directory: TempDir::new().unwrap() };
        fs::create_dir_all(environment.root()).unwrap();
        environment
    }

    /// Its directory: one with a space in its name, and so deep that a socket's path would not hold it.
    #[must_use]
    pub(crate) fn root(&self) -> PathBuf {
        let deep = "a checkout ".repeat(10);
        self.directory.path().canonicalize().unwrap().join(deep.trim_end()).join("local")
    }

    /// A command on it, without what the test's own environment may say about brokers.
    #[must_use]
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("--root")
            .arg(self.root())
            .arg("--parts")
            .arg(parts())
            .args(arguments)
            .env_remove("KAFKA_BOOTSTRAP_SERVERS")
            .env("A_SECRET_OF_THE_USER", "hunter2");
        command
    }

    /// Runs a command to its end.
    #[must_use]
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that has to succeed and reads what it prints.
    #[track_caller]
    #[must_use]
    pub(crate) fn ask(&self, arguments: &[&str]) -> Json {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command that has to fail and gives what it says.
    #[track_caller]
    #[must_use]
    pub(crate) fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Starts it.
    #[track_caller]
    #[must_use]
    pub(crate) fn up(&self) -> State {
        serde_json::from_value(self.ask(&["up"])).unwrap()
    }

    /// Begins to start it.
    #[must_use]
    pub(crate) fn start_up(&self) -> Child {
        self.command(&["up"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// What runs.
    #[track_caller]
    #[must_use]
    pub(crate) fn status(&self) -> Status {
        serde_json::from_value(self.ask(&["status"])).unwrap()
    }

    /// The process of a part, if it runs and answers.
    #[must_use]
    pub(crate) fn running_part(&self, name: &str) -> Option<i32> {
        let status = self.status();
        let part = status.parts.into_iter().find(|part| part.name == name)?;
        part.pid.filter(|_| part.state == "running")
    }

    /// Kills a part as a crash would, and waits until another process stands in its place and answers.
    #[track_caller]
    pub(crate) fn crash(&self, part: &str) {
        let before = self.running_part(part).unwrap();
        kill_at_once(before);
        wait_for(&format!("{part} to run again"), || {
            self.running_part(part).is_some_and(|after| after != before)
        });
    }

    /// All processes that were started below this environment's directory.
    #[must_use]
    pub(crate) fn processes(&self) -> Vec<i32> {
        let root = self.root().to_string_lossy().into_owned();
        processes()
            .into_iter()
            .filter(|pid| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|text| String::from_utf8_lossy(&text).contains(&root))
            })
            .collect()
    }
}

/// What an `up` prints at its end.
#[track_caller]
#[must_use]
pub(crate) fn state_printed_by(up: Child) -> State {
    serde_json::from_slice(&up.wait_with_output().unwrap().stdout).unwrap()
}

impl Drop for Environment {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
        self.processes().into_iter().for_each(kill_at_once);
    }
}

/// SIGKILL.
pub(crate) fn kill_at_once(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Whether a process runs; a zombie does not.
#[must_use]
pub(crate) fn is_running(pid: i32) -> bool {
    u32::try_from(pid).ok().and_then(local_environment::process::Identity::of).is_some()
}

pub(crate) fn processes() -> Vec<i32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_string_lossy().parse().ok())
        .collect()
}

/// The addresses on which a process listens, as `/proc/net/tcp` and `tcp6` write them.
#[must_use]
pub(crate) fn listening_addresses(pid: i32) -> Vec<String> {
    let sockets: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| {
            Some(target.to_string_lossy().strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/net/{table}")) else { continue };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, address, _, state, _, _, _, _, _, inode, ..] = fields[..] else { continue };
            if state == "0A" && sockets.iter().any(|socket| socket == inode) {
                found.push(address.to_owned());
            }
        }
    }
    found
}

/// Whether such an address is one of loopback alone.
#[must_use]
pub(crate) fn is_loopback(address: &str) -> bool {
    let host = address.split(':').next().unwrap_or_default();
    ["0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"].contains(&host)
}
