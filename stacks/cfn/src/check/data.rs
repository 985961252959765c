//! Data that rests somewhere: tables, streams, queues, topics, buckets, caches, logs, keys.

use std::collections::BTreeSet;

use super::{
    Findings,
    permissions::statements,
    rules::{
        BUCKET_ENCRYPTION, BUCKET_PUBLIC, BUCKET_TLS, CACHE_OPEN, CACHE_TLS, DATA_DELETION, KEY_ROTATION,
        LOG_RETENTION, QUEUE_ENCRYPTION, STREAM_ENCRYPTION, STREAM_MODE, TABLE_ENCRYPTION, TABLE_KEYS,
        TABLE_RECOVERY, TOPIC_ENCRYPTION,
    },
    template::{Resource, Template, texts},
};
use crate::{intrinsic::is_intrinsic, value::Json};

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    let secured = buckets_with_tls(template);
    for resource in &template.resources {
        let mut found = |rule, message: &str| {
            findings.resource(rule, resource.logical_id, message.to_owned());
        };
        match resource.kind {
            "AWS::Logs::LogGroup" if !resource.has("/RetentionInDays") => {
                found(LOG_RETENTION, "it has no RetentionInDays");
            }
            "AWS::DynamoDB::Table" => {
                if template.data_kept
                    && resource.off("/PointInTimeRecoverySpecification/PointInTimeRecoveryEnabled")
                {
                    found(TABLE_RECOVERY, "it cannot be put back to a point in time");
                }
                table(resource, findings);
                let mut found = |rule, message: &str| {
                    findings.resource(rule, resource.logical_id, message.to_owned());
                };
                if !resource.has("/SSESpecification") {
                    found(TABLE_ENCRYPTION, "no key is chosen for it");
                }
            }
            "AWS::Kinesis::Stream" => {
                if !resource.has("/StreamEncryption") {
                    found(STREAM_ENCRYPTION, "its records are not encrypted at rest");
                }
                let on_demand = resource.text("/StreamModeDetails/StreamMode") == Some("ON_DEMAND");
                if on_demand && resource.has("/ShardCount") {
                    found(STREAM_MODE, "it is on demand, and has a number of shards");
                }
            }
            "AWS::SQS::Queue"
                if !resource.has("/KmsMasterKeyId") && resource.off("/SqsManagedSseEnabled") =>
            {
                found(QUEUE_ENCRYPTION, "its messages are not said to be encrypted at rest");
            }
            "AWS::SNS::Topic" if !resource.has("/KmsMasterKeyId") => {
                found(TOPIC_ENCRYPTION, "its messages are not encrypted at rest");
            }
            "AWS::S3::Bucket" => bucket(resource, secured.contains(resource.logical_id), findings),
            "AWS::MemoryDB::Cluster" => {
                // TLS is on unless it is switched off.
                if resource.has("/TLSEnabled") && resource.off("/TLSEnabled") {
                    found(CACHE_TLS, "TLS is switched off");
                }
                if resource.text("/ACLName") == Some("open-access") {
                    found(CACHE_OPEN, "its access list is open-access");
                }
            }
            "AWS::KMS::Key" => {
                let symmetric = resource.text("/KeySpec").is_none_or(|spec| spec == "SYMMETRIC_DEFAULT");
                if symmetric && resource.off("/EnableKeyRotation") {
                    found(KEY_ROTATION, "its material is never renewed");
                }
            }
            _ => {}
        }
        let deleted = resource.json.get("DeletionPolicy").and_then(Json::as_str) == Some("Delete");
        if template.data_kept && deleted {
            findings.resource(DATA_DELETION, resource.logical_id, "its DeletionPolicy is Delete".to_owned());
        }
    }
}

