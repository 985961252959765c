//! A whole local environment.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::{part::parts, waiting::wait_for};

/// A variable of whoever runs the test, which nothing that is started may be given.
pub const A_SECRET_OF_THE_USER: &str = "A_SECRET_OF_THE_USER";

/// An environment of a test's own, in a temporary directory, with the parts that are installed. It is taken down when
/// this is dropped, and whatever is left of it is killed.
pub struct Environment {
    program: PathBuf,
    directory: TempDir,
    root: PathBuf,
}

impl Environment {
    /// A new one; nothing runs yet.
    #[must_use]
    pub fn new() -> Self {
        Self::of(crate::part::program(), "local")
    }

    /// A new one by another program, in a directory of this path below the temporary one.
    #[must_use]
    pub fn of(program: PathBuf, path: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap().join(path);
        fs::create_dir_all(&root).unwrap();
        Self { program, directory, root }
    }

    /// The program that runs it.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A directory around its own, for what else the test writes.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A command on it, with [`A_SECRET_OF_THE_USER`], and without what the test's own environment may say about brokers.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--root")
            .arg(&self.root)
            .arg("--parts")
            .arg(parts())
            .args(arguments)
            .env_remove("KAFKA_BOOTSTRAP_SERVERS")
            .env(A_SECRET_OF_THE_USER, "hunter2");
        command
    }

    /// Runs a command to its end.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that has to succeed, and reads what it prints, which must be JSON.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> Json {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command that has to fail, and gives what it says.
    #[track_caller]
    #[must_use]
    pub fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Starts it; its state.
    #[track_caller]
    pub fn up(&self) -> Json {
        self.ask(&["up"])
    }

    /// Where its AWS APIs are, once they run.
    #[must_use]
    pub fn endpoint_url(&self) -> Option<String> {
        let state = fs::read_to_string(self.root.join("state.json")).ok()?;
        let state: Json = serde_json::from_str(&state).ok()?;
        state.pointer("/aws/endpoint_url").and_then(Json::as_str).map(str::to_owned)
    }

    /// The process of a part, if it runs and answers.
    #[track_caller]
    #[must_use]
    pub fn running_part(&self, name: &str) -> Option<i32> {
        let part = self.part(name)?;
        pid(&part).filter(|_| part["state"] == "running")
    }

    #[track_caller]
    fn part(&self, name: &str) -> Option<Json> {
        let status = self.ask(&["status"]);
        status["parts"].as_array()?.iter().find(|part| part["name"] == name).cloned()
    }

    /// Kills a part as a crash would; the process that it was.
    #[track_caller]
    pub fn kill(&self, part: &str) -> i32 {
        let Some(pid) = self.part(part).as_ref().and_then(pid) else { panic!("{part} does not run") };
        kill_at_once(pid);
        pid
    }

    /// Kills a part, and waits until another process stands in its place and answers.
    #[track_caller]
    pub fn crash(&self, part: &str) {
        let before = self.kill(part);
        wait_for(&format!("{part} to run again"), || {
            self.running_part(part).is_some_and(|after| after != before)
        });
    }

    /// All processes whose command line names this environment's directory or the one around it, with that line.
    #[must_use]
    pub fn processes(&self) -> BTreeMap<i32, String> {
        let here = self.directory.path().canonicalize().unwrap().to_string_lossy().into_owned();
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let pid = entry.file_name().to_string_lossy().parse().ok()?;
                let line = fs::read(entry.path().join("cmdline")).ok()?;
                Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
            })
            .filter(|(_, line)| line.contains(&here))
            .collect()
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
        self.processes().into_keys().for_each(kill_at_once);
    }
}

fn pid(part: &Json) -> Option<i32> {
    i32::try_from(part["pid"].as_i64()?).ok()
}

/// SIGKILL. A process that is gone already is none to kill.
pub fn kill_at_once(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}
