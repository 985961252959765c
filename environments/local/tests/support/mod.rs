//! An environment of a test's own, with the installed parts of the workspace, and ways to look into it.

// Each test program uses its share of this.
#![allow(dead_code, unused_imports)]

use std::{
    fs,
    ops::Deref,
    process::{Child, Stdio},
};

use local_environment::control::{State, Status};
use local_testing::started;
use serde_json::Value as Json;

pub(crate) mod aws;
pub(crate) mod cloudformation;
pub(crate) mod database;
pub(crate) mod function;
pub(crate) mod ledger;
pub(crate) mod ledger_traffic;
pub(crate) mod listener;
pub(crate) mod topics;
pub(crate) mod workload;

pub(crate) use local_testing::{PATIENCE, kill_at_once, parts, wait_for};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_local-environment");

/// An environment in a temporary directory, by the program under test, taken down at the end.
pub(crate) struct Environment(local_testing::Environment);

impl Deref for Environment {
    type Target = local_testing::Environment;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Environment {
    /// A new one; nothing runs yet. Its directory has a space in its name, and is so deep that a socket's path would not
    /// hold it.
    #[must_use]
    pub(crate) fn new() -> Self {
        let deep = "a checkout ".repeat(10);
        Self(local_testing::Environment::of(PROGRAM.into(), &format!("{}/local", deep.trim_end())))
    }

    /// Starts it.
    #[track_caller]
    #[must_use]
    pub(crate) fn up(&self) -> State {
        serde_json::from_value(self.0.up()).unwrap()
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

    /// Starts a private part on data of this environment's: its process and what it tells.
    #[track_caller]
    #[must_use]
    pub(crate) fn private(&self, part: &str, arguments: &[&str]) -> (Child, Json) {
        started(self.command(&[part, "--directory", &self.private_directory(part)]).args(arguments))
    }

    /// Where the data of a private part is.
    #[must_use]
    pub(crate) fn private_directory(&self, part: &str) -> String {
        self.root().join(format!("private-{part}")).to_string_lossy().into_owned()
    }
}

/// What an `up` prints at its end.
#[track_caller]
#[must_use]
pub(crate) fn state_printed_by(up: Child) -> State {
    serde_json::from_slice(&up.wait_with_output().unwrap().stdout).unwrap()
}

/// Whether a process runs; a zombie does not.
#[must_use]
pub(crate) fn is_running(pid: i32) -> bool {
    u32::try_from(pid).ok().and_then(local_environment::process::Identity::of).is_some()
}

/// The numbers of all processes.
#[must_use]
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
