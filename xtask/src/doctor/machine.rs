//! What this machine has.

use std::{
    ffi::OsString,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value as Json;

use super::Finding;
use crate::programs;

/// A first build with its debug information and the local parts take so much, in bytes.
const DISK_WANTED: u64 = 15_000_000_000;

/// Below this nothing can be built at all, in bytes.
const DISK_NEEDED: u64 = 3_000_000_000;

/// What the parts, the workloads and a build beside them take, in bytes.
const MEMORY_WANTED: u64 = 4_000_000_000;

/// Below this the compiler is ended by the system, in bytes.
const MEMORY_NEEDED: u64 = 1_500_000_000;

/// Directories that `watch` asks for, roughly.
const WATCHES_WANTED: u64 = 4096;

/// The variable by which the deploy engine is told where the base of images is.
pub(super) const BASE_REGISTRY: &str = "FLOODGATE_BASE_REGISTRY";

/// What of the environment of this program tells what the machine has.
pub(super) struct Machine {
    path: OsString,
    base_registry: Option<String>,
}

impl Machine {
    /// With these directories for programs, as `PATH` has them, and what [`BASE_REGISTRY`] says.
    pub(super) fn new(path: OsString, base_registry: Option<String>) -> Self {
        Self { path, base_registry }
    }

    /// The host that has the base of images, where somebody has said it.
    pub(super) fn base_registry(&self) -> Option<&str> {
        self.base_registry.as_deref().map(str::trim).filter(|host| !host.is_empty())
    }

    /// Where a program is.
    pub(super) fn find(&self, program: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path).map(|directory| directory.join(program)).find(|path| path.is_file())
    }

    /// What a program says; nothing when it is not there or fails.
    pub(super) fn says(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let output = Command::new(self.find(program)?)
            .args(arguments)
            .env("PATH", &self.path)
            .stdin(Stdio::null())
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        // Java tells its version as an error.
        let all = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&all).trim().to_owned())
    }

    /// The first line that a program says of its version.
    pub(super) fn version(&self, program: &str, argument: &str) -> Option<String> {
        let text = self.says(program, &[argument])?;
        text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }
}

/// The first number with dots in a text, as its parts.
pub(super) fn numbers(text: &str) -> Vec<u32> {
    let word = text
        .split(|letter: char| !(letter.is_ascii_digit() || letter == '.'))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.'))
        .or_else(|| text.split(|letter: char| !letter.is_ascii_digit()).find(|word| !word.is_empty()));
    word.unwrap_or_default().split('.').map_while(|part| part.parse().ok()).collect()
}

/// Disk, memory and watches.
pub(super) fn resources(root: &Path, machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    let place = root.to_string_lossy();
    if let Some(free) = machine.says("df", &["-Pk", &place]).as_deref().and_then(free_bytes) {
        let found = format!("{:.1} GB free", free as f64 / 1e9);
        let fix = "make room: `cargo clean` frees what was built, `cargo xtask gc` what was packed";
        findings.push(if free < DISK_NEEDED {
            Finding::fail("disk", found, fix)
        } else if free < DISK_WANTED {
            Finding::warn("disk", format!("{found}; a first build takes about 12 GB"), fix)
        } else {
            Finding::ok("disk", found)
        });
    }
    if let Some(free) = std::fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(available_bytes) {
        let found = format!("{:.1} GB available", free as f64 / 1e9);
        let fix = "end other programs, or build with fewer jobs: `CARGO_BUILD_JOBS=1`";
        findings.push(if free < MEMORY_NEEDED {
            Finding::fail("memory", found, fix)
        } else if free < MEMORY_WANTED {
            Finding::warn("memory", found, fix)
        } else {
            Finding::ok("memory", found)
        });
    }
    let watches = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok();
    if let Some(most) = watches.and_then(|text| text.trim().parse::<u64>().ok())
        && most < WATCHES_WANTED
    {
        findings.push(Finding::warn(
            "watches",
            format!("{most} directories may be watched, `cargo xtask watch` wants {WATCHES_WANTED}"),
            "sudo sysctl fs.inotify.max_user_watches=524288",
        ));
    }
    findings
}

/// What `df -Pk` says is available, in bytes.
fn free_bytes(text: &str) -> Option<u64> {
    let blocks: u64 = text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    blocks.checked_mul(1024)
}

/// What the kernel says is available, in bytes.
fn available_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Whether what compiles for minutes is built.
pub(super) fn programs(root: &Path) -> Vec<Finding> {
    let binaries = programs::target_directory(root).join("debug");
    let missing: Vec<&str> =
        programs::PROGRAMS.into_iter().filter(|program| !binaries.join(program).is_file()).collect();
    if missing.is_empty() {
        return vec![Finding::ok("programs", "the deploy engine and the local environment are built")];
    }
    vec![Finding::warn(
        "programs",
        format!("{} not built yet", missing.join(" and ")),
        "nothing: the first command that needs them builds them, for about 7 minutes on two cores",
    )]
}

/// Whether the local parts find ports, or those that run answer.
pub(super) fn ports(root: &Path) -> Vec<Finding> {
    let state = std::fs::read_to_string(programs::local_root(root, "local").join("state.json")).ok();
    let Some(state) = state.and_then(|text| serde_json::from_str::<Json>(&text).ok()) else {
        return vec![match TcpListener::bind(("127.0.0.1", 0)) {
            Ok(_) => Finding::ok("ports", "there are free ones on loopback; the local parts do not run"),
            Err(error) => Finding::fail(
                "ports",
                format!("none can be had on 127.0.0.1: {error}"),
                "bring loopback up (`ip link set lo up`); the local parts listen nowhere else",
            ),
        }];
    };
    let address = |pointer: &str| {
        let text = state.pointer(pointer)?.as_str()?;
        text.trim_start_matches("http://").split(',').next().map(str::to_owned)
    };
    let parts = [("/aws/endpoint_url", "AWS APIs"), ("/kafka/bootstrap_servers", "Kafka")];
    let silent: Vec<String> = parts
        .into_iter()
        .filter_map(|(pointer, name)| Some((address(pointer)?, name)))
        .filter(|(address, _)| !answers(address))
        .map(|(address, name)| format!("{name} at {address}"))
        .collect();
    if silent.is_empty() {
        return vec![Finding::ok("ports", "the local parts run and answer")];
    }
    vec![Finding::warn(
        "ports",
        format!("the local parts were started and do not answer: {}", silent.join(", ")),
        "`cargo xtask deploy --env local` starts what does not run; logs are in target/local/logs",
    )]
}

fn answers(address: &str) -> bool {
    let Ok(address) = address.parse() else { return false };
    TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_say() {
        for (text, version) in [
            ("rustc 1.97.0 (abc 2026-10-01)", vec![1, 97, 0]),
            ("openjdk version \"17.0.13\" 2024-10-15", vec![17, 0, 13]),
            ("This is perl 5, version 36, subversion 0 (v5.36.0) built", vec![5, 36, 0]),
            ("v3.16.1+g5a5449d", vec![3, 16, 1]),
            ("openjdk version \"21\" 2023-09-19", vec![21]),
            ("nothing", vec![]),
        ] {
            assert_eq!(numbers(text), version, "{text}");
        }
    }

    #[test]
    fn free_space_is_read_and_rubbish_is_not() {
        assert_eq!(free_bytes("h\n/dev/vda 100 1 2048 1% /"), Some(2048 * 1024));
        assert_eq!(free_bytes(""), None);
        assert_eq!(available_bytes("MemTotal: 9 kB\nMemAvailable:  2 kB\n"), Some(2048));
    }
}
