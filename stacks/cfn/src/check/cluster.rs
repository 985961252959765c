//! Kubernetes clusters: EKS Auto Mode, its roles, the endpoint, pod identities, repositories.

use super::{
    Findings, REVIEWED,
    permissions::{managed_name, statements},
    rules::{
        AUTO_MODE, AUTO_MODE_ROLE, CLUSTER_LOGS, CLUSTER_SECRETS, CLUSTER_SUBNETS, CLUSTER_VERSION,
        MUTABLE_TAGS, POD_ROLE, PUBLIC_ENDPOINT,
    },
    template::{Resource, Template, texts},
};
use crate::value::Json;

/// Ends of standard support, from the EKS user guide's release calendar.
const VERSIONS: [(&str, &str); 9] = [
    ("1.27", "2024-07-24"),
    ("1.28", "2024-11-26"),
    ("1.29", "2025-03-23"),
    ("1.30", "2025-07-23"),
    ("1.31", "2025-11-26"),
    ("1.32", "2026-03-23"),
    ("1.33", "2026-07-29"),
    ("1.34", "2026-12-02"),
    ("1.35", "2027-03-27"),
];

/// What the role of a cluster in Auto Mode must have: the EKS user guide's page of the cluster role.
const CLUSTER_POLICIES: [&str; 5] = [
    "AmazonEKSClusterPolicy",
    "AmazonEKSComputePolicy",
    "AmazonEKSBlockStoragePolicy",
    "AmazonEKSLoadBalancingPolicy",
    "AmazonEKSNetworkingPolicy",
];

/// What the role of its nodes must have, each with the broader policies that do as well.
const NODE_POLICIES: [&[&str]; 2] = [
    &["AmazonEKSWorkerNodeMinimalPolicy", "AmazonEKSWorkerNodePolicy"],
    &["AmazonEC2ContainerRegistryPullOnly", "AmazonEC2ContainerRegistryReadOnly"],
];

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    for cluster in template.of_kind("AWS::EKS::Cluster") {
        if auto_mode(cluster, findings) {
            roles(template, cluster, findings);
        }
        endpoint(cluster, findings);
        upkeep(cluster, findings);
    }
    for association in template.of_kind("AWS::EKS::PodIdentityAssociation") {
        let role = association.at("/RoleArn").and_then(|role| template.target(role));
        if let Some(role) =
            role.filter(|role| role.kind == "AWS::IAM::Role" && !trusts(role, "pods.eks.amazonaws.com"))
        {
            findings.resource(
                POD_ROLE,
                association.logical_id,
                format!("{} does not trust pods.eks.amazonaws.com", role.logical_id),
            );
        }
    }
    for repository in template.of_kind("AWS::ECR::Repository") {
        if repository.text("/ImageTagMutability").is_none_or(|tags| tags == "MUTABLE")
            && repository.at("/ImageTagMutability").is_none_or(Json::is_string)
        {
            findings.resource(MUTABLE_TAGS, repository.logical_id, "a tag can be moved".to_owned());
        }
    }
}

/// Whether the cluster is in Auto Mode, at least in part.
fn auto_mode(cluster: &Resource<'_>, findings: &mut Findings<'_>) -> bool {
    let switches = [
        "/ComputeConfig/Enabled",
        "/KubernetesNetworkConfig/ElasticLoadBalancing/Enabled",
        "/StorageConfig/BlockStorage/Enabled",
    ]
    .map(|pointer| cluster.on(pointer));
    let on = switches.iter().filter(|switch| **switch).count();
    let mut wrong = |message: &str| findings.resource(AUTO_MODE, cluster.logical_id, message.to_owned());
    if on != 0 && on != switches.len() {
        wrong(&format!("{on} of its 3 switches are on"));
    }
    if on > 0 && cluster.at("/BootstrapSelfManagedAddons").and_then(Json::as_bool) != Some(false) {
        wrong("BootstrapSelfManagedAddons is not false");
    }
    let pools = !cluster.list("/ComputeConfig/NodePools").is_empty();
    let role = cluster.has("/ComputeConfig/NodeRoleArn");
    if on > 0 && pools != role {
        wrong("NodePools and NodeRoleArn go together");
    }
    if on == 0 && (pools || role) {
        wrong("NodePools or NodeRoleArn are given although Auto Mode is off");
    }
    let mode = cluster.text("/AccessConfig/AuthenticationMode");
    if on > 0 && mode == Some("CONFIG_MAP") {
        wrong("AuthenticationMode is CONFIG_MAP, and Auto Mode wants API");
    }
    on > 0
}

