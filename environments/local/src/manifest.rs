//! The subset of Kubernetes manifests that runs locally.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, bail};
use capacity::scaling::manifest::ScaledObjectManifest;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Kinds that mean nothing on one machine and are let through.
const PASSED_OVER: [&str; 5] =
    ["Namespace", "PodDisruptionBudget", "Service", "ServiceAccount", "TriggerAuthentication"];

/// More processes of one workload than this are not started on one machine.
const REPLICAS_MAX: u32 = 100;

/// A workload to run as processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// The Deployment's name.
    pub name: String,
    /// Processes to run; nothing where the manifest leaves that to a scaler.
    pub replicas: Option<u32>,
    /// The binary's name, from the image `local/NAME@sha256:DIGEST`.
    pub binary: String,
    /// The binary's SHA-256.
    pub digest: String,
    /// Variables.
    pub environment: BTreeMap<String, String>,
    /// Variables that get the pod's name.
    pub pod_name_variables: Vec<String>,
    /// The path of the readiness probe.
    pub readiness_path: Option<String>,
    /// Seconds between SIGTERM and SIGKILL.
    pub grace_seconds: u64,
    /// The ScaledObject that names it.
    #[serde(default)]
    pub scaled_object: Option<Json>,
}

impl Workload {
    /// Whether two differ in no more than the number of replicas.
    #[must_use]
    pub fn same_pod(&self, other: &Self) -> bool {
        let pod = |workload: &Self| Self { replicas: None, scaled_object: None, ..workload.clone() };
        pod(self) == pod(other)
    }
}

/// Reads a ScaledObject.
///
/// # Errors
///
/// For what is not understood, with its key.
pub fn scaled_object(document: &Json) -> Result<ScaledObjectManifest> {
    let manifest: ScaledObjectManifest =
        serde_json::from_value(document.clone()).context("not a ScaledObject")?;
    let scaling = manifest.scaling()?;
    scaling.object.check()?;
    let most = scaling.object.max_replica_count;
    anyhow::ensure!(
        most <= REPLICAS_MAX,
        "maxReplicaCount {most}: at most {REPLICAS_MAX} run on one machine"
    );
    manifest.source()?;
    Ok(manifest)
}

/// The workloads of all `*.yaml` files in a directory.
///
/// # Errors
///
/// When a file cannot be read, or asks for something that cannot be had locally; with file and place.
pub fn read_directory(directory: &Path) -> Result<Vec<Workload>> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    let (mut workloads, mut scaled) = (Vec::new(), Vec::new());
    for file in files {
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        read(&text, &mut workloads, &mut scaled).with_context(|| file.display().to_string())?;
    }
    attach(workloads, scaled)
}

/// The workloads of a manifest.
///
/// # Errors
///
/// When it is no YAML, or asks for something that cannot be had locally.
pub fn parse(text: &str) -> Result<Vec<Workload>> {
    let (mut workloads, mut scaled) = (Vec::new(), Vec::new());
    read(text, &mut workloads, &mut scaled)?;
    attach(workloads, scaled)
}

fn read(text: &str, workloads: &mut Vec<Workload>, scaled: &mut Vec<(String, Json)>) -> Result<()> {
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let document = Json::deserialize(document).context("not YAML")?;
        if document.is_null() {
            continue;
        }
        let kind = document.get("kind").and_then(Json::as_str).unwrap_or_default();
        let name = text_at(&document, "/metadata/name").unwrap_or_default();
        match kind {
            "Deployment" => {
                workloads.push(workload(&document).with_context(|| format!("Deployment {name}"))?);
            }
            "Job" => job(&document).with_context(|| format!("Job {name}"))?,
            "ScaledObject" => {
                let source = scaled_object(&document).and_then(|manifest| Ok(manifest.source()?));
                let source = source.with_context(|| format!("ScaledObject {name}"))?;
                scaled.push((source.workload, document));
            }
            kind if PASSED_OVER.contains(&kind) => {}
            other => bail!(
                "the kind `{other}` cannot be run locally; known are Deployment, Job, ScaledObject and, passed over, {}",
                PASSED_OVER.join(", ")
            ),
        }
    }
    Ok(())
}

/// Gives each ScaledObject to the workload that it names.
fn attach(mut workloads: Vec<Workload>, scaled: Vec<(String, Json)>) -> Result<Vec<Workload>> {
    for (name, document) in scaled {
        let Some(workload) = workloads.iter_mut().find(|workload| workload.name == name) else {
            bail!("a ScaledObject scales `{name}`, of which there is no Deployment")
        };
        if workload.scaled_object.replace(document).is_some() {
            bail!("two ScaledObjects scale `{name}`");
        }
    }
    Ok(workloads)
}

/// A Job that waits for somebody who runs it; on one machine that is `cargo xtask load`. That it could run is made sure of.
fn job(document: &Json) -> Result<()> {
    let suspended = document.pointer("/spec/suspend").and_then(Json::as_bool);
    anyhow::ensure!(
        suspended == Some(true),
        "is not suspended; a Job that runs by itself is not run locally"
    );
    workload(document).map(drop)
}

