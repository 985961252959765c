//! What stays when a stack goes, and how it is removed. Pure.

use std::fmt;

use cfn::Json;
use serde::Serialize;

use crate::cloudformation::StackResource;

/// Something that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The stack that had it.
    pub stack: String,
    /// Its logical id there.
    pub logical_id: String,
    /// Its type.
    pub resource_type: String,
    /// What names it in its service.
    pub physical_id: String,
    /// Why it is there.
    pub reason: String,
    /// The command that removes it.
    pub removal: String,
}

impl fmt::Display for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stack, logical_id, resource_type, physical_id, reason, removal } = self;
        write!(formatter, "{stack} {logical_id} ({resource_type}) {physical_id}: {reason}\n      {removal}")
    }
}

fn policy<'a>(template: &'a Json, id: &str) -> &'a str {
    template.get("Resources").and_then(|all| all.get(id)?.get("DeletionPolicy")?.as_str()).unwrap_or("Delete")
}

/// Whether a resource goes with its stack, without a last snapshot.
#[must_use]
pub fn is_deleted(template: &Json, id: &str) -> bool {
    policy(template, id) == "Delete"
}

/// Whether a resource stays when its stack goes: `Retain`, and `RetainExceptOnCreate`.
#[must_use]
pub fn is_retained(template: &Json, id: &str) -> bool {
    policy(template, id).starts_with("Retain")
}

/// What a stack keeps by its deletion policies: resources, and snapshots of such as are gone.
#[must_use]
pub fn kept(stack: &str, template: &Json, resources: &[StackResource], region: &str) -> Vec<Kept> {
    let one = |resource: &StackResource, reason: &str, removal: String| Kept {
        stack: stack.to_owned(),
        logical_id: resource.logical_id.clone(),
        resource_type: resource.resource_type.clone(),
        physical_id: resource.physical_id.clone(),
        reason: reason.to_owned(),
        removal,
    };
    // What was never made, or was gone before, has no name or says so.
    let there =
        |resource: &&StackResource| !resource.physical_id.is_empty() && resource.status != "DELETE_COMPLETE";
    resources
        .iter()
        .filter(there)
        .filter_map(|resource| match policy(template, &resource.logical_id) {
            _ if is_retained(template, &resource.logical_id) => Some(one(
                resource,
                "it holds data",
                removal(&resource.resource_type, &resource.physical_id, region),
            )),
            "Snapshot" => Some(one(resource, "a last snapshot of it is kept", snapshots(resource, region))),
            _ => None,
        })
        .collect()
}

/// A resource that could not be deleted and was left.
#[must_use]
pub fn left_behind(stack: &str, resource: &StackResource, region: &str) -> Kept {
    let StackResource { logical_id, resource_type, physical_id, .. } = resource;
    Kept {
        stack: stack.to_owned(),
        logical_id: logical_id.clone(),
        resource_type: resource_type.clone(),
        physical_id: physical_id.clone(),
        reason: "it could not be deleted".to_owned(),
        removal: removal(resource_type, physical_id, region),
    }
}

/// The command that removes a resource.
#[must_use]
pub fn removal(resource_type: &str, id: &str, region: &str) -> String {
    let command = match resource_type {
        "AWS::KMS::Key" => format!("aws kms schedule-key-deletion --key-id {id} --pending-window-in-days 7"),
        "AWS::S3::Bucket" => {
            return format!(
                "aws s3 rb s3://{id} --force --region {region} (versions of objects go by the console's `Empty`)"
            );
        }
        "AWS::ECR::Repository" => format!("aws ecr delete-repository --repository-name {id} --force"),
        "AWS::Logs::LogGroup" => format!("aws logs delete-log-group --log-group-name {id}"),
        "AWS::DynamoDB::Table" => format!(
            "aws dynamodb update-table --table-name {id} --no-deletion-protection-enabled --region {region} && aws dynamodb delete-table --table-name {id}"
        ),
        "AWS::RDS::DBCluster" => format!(
            "aws rds modify-db-cluster --db-cluster-identifier {id} --no-deletion-protection --apply-immediately --region {region} && aws rds delete-db-cluster --db-cluster-identifier {id} --final-db-snapshot-identifier {id}-final"
        ),
        // Every type that CloudFormation manages has this one.
        _ => format!("aws cloudcontrol delete-resource --type-name {resource_type} --identifier {id}"),
    };
    format!("{command} --region {region}")
}

/// How the last snapshots of a resource are found; deleting one wants its name, which CloudFormation makes up.
fn snapshots(resource: &StackResource, region: &str) -> String {
    let id = &resource.physical_id;
    match resource.resource_type.as_str() {
        "AWS::RDS::DBCluster" => format!(
            "aws rds describe-db-cluster-snapshots --db-cluster-identifier {id} --region {region}, then aws rds delete-db-cluster-snapshot --db-cluster-snapshot-identifier NAME --region {region}"
        ),
        "AWS::RDS::DBInstance" => format!(
            "aws rds describe-db-snapshots --db-instance-identifier {id} --region {region}, then aws rds delete-db-snapshot --db-snapshot-identifier NAME --region {region}"
        ),
        "AWS::EC2::Volume" => format!(
            "aws ec2 describe-snapshots --filters Name=volume-id,Values={id} --region {region}, then aws ec2 delete-snapshot --snapshot-id NAME --region {region}"
        ),
        other => format!("the snapshots of {other} {id} are in its service"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(id: &str, kind: &str, physical_id: &str) -> StackResource {
        StackResource {
            logical_id: id.to_owned(),
            resource_type: kind.to_owned(),
            status: "CREATE_COMPLETE".to_owned(),
            physical_id: physical_id.to_owned(),
        }
    }

    #[test]
    fn what_stays_is_listed_with_the_command_that_removes_it() {
        let template = serde_json::json!({ "Resources": {
            "Key": { "Type": "AWS::KMS::Key", "DeletionPolicy": "RetainExceptOnCreate" },
            "Database": { "Type": "AWS::RDS::DBCluster", "DeletionPolicy": "Snapshot" },
            "Stream": { "Type": "AWS::Kinesis::Stream", "DeletionPolicy": "Retain" },
            "Vpc": { "Type": "AWS::EC2::VPC" },
            "Never": { "Type": "AWS::KMS::Key", "DeletionPolicy": "Retain" },
        }});
        let resources = [
            resource("Key", "AWS::KMS::Key", "1234"),
            resource("Database", "AWS::RDS::DBCluster", "ledger"),
            resource("Stream", "AWS::Kinesis::Stream", "lessons"),
            resource("Vpc", "AWS::EC2::VPC", "vpc-1"),
            resource("Never", "AWS::KMS::Key", ""),
        ];
        let all = kept("fg", &template, &resources, "eu-west-1");
        let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "fg Key (AWS::KMS::Key) 1234: it holds data\n      aws kms schedule-key-deletion --key-id 1234 --pending-window-in-days 7 --region eu-west-1",
                "fg Database (AWS::RDS::DBCluster) ledger: a last snapshot of it is kept\n      aws rds describe-db-cluster-snapshots --db-cluster-identifier ledger --region eu-west-1, then aws rds delete-db-cluster-snapshot --db-cluster-snapshot-identifier NAME --region eu-west-1",
                "fg Stream (AWS::Kinesis::Stream) lessons: it holds data\n      aws cloudcontrol delete-resource --type-name AWS::Kinesis::Stream --identifier lessons --region eu-west-1",
            ]
        );
        assert!(is_deleted(&template, "Vpc") && !is_deleted(&template, "Key"));
    }
}
