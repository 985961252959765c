//! The whole path on the real local parts: deploy, look, change, fail, recover, interrupt, take down.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use cfn::Json;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tempfile::TempDir;

const ENGINE: &str = env!("CARGO_BIN_EXE_deploy-engine");

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where cargo put the workspace's programs.
fn binaries() -> PathBuf {
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
struct House {
    directory: TempDir,
}

impl House {
    fn new() -> Self {
        let house = Self { directory: TempDir::new().unwrap() };
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
        house.render();
        house
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("local")
    }

    fn assembly(&self) -> PathBuf {
        self.directory.path().join("assembly")
    }

    fn render(&self) {
        let environment = platform::Environment::load(&workspace(), "local").unwrap();
        platform::render(&environment).unwrap().write(&self.assembly()).unwrap();
    }

    /// Changes a file of the assembly.
    fn edit(&self, file: &str, change: impl FnOnce(&mut Json)) {
        let path = self.assembly().join(file);
        let mut json: Json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut json);
        fs::write(path, json.to_string()).unwrap();
    }

    fn local(&self, arguments: &[&str]) -> Json {
        let output = Command::new(binaries().join("local-environment"))
            .arg("--root")
            .arg(self.root())
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn engine(&self, arguments: &[&str]) -> Command {
        let state = fs::read_to_string(self.root().join("state.json")).unwrap_or_default();
        let state: Json = serde_json::from_str(&state).unwrap_or_default();
        let endpoint = state.pointer("/aws/endpoint_url").and_then(Json::as_str);
        let mut command = Command::new(ENGINE);
        command
            .arg("--assembly")
            .arg(self.assembly())
            .arg("--local-environment")
            .arg(binaries().join("local-environment"))
            .arg("--local-root")
            .arg(self.root())
            .args(["--endpoint-url", endpoint.unwrap_or("http://127.0.0.1:9")])
            .args(arguments)
            .env_remove("AWS_PROFILE")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test");
        if arguments.contains(&"deploy") {
            command.arg("--binaries").arg(binaries());
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> (bool, String) {
        told(self.engine(arguments).output().unwrap())
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        let (success, text) = self.run(arguments);
        assert!(success, "{arguments:?}:\n{text}");
        text
    }

    /// Processes whose command line names this directory.
    fn processes(&self) -> Vec<String> {
        let here = self.directory.path().to_string_lossy().into_owned();
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(&here))
            .collect()
    }

    fn kill_part(&self, name: &str) {
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

fn told(output: Output) -> (bool, String) {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// Reads what a child prints until a line has the text.
fn read_until(child: &mut Child, text: &str) -> String {
    let mut seen = String::new();
    let mut reader = BufReader::new(child.stdout.as_mut().unwrap());
    while !seen.contains(text) {
        assert!(reader.read_line(&mut seen).unwrap() > 0, "`{text}` does not come:\n{seen}");
    }
    seen
}

#[test]
fn an_environment_is_deployed_changed_and_taken_down() {
    let house = House::new();
    let refused = house.run(&["deploy"]);
    assert!(!refused.0, "nothing runs yet");
    house.local(&["up"]);

    let first = house.succeeds(&["deploy"]);
    assert!(first.contains("messages/s flow through trade-tx (24 partitions)"), "{first}");
    assert!(first.contains("5 stacks changed"), "{first}");

    let again = house.succeeds(&["deploy"]);
    assert!(again.contains("all stacks are as they should be"), "{again}");

    let status: Json = serde_json::from_str(&house.succeeds(&["status", "--json"])).unwrap();
    assert!(status["stacks"].as_array().unwrap().iter().all(|stack| stack["status"] == "CREATE_COMPLETE"));
    assert_eq!(status["systems"]["trades"]["partitions"], 24);
    assert_eq!(status["systems"]["trades"]["error"], Json::Null);

    // A change of one stack leaves the others alone.
    let mut name = String::new();
    house.edit("kafka.template.json", |template| {
        let resources = template["Resources"].as_object_mut().unwrap();
        let (id, resource) = resources
            .iter_mut()
            .find(|(_, resource)| resource["Properties"]["TopicName"] == "trade-tx")
            .unwrap();
        name.clone_from(id);
        resource["Properties"]["PartitionCount"] = json!(30);
    });
    let changed = house.succeeds(&["deploy"]);
    assert!(changed.contains("1 stacks changed") && changed.contains(&name), "{changed}");
    assert!(changed.contains("(30 partitions)"), "the broker has them: {changed}");

    // The emulator is killed: the supervisor brings it back with what it knew.
    house.kill_part("aws");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !house.run(&["outputs"]).0 {
        assert!(Instant::now() < deadline, "the emulator does not come back");
    }
    let after = house.succeeds(&["deploy"]);
    assert!(after.contains("all stacks are as they should be"), "{after}");

    house.succeeds(&["teardown"]);
    assert_eq!(house.processes(), Vec::<String>::new());
    house.succeeds(&["teardown"]);
}

#[test]
fn a_failure_names_its_construct_and_the_next_deployment_goes_on() {
    let house = House::new();
    house.local(&["up"]);
    // A name that the broker refuses.
    let spoil = |template: &mut Json| {
        let resources = template["Resources"].as_object_mut().unwrap();
        let (_, topic) =
            resources.iter_mut().find(|(_, resource)| resource["Type"] == "AWS::MSK::Topic").unwrap();
        let mut impossible = topic.clone();
        impossible["Properties"]["TopicName"] = json!("no/such name");
        impossible["Metadata"] = json!({ "floodgate:path": "kafka/Impossible" });
        resources.insert("Impossible".to_owned(), impossible);
    };
    house.edit("kafka.template.json", spoil);
    let (success, text) = house.run(&["deploy"]);
    assert!(!success, "{text}");
    assert!(text.contains("failed at kafka/Impossible (AWS::MSK::Topic, CREATE_FAILED)"), "{text}");
    // The same failure again: the stack is in ROLLBACK_COMPLETE and made anew.
    let (success, text) = house.run(&["deploy"]);
    assert!(!success && text.contains("ROLLBACK_COMPLETE, which takes no update"), "{text}");

    house.render();
    let repaired = house.succeeds(&["deploy"]);
    assert!(repaired.contains("ROLLBACK_COMPLETE"), "{repaired}");
    assert!(repaired.contains("messages/s flow"), "{repaired}");

    // An update that fails goes back, and is no success.
    house.edit("kafka.template.json", spoil);
    let (success, text) = house.run(&["deploy"]);
    assert!(!success && text.contains("failed at kafka/Impossible"), "{text}");

    // What CloudFormation refuses is told in its words.
    house.edit("cluster.template.json", |template| {
        template["Resources"]["Impossible"] = json!({ "Type": "AWS::Nowhere::Thing" });
    });
    house.edit("kafka.template.json", |template| {
        template["Resources"].as_object_mut().unwrap().remove("Impossible");
    });
    let (success, text) = house.run(&["deploy"]);
    assert!(!success && text.contains("[AWS::Nowhere::Thing] (ValidationError)"), "{text}");
    assert!(text.lines().last().unwrap().len() < 300, "{text}");
    house.render();
    house.succeeds(&["deploy"]);
}

#[test]
fn an_interrupted_deployment_says_what_it_leaves_and_can_be_run_again() {
    let house = House::new();
    house.local(&["up"]);
    let mut child = house.engine(&["deploy"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let seen = read_until(&mut child, "creating");
    // Another one meanwhile is refused.
    let (success, text) = house.run(&["deploy"]);
    assert!(!success && text.contains("another deploy or teardown"), "{text}");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(status.code(), Some(130), "{seen}{text}");
    assert!(text.contains("interrupted") && text.contains("Deploy again"), "{text}");

    let again = house.succeeds(&["deploy"]);
    assert!(again.contains("messages/s flow"), "{again}");

    // Also a teardown in the middle of which it is killed.
    let mut child = house.engine(&["teardown"]).stdout(Stdio::piped()).spawn().unwrap();
    read_until(&mut child, "deleting");
    child.kill().unwrap();
    child.wait().unwrap();
    house.succeeds(&["teardown"]);
    assert_eq!(house.processes(), Vec::<String>::new());
}
