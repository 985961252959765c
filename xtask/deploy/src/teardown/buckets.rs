//! Emptying buckets: CloudFormation deletes only those that hold nothing, no version either.

use anyhow::{Result, bail};
use aws_sdk_s3::{
    Client,
    error::ProvideErrorMetadata,
    operation::list_object_versions::ListObjectVersionsOutput,
    types::{Delete, ObjectIdentifier},
};

use crate::sdk::told;

/// The first versions of a bucket, as many as S3 tells at once; nothing where there is no such bucket.
async fn first(client: &Client, bucket: &str, most: i32) -> Result<Option<ListObjectVersionsOutput>> {
    match client.list_object_versions().bucket(bucket).max_keys(most).send().await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.code() == Some("NoSuchBucket") => Ok(None),
        Err(error) => Err(told(error, &format!("the bucket {bucket} cannot be listed"))),
    }
}

/// What of an answer can be deleted: versions, and the marks of deletions.
fn identifiers(answer: &ListObjectVersionsOutput) -> Result<Vec<ObjectIdentifier>> {
    let versions = answer.versions().iter().map(|one| (one.key(), one.version_id()));
    let marks = answer.delete_markers().iter().map(|one| (one.key(), one.version_id()));
    versions
        .chain(marks)
        .filter_map(|(key, version)| Some((key?, version)))
        .map(|(key, version)| {
            let one = ObjectIdentifier::builder().key(key).set_version_id(version.map(str::to_owned));
            Ok(one.build()?)
        })
        .collect()
}

/// Whether a bucket holds nothing, or is not there.
///
/// # Errors
///
/// What S3 says.
pub async fn is_empty(client: &Client, bucket: &str) -> Result<bool> {
    match first(client, bucket, 1).await? {
        Some(answer) => Ok(identifiers(&answer)?.is_empty()),
        None => Ok(true),
    }
}

/// Deletes every version of every object; gives how many there were. Run again it goes on.
///
/// # Errors
///
/// The first that S3 does not delete, and why.
pub async fn empty(client: &Client, bucket: &str) -> Result<usize> {
    let mut count = 0;
    while let Some(answer) = first(client, bucket, 1000).await? {
        let identifiers = identifiers(&answer)?;
        if identifiers.is_empty() {
            break;
        }
        count += identifiers.len();
        let delete = Delete::builder().set_objects(Some(identifiers)).quiet(true).build()?;
        let answer = client
            .delete_objects()
            .bucket(bucket)
            .delete(delete)
            .send()
            .await
            .map_err(|error| told(error, &format!("the bucket {bucket} cannot be emptied")))?;
        if let Some(error) = answer.errors().first() {
            let (key, message) = (error.key().unwrap_or_default(), error.message().unwrap_or_default());
            bail!("the bucket {bucket} cannot be emptied: S3 does not delete {key}: {message}");
        }
    }
    Ok(count)
}
