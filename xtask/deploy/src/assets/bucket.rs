//! The bucket of artifacts: objects named by their content, each uploaded once.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use aws_sdk_s3::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    primitives::{ByteStream, DateTime},
    types::MetadataDirective,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::sdk::told;

/// Where packed functions are.
pub const ASSETS: &str = "assets/";

/// Where templates are that are too large for a request.
pub const TEMPLATES: &str = "templates/";

/// An object that is used again and is older than this gets a new date, so that who collects what is old leaves
/// it alone. Far below what `gc` takes for old at the least.
pub const RENEWED_AFTER: Duration = Duration::from_secs(12 * 3600);

/// What had to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It was uploaded.
    Uploaded,
    /// It was there.
    Present,
    /// It was there for long, and its date is now.
    Renewed,
}

/// A bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    client: Client,
    name: String,
    region: String,
    /// Where S3 is, instead of AWS.
    endpoint_url: Option<String>,
}

impl Bucket {
    /// By its name. With an endpoint of its own the client must address buckets by path.
    #[must_use]
    pub fn new(client: Client, name: String, region: String, endpoint_url: Option<String>) -> Self {
        Self { client, name, region, endpoint_url }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The S3 client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where CloudFormation reads an object.
    #[must_use]
    pub fn url(&self, key: &str) -> String {
        match &self.endpoint_url {
            Some(endpoint) => format!("{}/{}/{key}", endpoint.trim_end_matches('/'), self.name),
            None => format!("https://{}.s3.{}.amazonaws.com/{key}", self.name, self.region),
        }
    }

    /// Uploads a file, unless the object is there. `sha256` is of the file, in hexadecimal digits, and S3 refuses
    /// what arrives otherwise; `now` is what the age of what is there counts from.
    ///
    /// # Errors
    ///
    /// What S3 says.
    pub async fn publish_file(
        &self,
        key: &str,
        file: &Path,
        sha256: &str,
        now: DateTime,
    ) -> Result<Published> {
        let bytes =
            tokio::fs::metadata(file).await.with_context(|| format!("cannot read {}", file.display()))?.len();
        if let Some(there) = self.there(key, bytes, now).await? {
            return Ok(there);
        }
        let body =
            ByteStream::from_path(file).await.with_context(|| format!("cannot read {}", file.display()))?;
        self.put(key, body, sha256).await
    }

    /// Uploads bytes in the same way.
    ///
    /// # Errors
    ///
    /// What S3 says.
    pub async fn publish_bytes(
        &self,
        key: &str,
        bytes: Vec<u8>,
        sha256: &str,
        now: DateTime,
    ) -> Result<Published> {
        if let Some(there) = self.there(key, bytes.len() as u64, now).await? {
            return Ok(there);
        }
        self.put(key, ByteStream::from(bytes), sha256).await
    }

    /// Whether an object is there with that size, with its date renewed where it was old.
    async fn there(&self, key: &str, bytes: u64, now: DateTime) -> Result<Option<Published>> {
        let answer = match self.client.head_object().bucket(&self.name).key(key).send().await {
            Ok(answer) => answer,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(told(error, &format!("cannot look for {key} in {}", self.name))),
        };
        // Of another size it is not what its name says: it is written over.
        if answer.content_length().and_then(|length| u64::try_from(length).ok()) != Some(bytes) {
            return Ok(None);
        }
        let age = answer.last_modified().map_or(0, |date| now.secs().saturating_sub(date.secs()));
        if u64::try_from(age).unwrap_or(0) < RENEWED_AFTER.as_secs() {
            return Ok(Some(Published::Present));
        }
        // S3 copies an object onto itself only when something of it changes: its metadata, here to what they were.
        self.client
            .copy_object()
            .bucket(&self.name)
            .key(key)
            .copy_source(format!("{}/{key}", self.name))
            .metadata_directive(MetadataDirective::Replace)
            .send()
            .await
            .map_err(|error| told(error, &format!("cannot renew {key} in {}", self.name)))?;
        Ok(Some(Published::Renewed))
    }

    async fn put(&self, key: &str, body: ByteStream, sha256: &str) -> Result<Published> {
        let Some(digest) = bytes_of(sha256) else { bail!("`{sha256}` is no SHA-256") };
        self.client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .body(body)
            .checksum_sha256(STANDARD.encode(digest))
            .send()
            .await
            .map_err(|error| told(error, &format!("cannot upload {key} to {}", self.name)))?;
        Ok(Published::Uploaded)
    }
}

/// An answer to HEAD has no body that would name the error.
fn is_absent<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.raw_response().is_some_and(|response| response.status().as_u16() == 404)
        && error.code() != Some("NoSuchBucket")
}

/// Hexadecimal digits as bytes.
fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|place| u8::from_str_radix(&digits[place..place + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_bytes_or_refused() {
        let digest = cfn::assembly::sha256_hex(b"");
        assert_eq!(bytes_of(&digest).unwrap()[..3], [0xe3, 0xb0, 0xc4]);
        assert_eq!(bytes_of("e3b0"), None);
        assert_eq!(bytes_of(&"z".repeat(64)), None);
    }
}
