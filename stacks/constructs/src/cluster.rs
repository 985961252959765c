//! An EKS cluster in Auto Mode: its nodes, storage and load balancers are EKS's to run.

use cfn::{Handle, Json, Scope, Value};
use cfn_resources::{
    eks::{
        AccessEntry, AccessEntryAccessPolicy, AccessEntryAccessScope, AccessEntryAccessScopeType, Cluster,
        ClusterAccessConfig, ClusterAccessConfigAuthenticationMode, ClusterBlockStorage,
        ClusterClusterLogging, ClusterComputeConfig, ClusterElasticLoadBalancing, ClusterEncryptionConfig,
        ClusterKubernetesNetworkConfig, ClusterLogging, ClusterLoggingTypeConfig,
        ClusterLoggingTypeConfigType, ClusterProvider, ClusterResourcesVpcConfig, ClusterStorageConfig,
        PodIdentityAssociation, PodIdentityAssociationRequired,
    },
    iam::Role,
};

use crate::{
    DataPolicy, encryption,
    iam::{self, Trust},
    logs,
    network::{Network, as_text},
};

/// What a cluster is made for.
#[derive(Clone, Debug)]
pub struct ClusterProperties {
    /// The cluster's name.
    pub name: String,
    /// The Kubernetes version, such as `1.34`.
    pub version: String,
    /// Blocks from which the API may be reached over the internet; none means from within the VPC alone.
    pub public_access_cidrs: Vec<String>,
    /// Roles that administer the cluster.
    pub admin_role_arns: Vec<String>,
    /// Days that control-plane logs are kept.
    pub log_retention_days: u32,
    /// What happens to the logs with the stack.
    pub data: DataPolicy,
}

/// A cluster.
#[derive(Clone, Debug)]
pub struct KubernetesCluster {
    /// The cluster.
    pub cluster: Handle<Cluster>,
}

impl KubernetesCluster {
    /// A cluster in the private subnets. Auto Mode's three switches (compute, storage, load balancing) go
    /// together, and then EKS refuses self-managed add-ons.
    #[track_caller]
    pub fn new(scope: &mut Scope<'_>, name: &str, network: &Network, properties: &ClusterProperties) -> Self {
        let mut scope = scope.child(name);
        let role = iam::role(
            &mut scope,
            "Role",
            "The EKS control plane, with what Auto Mode does for it",
            &Trust::Service { principal: "eks.amazonaws.com", tags_sessions: true },
            &[
                "AmazonEKSClusterPolicy",
                "AmazonEKSComputePolicy",
                "AmazonEKSBlockStoragePolicy",
                "AmazonEKSLoadBalancingPolicy",
                "AmazonEKSNetworkingPolicy",
            ],
            Vec::new(),
        );
        let node_role = iam::role(
            &mut scope,
            "NodeRole",
            "Nodes that EKS Auto Mode starts",
            &Trust::service("ec2.amazonaws.com"),
            &["AmazonEKSWorkerNodeMinimalPolicy", "AmazonEC2ContainerRegistryPullOnly"],
            Vec::new(),
        );
        let key = encryption::key(
            &mut scope,
            "Key",
            &format!("{}-kubernetes", properties.name),
            "Kubernetes secrets at rest",
            &[],
            properties.data,
        );
        // EKS would make the group itself, to be kept for ever.
        let logs =
            logs::log_group(&mut scope, "ControlPlaneLogs", properties.log_retention_days, properties.data);
        if let Some(logs) = scope.get_mut(&logs) {
            *logs = logs.clone().log_group_name(format!("/aws/eks/{}/cluster", properties.name));
        }
        let public = !properties.public_access_cidrs.is_empty();
        let mut access = ClusterResourcesVpcConfig::new(network.private_subnet_ids())
            .endpoint_private_access(true)
            .endpoint_public_access(public);
        if public {
            access = access.public_access_cidrs(properties.public_access_cidrs.clone());
        }
        let log_types = [
            ClusterLoggingTypeConfigType::Api,
            ClusterLoggingTypeConfigType::Audit,
            ClusterLoggingTypeConfigType::Authenticator,
            ClusterLoggingTypeConfigType::ControllerManager,
            ClusterLoggingTypeConfigType::Scheduler,
        ]
        .map(|kind| ClusterLoggingTypeConfig::new().type_(kind));
        let cluster = scope.add(
            "Resource",
            Cluster::new(access, role.arn())
                .name(properties.name.clone())
                .version(properties.version.clone())
                .access_config(
                    ClusterAccessConfig::new()
                        .authentication_mode(ClusterAccessConfigAuthenticationMode::Api)
                        .bootstrap_cluster_creator_admin_permissions(false),
                )
                .bootstrap_self_managed_addons(false)
                .compute_config(
                    ClusterComputeConfig::new()
                        .enabled(true)
                        .node_pools(["general-purpose", "system"])
                        .node_role_arn(node_role.arn()),
                )
                .storage_config(
                    ClusterStorageConfig::new().block_storage(ClusterBlockStorage::new().enabled(true)),
                )
                .kubernetes_network_config(
                    ClusterKubernetesNetworkConfig::new()
                        .elastic_load_balancing(ClusterElasticLoadBalancing::new().enabled(true)),
                )
                .encryption_config([ClusterEncryptionConfig::new()
                    .provider(ClusterProvider::new().key_arn(as_text(&key.arn())))
                    .resources(["secrets"])])
                .logging(
                    ClusterLogging::new()
                        .cluster_logging(ClusterClusterLogging::new().enabled_types(log_types)),
                ),
        );
        scope.depend(cluster.raw(), logs.raw());
        let made = Self { cluster };
        for (index, arn) in properties.admin_role_arns.iter().enumerate() {
            let role = Value::Literal(arn.clone());
            made.access(
                &mut scope,
                &format!("AdminAccess{}", index + 1),
                role,
                "AmazonEKSClusterAdminPolicy",
            );
        }
        made
    }

