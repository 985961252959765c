//! S3 buckets.

use cfn::{Handle, Json, Scope, Value};
use cfn_resources::{
    kms::Key,
    s3::{
        Bucket, BucketAbortIncompleteMultipartUpload, BucketBucketEncryption, BucketLifecycleConfiguration,
        BucketNoncurrentVersionExpiration, BucketOwnershipControls, BucketOwnershipControlsRule,
        BucketOwnershipControlsRuleObjectOwnership, BucketPolicy, BucketPublicAccessBlockConfiguration,
        BucketRule, BucketRuleStatus, BucketServerSideEncryptionByDefault,
        BucketServerSideEncryptionByDefaultSseAlgorithm, BucketServerSideEncryptionRule,
        BucketVersioningConfiguration, BucketVersioningConfigurationStatus,
    },
};

use crate::{DataPolicy, iam, network::as_text};

/// Days that a version is kept after a newer one has come.
const OLD_VERSION_DAYS: i64 = 90;

/// A bucket: private, versioned, encrypted with a key of the account's own, over TLS alone.
#[derive(Clone, Debug)]
pub struct PrivateBucket {
    /// The bucket.
    pub bucket: Handle<Bucket>,
    key_arn: Value<String>,
}

impl PrivateBucket {
    /// Makes one.
    #[track_caller]
    pub fn new(scope: &mut Scope<'_>, name: &str, key: &Handle<Key>, data: DataPolicy) -> Self {
        let mut scope = scope.child(name);
        let bucket = scope.add(
            "Resource",
            Bucket::new()
                .bucket_encryption(BucketBucketEncryption::new([BucketServerSideEncryptionRule::new()
                    .bucket_key_enabled(true)
                    .server_side_encryption_by_default(
                        BucketServerSideEncryptionByDefault::new(
                            BucketServerSideEncryptionByDefaultSseAlgorithm::AwsKms,
                        )
                        .kms_master_key_id(as_text(&key.arn())),
                    )]))
                .public_access_block_configuration(
                    BucketPublicAccessBlockConfiguration::new()
                        .block_public_acls(true)
                        .block_public_policy(true)
                        .ignore_public_acls(true)
                        .restrict_public_buckets(true),
                )
                .ownership_controls(BucketOwnershipControls::new([BucketOwnershipControlsRule::new()
                    .object_ownership(BucketOwnershipControlsRuleObjectOwnership::BucketOwnerEnforced)]))
                .versioning_configuration(BucketVersioningConfiguration::new(
                    BucketVersioningConfigurationStatus::Enabled,
                ))
                .lifecycle_configuration(BucketLifecycleConfiguration::new([BucketRule::new(
                    BucketRuleStatus::Enabled,
                )
                .id("old-versions")
                .noncurrent_version_expiration(BucketNoncurrentVersionExpiration::new(OLD_VERSION_DAYS))
                .abort_incomplete_multipart_upload(BucketAbortIncompleteMultipartUpload::new(1))])),
        );
        scope.removal(bucket.raw(), data.removal());
        scope.waive(
            bucket.raw(),
            "CKV_AWS_18",
            "access is told by CloudTrail's data events; a second bucket of access logs would need the same care as this one",
        );
        let arn = as_text(&bucket.arn());
        let over_tls = iam::over_tls_alone(&["s3:*"], &[arn.clone(), below(&arn)]);
        scope.add("Policy", BucketPolicy::new(as_text(&bucket.reference()), iam::document(vec![over_tls])));
        Self { bucket, key_arn: as_text(&key.arn()) }
    }

    /// Reads objects.
    #[must_use]
    pub fn grant_read(&self, sid: &str) -> Vec<Json> {
        let arn = as_text(&self.bucket.arn());
        vec![
            iam::allow(&format!("{sid}List"), &["s3:ListBucket"], std::slice::from_ref(&arn)),
            iam::allow(sid, &["s3:GetObject"], &[below(&arn)]),
            iam::allow(&format!("{sid}Key"), &["kms:Decrypt"], std::slice::from_ref(&self.key_arn)),
        ]
    }

    /// Reads and writes objects.
    #[must_use]
    pub fn grant_read_write(&self, sid: &str) -> Vec<Json> {
        let arn = as_text(&self.bucket.arn());
        vec![
            iam::allow(&format!("{sid}List"), &["s3:ListBucket"], std::slice::from_ref(&arn)),
            iam::allow(sid, &["s3:GetObject", "s3:PutObject"], &[below(&arn)]),
            iam::allow(
                &format!("{sid}Key"),
                &["kms:Decrypt", "kms:GenerateDataKey"],
                std::slice::from_ref(&self.key_arn),
            ),
        ]
    }
}

/// The objects of a bucket.
fn below(arn: &Value<String>) -> Value<String> {
    Value::join("/", [arn.clone(), Value::Literal("*".to_owned())])
}
