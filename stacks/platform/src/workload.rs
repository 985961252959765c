//! Workloads in a cluster: a worker, which is a Deployment with all that belongs to it, and a Job.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        batch::v1::{Job as KubernetesJob, JobSpec},
        core::v1::{
            Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, Namespace,
            ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
            SeccompProfile, SecurityContext, Service, ServiceAccount, ServicePort, ServiceSpec,
            TopologySpreadConstraint,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use crate::{
    RenderError,
    kubernetes::{Manifest, NAME_LABEL, SYSTEM_LABEL, metadata, pairs, pods_of},
};

/// The port of metrics and probes, by name and number.
const METRICS: (&str, i32) = ("metrics", 8000);

/// The account of distroless images that is not root.
const NOBODY: i64 = 65532;

/// How many replicas may be away at once when nodes are drained: the others have room for their work.
const UNAVAILABLE_MAX: &str = "25%";

/// What a pod gets of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    /// What the scheduler keeps free, in thousandths of a processor. There is no limit: one would only slow the pod down while
    /// the node is idle.
    pub(crate) cpu_millicores: u64,
    /// What the scheduler keeps free, in MiB.
    pub(crate) memory_mib: u64,
    /// Above it the pod is killed, in MiB.
    pub(crate) memory_limit_mib: u64,
}

/// A worker.
pub(crate) struct Worker<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) system: &'a str,
    /// `None` where a scaler sets them.
    pub(crate) replicas: Option<u64>,
    pub(crate) environment: &'a BTreeMap<String, String>,
    pub(crate) grace_seconds: u64,
    /// Whether its replicas are spread over zones and kept from being evicted all at once.
    pub(crate) spread: bool,
    pub(crate) resources: Resources,
}

/// A Job that waits, suspended, for somebody who runs it: `kubectl patch` of `spec.suspend`, and of `spec.parallelism` and
/// `spec.completions` for more pods, which are numbered (`JOB_COMPLETION_INDEX`). Each runs once. What has run goes after
/// a day, in which its log can be read; a deploy puts it back at once.
pub(crate) struct Job<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) system: &'a str,
    /// How many pods run side by side.
    pub(crate) pods: u64,
    pub(crate) environment: &'a BTreeMap<String, String>,
    pub(crate) grace_seconds: u64,
    pub(crate) resources: Resources,
}

/// How long a Job that has run is kept, in seconds.
const FINISHED_SECONDS: i32 = 86_400;

/// Keeps a node from being taken away under a pod while it runs, for a better use of nodes (EKS Auto Mode, Karpenter).
const STAYS: (&str, &str) = ("karpenter.sh/do-not-disrupt", "true");

/// The pods of a workload.
struct Pods<'a> {
    name: &'a str,
    system: &'a str,
    environment: &'a BTreeMap<String, String>,
    grace_seconds: u64,
    /// Whether they are spread over zones.
    spread: bool,
    resources: Resources,
    /// Whether they run once to their end; else they run for good, and serve metrics and probes.
    once: bool,
}

/// A number as Kubernetes has it; one that does not fit is the greatest, which an API server refuses.
fn number(value: u64) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn probe(path: &str, period_seconds: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(METRICS.0.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(2),
        failure_threshold: Some(3),
        ..Probe::default()
    }
}

fn namespace(name: &str) -> Namespace {
    Namespace {
        metadata: metadata(name, None, [("pod-security.kubernetes.io/enforce", "restricted")]),
        ..Namespace::default()
    }
}

fn account(name: &str, namespace: &str) -> ServiceAccount {
    ServiceAccount { metadata: metadata(name, Some(namespace), []), ..ServiceAccount::default() }
}

