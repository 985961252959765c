//! Objects of a cluster: applied, watched, deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::{Scope, pinned_kind},
};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

use super::{
    inventory::{KEY, NAMESPACE, Object},
    job::{self, Step},
    rollout::{Progress, progress},
};

/// Who the fields belong to that we set.
pub const FIELD_MANAGER: &str = "floodgate";

/// How often an object is looked at while it changes.
const POLL: Duration = Duration::from_secs(1);

/// How long the API may be away while something is waited for: its servers are replaced, and so is a connection.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// How long a Job may take to go before it is made anew: its pods have their grace period.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(180);

/// What an application did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Created,
    /// It is other than it was.
    Changed,
    /// It was as it should be.
    Unchanged,
}

/// A cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Cluster").finish_non_exhaustive()
    }
}

/// Since when the API has been away, while something is waited for.
#[derive(Debug, Default)]
struct Away(Option<Instant>);

impl Away {
    /// The answer, or nothing where the API is away for a moment.
    ///
    /// # Errors
    ///
    /// What it refuses, or that it has been away for too long.
    fn passes<T>(&mut self, answer: kube::Result<T>, object: &Object) -> Result<Option<T>> {
        let error = match answer {
            Ok(answer) => {
                self.0 = None;
                return Ok(Some(answer));
            }
            Err(error) => error,
        };
        let passes = match &error {
            kube::Error::Api(status) => status.code >= 500 || status.code == 429,
            kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => true,
            _ => false,
        };
        let since = *self.0.get_or_insert_with(Instant::now);
        if passes && since.elapsed() < AWAY_MAX {
            return Ok(None);
        }
        Err(error).with_context(|| format!("{object} cannot be read"))
    }
}

/// The objects of a file of manifests.
///
/// # Errors
///
/// When it is no YAML, or a document names no object.
pub fn documents(text: &str) -> Result<Vec<Json>> {
    let mut found = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let document = Json::deserialize(document).context("not YAML")?;
        if document.is_null() {
            continue;
        }
        if Object::of(&document).is_none() {
            bail!("a document has no apiVersion, kind or metadata.name");
        }
        found.push(document);
    }
    Ok(found)
}

