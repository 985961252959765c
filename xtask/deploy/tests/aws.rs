//! An environment on AWS, from its first deployment to its end, against a small AWS, a small Kubernetes API, a
//! registry and a `helm` that write down in one journal what is asked of them. The engine runs as the program that it is.

#![allow(clippy::unwrap_used)]

#[path = "aws/changes.rs"]
mod changes;
#[path = "support/registry.rs"]
mod held_registry;
#[path = "support/kubernetes_api.rs"]
mod kubernetes_api;
#[path = "aws/promotion.rs"]
mod promotion;
#[path = "support/small_aws.rs"]
mod small_aws;
#[path = "aws/taking_down.rs"]
mod taking_down;

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use deploy_engine::assets::image;
use serde_json::{Value as Json, json};
use small_aws::{ACCOUNT, SmallAws};
use tempfile::TempDir;

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: trades}\n";

/// An environment with a database that is migrated, a function behind an event source, and a workload that a chart's
/// kind scales.
struct Scene {
    directory: TempDir,
    aws: SmallAws,
    registry: held_registry::Server,
    kubernetes: kubernetes_api::Shared,
    endpoint: String,
    registry_host: String,
    journal: Arc<Mutex<Vec<String>>>,
}

fn output(stack: &str, output: &str) -> Json {
    json!({ "output": { "stack": stack, "output": output } })
}

fn asset(name: &str, field: &str) -> Json {
    json!({ "asset": { "name": name, "field": field } })
}

fn wired(name: &str, source: Json) -> Json {
    json!({ "name": name, "source": source })
}

