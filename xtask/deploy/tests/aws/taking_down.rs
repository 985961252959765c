//! The end of an environment on AWS.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::{Value as Json, json};

use super::{DEPLOYMENT, Scene, count, in_order, small_aws::ACCOUNT};

/// Adds what charts and people leave: a claim, a load balancer, a volume that is to be kept, something tagged.
fn clutter(scene: &Scene) {
    let mut api = scene.kubernetes.lock().unwrap();
    let mut add = |path: &str, object: Json| api.objects.insert(path.to_owned(), object);
    add(
        "/api/v1/namespaces/monitoring/persistentvolumeclaims/prometheus",
        json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "prometheus", "namespace": "monitoring" } }),
    );
    add(
        "/apis/networking.k8s.io/v1/namespaces/other/ingresses/by-hand",
        json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": "by-hand", "namespace": "other" } }),
    );
    add(
        "/api/v1/persistentvolumes/pv-1",
        json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "pv-1" },
            "spec": { "persistentVolumeReclaimPolicy": "Retain", "csi": { "volumeHandle": "vol-1" } } }),
    );
    let arn = |service: &str, rest: &str| format!("arn:aws:{service}:eu-west-1:{ACCOUNT}:{rest}");
    scene.aws.held().tagged = vec![arn("ec2", "network-interface/eni-1"), arn("kms", "key/key-1")];
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_taken_down_workloads_first_and_what_stays_is_told() {
    let scene = Scene::new().await;
    scene.succeeds(&["deploy"]);
    clutter(&scene);
    scene.aws.held().undeletable.insert("fg-dev-delivery/Artifacts".to_owned());
    scene.aws.held().parameters.insert("/fg-dev/hotswapped".to_owned(), ("[]".to_owned(), 1));
    scene.aws.held().stacks.get_mut("fg-dev-kafka").unwrap().protected = true;
    // A database that is kept refuses to be deleted, and goes with a last snapshot all the same.
    let database = json!({ "Type": "AWS::RDS::DBCluster", "DeletionPolicy": "Snapshot",
        "Metadata": { "physical": "ledger" }, "Properties": { "DeletionProtection": true } });
    let with_database = |template: &mut Json| template["Resources"]["Database"] = database.clone();
    with_database(&mut scene.aws.held().stacks.get_mut("fg-dev-ledger-database").unwrap().template);
    // A stack that left the manifest, and uses one that did not; and one of somebody else's.
    let left = |environment: &str| {
        let mut stack = scene.aws.held().stacks["fg-dev-ledger"].clone();
        stack.template = json!({ "Resources": { "Old": { "Type": "AWS::SNS::Topic" } } });
        stack.parameters = [("kafkaArn".to_owned(), "arn:aws:kafka:fg".to_owned())].into();
        stack.tags = [("floodgate:environment".to_owned(), environment.to_owned())].into();
        stack.protected = true;
        stack
    };
    let (old, other) = (left("dev"), left("another"));
    scene.aws.held().stacks.insert("fg-dev-old".to_owned(), old);
    scene.aws.held().stacks.insert("fg-dev-ours-not".to_owned(), other);
    scene.journal();

    // While something of the cluster does not go, no stack is touched.
    let cluster = scene.aws.held().cluster.replace("http://127.0.0.1:9".to_owned());
    let text = scene.fails(&["teardown"]);
    assert!(text.contains("no stack was touched") && text.contains("is not reached from here"), "{text}");
    assert!(scene.journal().is_empty());
    scene.aws.held().cluster = cluster;

    let text = scene.succeeds(&["teardown"]);
    let journal = scene.journal();
    in_order(
        &journal,
        &[
            &format!("kubernetes delete {DEPLOYMENT}"),
            "helm uninstall keda",
            "kubernetes delete /apis/networking.k8s.io/v1/namespaces/other/ingresses/by-hand",
            "kubernetes delete /api/v1/namespaces/monitoring/persistentvolumeclaims/prometheus",
            "DeleteStack fg-dev-old as execution",
            "DeleteStack fg-dev-ledger as execution",
            "CreateChangeSet fg-dev-ledger-database as execution",
            "ExecuteChangeSet fg-dev-ledger-database",
            "DeleteStack fg-dev-ledger-database as execution",
            "DeleteStack fg-dev-cluster as execution",
            "DeleteStack fg-dev-kafka as execution",
            "tagging GetResources",
        ],
    );
    // The stack of the role goes without it, and its bucket, which holds something, stays.
    in_order(
        &journal,
        &["fg-dev-kafka", "DeleteStack fg-dev-delivery", "DeleteStack fg-dev-delivery without Artifacts"],
    );
    assert_eq!(count(&journal, "DeleteStack fg-dev-delivery as"), 0);
    assert_eq!(count(&journal, "s3 empty"), 0);
    for part in [
        "aws ec2 delete-volume --volume-id vol-1 --region eu-west-1",
        "aws kms schedule-key-deletion --key-id key-1",
        "Database (AWS::RDS::DBCluster) ledger: a last snapshot of it is kept",
        "aws s3 rb s3://artifacts --force",
        "`--purge` empties and deletes it",
        "aws ssm delete-parameter --name /fg-dev/deploy-lock",
        "aws ssm delete-parameter --name /fg-dev/hotswapped",
        "aws ec2 delete-network-interface --network-interface-id eni-1",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.matches("key/key-1").count(), 0, "what is kept is no orphan: {text}");
    assert_eq!(scene.aws.held().stacks.keys().collect::<Vec<_>>(), ["fg-dev-ours-not"]);

    // Everything is gone, the cluster as well.
    scene.aws.held().cluster = None;
    scene.succeeds(&["teardown"]);
    assert_eq!(count(&scene.journal(), "DeleteStack"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_emptied_where_that_is_asked_for() {
    let scene = Scene::new().await;
    scene.succeeds(&["deploy"]);
    scene.aws.held().undeletable.insert("fg-dev-delivery/Artifacts".to_owned());
    scene.journal();
    let text = scene.succeeds(&["teardown", "--purge"]);
    in_order(&scene.journal(), &["s3 empty artifacts", "DeleteStack fg-dev-delivery"]);
    assert!(text.contains("emptied") && !text.contains("s3://artifacts"), "{text}");
    assert!(text.contains("/fg-dev/deploy-lock") && !text.contains("hotswapped"), "none was written: {text}");
    assert!(scene.aws.held().objects.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_teardown_killed_anywhere_is_gone_on_with() {
    let scene = Scene::new().await;
    scene.succeeds(&["deploy"]);
    clutter(&scene);
    let (mut kills, mut lines) = (0, 1);
    loop {
        let mut child =
            scene.engine(&["teardown"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let read = BufReader::new(child.stdout.take().unwrap()).lines().take(lines).count();
        if read < lines {
            assert!(child.wait().unwrap().success());
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        lines += 2;
    }
    assert!(kills > 3, "only {kills} kills");
    assert!(scene.aws.held().stacks.is_empty());
    let left: Vec<String> = scene.kubernetes.lock().unwrap().objects.keys().cloned().collect();
    assert_eq!(left, ["/api/v1/persistentvolumes/pv-1"]);
    let journal = scene.journal();
    for stack in ["delivery", "kafka", "cluster", "ledger-database", "ledger"] {
        let times = journal.iter().filter(|line| {
            line.strip_prefix("cloudformation DeleteStack fg-dev-").and_then(|rest| rest.split(' ').next())
                == Some(stack)
        });
        assert_eq!(times.count(), 1, "{stack}: {journal:#?}");
    }
}
