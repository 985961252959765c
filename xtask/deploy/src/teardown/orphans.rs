//! What an environment has left over, found by its tags: those that its stacks give to what they make, and those that
//! EKS and its controllers give to nodes, volumes, network interfaces and load balancers.

use std::collections::BTreeSet;

use anyhow::Result;
use aws_sdk_resourcegroupstagging::{Client, types::TagFilter};

use super::kept::Kept;
use crate::{plan::ENVIRONMENT_TAG, sdk::told};

/// The tags to look for, as (key, value); a key without a value is looked for by itself.
fn tags(environment: &str, cluster: Option<&str>) -> Vec<(String, Option<String>)> {
    let mut all = vec![(ENVIRONMENT_TAG.to_owned(), Some(environment.to_owned()))];
    if let Some(cluster) = cluster {
        // EKS Auto Mode, the load balancer controller, the CSI drivers, the VPC's network plugin.
        for key in [
            "eks:eks-cluster-name",
            "aws:eks:cluster-name",
            "elbv2.k8s.aws/cluster",
            "cluster.k8s.amazonaws.com/name",
        ] {
            all.push((key.to_owned(), Some(cluster.to_owned())));
        }
        all.push((format!("kubernetes.io/cluster/{cluster}"), None));
    }
    all
}

/// The ARNs of all that carries one of an environment's tags.
///
/// # Errors
///
/// What the tagging API says.
pub async fn find(client: &Client, environment: &str, cluster: Option<&str>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (key, value) in tags(environment, cluster) {
        let filter = TagFilter::builder().key(key).set_values(value.map(|value| vec![value])).build();
        let mut pages = client.get_resources().tag_filters(filter).into_paginator().items().send();
        while let Some(resource) = pages.next().await {
            let resource =
                resource.map_err(|error| told(error, "resources cannot be looked for by their tags"))?;
            found.extend(resource.resource_arn().map(str::to_owned));
        }
    }
    Ok(found)
}

/// Those that are not kept on purpose.
#[must_use]
pub fn unknown(found: BTreeSet<String>, kept: &[Kept]) -> Vec<String> {
    let is_kept = |arn: &String| {
        kept.iter().any(|one| {
            *arn == one.physical_id
                || arn.ends_with(&format!("/{}", one.physical_id))
                || arn.ends_with(&format!(":{}", one.physical_id))
        })
    };
    found.into_iter().filter(|arn| !is_kept(arn)).collect()
}

/// An ARN with the command that removes what it names, where there is one to tell.
#[must_use]
pub fn line(arn: &str, region: &str) -> String {
    match removal(arn) {
        Some(command) => format!("{arn}\n      {command} --region {region}"),
        None => arn.to_owned(),
    }
}

/// The command for the kinds that clusters leave.
fn removal(arn: &str) -> Option<String> {
    // arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let (service, resource) = (*parts.get(2)?, *parts.get(5)?);
    let id = resource.rsplit('/').next().unwrap_or(resource);
    let kind = resource.split('/').next().unwrap_or_default();
    Some(match (service, kind) {
        ("ec2", "volume") => format!("aws ec2 delete-volume --volume-id {id}"),
        ("ec2", "network-interface") => {
            format!("aws ec2 delete-network-interface --network-interface-id {id}")
        }
        ("ec2", "security-group") => format!("aws ec2 delete-security-group --group-id {id}"),
        ("ec2", "instance") => format!("aws ec2 terminate-instances --instance-ids {id}"),
        ("ec2", "snapshot") => format!("aws ec2 delete-snapshot --snapshot-id {id}"),
        ("elasticloadbalancing", "loadbalancer") => {
            format!("aws elbv2 delete-load-balancer --load-balancer-arn {arn}")
        }
        ("elasticloadbalancing", "targetgroup") => {
            format!("aws elbv2 delete-target-group --target-group-arn {arn}")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_no_orphan() {
        let kept = Kept {
            stack: "fg".to_owned(),
            logical_id: "Key".to_owned(),
            resource_type: "AWS::KMS::Key".to_owned(),
            physical_id: "1234".to_owned(),
            reason: String::new(),
            removal: String::new(),
        };
        let found = BTreeSet::from(
            ["arn:aws:kms:r:1:key/1234", "arn:aws:kms:r:1:key/51234", "arn:aws:ec2:r:1:volume/vol-1"]
                .map(str::to_owned),
        );
        let left = unknown(found, &[kept]);
        assert_eq!(left, ["arn:aws:ec2:r:1:volume/vol-1", "arn:aws:kms:r:1:key/51234"]);
        assert_eq!(
            line(&left[0], "eu-west-1"),
            "arn:aws:ec2:r:1:volume/vol-1\n      aws ec2 delete-volume --volume-id vol-1 --region eu-west-1"
        );
        assert_eq!(line(&left[1], "eu-west-1"), left[1]);
    }

    #[test]
    fn a_cluster_is_looked_for_by_all_of_its_tags() {
        assert_eq!(tags("dev", None).len(), 1);
        let all = tags("dev", Some("fg-dev"));
        assert!(all.contains(&("kubernetes.io/cluster/fg-dev".to_owned(), None)));
        assert!(all.contains(&("eks:eks-cluster-name".to_owned(), Some("fg-dev".to_owned()))));
    }
}