/// DynamoDB wants the attributes of all keys defined, and no others, and throughput where it is provisioned.
fn table(table: &Resource<'_>, findings: &mut Findings<'_>) {
    let literal = |pointer: &str| table.at(pointer).is_none_or(Json::is_array);
    let lists = ["/AttributeDefinitions", "/KeySchema", "/GlobalSecondaryIndexes", "/LocalSecondaryIndexes"];
    // What an expression adds is known to the deployment alone.
    if !lists.into_iter().all(literal)
        || lists.into_iter().flat_map(|list| table.list(list)).any(is_intrinsic)
    {
        return;
    }
    let named = |items: &[Json]| -> BTreeSet<String> {
        items.iter().filter_map(|item| item.get("AttributeName")?.as_str()).map(str::to_owned).collect()
    };
    let defined = named(table.list("/AttributeDefinitions"));
    let mut keys = named(table.list("/KeySchema"));
    for list in ["/GlobalSecondaryIndexes", "/LocalSecondaryIndexes"] {
        for index in table.list(list) {
            keys.extend(named(
                index.get("KeySchema").and_then(Json::as_array).map_or(&[][..], Vec::as_slice),
            ));
        }
    }
    let mut wrong = |message: String| findings.resource(TABLE_KEYS, table.logical_id, message);
    // The partition key first, then the sort key: DynamoDB refuses any other order.
    for (key, wanted) in table.list("/KeySchema").iter().zip(["HASH", "RANGE"]) {
        if let Some(kind) = key.get("KeyType").and_then(Json::as_str).filter(|kind| *kind != wanted) {
            wrong(format!("its key schema has `{kind}` where {wanted} belongs"));
        }
    }
    let undefined: Vec<&str> = keys.difference(&defined).map(String::as_str).collect();
    if !undefined.is_empty() {
        wrong(format!("{} is a key and not defined", undefined.join(", ")));
    }
    let unused: Vec<&str> = defined.difference(&keys).map(String::as_str).collect();
    if !unused.is_empty() {
        wrong(format!("{} is defined and no key", unused.join(", ")));
    }
    let on_demand = table.text("/BillingMode") == Some("PAY_PER_REQUEST");
    let provisioned = table.at("/BillingMode").is_none_or(|mode| mode == "PROVISIONED");
    if on_demand && table.has("/ProvisionedThroughput") {
        wrong("it is paid by request, and has a throughput".to_owned());
    }
    if provisioned && !table.has("/ProvisionedThroughput") {
        wrong("it is provisioned, and has no throughput".to_owned());
    }
}

fn bucket(bucket: &Resource<'_>, secured: bool, findings: &mut Findings<'_>) {
    let open: Vec<&str> =
        ["BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"]
            .into_iter()
            .filter(|name| bucket.off(&format!("/PublicAccessBlockConfiguration/{name}")))
            .collect();
    if !open.is_empty() {
        findings.resource(BUCKET_PUBLIC, bucket.logical_id, format!("{} is not on", open.join(", ")));
    }
    if !bucket.has("/BucketEncryption/ServerSideEncryptionConfiguration") {
        findings.resource(BUCKET_ENCRYPTION, bucket.logical_id, "no encryption is chosen for it".to_owned());
    }
    if !secured {
        findings.resource(BUCKET_TLS, bucket.logical_id, "no policy refuses requests without TLS".to_owned());
    }
}

/// Buckets whose policy denies what comes without TLS.
fn buckets_with_tls<'a>(template: &Template<'a>) -> BTreeSet<&'a str> {
    template
        .of_kind("AWS::S3::BucketPolicy")
        .iter()
        .filter(|policy| {
            policy.at("/PolicyDocument").is_some_and(|document| {
                statements(document).iter().any(|statement| {
                    statement.get("Effect").and_then(Json::as_str) == Some("Deny")
                        && statement
                            .pointer("/Condition/Bool/aws:SecureTransport")
                            .is_some_and(|value| texts(Some(value)) == ["false"] || value == false)
                })
            })
        })
        .filter_map(|policy| template.own(policy.at("/Bucket")?))
        .map(|bucket| bucket.logical_id)
        .collect()
}
