//! The cluster's side, against a small Kubernetes API that this test serves: what is applied, in which order, what
//! is pruned, and what an interruption leaves.

#![allow(clippy::unwrap_used)]

#[path = "support/kubernetes_api.rs"]
mod kubernetes_api;

use std::{collections::BTreeMap, path::Path, time::Duration};

use cfn::assembly::Manifest;
use deploy_engine::{
    kubernetes::{
        apply::{Change, Cluster},
        install::Installation,
        inventory::Object,
    },
    report::{Format, Reporter},
    wiring::Known,
};
use kubernetes_api::Shared;
use serde_json::{Value as Json, json};

async fn cluster() -> (Cluster, Shared) {
    let shared = Shared::default();
    let config = kube::Config::new(kubernetes_api::start(&shared).await.parse().unwrap());
    (Cluster::new(kube::Client::try_from(config).unwrap()), shared)
}

const CONSUMER: &str = r#"apiVersion: v1
kind: Namespace
metadata: {name: trades}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: consumer, namespace: trades}
spec: {replicas: 1, selector: {matchLabels: {app: consumer}}, template: {image: "${{ image }}"}}
---
apiVersion: v1
kind: Service
metadata: {name: consumer, namespace: trades}
spec: {type: LoadBalancer}
"#;

const SETTINGS: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: trades}\ndata: {a: \"1\"}\n";

/// An assembly with a workload, and a manifest that comes after it.
fn assembly(directory: &Path) -> Manifest {
    std::fs::write(directory.join("consumer.yaml"), CONSUMER).unwrap();
    std::fs::write(directory.join("settings.yaml"), SETTINGS).unwrap();
    serde_json::from_value(json!({
        "schema_version": 1, "environment": "dev", "provider": "aws", "account": "111111111111",
        "region": "eu-west-1", "prefix": "fg", "digest": "", "stacks": [], "assets": [], "cluster": null, "systems": {},
        "workloads": [{ "system": "trades", "name": "consumer", "namespace": "trades", "manifest": "consumer.yaml",
            "values": [{ "name": "image", "source": { "asset": { "name": "consumer", "field": "image_uri" } } }] }],
        "cluster_manifests": [{ "name": "settings", "manifest": "settings.yaml", "after": ["consumer"], "values": [] }],
    }))
    .unwrap()
}

fn known() -> Known {
    let image = BTreeMap::from([("image_uri".to_owned(), "repository@sha256:1".to_owned())]);
    Known { assets: BTreeMap::from([("consumer".to_owned(), image)]), ..Known::default() }
}

struct Fixture {
    directory: tempfile::TempDir,
    manifest: Manifest,
    known: Known,
    cluster: Cluster,
    shared: Shared,
    reporter: Reporter,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let manifest = assembly(directory.path());
        let (cluster, shared) = cluster().await;
        Self { directory, manifest, known: known(), cluster, shared, reporter: Reporter::new(Format::Json) }
    }

    fn installation(&self) -> Installation<'_> {
        Installation {
            assembly: self.directory.path(),
            manifest: &self.manifest,
            known: &self.known,
            cluster: &self.cluster,
            helm: None,
            reporter: &self.reporter,
        }
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().unwrap().log)
    }

    fn paths(&self) -> Vec<String> {
        self.shared.lock().unwrap().objects.keys().cloned().collect()
    }
}

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/trades/deployments/consumer";
const SETTINGS_PATH: &str = "/api/v1/namespaces/trades/configmaps/settings";
const INVENTORY: &str = "/api/v1/namespaces/kube-system/configmaps/floodgate-dev";

#[tokio::test]
async fn a_cluster_gets_what_is_rendered_in_order_and_a_second_time_nothing() {
    let fixture = Fixture::new().await;
    fixture.installation().run().await.unwrap();
    let log = fixture.log();
    let place = |path: &str| log.iter().position(|line| line == &format!("apply {path}")).unwrap();
    assert!(
        place(INVENTORY) < place("/api/v1/namespaces/trades"),
        "it is remembered before it is there: {log:?}"
    );
    assert!(place("/api/v1/namespaces/trades") < place(DEPLOYMENT));
    assert!(place(DEPLOYMENT) < place(SETTINGS_PATH), "settings come after the consumer: {log:?}");
    let deployment = fixture.shared.lock().unwrap().objects[DEPLOYMENT].clone();
    assert_eq!(deployment["spec"]["template"]["image"], "repository@sha256:1");
    let before = fixture.shared.lock().unwrap().versions;
    fixture.installation().run().await.unwrap();
    assert_eq!(fixture.shared.lock().unwrap().versions, before, "nothing has changed the second time");
}

