//! Where an environment keeps its releases and the records of its deployments: in its bucket of artifacts. A release
//! is its index and its files, each by its content, so that what two releases share is there once; the index is
//! written last, and so what has an index is whole. Records are numbered, and a number is written once.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use aws_sdk_s3::{
    error::ProvideErrorMetadata,
    primitives::{ByteStream, DateTime},
};
use cfn::assembly::{Manifest, Source};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    bundle::{self, Bundle, Partial},
    index::{ASSETS, Entry, INDEX_BYTES_MAX, INDEX_FILE, Release, short},
    record::{History, Record},
};
use crate::{
    assets::{
        bucket::{Bucket, Published},
        collect::{RELEASES, stored},
    },
    cloudformation::CloudFormation,
    report::Reporter,
    sdk::told,
    wiring::{Known, resolve},
};

/// How many objects are on their way at a time.
const AT_ONCE: usize = 8;

/// A record is at most so large.
const RECORD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What the live line is known by.
const LIVE: &str = "release";

/// The bucket of an environment, seen as where its releases are.
#[derive(Clone, Debug)]
pub struct Shelf {
    bucket: Bucket,
    environment: String,
}

/// The bucket of artifacts by the outputs of what is deployed; `None` before its stack is, or where there is none.
///
/// # Errors
///
/// What CloudFormation says.
pub async fn bucket(
    manifest: &Manifest,
    cloud: &impl CloudFormation,
    s3: aws_sdk_s3::Client,
    endpoint_url: Option<String>,
) -> Result<Option<Bucket>> {
    let Some(source) = &manifest.artifact_bucket else { return Ok(None) };
    let mut known = Known::default();
    if let Source::Output { stack, .. } = source {
        let entry = manifest.stack(stack).context("the stack of the bucket is not in the manifest")?;
        if let Some(deployed) = cloud.describe(&entry.name).await? {
            known.outputs.insert(stack.clone(), deployed.outputs);
        }
    }
    let region = manifest.region.clone();
    Ok(resolve(source, &known).ok().map(|name| Bucket::new(s3, name, region, endpoint_url)))
}

/// Where a release's index is.
fn index_key(digest: &str) -> String {
    format!("{RELEASES}{digest}.json")
}

/// Where a record is. The numbers have leading zeros, so that keys are in their order.
fn record_key(number: u64) -> String {
    format!("{RELEASES}records/{number:08}.json")
}

/// Where a file of a release is: packed assets are where a deployment publishes them.
fn file_key(path: &str, entry: &Entry) -> String {
    if path.starts_with(&format!("{ASSETS}/")) {
        path.to_owned()
    } else {
        format!("{RELEASES}files/{}", entry.sha256)
    }
}

impl Shelf {
    /// In a bucket.
    #[must_use]
    pub fn new(bucket: Bucket, environment: &str) -> Self {
        Self { bucket, environment: environment.to_owned() }
    }

    /// The records of the environment's deployments.
    ///
    /// # Errors
    ///
    /// What S3 says, or a record that cannot be read.
    pub async fn history(&self) -> Result<History> {
        let mut keys: Vec<String> = stored(&self.bucket, &format!("{RELEASES}records/"))
            .await?
            .into_iter()
            .map(|object| object.key)
            .filter(|key| key.ends_with(".json"))
            .collect();
        keys.sort();
        let read = |key: String| async move {
            let bytes = self.get(&key, RECORD_BYTES_MAX).await?;
            let bytes = bytes.with_context(|| format!("{key} went while it was read"))?;
            serde_json::from_slice::<Record>(&bytes)
                .with_context(|| format!("{key} is no record of a deployment"))
        };
        let records: Vec<Record> =
            stream::iter(keys.into_iter().map(read)).buffered(AT_ONCE).try_collect().await?;
        Ok(History(records))
    }