/// The pod of a Deployment or a Job, and how many of it run.
fn workload(document: &Json) -> Result<Workload> {
    let name = text_at(document, "/metadata/name").context("metadata.name is missing")?.to_owned();
    let spec = document.pointer("/spec/template/spec").context("spec.template.spec is missing")?;
    let containers = spec.get("containers").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let [container] = containers else { bail!("{} containers; one is run locally", containers.len()) };
    let image = text_at(container, "/image").context("the container has no image")?;
    let (binary, digest) = image
        .strip_prefix("local/")
        .and_then(|rest| rest.split_once("@sha256:"))
        .filter(|(binary, digest)| {
            is_name(binary) && digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit())
        })
        .with_context(|| format!("the image is `{image}`, not local/NAME@sha256:DIGEST"))?;
    let mut environment = BTreeMap::new();
    let mut pod_name_variables = Vec::new();
    for variable in container.get("env").and_then(Json::as_array).into_iter().flatten() {
        let variable_name = text_at(variable, "/name").context("a variable has no name")?.to_owned();
        match (text_at(variable, "/value"), text_at(variable, "/valueFrom/fieldRef/fieldPath")) {
            (Some(value), _) => {
                environment.insert(variable_name, value.to_owned());
            }
            (None, Some("metadata.name")) => pod_name_variables.push(variable_name),
            (None, _) => bail!("the variable {variable_name} has no value that can be had locally"),
        }
    }
    let replicas = document.pointer("/spec/replicas").and_then(Json::as_u64);
    Ok(Workload {
        name,
        replicas: replicas
            .map(|replicas| {
                let bounded = u32::try_from(replicas).ok().filter(|replicas| *replicas <= REPLICAS_MAX);
                bounded.with_context(|| format!("more than {REPLICAS_MAX} replicas"))
            })
            .transpose()?,
        binary: binary.to_owned(),
        digest: digest.to_owned(),
        environment,
        pod_name_variables,
        readiness_path: text_at(container, "/readinessProbe/httpGet/path").map(str::to_owned),
        grace_seconds: spec.get("terminationGracePeriodSeconds").and_then(Json::as_u64).unwrap_or(30),
        scaled_object: None,
    })
}

fn text_at<'a>(json: &'a Json, pointer: &str) -> Option<&'a str> {
    json.pointer(pointer).and_then(Json::as_str)
}

/// A name that is no path.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(image: &str) -> String {
        format!(
            "kind: Namespace\nmetadata: {{name: trades}}\n---\nkind: Deployment\nmetadata: {{name: consumer}}\nspec:\n  replicas: 2\n  template:\n    spec:\n      terminationGracePeriodSeconds: 12\n      containers:\n        - image: \"{image}\"\n          env:\n            - {{name: TOPIC, value: \"trade-tx\"}}\n            - name: POD_NAME\n              valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}\n          readinessProbe: {{httpGet: {{path: /readyz, port: 8000}}}}\n"
        )
    }

    #[test]
    fn a_deployment_becomes_a_workload() {
        let digest = "a".repeat(64);
        let workloads = parse(&manifest(&format!("local/trade-consumer@sha256:{digest}"))).unwrap();
        assert_eq!(
            workloads,
            [Workload {
                name: "consumer".to_owned(),
                replicas: Some(2),
                binary: "trade-consumer".to_owned(),
                digest,
                environment: BTreeMap::from([("TOPIC".to_owned(), "trade-tx".to_owned())]),
                pod_name_variables: vec!["POD_NAME".to_owned()],
                readiness_path: Some("/readyz".to_owned()),
                grace_seconds: 12,
                scaled_object: None,
            }]
        );
    }

    const SCALED: &str = "---\nkind: ScaledObject\nmetadata: {name: s}\nspec:\n  scaleTargetRef: {name: consumer}\n  maxReplicaCount: 9\n  triggers: [{type: kafka, metadata: {bootstrapServers: \"b:1\", topic: t, consumerGroup: g}}]\n";

    #[test]
    fn a_scaled_object_goes_to_the_deployment_that_it_names() {
        let deployment = manifest(&format!("local/trade-consumer@sha256:{}", "a".repeat(64)));
        let unscaled = parse(&deployment).unwrap().remove(0);
        let scaled = parse(&format!("{deployment}{SCALED}")).unwrap().remove(0);
        assert!(scaled.same_pod(&unscaled), "how many run is not what runs");
        let object = scaled_object(&scaled.scaled_object.unwrap()).unwrap();
        assert_eq!(object.scaling().unwrap().object.max_replica_count, 9);
        assert_eq!(object.source().unwrap().topic, "t");
        let refused = |text: &str| format!("{:#}", parse(&format!("{deployment}{text}")).unwrap_err());
        assert!(refused(&format!("{SCALED}{SCALED}")).contains("two ScaledObjects"));
        assert!(refused(&SCALED.replace("consumer}", "other}")).contains("`other`"));
        assert!(refused(&SCALED.replace(" 9", " 900")).contains("maxReplicaCount 900"));
        assert!(refused(&SCALED.replace("topic: t,", "")).contains("topic"));
    }

    #[test]
    fn a_suspended_job_is_known_and_does_not_run() {
        let image = format!("local/tag-load@sha256:{}", "b".repeat(64));
        let job = manifest(&image).replace("Deployment", "Job").replace("replicas: 2", "suspend: true");
        assert_eq!(parse(&job).unwrap(), []);
        let refused = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(
            refused(&job.replace("suspend: true", "suspend: false"))
                .contains("Job consumer: is not suspended")
        );
        assert!(
            refused(&job.replace(&image, "elsewhere/x")).contains("elsewhere/x"),
            "its pod is one of ours"
        );
        assert!(refused(&format!("{job}{SCALED}")).contains("no Deployment"), "nothing scales a Job");
    }

    #[test]
    fn what_cannot_be_run_locally_is_refused_with_its_place() {
        let error = format!("{:#}", parse(&manifest("elsewhere/other:latest")).unwrap_err());
        assert!(error.contains("Deployment consumer") && error.contains("elsewhere/other"), "{error}");
        let path = format!("local/../../etc@sha256:{}", "a".repeat(64));
        assert!(parse(&manifest(&path)).is_err(), "an image is no path");
        assert!(parse("kind: DaemonSet\n").unwrap_err().to_string().contains("DaemonSet"));
    }
}
