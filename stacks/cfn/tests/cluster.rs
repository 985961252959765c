//! What an app has for its cluster beside the workloads: Helm releases and manifests, in order.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cfn::{
    App, AppProperties, ClusterManifest, DeployValue, HelmRelease, Lookup, SynthError, Value,
    assembly::{ClusterManifestEntry, HelmReleaseEntry, LookupSource, Manifest, ParameterWiring, Source},
    diff::Side,
};

fn app() -> App {
    App::new(AppProperties::new("dev", "111111111111", "eu-west-1", "fg-dev"))
}

fn release(name: &str, after: &[&str]) -> HelmRelease {
    HelmRelease {
        name: name.to_owned(),
        chart: format!("repository/{name}"),
        version: "1.2.3".to_owned(),
        namespace: "system".to_owned(),
        values: "replicas: 1\n".to_owned(),
        after: after.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn manifest(name: &str, after: &[&str]) -> ClusterManifest {
    let host = Lookup::MskBrokerHost { cluster_arn: Value::Literal("arn:c".to_owned()), broker: 2 };
    ClusterManifest {
        name: name.to_owned(),
        manifest: "target: \"${{ host }}\"\n".to_owned(),
        values: BTreeMap::from([("host".to_owned(), DeployValue::Lookup(host))]),
        after: after.iter().map(|name| (*name).to_owned()).collect(),
    }
}

#[test]
fn releases_and_manifests_are_listed_with_their_files_and_written() {
    let mut app = app();
    app.cluster_manifest(manifest("first", &[]));
    app.helm_release(release("chart", &["first"]));
    let assembly = app.synth().unwrap();
    assert_eq!(
        assembly.manifest.helm_releases,
        [HelmReleaseEntry {
            name: "chart".to_owned(),
            chart: "repository/chart".to_owned(),
            version: "1.2.3".to_owned(),
            namespace: "system".to_owned(),
            values: "kubernetes/helm/chart.yaml".to_owned(),
            after: vec!["first".to_owned()],
        }]
    );
    assert_eq!(
        assembly.manifest.cluster_manifests,
        [ClusterManifestEntry {
            name: "first".to_owned(),
            manifest: "kubernetes/first.yaml".to_owned(),
            after: Vec::new(),
            values: vec![ParameterWiring {
                name: "host".to_owned(),
                source: Source::Lookup(LookupSource::MskBrokerHost {
                    broker: 2,
                    cluster_arn: Box::new(Source::Literal("arn:c".to_owned())),
                }),
            }],
        }]
    );
    let directory = tempfile::tempdir().unwrap();
    assembly.write(directory.path()).unwrap();
    let read = Side::read(directory.path()).unwrap();
    assert_eq!(read.manifest, assembly.manifest);
    assert_eq!(read.files.unwrap(), assembly.files, "what is compared later is all that was written");
    let values = directory.path().join("kubernetes/helm/chart.yaml");
    assert!(values.exists());
    self::app().synth().unwrap().write(directory.path()).unwrap();
    assert!(!values.exists(), "a later rendering without the release takes its values away");
}

#[test]
fn who_waits_for_what_was_not_added_before_is_refused() {
    let mut app = app();
    app.helm_release(release("chart", &["later"]));
    app.cluster_manifest(manifest("later", &[]));
    assert_eq!(
        app.synth().unwrap_err(),
        SynthError::NotBefore { who: "chart".to_owned(), what: "later".to_owned() }
    );
}

#[test]
fn two_manifests_of_one_name_are_refused() {
    let mut app = app();
    app.cluster_manifest(manifest("same", &[]));
    app.cluster_manifest(manifest("same", &[]));
    assert_eq!(app.synth().unwrap_err(), SynthError::DuplicateFile("kubernetes/same.yaml".to_owned()));
}

/// Why the schema version stayed: what was written before there were releases reads as an app without any, and an
/// app without any writes what it always did.
#[test]
fn a_manifest_without_releases_is_as_it_was() {
    let assembly = app().synth().unwrap();
    let json = serde_json::to_value(&assembly.manifest).unwrap();
    assert!(json.get("helm_releases").is_none() && json.get("cluster_manifests").is_none());
    assert_eq!(serde_json::from_value::<Manifest>(json).unwrap(), assembly.manifest);
}