    /// Lets a role look at what runs in the cluster: at no secret, and without changing anything.
    #[track_caller]
    pub fn let_look(&self, scope: &mut Scope<'_>, name: &str, role_arn: Value<String>) {
        self.access(scope, name, role_arn, "AmazonEKSViewPolicy");
    }

    /// Lets a role in, with one of EKS's own policies.
    #[track_caller]
    fn access(&self, scope: &mut Scope<'_>, name: &str, role_arn: Value<String>, policy: &str) {
        let policy =
            Value::sub(&format!("arn:${{AWS::Partition}}:eks::aws:cluster-access-policy/{policy}"), []);
        let everywhere = AccessEntryAccessScope::new(AccessEntryAccessScopeType::Cluster);
        scope.add(
            name,
            AccessEntry::new(self.cluster.reference(), role_arn)
                .access_policies([AccessEntryAccessPolicy::new(everywhere, policy)]),
        );
    }

    /// The cluster's name, once there is one.
    #[must_use]
    pub fn name(&self) -> Value<String> {
        as_text(&self.cluster.reference())
    }

    /// A role for the pods of a service account, through EKS Pod Identity.
    #[track_caller]
    pub fn pod_identity(
        &self,
        scope: &mut Scope<'_>,
        name: &str,
        namespace: &str,
        service_account: &str,
        statements: Vec<Json>,
    ) -> Handle<Role> {
        let mut scope = scope.child(name);
        let role = iam::role(
            &mut scope,
            "Role",
            &format!("Pods of the service account {namespace}/{service_account}"),
            &Trust::pods(),
            &[],
            statements,
        );
        scope.add(
            "Association",
            PodIdentityAssociation::new(PodIdentityAssociationRequired {
                cluster_name: self.cluster.reference(),
                namespace: Value::Literal(namespace.to_owned()),
                role_arn: role.arn(),
                service_account: Value::Literal(service_account.to_owned()),
            }),
        );
        role
    }
}
