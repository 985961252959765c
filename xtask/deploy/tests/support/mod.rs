//! The environment `local` in a directory of its own, for tests on the real local parts.

// Each test program uses a part of it.
#![allow(dead_code)]

pub(crate) mod answer;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output},
};

use cfn::{Assembly, Json};
use local_testing::{Environment, parts};
use platform::System;

const ENGINE: &str = env!("CARGO_BIN_EXE_deploy-engine");

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where cargo put the workspace's programs.
pub(crate) fn binaries() -> PathBuf {
    let binaries = Path::new(ENGINE).parent().unwrap().to_owned();
    let programs =
        ["local-environment", "trade-producer", "trade-consumer", "ledger-load", "lesson-load", "tag-load"];
    for program in programs {
        assert!(
            binaries.join(program).is_file(),
            "these tests run {program}: run them by `cargo xtask test`, or `cargo build --workspace` first"
        );
    }
    binaries
}

/// The environment `local` in a directory of its own, and what is deployed into it.
pub(crate) struct House {
    pub(crate) environment: Environment,
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
        Self { environment: Environment::new(), name: "local".to_owned(), systems: Vec::new() }
    }

    /// The directory of everything that is the test's own.
    pub(crate) fn directory(&self) -> &Path {
        self.environment.directory()
    }

    pub(crate) fn assembly(&self) -> PathBuf {
        self.directory().join("assembly")
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
        self.directory().join("binaries")
    }

    /// Changes a file of the assembly.
    pub(crate) fn edit(&self, file: &str, change: impl FnOnce(&mut Json)) {
        let path = self.assembly().join(file);
        let mut json: Json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut json);
        fs::write(path, json.to_string()).unwrap();
    }

    pub(crate) fn engine(&self, arguments: &[&str]) -> Command {
        self.engine_of(&self.assembly(), arguments)
    }

    /// The engine on another rendering of the same environment, as another checkout has one.
    pub(crate) fn engine_of(&self, assembly: &Path, arguments: &[&str]) -> Command {
        let endpoint = self.environment.endpoint_url();
        let mut command = Command::new(ENGINE);
        command
            .arg("--assembly")
            .arg(assembly)
            .arg("--local-environment")
            .arg(self.environment.program())
            .arg("--local-root")
            .arg(self.environment.root())
            .arg("--local-parts")
            .arg(parts())
            .arg("--assets")
            .arg(self.directory().join("assets"))
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
