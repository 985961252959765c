//! The environment `local` in a directory of its own, for tests on the real local parts.

// Each test program uses a part of it.
#![allow(dead_code)]

pub(crate) mod answer;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
};

use cfn::{Assembly, Json};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use platform::System;
use tempfile::TempDir;

const ENGINE: &str = env!("CARGO_BIN_EXE_deploy-engine");

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where cargo put the workspace's programs.
pub(crate) fn binaries() -> PathBuf {
    let binaries = Path::new(ENGINE).parent().unwrap().to_owned();
    for program in ["local-environment", "trade-producer", "trade-consumer"] {
        assert!(
            binaries.join(program).is_file(),
            "these tests run {program}: run them by `cargo xtask test`, or `cargo build --workspace` first"
        );
    }
    binaries
}

/// The environment `local` in a directory of its own, with the parts that the workspace has installed.
pub(crate) struct House {
    pub(crate) directory: TempDir,
    /// The environment's name.
    pub(crate) name: String,
    /// Its systems; those of its file when there are none.
    systems: Vec<System>,
}

impl House {
    pub(crate) fn new() -> Self {
        let house = Self::empty();
        house.render();
        house
    }

    /// By another name and with some of the systems: several stand side by side.
    pub(crate) fn named(name: &str, systems: &[System]) -> Self {
        let mut house = Self::empty();
        name.clone_into(&mut house.name);
        house.systems = systems.to_vec();
        house.render();
        house
    }

    /// With an assembly of its own.
    pub(crate) fn of(assembly: &Assembly) -> Self {
        let house = Self::empty();
        assembly.write(&house.assembly()).unwrap();
        house
    }

    fn empty() -> Self {
        let house =
            Self { directory: TempDir::new().unwrap(), name: "local".to_owned(), systems: Vec::new() };
        fs::create_dir_all(house.root()).unwrap();
        let parts = std::env::var_os("FLOODGATE_LOCAL_ROOT")
            .map_or_else(|| workspace().join("target/local"), PathBuf::from)
            .canonicalize()
            .unwrap();
        for part in ["python", "kafka-libraries", "tools"] {
            if parts.join(part).is_dir() {
                symlink(parts.join(part), house.root().join(part)).unwrap();
            }
        }
        house
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("local")
    }

    pub(crate) fn assembly(&self) -> PathBuf {
        self.directory.path().join("assembly")
    }

    pub(crate) fn render(&self) {
        let mut environment = platform::Environment::load(&workspace(), "local").unwrap();
        self.name.clone_into(&mut environment.name);
        environment.prefix = format!("floodgate-{}", self.name);
        if !self.systems.is_empty() {
            environment.systems.clone_from(&self.systems);
        }
        platform::render(&environment).unwrap().write(&self.assembly()).unwrap();
    }

    /// Binaries of its own, if that directory is there.
    pub(crate) fn binaries(&self) -> PathBuf {
        self.directory.path().join("binaries")
    }

    /// Changes a file of the assembly.
    pub(crate) fn edit(&self, file: &str, change: impl FnOnce(&mut Json)) {
        let path = self.assembly().join(file);
        let mut json: Json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut json);
        fs::write(path, json.to_string()).unwrap();
    }

    pub(crate) fn local(&self, arguments: &[&str]) -> Json {
        let output = Command::new(binaries().join("local-environment"))
            .arg("--root")
            .arg(self.root())
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Where the AWS APIs are, once they run.
    pub(crate) fn endpoint_url(&self) -> Option<String> {
        let state = fs::read_to_string(self.root().join("state.json")).ok()?;
        let state: Json = serde_json::from_str(&state).ok()?;
        state.pointer("/aws/endpoint_url").and_then(Json::as_str).map(str::to_owned)
    }

    pub(crate) fn engine(&self, arguments: &[&str]) -> Command {
        self.engine_of(&self.assembly(), arguments)
    }

    /// The engine on another rendering of the same environment, as another checkout has one.
    pub(crate) fn engine_of(&self, assembly: &Path, arguments: &[&str]) -> Command {
        let endpoint = self.endpoint_url();
        let mut command = Command::new(ENGINE);
        command
            .arg("--assembly")
            .arg(assembly)
            .arg("--local-environment")
            .arg(binaries().join("local-environment"))
            .arg("--local-root")
            .arg(self.root())
            .arg("--assets")
            .arg(self.directory.path().join("assets"))
            .args(["--endpoint-url", endpoint.as_deref().unwrap_or("http://127.0.0.1:9")])
            .args(arguments)
            .env_remove("AWS_PROFILE")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test");
        if arguments.contains(&"deploy") || arguments.contains(&"pack") {
            let own = self.binaries();
            command.arg("--binaries").arg(if own.is_dir() { own } else { binaries() });
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> (bool, String) {
        told(self.engine(arguments).output().unwrap())
    }

    #[track_caller]
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> String {
        let (success, text) = self.run(arguments);
        assert!(success, "{arguments:?}:\n{text}");
        text
    }

    /// Processes whose command line names this directory.
    pub(crate) fn processes(&self) -> Vec<String> {
        let here = self.directory.path().to_string_lossy().into_owned();
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(&here))
            .collect()
    }

    pub(crate) fn kill_part(&self, name: &str) {
        let status = self.local(&["status"]);
        let parts = status["parts"].as_array().unwrap();
        let pid = parts.iter().find(|part| part["name"] == name).unwrap()["pid"].as_i64().unwrap();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = Command::new(binaries().join("local-environment"))
            .arg("--root")
            .arg(self.root())
            .arg("down")
            .output();
    }
}

pub(crate) fn told(output: Output) -> (bool, String) {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// Reads what a child prints until a line has the text.
pub(crate) fn read_until(child: &mut Child, text: &str) -> String {
    let mut seen = String::new();
    let mut reader = BufReader::new(child.stdout.as_mut().unwrap());
    while !seen.contains(text) {
        assert!(reader.read_line(&mut seen).unwrap() > 0, "`{text}` does not come:\n{seen}");
    }
    seen
}
