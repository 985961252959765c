//! A release on its way out of an environment on AWS: what the gate looks at, and what it says it cannot see.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value as Json, json};

use super::{DEPLOYMENT, Scene, told};

/// The parameter that says where code was swapped.
const SWAPPED: &str = "/fg-dev/hotswapped";

impl Scene {
    fn releases(&self) -> PathBuf {
        self.path("releases")
    }

    fn answer(&self) -> Json {
        serde_json::from_slice(&fs::read(self.path("answer.json")).unwrap()).unwrap()
    }

    /// Makes a release of what is rendered and unpacks it; gives its directory.
    fn release(&self) -> PathBuf {
        let of = format!("{}={}", self.path("assembly").display(), self.path("binaries").display());
        let arguments = ["bundle", "--revision", "1111111", "--compiler", "rustc", "--of", &of, "--out"];
        let mut bundle = self.plain(&self.path("assembly"), &arguments);
        bundle.arg(self.releases()).arg("--answer").arg(self.path("answer.json"));
        let (ok, text) = told(bundle.output().unwrap());
        assert!(ok, "{text}");
        let archive: PathBuf = self.answer()["file"].as_str().unwrap().into();
        let mut unpack = self.plain(&self.path("assembly"), &["unpack", "--environment", "dev", "--release"]);
        unpack.arg(archive).arg("--into").arg(self.releases()).arg("--answer").arg(self.path("answer.json"));
        let (ok, text) = told(unpack.output().unwrap());
        assert!(ok, "{text}");
        let directory: PathBuf = self.answer()["directory"].as_str().unwrap().into();
        // The base is known, as it is once somebody has asked for it.
        fs::create_dir_all(directory.join("assets/base")).unwrap();
        for file in fs::read_dir(self.path("assets/base")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), directory.join("assets/base").join(file.file_name())).unwrap();
        }
        directory
    }

    fn deploy_release(&self, directory: &Path) -> (bool, String) {
        let mut command = self.plain(&directory.join("assemblies/dev"), &["deploy", "--confirm", "dev"]);
        told(command.arg("--release").arg(directory).output().unwrap())
    }

    fn gate(&self) -> (bool, String) {
        let mut command = self.plain(&self.path("assembly"), &["releases", "gate", "--bake", "0s", "--into"]);
        told(command.arg(self.releases()).arg("--answer").arg(self.path("answer.json")).output().unwrap())
    }

    fn swapped(&self, recorded: &Json) {
        self.aws.held().parameters.insert(SWAPPED.to_owned(), (recorded.to_string(), 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_goes_on_only_from_where_it_is_seen_to_work() {
    let scene = Scene::new().await;
    let directory = scene.release();
    let (ok, text) = scene.deploy_release(&directory);
    assert!(ok && text.contains("recorded as #1 of dev: release"), "{text}");

    // The smoke check of each system is done again, without helm and without touching anything.
    scene.journal();
    let (ok, text) = scene.gate();
    assert!(ok, "{text}");
    for line in ["trades: 1/1 consumer", "ledger: 1 event sources enabled", "0 differences from the release"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    let journal = scene.journal();
    assert!(journal.iter().all(|line| line.contains("DetectStackDrift")), "{journal:#?}");

    // The same again is no other deployment.
    let (ok, text) = scene.deploy_release(&directory);
    assert!(ok && text.contains("nothing changed: dev is as recorded as #1: release"), "{text}");

    // What does not work.
    let available = |pods: u32| {
        let mut api = scene.kubernetes.lock().unwrap();
        api.objects.get_mut(DEPLOYMENT).unwrap()["status"]["availableReplicas"] = json!(pods);
    };
    available(0);
    let states =
        |state: &str| scene.aws.held().event_sources.insert("source-1".to_owned(), [state.to_owned()].into());
    states("Disabled");
    let (ok, text) = scene.gate();
    assert!(!ok, "{text}");
    for line in [
        "2 things speak against",
        "dev does not work: trades: 0 of 1 pods of consumer are ready",
        "dev does not work: ledger: the event source of fg-dev-writer is Disabled",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    available(1);

    // What cannot be looked at is not passed over, and what can be is looked at all the same.
    let cluster = scene.aws.held().cluster.replace("http://127.0.0.1:9".to_owned());
    let (ok, text) = scene.gate();
    assert!(!ok && text.contains("its workloads cannot be looked at from here"), "{text}");
    assert!(text.contains("is Disabled"), "{text}");
    scene.aws.held().cluster = cluster;
    states("Enabled");

    // Code was swapped in: nobody knows what runs until it is deployed again.
    scene.swapped(&json!(["ledger-database", "workloads"]));
    let (ok, text) = scene.gate();
    assert!(!ok && text.contains("one thing speaks against"), "{text}");
    for part in [
        "code was swapped in past the release, and may run in dev: ledger-database (migrate); workloads (consumer)",
        "deploy the release there without --hotswap",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    scene.swapped(&json!(["workloads"]));
    let (ok, text) = scene.deploy_release(&directory);
    assert!(ok && text.contains("recorded as #2 of dev: release"), "{text}");
    let (ok, text) = scene.gate();
    assert!(ok, "{text}");
}