#[tokio::test]
async fn what_is_no_longer_rendered_is_pruned_but_not_the_namespace() {
    let mut fixture = Fixture::new().await;
    fixture.installation().run().await.unwrap();
    fixture.manifest.workloads.clear();
    fixture.manifest.cluster_manifests[0].after.clear();
    fixture.installation().run().await.unwrap();
    let paths = fixture.paths();
    assert!(!paths.contains(&DEPLOYMENT.to_owned()), "{paths:?}");
    assert!(paths.contains(&SETTINGS_PATH.to_owned()), "{paths:?}");
    assert!(paths.contains(&"/api/v1/namespaces/trades".to_owned()), "{paths:?}");
    assert_eq!(fixture.cluster.inventory("dev").await.unwrap().len(), 1);
}

/// Cut off after each application in turn, then run again: the end is the same, and nothing is forgotten.
#[tokio::test]
async fn an_installation_that_was_cut_off_goes_on() {
    let whole = Fixture::new().await;
    whole.installation().run().await.unwrap();
    for most in 0..5 {
        let fixture = Fixture::new().await;
        fixture.shared.lock().unwrap().refuse_after = Some(most);
        let error = format!("{:#}", fixture.installation().run().await.unwrap_err());
        assert!(error.contains("the API is away"), "{error}");
        let applied = fixture.paths();
        let remembered = fixture.cluster.inventory("dev").await.unwrap();
        assert!(applied.len() <= remembered.len() + 1, "{applied:?} are there, {remembered:?} remembered");
        fixture.shared.lock().unwrap().refuse_after = None;
        fixture.installation().run().await.unwrap();
        assert_eq!(fixture.paths(), whole.paths());
    }
}

#[tokio::test]
async fn a_rollout_that_is_stuck_fails_the_installation_and_says_why() {
    let fixture = Fixture::new().await;
    {
        let mut store = fixture.shared.lock().unwrap();
        store.stuck = true;
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "consumer-1", "namespace": "trades" },
            "status": { "containerStatuses": [{ "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } } }] } });
        store.objects.insert("/api/v1/namespaces/trades/pods/consumer-1".to_owned(), pod);
    }
    let error = format!("{:#}", fixture.installation().run().await.unwrap_err());
    assert!(error.contains("has timed out progressing") && error.contains("ImagePullBackOff"), "{error}");
    assert!(!fixture.paths().contains(&SETTINGS_PATH.to_owned()), "what comes after it was not begun");
}

#[tokio::test]
async fn a_rollout_is_watched_on_when_the_api_is_away_for_a_moment() {
    let fixture = Fixture::new().await;
    fixture.shared.lock().unwrap().away = 2;
    fixture.installation().run().await.unwrap();
    assert_eq!(fixture.shared.lock().unwrap().away, 0, "it was away");
    assert!(fixture.paths().contains(&SETTINGS_PATH.to_owned()), "what comes after it was done");
}

#[tokio::test]
async fn a_kind_that_the_cluster_does_not_know_is_named() {
    let (cluster, _) = cluster().await;
    let scaled = json!({ "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": { "name": "x", "namespace": "trades" } });
    let error = format!("{:#}", cluster.apply(&scaled).await.unwrap_err());
    assert!(error.contains("no kind ScaledObject") && error.contains("chart"), "{error}");
}

#[tokio::test]
async fn an_application_says_whether_it_changed_anything() {
    let (cluster, _) = cluster().await;
    let settings = |value: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "s", "namespace": "trades" }, "data": { "a": value } });
    assert_eq!(cluster.apply(&settings("1")).await.unwrap(), Change::Created);
    assert_eq!(cluster.apply(&settings("1")).await.unwrap(), Change::Unchanged);
    assert_eq!(cluster.apply(&settings("2")).await.unwrap(), Change::Changed);
}