impl Cluster {
    /// With a client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Asks the cluster for its version: whether it is reached, and lets us in.
    ///
    /// # Errors
    ///
    /// Why not, and what is usually the cause.
    pub async fn answers(&self, name: &str) -> Result<()> {
        let causes = match self.client.apiserver_version().await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                return Err(anyhow::anyhow!(
                    "the cluster {name} does not let these credentials in: {}. Name their role in `cluster.admin_role_arns` of the environment's file and deploy with --stacks-only, or use a role that is named there",
                    status.message
                ));
            }
            Err(error) => error,
        };
        Err(causes).with_context(|| {
            format!(
                "the API of the cluster {name} is not reached from here; without `cluster.public_access_cidrs` it is reached from within the VPC alone"
            )
        })
    }

    /// An object as it is; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When the cluster does not answer.
    pub async fn read(&self, object: &Object) -> Result<Option<Json>> {
        let found = self.api(object).await?.get_opt(&object.name).await;
        Ok(found
            .with_context(|| format!("{object} cannot be read"))?
            .map(serde_json::to_value)
            .transpose()?)
    }

    /// The interface of an object's kind, as the cluster has it.
    async fn api(&self, object: &Object) -> Result<Api<DynamicObject>> {
        let (group, version) = object.api_version.rsplit_once('/').unwrap_or(("", &object.api_version));
        let kind = GroupVersionKind::gvk(group, version, &object.kind);
        let (resource, capabilities) = pinned_kind(&self.client, &kind).await.with_context(|| {
            format!(
                "the cluster has no kind {} of {}; is the chart that brings it installed?",
                object.kind, object.api_version
            )
        })?;
        Ok(self.scoped(&resource, capabilities.scope == Scope::Namespaced, object.namespace.as_deref()))
    }

    fn scoped(
        &self,
        resource: &ApiResource,
        namespaced: bool,
        namespace: Option<&str>,
    ) -> Api<DynamicObject> {
        if namespaced {
            Api::namespaced_with(self.client.clone(), namespace.unwrap_or("default"), resource)
        } else {
            Api::all_with(self.client.clone(), resource)
        }
    }

    /// Applies a manifest, server-side. Fields that others set are left; fields of ours that others have taken
    /// are taken back. A Job that cannot be changed to what is wanted is deleted and made anew; what it runs then ends.
    ///
    /// # Errors
    ///
    /// When the cluster refuses it.
    pub async fn apply(&self, manifest: &Json) -> Result<Change> {
        let object = Object::of(manifest).context("the manifest names no object")?;
        let api = self.api(&object).await?;
        let version = |object: &DynamicObject| object.metadata.resource_version.clone();
        let before = api.get_opt(&object.name).await.with_context(|| format!("{object} cannot be read"))?;
        let step = match &before {
            Some(before) => job::step(manifest, &serde_json::to_value(before)?),
            None => Step::Apply(manifest.clone()),
        };
        let Step::Apply(wanted) = step else {
            return self.replace(&api, &object, manifest).await;
        };
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let after = match api.patch(&object.name, &parameters, &Patch::Apply(&wanted)).await {
            Ok(after) => after,
            Err(kube::Error::Api(status))
                if object.kind == "Job" && job::is_immutable(status.code, &status.message) =>
            {
                return self.replace(&api, &object, manifest).await;
            }
            Err(error) => return Err(error).with_context(|| format!("{object} cannot be applied")),
        };
        Ok(match before {
            None => Change::Created,
            Some(before) if version(&before) == version(&after) => Change::Unchanged,
            Some(_) => Change::Changed,
        })
    }

    /// Deletes an object, waits until it is gone with its pods, and makes it anew.
    async fn replace(&self, api: &Api<DynamicObject>, object: &Object, manifest: &Json) -> Result<Change> {
        self.delete(object, REPLACE_TIMEOUT).await?;
        api.patch(&object.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(manifest))
            .await
            .with_context(|| format!("{object} was deleted and cannot be made anew"))?;
        Ok(Change::Changed)
    }

    /// Waits until an object runs as it was told to.
    ///
    /// # Errors
    ///
    /// When it cannot, or does not in time; with what its pods say.
    pub async fn rollout(
        &self,
        object: &Object,
        timeout: Duration,
        mut tell: impl FnMut(&str),
    ) -> Result<()> {
        let api = self.api(object).await?;
        let deadline = Instant::now() + timeout;
        let mut told = String::new();
        let mut away = Away::default();
        loop {
            let Some(now) = away.passes(api.get(&object.name).await, object)? else {
                sleep(POLL).await;
                continue;
            };
            let now = serde_json::to_value(now)?;
            match progress(&now) {
                Progress::Complete => return Ok(()),
                Progress::Failed { why } => {
                    bail!("{object}: {why}\n{}", self.complaints(object, &now).await);
                }
                Progress::Waiting { on } => {
                    if Instant::now() >= deadline {
                        let complaints = self.complaints(object, &now).await;
                        bail!("{object} is not ready within {} s: {on}\n{complaints}", timeout.as_secs());
                    }
                    if told != on {
                        tell(&on);
                        told = on;
                    }
                }
            }
            sleep(POLL).await;
        }
    }

    /// What the pods of a workload complain of, a line each.
    async fn complaints(&self, object: &Object, workload: &Json) -> String {
        let labels: BTreeMap<String, String> = workload
            .pointer("/spec/selector/matchLabels")
            .and_then(|labels| serde_json::from_value(labels.clone()).ok())
            .unwrap_or_default();
        if labels.is_empty() {
            return String::new();
        }
        let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let pods = Object {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: object.namespace.clone(),
            name: String::new(),
        };
        let Ok(api) = self.api(&pods).await else { return String::new() };
        let Ok(list) = api.list(&ListParams::default().labels(&selector.join(","))).await else {
            return String::new();
        };
        let lines: BTreeSet<String> = list
            .into_iter()
            .filter_map(|pod| serde_json::to_value(pod).ok())
            .flat_map(|pod| complaints_of(&pod))
            .collect();
        lines.into_iter().collect::<Vec<_>>().join("\n")
    }

    /// Deletes an object and waits until it is gone, with what depends on it. One that is gone is no error.
    ///
    /// # Errors
    ///
    /// When it is not gone in time: something holds it (a finalizer).
    pub async fn delete(&self, object: &Object, timeout: Duration) -> Result<()> {
        // Without its kind there is no object of it.
        let Ok(api) = self.api(object).await else { return Ok(()) };
        match api.delete(&object.name, &DeleteParams::foreground()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("{object} cannot be deleted")),
        }
        let deadline = Instant::now() + timeout;
        let mut away = Away::default();
        loop {
            let Some(there) = away.passes(api.get_opt(&object.name).await, object)? else {
                sleep(POLL).await;
                continue;
            };
            let Some(left) = there else { return Ok(()) };
            if Instant::now() >= deadline {
                let finalizers = left.metadata.finalizers.unwrap_or_default().join(", ");
                bail!(
                    "{object} is not gone after {} s; it is held by: {finalizers}. See `kubectl describe`, then run again",
                    timeout.as_secs()
                );
            }
            sleep(POLL).await;
        }
    }

    fn inventory_of(environment: &str) -> Object {
        Object {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            namespace: Some(NAMESPACE.to_owned()),
            name: format!("floodgate-{environment}"),
        }
    }

    /// What was applied before, as the cluster remembers it.
    ///
    /// # Errors
    ///
    /// When the cluster does not answer, or remembers something that cannot be read.
    pub async fn inventory(&self, environment: &str) -> Result<BTreeSet<Object>> {
        let object = Self::inventory_of(environment);
        let Some(found) = self.api(&object).await?.get_opt(&object.name).await? else {
            return Ok(BTreeSet::new());
        };
        match found.data.pointer(&format!("/data/{KEY}")).and_then(Json::as_str) {
            Some(text) => serde_json::from_str(text).with_context(|| format!("{object} cannot be read")),
            None => Ok(BTreeSet::new()),
        }
    }

    /// Has the cluster remember what is applied.
    ///
    /// # Errors
    ///
    /// When the cluster refuses.
    pub async fn remember(&self, environment: &str, objects: &BTreeSet<Object>) -> Result<()> {
        let object = Self::inventory_of(environment);
        let manifest = json!({
            "apiVersion": object.api_version,
            "kind": object.kind,
            "metadata": { "name": object.name, "namespace": NAMESPACE },
            "data": { KEY: serde_json::to_string(objects)? },
        });
        self.apply(&manifest).await.map(drop)
    }

    /// Forgets what was applied.
    ///
    /// # Errors
    ///
    /// When the cluster refuses.
    pub async fn forget(&self, environment: &str, timeout: Duration) -> Result<()> {
        self.delete(&Self::inventory_of(environment), timeout).await
    }

    /// Waits until the volumes that nothing claims any more are gone, in AWS as well: its driver takes the object away
    /// when it has deleted the volume. Gives those that are to be kept, by name and id.
    ///
    /// # Errors
    ///
    /// When one is not gone in time.
    pub async fn volumes_gone(&self, timeout: Duration) -> Result<Vec<(String, String)>> {
        let kind = GroupVersionKind::gvk("", "v1", "PersistentVolume");
        let (resource, _) = pinned_kind(&self.client, &kind).await?;
        let all = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
        let deadline = Instant::now() + timeout;
        loop {
            let volumes = all.list(&ListParams::default()).await.context("volumes cannot be listed")?;
            let (kept, going): (Vec<_>, Vec<_>) = volumes.into_iter().partition(|volume| {
                volume.data.pointer("/spec/persistentVolumeReclaimPolicy") == Some(&json!("Retain"))
            });
            let name = |volume: &DynamicObject| volume.metadata.name.clone().unwrap_or_default();
            if going.is_empty() {
                let id = |volume: &DynamicObject| {
                    let id = volume.data.pointer("/spec/csi/volumeHandle").and_then(Json::as_str);
                    id.unwrap_or_default().to_owned()
                };
                return Ok(kept.iter().map(|volume| (name(volume), id(volume))).collect());
            }
            if Instant::now() >= deadline {
                let names: Vec<String> = going.iter().map(name).collect();
                bail!(
                    "the volumes {} are not gone after {} s; see `kubectl describe persistentvolume`, then run again",
                    names.join(", "),
                    timeout.as_secs()
                );
            }
            sleep(POLL).await;
        }
    }

    /// What has something outside of the cluster behind it: load balancers and volumes, which AWS would keep,
    /// and which keep the VPC from being deleted.
    ///
    /// # Errors
    ///
    /// When the cluster does not answer.
    pub async fn with_things_outside(&self) -> Result<Vec<Object>> {
        let mut found = Vec::new();
        for (api_version, kind) in
            [("networking.k8s.io/v1", "Ingress"), ("v1", "Service"), ("v1", "PersistentVolumeClaim")]
        {
            let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
            let (resource, _) =
                pinned_kind(&self.client, &GroupVersionKind::gvk(group, version, kind)).await?;
            let all = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
            for object in all.list(&ListParams::default()).await? {
                if kind == "Service" && object.data.pointer("/spec/type") != Some(&json!("LoadBalancer")) {
                    continue;
                }
                found.push(Object {
                    api_version: api_version.to_owned(),
                    kind: kind.to_owned(),
                    namespace: object.metadata.namespace,
                    name: object.metadata.name.unwrap_or_default(),
                });
            }
        }
        Ok(found)
    }
}