impl Scene {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let journal = Arc::default();
        let (aws, registry, kubernetes) =
            (SmallAws::default(), held_registry::Server::default(), kubernetes_api::Shared::default());
        let endpoint = aws.start().await;
        let registry_host = registry.clone().start().await;
        {
            let mut api = kubernetes.lock().unwrap();
            api.wants_token = true;
            api.journal = Arc::clone(&journal);
            registry.held().journal = Arc::clone(&journal);
        }
        let api = kubernetes_api::start(&kubernetes).await;
        {
            let mut held = aws.held();
            held.journal = Arc::clone(&journal);
            held.kubernetes = kubernetes.clone();
            held.cluster = Some(api);
            held.helm_version = "v3.17.0+g301108e".to_owned();
            let states = VecDeque::from(["Creating".to_owned(), "Enabled".to_owned()]);
            held.event_sources.insert("source-1".to_owned(), states);
        }
        let scene = Self { directory, aws, registry, kubernetes, endpoint, registry_host, journal };
        scene.programs();
        scene.base();
        scene.assembly();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The worker's binary, which gives this answer.
    fn compile(&self, answer: &str) {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/functions/answer.rs");
        let binary = self.path("binaries/answer");
        let status = Command::new("rustc")
            .args(["--edition", "2024", source, "-o"])
            .arg(&binary)
            .env("ANSWER", answer)
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// A worker's binary, and helm.
    fn programs(&self) {
        for name in ["binaries", "programs", "assembly/kubernetes/helm", "assets/base"] {
            fs::create_dir_all(self.path(name)).unwrap();
        }
        self.compile("well");
        let helm = self.path("programs/helm");
        fs::write(&helm, small_aws::HELM).unwrap();
        fs::set_permissions(&helm, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The base of images, as the engine remembers it once it has asked for it.
    fn base(&self) {
        let layer = self.registry.add_blob(b"base");
        let config = json!({ "architecture": architecture(), "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": ["sha256:0"] } });
        let manifest = json!({ "schemaVersion": 2, "layers": [
            { "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": 4 }],
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:1", "size": 1 } });
        let digest = image::BASE.split_once('@').unwrap().1.replace(':', "-");
        let path = self.path("assets/base").join(format!("{digest}-{}.json", architecture()));
        fs::write(path, json!({ "manifest": manifest, "config": config }).to_string()).unwrap();
    }

    fn write(&self, name: &str, text: impl AsRef<str>) {
        fs::write(self.path("assembly").join(name), text.as_ref()).unwrap();
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Json)) {
        let path = self.path("assembly").join(name);
        let mut json: Json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut json);
        fs::write(path, json.to_string()).unwrap();
    }

    fn assembly(&self) {
        let role = format!("arn:aws:iam::{ACCOUNT}:role/execution");
        let topic = json!({ "Type": "AWS::MSK::Topic", "Properties": { "TopicName": "trade-tx" } });
        let function = json!({ "Type": "AWS::Lambda::Function", "Properties": {
            "Architectures": [std::env::consts::ARCH.replace("aarch64", "arm64")],
            "Code": { "S3Bucket": { "Ref": "CodeBucket" }, "S3Key": { "Ref": "CodeKey" } } } });
        let code = || {
            [wired("CodeBucket", asset("migrate", "s3_bucket")), wired("CodeKey", asset("migrate", "s3_key"))]
        };
        let brokers = json!({ "lookup": { "kind": "msk-bootstrap-brokers", "authentication": "iam",
            "cluster_arn": output("kafka", "Arn") } });
        let mut stacks = Vec::new();
        let mut stack = |id: &str,
                         depends_on: &[&str],
                         parameters: &[Json],
                         resources: Json,
                         outputs: &[(&str, String)]| {
            let declared: serde_json::Map<String, Json> = parameters
                .iter()
                .map(|one| (one["name"].as_str().unwrap().to_owned(), json!({ "Type": "String" })))
                .collect();
            let outputs: serde_json::Map<String, Json> =
                outputs.iter().map(|(name, value)| ((*name).to_owned(), json!({ "Value": value }))).collect();
            let template = json!({ "Parameters": declared, "Resources": resources, "Outputs": outputs });
            self.write(&format!("{id}.template.json"), template.to_string());
            stacks.push(json!({ "id": id, "name": format!("fg-dev-{id}"), "template": format!("{id}.template.json"),
                "template_sha256": "", "depends_on": depends_on, "capabilities": [], "termination_protection": false,
                "tags": {}, "parameters": parameters }));
        };
        let bucket = json!({ "Type": "AWS::S3::Bucket", "Metadata": { "physical": "artifacts" } });
        stack(
            "delivery",
            &[],
            &[],
            json!({ "Artifacts": bucket }),
            &[("ArtifactBucket", "artifacts".to_owned()), ("ExecutionRoleArn", role)],
        );
        stack(
            "kafka",
            &["delivery"],
            &[],
            json!({ "Topic": topic }),
            &[("Arn", "arn:aws:kafka:fg".to_owned())],
        );
        let repository = format!("{}/fg-dev/consumer", self.registry_host);
        let outputs = [("Name", "fg-dev".to_owned()), ("Repository", repository)];
        let key = json!({ "Type": "AWS::KMS::Key", "DeletionPolicy": "Retain", "Metadata": { "physical": "key-1" } });
        stack("cluster", &["delivery"], &[], json!({ "Key": key }), &outputs);
        let outputs = [("Migrate", "fg-dev-migrate".to_owned())];
        stack("ledger-database", &["delivery"], &code(), json!({ "Migrate": function }), &outputs);
        let resources = json!({
            "Source": { "Type": "AWS::Lambda::EventSourceMapping", "Metadata": { "physical": "source-1" } },
            "Lag": { "Type": "AWS::CloudWatch::Alarm", "Metadata": { "physical": "lag" } },
        });
        let parameters = [wired("Brokers", brokers.clone())];
        stack("ledger", &["kafka", "ledger-database"], &parameters, resources, &[]);
        for one in &mut stacks {
            if one["id"] == "ledger-database" {
                one["invocations"] = json!([{ "output": "Migrate" }]);
            }
        }
        let arch =
            if architecture() == "arm64" { "\n      nodeSelector: {kubernetes.io/arch: arm64}" } else { "" };
        self.write(
            "kubernetes/consumer.yaml",
            format!(
                "{NAMESPACE}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: consumer, namespace: trades}}\nspec:\n  replicas: 1\n  selector: {{matchLabels: {{app: consumer}}}}\n  template:\n    image: \"${{{{ image }}}}\"\n    brokers: \"${{{{ brokers }}}}\"{arch}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: consumer, namespace: trades}}\nspec: {{type: LoadBalancer}}\n"
            ),
        );
        self.write(
            "kubernetes/scaling.yaml",
            "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: consumer, namespace: trades}\nspec: {a: \"1\"}\n",
        );
        self.write(
            "kubernetes/exporters.yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: exporters, namespace: trades}\ndata: {second: \"${{ second }}:11001\"}\n",
        );
        self.write("kubernetes/helm/keda.yaml", "a: 1\n");
        let second = json!({ "lookup": { "kind": "msk-broker-host", "broker": 2, "cluster_arn": output("kafka", "Arn") } });
        let manifest = json!({
            "schema_version": 1, "environment": "dev", "provider": "aws", "account": ACCOUNT, "region": "eu-west-1",
            "prefix": "fg-dev", "digest": "", "stacks": stacks, "artifact_bucket": output("delivery", "ArtifactBucket"),
            "assets": [
                { "name": "migrate", "kind": "zip", "package": "answer" },
                { "name": "consumer", "kind": "image", "package": "answer", "repository": output("cluster", "Repository") },
            ],
            "cluster": output("cluster", "Name"), "systems": {},
            "workloads": [{ "system": "trades", "name": "consumer", "namespace": "trades",
                "manifest": "kubernetes/consumer.yaml",
                "values": [wired("image", asset("consumer", "image_uri")), wired("brokers", brokers)] }],
            "helm_releases": [{ "name": "keda", "chart": "kedacore/keda", "version": "2.18.1", "namespace": "keda",
                "values": "kubernetes/helm/keda.yaml" }],
            "cluster_manifests": [
                { "name": "exporters", "manifest": "kubernetes/exporters.yaml", "after": ["consumer"],
                    "values": [wired("second", second)] },
                { "name": "scaling", "manifest": "kubernetes/scaling.yaml", "after": ["keda", "consumer"], "values": [] },
            ],
        });
        self.write("manifest.json", manifest.to_string());
    }

    fn engine(&self, arguments: &[&str]) -> Command {
        let mut command = self.plain(&self.path("assembly"), arguments);
        command.args(["--confirm", "dev"]);
        if arguments[0] == "deploy" {
            command.arg("--binaries").arg(self.path("binaries"));
        }
        command
    }

    /// The engine on an assembly, with these arguments and no more.
    fn plain(&self, assembly: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deploy-engine"));
        let path = std::env::var("PATH").unwrap();
        command
            .arg("--assembly")
            .arg(assembly)
            .arg("--assets")
            .arg(self.path("assets"))
            .args(["--endpoint-url", &self.endpoint])
            .args(arguments)
            .env_remove("AWS_PROFILE")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env(image::BASE_REGISTRY, &self.registry_host)
            .env("HELM_ANSWERS_AT", &self.endpoint)
            .env("PATH", format!("{}:{path}", self.path("programs").display()));
        command
    }

    fn run(&self, arguments: &[&str]) -> (bool, String) {
        told(self.engine(arguments).output().unwrap())
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        let (success, text) = self.run(arguments);
        assert!(success, "{arguments:?}:\n{text}\n{:#?}", self.journal());
        text
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let (success, text) = self.run(arguments);
        assert!(!success, "{arguments:?}:\n{text}");
        text
    }

    /// What happened since this was asked before.
    fn journal(&self) -> Vec<String> {
        std::mem::take(&mut *self.journal.lock().unwrap())
    }

    fn object(&self, path: &str) -> Option<Json> {
        self.kubernetes.lock().unwrap().objects.get(path).cloned()
    }
}

/// As images call this machine's processor.
fn architecture() -> &'static str {
    if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" }
}

fn told(output: Output) -> (bool, String) {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// Each of these happened, in this order.
#[track_caller]
fn in_order(journal: &[String], lines: &[&str]) {
    let mut from = 0;
    for line in lines {
        let found = journal[from..].iter().position(|one| one.contains(line));
        let Some(at) = found else { panic!("`{line}` does not come after {from} of {journal:#?}") };
        from += at + 1;
    }
}

fn count(journal: &[String], text: &str) -> usize {
    journal.iter().filter(|line| line.contains(text)).count()
}

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/trades/deployments/consumer";
const SCALED_OBJECT: &str = "/apis/keda.sh/v1alpha1/namespaces/trades/scaledobjects/consumer";
const EXPORTERS: &str = "/api/v1/namespaces/trades/configmaps/exporters";

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_comes_to_be_in_order_and_a_second_time_nothing_changes() {
    let scene = Scene::new().await;
    let first = scene.succeeds(&["deploy"]);
    let journal = scene.journal();
    in_order(
        &journal,
        &[
            "ExecuteChangeSet fg-dev-delivery",
            "s3 put artifacts/assets/",
            "ExecuteChangeSet fg-dev-ledger-database",
            "lambda invoke fg-dev-migrate",
            "ExecuteChangeSet fg-dev-ledger",
            "registry manifest",
            "helm upgrade keda",
            "kubernetes apply /apis/keda.sh",
        ],
    );
    in_order(&journal, &["registry manifest", &format!("kubernetes apply {DEPLOYMENT}"), EXPORTERS]);
    // The stack that makes the role cannot be made with it; all others are.
    assert!(journal.contains(&"cloudformation CreateChangeSet fg-dev-delivery".to_owned()), "{journal:#?}");
    assert_eq!(count(&journal, "CreateChangeSet"), 5);
    assert_eq!(count(&journal, " as execution"), 4, "{journal:#?}");
    let touches = journal.iter().filter(|line| line.starts_with("kafka ")).count();
    assert_eq!(touches, 0, "topics are CloudFormation's: {journal:#?}");

    let spec = &scene.object(DEPLOYMENT).unwrap()["spec"]["template"];
    let image = spec["image"].as_str().unwrap();
    let (repository, digest) = image.split_once('@').unwrap();
    assert_eq!(repository, format!("{}/fg-dev/consumer", scene.registry_host));
    assert!(scene.registry.held().manifests.contains_key(digest), "what runs was pushed: {image}");
    assert_eq!(spec["brokers"], "b-1.fg.example.com:9098,b-2.fg.example.com:9098");
    assert_eq!(scene.object(EXPORTERS).unwrap()["data"]["second"], "b-2.fg.example.com:11001");
    for line in [
        "event source of fg-dev-writer is Creating",
        "trades: 1/1 consumer",
        "ledger: 1 event sources enabled, 1 alarms quiet",
    ] {
        assert!(first.contains(line), "{line}: {first}");
    }
    let kubeconfig = fs::read_to_string(scene.path("assembly/kubeconfig.json")).unwrap();
    assert!(!kubeconfig.contains("k8s-aws-v1"), "no secret is written down");

    let versions = scene.kubernetes.lock().unwrap().versions;
    let again = scene.succeeds(&["deploy"]);
    assert!(again.contains("all stacks are as they should be"), "{again}");
    let journal = scene.journal();
    for text in ["ChangeSet", "registry", "helm", "s3 put"] {
        assert_eq!(count(&journal, text), 0, "{text}: {journal:#?}");
    }
    assert_eq!(count(&journal, "lambda invoke fg-dev-migrate"), 1, "it finds out what is left to do");
    assert_eq!(scene.kubernetes.lock().unwrap().versions, versions);

    // What is no longer rendered goes; the topic is left to CloudFormation.
    scene.edit("manifest.json", |manifest| manifest["cluster_manifests"].as_array_mut().unwrap().truncate(1));
    scene.succeeds(&["deploy"]);
    let journal = scene.journal();
    in_order(
        &journal,
        &[&format!("kubernetes apply {EXPORTERS}"), &format!("kubernetes delete {SCALED_OBJECT}")],
    );
    assert_eq!(count(&journal, "kubernetes delete"), 1, "{journal:#?}");

    // A chart may hold what is not ours: it is told, not removed.
    scene.edit("manifest.json", |manifest| manifest["helm_releases"] = json!([]));
    let text = scene.succeeds(&["deploy"]);
    assert!(text.contains("`helm uninstall keda --namespace keda` removes it"), "{text}");
    assert_eq!(count(&scene.journal(), "helm uninstall"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pushed_side_by_side() {
    let scene = Scene::new().await;
    let repository = format!("{}/fg-dev/other", scene.registry_host);
    scene.edit("cluster.template.json", |template| {
        template["Outputs"]["Other"] = json!({ "Value": repository });
    });
    scene.edit("manifest.json", |manifest| {
        let other = json!({ "name": "other", "kind": "image", "package": "answer", "repository": output("cluster", "Other") });
        manifest["assets"].as_array_mut().unwrap().push(other);
        let value = wired("other", asset("other", "image_uri"));
        manifest["workloads"][0]["values"].as_array_mut().unwrap().push(value);
    });
    let manifest = fs::read_to_string(scene.path("assembly/kubernetes/consumer.yaml")).unwrap();
    let other = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: other, namespace: trades}\ndata: {image: \"${{ other }}\"}\n";
    scene.write("kubernetes/consumer.yaml", manifest + other);
    // No upload of the one ends before one of the other has begun.
    scene.registry.held().together = 2;
    let text = scene.succeeds(&["deploy"]);
    assert_eq!(text.matches("blobs sent").count(), 2, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_failed_anywhere_is_gone_on_with() {
    let scene = Scene::new().await;
    // The migration fails: the code that needs it is not touched.
    scene.aws.held().failing_functions.insert("fg-dev-migrate".to_owned());
    let text = scene.fails(&["deploy"]);
    assert!(text.contains("no such role (MigrationError)"), "{text}");
    let journal = scene.journal();
    assert_eq!(count(&journal, "CreateChangeSet fg-dev-ledger as"), 0, "{journal:#?}");
    assert_eq!(count(&journal, "kubernetes"), 0, "{journal:#?}");
    scene.aws.held().failing_functions.clear();

    // The registry, then the cluster's API fail in the middle.
    scene.registry.held().fails_from = Some(1);
    let text = scene.fails(&["deploy"]);
    assert!(text.contains("deploy again, it goes on where it was"), "{text}");
    assert_eq!(count(&scene.journal(), "kubernetes"), 0);
    scene.registry.held().fails_from = None;
    scene.kubernetes.lock().unwrap().refuse_after = Some(3);
    let text = scene.fails(&["deploy"]);
    assert!(text.contains("the API is away"), "{text}");
    let journal = scene.journal();
    assert_eq!(count(&journal, "ChangeSet"), 0, "stacks are not done again: {journal:#?}");
    assert!(scene.object(SCALED_OBJECT).is_none());

    scene.kubernetes.lock().unwrap().refuse_after = None;
    scene.succeeds(&["deploy"]);
    let journal = scene.journal();
    assert_eq!(count(&journal, "registry"), 0, "the image is there: {journal:#?}");
    assert!(scene.object(SCALED_OBJECT).is_some() && scene.object(EXPORTERS).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_stop_the_workloads_is_said_before_anything_is_touched() {
    let scene = Scene::new().await;
    let untouched = |text: &str, wanted: &[&str]| {
        for one in wanted {
            assert!(text.contains(one), "{one}: {text}");
        }
        let journal = scene.journal();
        assert!(journal.is_empty(), "{journal:#?}");
    };
    scene.aws.held().helm_version = "v3.9.4+gdbc6d8e".to_owned();
    untouched(&scene.fails(&["deploy"]), &["v3.9.4", "3.12 or newer", "helm.sh/docs/intro/install"]);
    scene.aws.held().helm_version = "v3.17.0".to_owned();

    fs::rename(scene.path("programs/helm"), scene.path("programs/other")).unwrap();
    let alone = scene.engine(&["deploy"]).env("PATH", scene.path("programs")).output().unwrap();
    untouched(
        &told(alone).1,
        &["releases keda", "`helm` does not run", "helm.sh/docs/intro/install", "--stacks-only"],
    );
    fs::rename(scene.path("programs/other"), scene.path("programs/helm")).unwrap();

    let homeless = scene.engine(&["deploy"]).env_remove(image::BASE_REGISTRY).output().unwrap();
    untouched(&told(homeless).1, &[image::BASE_REGISTRY]);

    fs::rename(scene.path("binaries/answer"), scene.path("answer")).unwrap();
    untouched(&scene.fails(&["deploy"]), &["answer"]);
    // Without workloads none of it is needed.
    fs::rename(scene.path("answer"), scene.path("binaries/answer")).unwrap();
    fs::remove_file(scene.path("programs/helm")).unwrap();
    let text = scene.succeeds(&["deploy", "--stacks-only"]);
    assert_eq!(count(&scene.journal(), "kubernetes"), 0);
    assert!(
        text.contains("ledger: 1 event sources enabled, 1 alarms quiet"),
        "it is looked at as well: {text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_where_others_can_listen() {
    let scene = Scene::new().await;
    let elsewhere = "http://aws.example.com";
    let text = told(scene.engine(&["deploy"]).env("AWS_ENDPOINT_URL_EKS", elsewhere).output().unwrap());
    assert!(!text.0 && text.1.contains("AWS_ENDPOINT_URL_EKS is http://aws.example.com"), "{}", text.1);
    let mut command = Command::new(env!("CARGO_BIN_EXE_deploy-engine"));
    command.arg("--assembly").arg(scene.path("assembly")).args(["--endpoint-url", elsewhere, "deploy"]);
    let text = told(command.output().unwrap());
    assert!(!text.0 && text.1.contains("--endpoint-url is http://aws.example.com"), "{}", text.1);
    assert!(scene.journal().is_empty());

    // Even an EKS on loopback cannot send a token elsewhere in the clear.
    scene.aws.held().cluster = Some("http://cluster.example.com".to_owned());
    let text = scene.fails(&["deploy"]);
    assert!(text.contains("no token is sent there"), "{text}");
    assert_eq!(count(&scene.journal(), "kubernetes"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_code_is_pushed_and_rolled_out_and_nothing_else_is_touched() {
    let scene = Scene::new().await;
    scene.succeeds(&["deploy"]);
    scene.journal();
    let image = || scene.object(DEPLOYMENT).unwrap()["spec"]["template"]["image"].clone();
    let before = image();
    scene.compile("better");
    // A change of a stack, and an object that is new, wait for a deploy.
    scene.edit("kafka.template.json", |template| {
        template["Resources"]["Topic"]["Properties"]["PartitionCount"] = 7.into()
    });
    let manifest = fs::read_to_string(scene.path("assembly/kubernetes/consumer.yaml")).unwrap();
    let new = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: new, namespace: trades}\n";
    scene.write("kubernetes/consumer.yaml", manifest + new);
    let swapped = scene.succeeds(&["deploy", "--hotswap"]);
    for line in [
        "the workloads run what was built",
        "skipped: kafka: Topic (Properties.PartitionCount) has changed",
        "skipped: ledger-database: migrate has new code, and is invoked",
        "skipped: workloads: ConfigMap trades/new is new",
    ] {
        assert!(swapped.contains(line), "{line}: {swapped}");
    }
    let journal = scene.journal();
    in_order(&journal, &["registry manifest", &format!("kubernetes apply {DEPLOYMENT}")]);
    for text in [
        "ChangeSet",
        "helm upgrade",
        "lambda invoke",
        "kubernetes delete",
        SCALED_OBJECT,
        EXPORTERS,
        "configmaps/new",
    ] {
        assert_eq!(count(&journal, text), 0, "{text}: {journal:#?}");
    }
    assert_ne!(image(), before);

    // The same once more changes nothing, says so, and is no deployment.
    let records = || scene.aws.held().objects.keys().filter(|key| key.contains("releases/records/")).count();
    let recorded = records();
    let again = scene.succeeds(&["deploy", "--hotswap"]);
    assert!(again.contains("Nothing was swapped, and no record is written"), "{again}");
    assert_eq!(records(), recorded);
}