    /// The number of the last deployment, 0 before the first, and its record, where that can be read.
    ///
    /// # Errors
    ///
    /// What S3 says.
    pub async fn last(&self) -> Result<(u64, Option<Record>)> {
        let number = self.last_number().await?;
        let bytes = if number == 0 { None } else { self.get(&record_key(number), RECORD_BYTES_MAX).await? };
        Ok((number, bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok())))
    }

    /// The number of the last deployment; 0 before the first.
    ///
    /// # Errors
    ///
    /// What S3 says.
    pub async fn last_number(&self) -> Result<u64> {
        let prefix = format!("{RELEASES}records/");
        let number = |key: &str| key.strip_prefix(&prefix)?.strip_suffix(".json")?.parse().ok();
        let records = stored(&self.bucket, &prefix).await?;
        Ok(records.iter().filter_map(|object| number(&object.key)).max().unwrap_or(0))
    }

    /// Writes a record, once.
    ///
    /// # Errors
    ///
    /// When there is one of that number, because somebody deployed meanwhile, or what S3 says.
    pub async fn note(&self, record: &Record) -> Result<()> {
        let key = record_key(record.number);
        let written = self
            .bucket
            .client()
            .put_object()
            .bucket(self.bucket.name())
            .key(&key)
            .if_none_match("*")
            .content_type("application/json")
            .body(ByteStream::from(serde_json::to_vec_pretty(record)?))
            .send()
            .await;
        match written {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("PreconditionFailed") => bail!(
                "somebody else deployed {} meanwhile and has written its record #{}: see `cargo xtask history --env {0}`, then deploy again",
                self.environment,
                record.number
            ),
            Err(error) => Err(told(
                error,
                &format!(
                    "{} is deployed, but the record of that cannot be written; deploy again",
                    self.environment
                ),
            )),
        }
    }

    /// Keeps a release: every file that is not there yet, and then its index.
    ///
    /// # Errors
    ///
    /// What S3 says. What was sent by then stays, and the next attempt goes on.
    pub async fn keep(&self, bundle: &Bundle, reporter: &Reporter) -> Result<()> {
        let index = index_key(&bundle.digest);
        if self.get(&index, INDEX_BYTES_MAX).await?.is_some() {
            return Ok(());
        }
        let (done, total) = (AtomicUsize::new(0), bundle.release.files.len());
        let now = DateTime::from(SystemTime::now());
        let send = |(path, entry): (&String, &Entry)| {
            let (key, file, sha256) =
                (file_key(path, entry), bundle.directory.join(path), entry.sha256.clone());
            let done = &done;
            async move {
                let published = self.bucket.publish_file(&key, &file, &sha256, now).await?;
                let count = done.fetch_add(1, Ordering::Relaxed) + 1;
                reporter.progress(LIVE, &format!("keeping the release  {count}/{total}"));
                anyhow::Ok(published)
            }
        };
        let published: Vec<Published> = stream::iter(bundle.release.files.iter().map(send))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
            .inspect_err(|_| reporter.settle(LIVE))?;
        reporter.settle(LIVE);
        let bytes = bundle.release.bytes()?;
        self.bucket.publish_bytes(&index, bytes, &bundle.digest, now).await?;
        let sent = published.iter().filter(|one| **one == Published::Uploaded).count();
        reporter.asset(
            "release",
            "kept",
            &format!("{} of {total} files sent to {}", sent, self.bucket.name()),
        );
        Ok(())
    }

    /// Brings a release that is kept to a directory of its digest's name below `into`, every byte compared.
    ///
    /// # Errors
    ///
    /// When it is not kept here, or not whole; what S3 says.
    pub async fn fetch(&self, digest: &str, into: &Path, reporter: &Reporter) -> Result<Bundle> {
        let place = into.join(digest);
        if place.is_dir() {
            match bundle::verify(&place) {
                Ok(there) => return Ok(there),
                Err(_) => fs::remove_dir_all(&place)
                    .with_context(|| format!("cannot remove {}", place.display()))?,
            }
        }
        let lost = || {
            format!(
                "{} does not keep the release {}… any more: make it again from its revision (`cargo xtask history --env {0}` names it) and deploy that",
                self.environment,
                short(digest)
            )
        };
        let bytes = self.get(&index_key(digest), INDEX_BYTES_MAX).await?.with_context(lost)?;
        let (release, found) = Release::parse(&bytes)?;
        if found != digest {
            bail!(
                "the index of {}… in {} was changed after it was written",
                short(digest),
                self.bucket.name()
            );
        }
        let partial = Partial::new(into, digest)?;
        fs::write(partial.0.join(INDEX_FILE), &bytes)?;
        let (done, total) = (AtomicUsize::new(0), release.files.len());
        let bring = |(path, entry): (&String, &Entry)| {
            let (path, entry, to): (String, Entry, PathBuf) =
                (path.clone(), entry.clone(), partial.0.join(path));
            let done = &done;
            async move {
                let content = self.get(&file_key(&path, &entry), entry.bytes).await?;
                let content = content.with_context(|| format!("`{path}` is gone: {}", lost()))?;
                bundle::compare(&path, &entry, &content)?;
                bundle::put(&to, &content)?;
                let count = done.fetch_add(1, Ordering::Relaxed) + 1;
                reporter.progress(LIVE, &format!("fetching the release  {count}/{total}"));
                anyhow::Ok(())
            }
        };
        stream::iter(release.files.iter().map(bring))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await
            .inspect_err(|_| reporter.settle(LIVE))?;
        reporter.settle(LIVE);
        partial.done(&place)?;
        Ok(Bundle { release, digest: digest.to_owned(), directory: place })
    }

    /// An object of at most so many bytes; `None` where there is none.
    async fn get(&self, key: &str, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        let what = || format!("cannot read {key} in {}", self.bucket.name());
        let answer = match self.bucket.client().get_object().bucket(self.bucket.name()).key(key).send().await
        {
            Ok(answer) => answer,
            Err(error) if error.code() == Some("NoSuchKey") => return Ok(None),
            Err(error) => return Err(told(error, &what())),
        };
        let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
        if length.is_none_or(|length| length > bytes_max) {
            bail!("{}: it is larger than it can be", what());
        }
        Ok(Some(answer.body.collect().await.with_context(what)?.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_by_content_and_in_the_order_of_numbers() {
        assert!(record_key(9) < record_key(10) && record_key(9_999_999) < record_key(10_000_000));
        let entry = Entry::of(b"x");
        assert_eq!(file_key("assets/one.zip", &entry), "assets/one.zip");
        assert_eq!(
            file_key("assemblies/dev/manifest.json", &entry),
            format!("releases/files/{}", entry.sha256)
        );
    }
}