/// Why a pod's containers wait or have ended.
fn complaints_of(pod: &Json) -> Vec<String> {
    let name = pod.pointer("/metadata/name").and_then(Json::as_str).unwrap_or_default();
    let mut found = Vec::new();
    for status in pod.pointer("/status/containerStatuses").and_then(Json::as_array).into_iter().flatten() {
        for (place, verb) in [("/state/waiting", "waits"), ("/lastState/terminated", "ended")] {
            let Some(state) = status.pointer(place) else { continue };
            let text = |key: &str| state.get(key).and_then(Json::as_str).unwrap_or_default();
            let message = text("message");
            let separator = if message.is_empty() { "" } else { ": " };
            found.push(format!("pod {name} {verb}: {}{separator}{message}", text("reason")));
        }
    }
    for condition in pod.pointer("/status/conditions").and_then(Json::as_array).into_iter().flatten() {
        if condition["type"] == "PodScheduled" && condition["status"] == "False" {
            let message = condition["message"].as_str().unwrap_or_default();
            found.push(format!("pod {name} finds no node: {message}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_says_what_keeps_it() {
        let pod = json!({ "metadata": { "name": "consumer-1" }, "status": {
            "containerStatuses": [{ "state": { "waiting": { "reason": "ImagePullBackOff", "message": "not found" } } }],
            "conditions": [{ "type": "PodScheduled", "status": "False", "message": "no node matches" }],
        } });
        assert_eq!(
            complaints_of(&pod),
            [
                "pod consumer-1 waits: ImagePullBackOff: not found",
                "pod consumer-1 finds no node: no node matches"
            ]
        );
    }

    #[test]
    fn documents_are_objects() {
        let two = "kind: A\napiVersion: v1\nmetadata: {name: a}\n---\n---\nkind: B\napiVersion: v1\nmetadata: {name: b}\n";
        assert_eq!(documents(two).expect("two objects").len(), 2);
        assert!(documents("kind: A\n").is_err(), "an object has a name");
        assert!(documents("kind: [").is_err());
    }
}
