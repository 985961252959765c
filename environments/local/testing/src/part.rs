//! A part that runs in the foreground, as a child of the test.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value as Json;
use tempfile::TempDir;

/// The program that runs the parts: `FLOODGATE_LOCAL_ENVIRONMENT`, or where cargo puts it beside the running test.
///
/// # Panics
///
/// When it is not built.
#[must_use]
pub fn program() -> PathBuf {
    let program = std::env::var_os("FLOODGATE_LOCAL_ENVIRONMENT").map_or_else(
        || std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("local-environment"),
        PathBuf::from,
    );
    assert!(
        program.is_file(),
        "this test needs the local parts: run it by `cargo xtask test`, or `cargo build --workspace --bins` first ({} is not there)",
        program.display()
    );
    program
}

/// Where the parts are installed, once for all tests and for `deploy --env local`: `FLOODGATE_LOCAL_ROOT`, or
/// `target/local`. What is missing there is installed by whoever starts it first.
#[must_use]
pub fn parts() -> PathBuf {
    std::env::var_os("FLOODGATE_LOCAL_ROOT")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target/local"), PathBuf::from)
}

/// Starts a program that says where it is, in one line of JSON, before it serves; what it says.
///
/// # Panics
///
/// When it ends without having said so.
#[track_caller]
#[must_use]
pub fn started(command: &mut Command) -> (Child, Json) {
    let mut process = match command.stdout(Stdio::piped()).spawn() {
        Ok(process) => process,
        Err(error) => panic!("{command:?} cannot be started: {error}"),
    };
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    match serde_json::from_str(&line) {
        Ok(told) => (process, told),
        Err(_) => {
            let _ = process.kill();
            let status = process.wait().unwrap();
            panic!(
                "{command:?} has not said where it is but `{line}`, and ended with {status}; why stands above"
            )
        }
    }
}

/// A private part: its process, its data, and what it says of itself. It ends when this is dropped.
pub(crate) struct Part {
    process: Child,
    name: &'static str,
    directory: TempDir,
    pub(crate) told: Json,
}

impl Part {
    /// Starts one on new data: `kafka`, `postgresql`, `valkey` or `aws`.
    #[track_caller]
    pub(crate) fn start(name: &'static str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (process, told) = run(name, directory.path(), arguments);
        Self { process, name, directory, told }
    }

    /// Ends it as a machine does that is gone: no time to write anything down.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again on its data.
    #[track_caller]
    pub(crate) fn start_again(&mut self, arguments: &[&str]) {
        (self.process, self.told) = run(self.name, self.directory.path(), arguments);
    }

    /// A port that it told of.
    pub(crate) fn port(&self) -> u16 {
        u16::try_from(self.told["port"].as_u64().unwrap()).unwrap()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[track_caller]
fn run(name: &str, directory: &Path, arguments: &[&str]) -> (Child, Json) {
    let mut command = Command::new(program());
    command
        .arg("--root")
        .arg(directory.join("local"))
        .arg("--parts")
        .arg(parts())
        .arg(name)
        .arg("--directory")
        .arg(directory.join(name))
        .args(arguments)
        // A private broker is wanted, whatever the test's own environment names.
        .env_remove("KAFKA_BOOTSTRAP_SERVERS");
    started(&mut command)
}