#[tokio::test]
async fn a_removal_leaves_nothing_of_ours_and_can_be_run_again() {
    let fixture = Fixture::new().await;
    fixture.installation().run().await.unwrap();
    // A volume that a chart's workload has left behind.
    let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "prometheus", "namespace": "monitoring" } });
    let path = "/api/v1/namespaces/monitoring/persistentvolumeclaims/prometheus".to_owned();
    fixture.shared.lock().unwrap().objects.insert(path, claim);
    fixture.installation().remove().await.unwrap();
    assert_eq!(fixture.paths(), Vec::<String>::new());
    let log = fixture.log();
    let place =
        |path: &str| log.iter().position(|line| line.starts_with("delete") && line.ends_with(path)).unwrap();
    assert!(place("/deployments/consumer") < place("/namespaces/trades"), "{log:?}");
    fixture.installation().remove().await.unwrap();
    let gone = Object {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        namespace: Some("trades".to_owned()),
        name: "settings".to_owned(),
    };
    fixture.cluster.delete(&gone, Duration::from_secs(1)).await.unwrap();
}

const JOB: &str = "/apis/batch/v1/namespaces/trades/jobs/load";

fn job(image: &str) -> Json {
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "load", "namespace": "trades" },
        "spec": { "suspend": true, "parallelism": 1, "completions": 1, "template": { "image": image } } })
}

fn log(shared: &Shared) -> Vec<String> {
    std::mem::take(&mut shared.lock().unwrap().log)
}

/// As `kubectl patch` and the cluster do.
fn change_job(shared: &Shared, change: impl FnOnce(&mut Json)) {
    change(shared.lock().unwrap().objects.get_mut(JOB).unwrap());
}

#[tokio::test]
async fn a_job_that_is_changed_is_made_anew() {
    let (cluster, shared) = cluster().await;
    assert_eq!(cluster.apply(&job("image:1")).await.unwrap(), Change::Created);
    assert_eq!(cluster.apply(&job("image:1")).await.unwrap(), Change::Unchanged);
    let _ = log(&shared);
    assert_eq!(cluster.apply(&job("image:2")).await.unwrap(), Change::Changed);
    let [apply, delete] = [format!("apply {JOB}"), format!("delete {JOB}")];
    assert_eq!(log(&shared), [apply.as_str(), &delete, &apply]);
    let now = shared.lock().unwrap().objects[JOB].clone();
    assert_eq!(
        (&now["spec"]["template"]["image"], &now["spec"]["suspend"]),
        (&json!("image:2"), &json!(true))
    );
}

#[tokio::test]
async fn a_job_that_somebody_runs_is_left_alone_and_one_that_has_run_is_made_ready_again() {
    let (cluster, shared) = cluster().await;
    let _ = cluster.apply(&job("image:1")).await.unwrap();
    change_job(&shared, |job| {
        job["spec"]["suspend"] = json!(false);
        job["spec"]["parallelism"] = json!(4);
        job["spec"]["completions"] = json!(4);
    });
    let _ = cluster.apply(&job("image:1")).await.unwrap();
    let running = shared.lock().unwrap().objects[JOB].clone();
    assert_eq!((&running["spec"]["suspend"], &running["spec"]["parallelism"]), (&json!(false), &json!(4)));
    change_job(&shared, |job| {
        job["status"] = json!({ "conditions": [{ "type": "Failed", "status": "True" }] })
    });
    let _ = log(&shared);
    assert_eq!(cluster.apply(&job("image:1")).await.unwrap(), Change::Changed);
    assert_eq!(log(&shared), [format!("delete {JOB}"), format!("apply {JOB}")]);
    let ready = shared.lock().unwrap().objects[JOB].clone();
    assert_eq!((&ready["spec"]["suspend"], ready.get("status")), (&json!(true), None));
}

/// A run that takes hours, or one that failed, keeps no deploy waiting.
#[tokio::test]
async fn an_installation_does_not_wait_for_a_job_that_somebody_runs() {
    let fixture = Fixture::new().await;
    let with_job = format!("{SETTINGS}---\n{}\n", job("image:1"));
    std::fs::write(fixture.directory.path().join("settings.yaml"), with_job).unwrap();
    fixture.installation().run().await.unwrap();
    change_job(&fixture.shared, |job| job["spec"]["suspend"] = json!(false));
    fixture.installation().run().await.unwrap();
    let running = fixture.shared.lock().unwrap().objects[JOB].clone();
    assert_eq!(running["spec"]["suspend"], false);
}