fn roles(template: &Template<'_>, cluster: &Resource<'_>, findings: &mut Findings<'_>) {
    let own = |pointer: &str| {
        cluster.at(pointer).and_then(|role| template.own(role)).filter(|role| role.kind == "AWS::IAM::Role")
    };
    let has = |role: &Resource<'_>| -> Option<Vec<String>> {
        // A policy whose name only the deployment knows may be any.
        role.list("/ManagedPolicyArns").iter().map(|policy| managed_name(policy).map(str::to_owned)).collect()
    };
    if let Some(role) = own("/RoleArn") {
        if let Some(policies) = has(&role) {
            let missing: Vec<&str> = CLUSTER_POLICIES
                .into_iter()
                .filter(|wanted| !policies.iter().any(|policy| policy == wanted))
                .collect();
            if !missing.is_empty() {
                findings.resource(
                    AUTO_MODE_ROLE,
                    role.logical_id,
                    format!("it lacks {}", missing.join(", ")),
                );
            }
        }
        let tags = role.at("/AssumeRolePolicyDocument").is_some_and(|document| {
            statements(document)
                .iter()
                .any(|statement| texts(statement.get("Action")).contains(&"sts:TagSession"))
        });
        if !tags {
            findings.resource(
                AUTO_MODE_ROLE,
                role.logical_id,
                "its trust does not allow sts:TagSession".to_owned(),
            );
        }
    }
    if let Some((role, policies)) =
        own("/ComputeConfig/NodeRoleArn").and_then(|role| Some((role, has(&role)?)))
    {
        for choices in NODE_POLICIES {
            if !policies.iter().any(|policy| choices.contains(&policy.as_str())) {
                findings.resource(AUTO_MODE_ROLE, role.logical_id, format!("it lacks {}", choices[0]));
            }
        }
    }
}

fn trusts(role: &Resource<'_>, service: &str) -> bool {
    role.at("/AssumeRolePolicyDocument").is_some_and(|document| {
        statements(document)
            .iter()
            .filter_map(|statement| statement.get("Principal"))
            .any(|principal| texts(principal.get("Service")).contains(&service))
    })
}

fn endpoint(cluster: &Resource<'_>, findings: &mut Findings<'_>) {
    // The endpoint is public unless it is switched off, and then open to every address.
    let public = cluster
        .at("/ResourcesVpcConfig/EndpointPublicAccess")
        .is_none_or(|json| super::template::switch(json) == Some(true));
    let blocks = cluster.at("/ResourcesVpcConfig/PublicAccessCidrs");
    let open = blocks.is_none() || texts(blocks).contains(&"0.0.0.0/0");
    if public && open {
        findings.resource(
            PUBLIC_ENDPOINT,
            cluster.logical_id,
            "its endpoint answers every address".to_owned(),
        );
    }
}

fn upkeep(cluster: &Resource<'_>, findings: &mut Findings<'_>) {
    let ended = cluster
        .text("/Version")
        .and_then(|found| VERSIONS.iter().find(|(version, _)| *version == found))
        .filter(|(_, end)| *end <= REVIEWED);
    if let Some((version, end)) = ended {
        findings.resource(
            CLUSTER_VERSION,
            cluster.logical_id,
            format!("Kubernetes {version} had standard support until {end}"),
        );
    }
    let audited = cluster
        .list("/Logging/ClusterLogging/EnabledTypes")
        .iter()
        .any(|kind| kind.get("Type").and_then(Json::as_str) == Some("audit"));
    if !audited {
        findings.resource(CLUSTER_LOGS, cluster.logical_id, "nobody can tell who did what in it".to_owned());
    }
    if !cluster.has("/EncryptionConfig") {
        findings.resource(CLUSTER_SECRETS, cluster.logical_id, "its secrets have no key of yours".to_owned());
    }
    if cluster.at("/ResourcesVpcConfig/SubnetIds").and_then(Json::as_array).is_some_and(|all| all.len() < 2) {
        findings.resource(CLUSTER_SUBNETS, cluster.logical_id, "it has fewer than two subnets".to_owned());
    }
}
