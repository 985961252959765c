//! Where a change puts data at risk: what holds data goes, is made anew or loses its protection.

use crate::{schema::TypeSchema, value::Json};

use super::side::{kind, properties};

/// Types whose deletion deletes data. The schema packages' own list lacks some of them; see the facts' reviewed
/// part.
const STATEFUL: [&str; 17] = [
    "AWS::APS::Workspace",
    "AWS::DynamoDB::GlobalTable",
    "AWS::DynamoDB::Table",
    "AWS::ECR::Repository",
    "AWS::KMS::Key",
    "AWS::Kinesis::Stream",
    "AWS::Logs::LogGroup",
    "AWS::MSK::Cluster",
    "AWS::MSK::ServerlessCluster",
    "AWS::MSK::Topic",
    "AWS::MemoryDB::Cluster",
    "AWS::RDS::DBCluster",
    "AWS::RDS::DBInstance",
    "AWS::RDS::GlobalCluster",
    "AWS::S3::Bucket",
    "AWS::SQS::Queue",
    "AWS::SecretsManager::Secret",
];

/// Properties that say for how long data is kept: lowered, what is older is deleted.
const KEPT_FOR: [(&str, &str); 4] = [
    ("AWS::Kinesis::Stream", "RetentionPeriodHours"),
    ("AWS::Logs::LogGroup", "RetentionInDays"),
    ("AWS::RDS::DBCluster", "BackupRetentionPeriod"),
    ("AWS::SQS::Queue", "MessageRetentionPeriod"),
];

/// Whether a resource holds data that goes with it.
pub(super) fn is_stateful(resource: &Json, schema: Option<&TypeSchema>) -> bool {
    // An instance of a cluster holds nothing: the cluster's volume does.
    if kind(resource) == "AWS::RDS::DBInstance" && properties(resource).get("DBClusterIdentifier").is_some() {
        return false;
    }
    STATEFUL.contains(&kind(resource)) || schema.is_some_and(TypeSchema::is_stateful)
}

/// The policy by which the old one is dealt with: as it stands, or what CloudFormation takes for it.
fn policy<'a>(resource: &'a Json, attribute: &str) -> &'a str {
    // AWS CloudFormation User Guide, "DeletionPolicy attribute": databases are snapshotted by default.
    let default = match kind(resource) {
        "AWS::RDS::DBCluster" | "AWS::RDS::DBInstance" if attribute == "DeletionPolicy" => "Snapshot",
        _ => "Delete",
    };
    resource.get(attribute).map_or(default, |policy| policy.as_str().unwrap_or("Delete"))
}

fn keeps(policy: &str) -> bool {
    matches!(policy, "Retain" | "RetainExceptOnCreate" | "Snapshot")
}

/// What happens to the data of a resource that is removed, in words; `None` when it is kept.
pub(super) fn lost_by_removal(resource: &Json) -> Option<String> {
    let policy = policy(resource, "DeletionPolicy");
    (!keeps(policy))
        .then(|| format!("it is removed and its DeletionPolicy is {policy}: its data goes with it"))
}

/// What happens to the data of a resource that is replaced; `None` when it is kept. Both sides must keep it: a
/// policy that comes with the replacement itself is no one's proof.
pub(super) fn lost_by_replacement(before: &Json, after: &Json, certain: bool) -> Option<String> {
    let policy = [before, after]
        .map(|resource| policy(resource, "UpdateReplacePolicy"))
        .into_iter()
        .find(|policy| !keeps(policy))?;
    let is = if certain { "is" } else { "may be" };
    Some(format!("it {is} replaced and its UpdateReplacePolicy is {policy}: its data goes with the old one"))
}

/// Protection that a resource which stays loses.
pub(super) fn unprotected(before: &Json, after: &Json) -> Vec<String> {
    let policies = ["DeletionPolicy", "UpdateReplacePolicy"].into_iter().filter_map(|attribute| {
        let (was, is) = (policy(before, attribute), policy(after, attribute));
        (keeps(was) && !keeps(is)).then(|| format!("its {attribute} goes from {was} to {is}"))
    });
    let shortened = KEPT_FOR.iter().filter(|(of, _)| *of == kind(after)).filter_map(|(_, property)| {
        // Without the property a log group keeps its events for ever; of the others the default is the least.
        let number = |side: &Json| properties(side).get(*property).and_then(Json::as_i64);
        let forever = (kind(after) == "AWS::Logs::LogGroup").then_some(i64::MAX);
        let (was, is) = (number(before).or(forever)?, number(after).or(forever)?);
        (is < was).then(|| match was {
            i64::MAX => format!("its {property} is {is} from now on: what is older is deleted"),
            was => format!("its {property} goes from {was} to {is}: what is older is deleted"),
        })
    });
    policies.chain(shortened).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table(policies: &[(&str, &str)]) -> Json {
        let mut table = json!({ "Type": "AWS::DynamoDB::Table" });
        for (attribute, policy) in policies {
            table[*attribute] = (*policy).into();
        }
        table
    }

    #[test]
    fn a_removal_is_told_unless_the_data_is_kept() {
        assert!(lost_by_removal(&table(&[])).is_some());
        assert!(lost_by_removal(&table(&[("DeletionPolicy", "Delete")])).is_some());
        for kept in ["Retain", "RetainExceptOnCreate", "Snapshot"] {
            assert!(lost_by_removal(&table(&[("DeletionPolicy", kept)])).is_none(), "{kept}");
        }
        assert!(lost_by_removal(&json!({ "Type": "AWS::RDS::DBCluster" })).is_none());
    }

    #[test]
    fn a_replacement_is_told_unless_both_sides_keep_the_old_one() {
        let (kept, open) = (table(&[("UpdateReplacePolicy", "Retain")]), table(&[]));
        assert!(lost_by_replacement(&kept, &kept, true).is_none());
        assert!(lost_by_replacement(&kept, &open, true).unwrap().contains("it is replaced"));
        assert!(lost_by_replacement(&open, &kept, false).unwrap().contains("it may be replaced"));
    }

    #[test]
    fn protection_that_goes_is_told() {
        let kept = table(&[("DeletionPolicy", "Retain")]);
        assert_eq!(unprotected(&kept, &table(&[])), ["its DeletionPolicy goes from Retain to Delete"]);
        assert!(unprotected(&table(&[]), &kept).is_empty());
        let logs =
            |days: Json| json!({ "Type": "AWS::Logs::LogGroup", "Properties": { "RetentionInDays": days } });
        assert_eq!(unprotected(&logs(json!(30)), &logs(json!(7))).len(), 1);
        assert_eq!(unprotected(&logs(Json::Null), &logs(json!(7))).len(), 1);
        assert!(unprotected(&logs(json!(7)), &logs(Json::Null)).is_empty());
    }

    #[test]
    fn an_instance_of_a_cluster_holds_no_data() {
        let instance = |properties: Json| json!({ "Type": "AWS::RDS::DBInstance", "Properties": properties });
        assert!(is_stateful(&instance(json!({})), None));
        assert!(!is_stateful(&instance(json!({ "DBClusterIdentifier": "c" })), None));
    }
}