impl Worker<'_> {
    /// Its resources, the namespace first.
    ///
    /// # Errors
    ///
    /// As [`Manifest::with`].
    pub(crate) fn manifest(&self) -> Result<Manifest, RenderError> {
        let manifest = Manifest::default()
            .with(&namespace(self.namespace))?
            .with(&account(self.name, self.namespace))?
            .with(&self.service())?;
        let manifest = if self.spread { manifest.with(&self.disruption_budget())? } else { manifest };
        manifest.with(&self.deployment())
    }

    fn metadata<const N: usize>(&self, labels: [(&str, &str); N]) -> ObjectMeta {
        metadata(self.name, Some(self.namespace), labels)
    }

    fn pods(&self) -> Pods<'_> {
        Pods {
            name: self.name,
            system: self.system,
            environment: self.environment,
            grace_seconds: self.grace_seconds,
            spread: self.spread,
            resources: self.resources,
            once: false,
        }
    }

    /// Headless: only metrics are asked for, of each pod.
    fn service(&self) -> Service {
        Service {
            metadata: self.metadata([(NAME_LABEL, self.name)]),
            spec: Some(ServiceSpec {
                cluster_ip: Some("None".to_owned()),
                selector: Some(pairs([(NAME_LABEL, self.name)])),
                ports: Some(vec![ServicePort {
                    name: Some(METRICS.0.to_owned()),
                    port: METRICS.1,
                    target_port: Some(IntOrString::String(METRICS.0.to_owned())),
                    ..ServicePort::default()
                }]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }
    }

    fn disruption_budget(&self) -> PodDisruptionBudget {
        PodDisruptionBudget {
            metadata: self.metadata([]),
            spec: Some(PodDisruptionBudgetSpec {
                max_unavailable: Some(IntOrString::String(UNAVAILABLE_MAX.to_owned())),
                selector: Some(pods_of(self.name)),
                ..PodDisruptionBudgetSpec::default()
            }),
            ..PodDisruptionBudget::default()
        }
    }

    fn deployment(&self) -> Deployment {
        let pods = self.pods();
        Deployment {
            metadata: self.metadata(pods.labels()),
            spec: Some(DeploymentSpec {
                replicas: self.replicas.map(number),
                selector: pods_of(self.name),
                template: pods.template(),
                ..DeploymentSpec::default()
            }),
            ..Deployment::default()
        }
    }
}

impl Job<'_> {
    /// Its resources, the namespace first.
    ///
    /// # Errors
    ///
    /// As [`Manifest::with`].
    pub(crate) fn manifest(&self) -> Result<Manifest, RenderError> {
        let pods = Pods {
            name: self.name,
            system: self.system,
            environment: self.environment,
            grace_seconds: self.grace_seconds,
            spread: true,
            resources: self.resources,
            once: true,
        };
        let job = KubernetesJob {
            metadata: metadata(self.name, Some(self.namespace), pods.labels()),
            spec: Some(JobSpec {
                suspend: Some(true),
                completion_mode: Some("Indexed".to_owned()),
                completions: Some(number(self.pods)),
                parallelism: Some(number(self.pods)),
                // A pod that fails is not tried again: what it had begun cannot be gone on with.
                backoff_limit: Some(0),
                ttl_seconds_after_finished: Some(FINISHED_SECONDS),
                template: pods.template(),
                ..JobSpec::default()
            }),
            ..KubernetesJob::default()
        };
        Manifest::default()
            .with(&namespace(self.namespace))?
            .with(&account(self.name, self.namespace))?
            .with(&job)
    }
}

impl Pods<'_> {
    fn labels(&self) -> [(&str, &str); 2] {
        [(NAME_LABEL, self.name), (SYSTEM_LABEL, self.system)]
    }

    fn template(&self) -> PodTemplateSpec {
        PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(pairs(self.labels())),
                annotations: self.once.then(|| pairs([STAYS])),
                ..ObjectMeta::default()
            }),
            spec: Some(self.pod()),
        }
    }

    fn pod(&self) -> PodSpec {
        PodSpec {
            restart_policy: self.once.then(|| "Never".to_owned()),
            service_account_name: Some(self.name.to_owned()),
            termination_grace_period_seconds: Some(i64::from(number(self.grace_seconds))),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(NOBODY),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            topology_spread_constraints: self.spread.then(|| {
                vec![TopologySpreadConstraint {
                    max_skew: 1,
                    topology_key: "topology.kubernetes.io/zone".to_owned(),
                    // A pod in the wrong zone is better than none.
                    when_unsatisfiable: "ScheduleAnyway".to_owned(),
                    label_selector: Some(pods_of(self.name)),
                    ..TopologySpreadConstraint::default()
                }]
            }),
            containers: vec![self.container()],
            ..PodSpec::default()
        }
    }

    fn container(&self) -> Container {
        let serves = !self.once;
        let variables = self.environment.iter().map(|(name, value)| EnvVar {
            name: name.clone(),
            value: Some(value.clone()),
            ..EnvVar::default()
        });
        let pod_name = EnvVar {
            name: "POD_NAME".to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    field_path: "metadata.name".to_owned(),
                    ..ObjectFieldSelector::default()
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        };
        Container {
            name: self.name.to_owned(),
            image: Some("${{ image }}".to_owned()),
            ports: serves.then(|| {
                vec![ContainerPort {
                    name: Some(METRICS.0.to_owned()),
                    container_port: METRICS.1,
                    ..ContainerPort::default()
                }]
            }),
            env: Some(variables.chain([pod_name]).collect()),
            resources: Some(self.resources.requirements()),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                read_only_root_filesystem: Some(true),
                capabilities: Some(Capabilities {
                    drop: Some(vec!["ALL".to_owned()]),
                    ..Capabilities::default()
                }),
                ..SecurityContext::default()
            }),
            liveness_probe: serves.then(|| probe("/livez", 10)),
            readiness_probe: serves.then(|| probe("/readyz", 5)),
            ..Container::default()
        }
    }
}

impl Resources {
    fn requirements(self) -> ResourceRequirements {
        let memory = |mib: u64| ("memory".to_owned(), Quantity(format!("{mib}Mi")));
        ResourceRequirements {
            requests: Some(BTreeMap::from([
                ("cpu".to_owned(), Quantity(format!("{}m", self.cpu_millicores))),
                memory(self.memory_mib),
            ])),
            limits: Some(BTreeMap::from([memory(self.memory_limit_mib)])),
            ..ResourceRequirements::default()
        }
    }
}
