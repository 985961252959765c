//! Which published and packed files nobody needs any more. What to delete is decided by [`collectable`] and
//! [`unsettled`], on plain data; the rest looks and deletes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use cfn::Json;

use super::bucket::{ASSETS, Bucket, RENEWED_AFTER, TEMPLATES};
use crate::sdk::told;

/// Where the records of releases are: an asset that one names is kept as long as the record is.
pub const RELEASES: &str = "releases/";

/// S3 deletes at most so many objects a request.
const DELETED_AT_ONCE: usize = 1000;

/// A release's record is at most so large; what is larger is no record.
const RECORD_BYTES_MAX: i64 = 64 * 1024 * 1024;

/// An object of the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written, in seconds since 1970.
    pub written: i64,
}

/// A stack as far as it uses assets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its status.
    pub status: String,
    /// Its template and the values of its parameters.
    pub texts: Vec<String>,
}

/// What may go: written longer ago than `older_than`, and named by none of `texts` (what is deployed, what is kept
/// of releases). Templates are read once, when a change set is made, so that age alone decides.
#[must_use]
pub fn collectable(stored: &[Stored], texts: &[String], now: i64, older_than: Duration) -> Vec<Stored> {
    let seconds = i64::try_from(older_than.as_secs()).unwrap_or(i64::MAX);
    stored
        .iter()
        .filter(|object| now.saturating_sub(object.written) >= seconds)
        .filter(|object| {
            object.key.starts_with(TEMPLATES)
                || (object.key.starts_with(ASSETS) && !texts.iter().any(|text| text.contains(&object.key)))
        })
        .cloned()
        .collect()
}

/// The stacks whose way forth or back may yet need what neither their template nor their parameters name now: a
/// rollback goes to the code of before.
#[must_use]
pub fn unsettled(users: &[User]) -> Vec<&User> {
    users
        .iter()
        .filter(|user| user.status.contains("IN_PROGRESS") || user.status.contains("ROLLBACK_FAILED"))
        .filter(|user| user.status != "REVIEW_IN_PROGRESS")
        .collect()
}

/// How old something must be at the least: less than that, a deployment that is under way may just have found it.
///
/// # Errors
///
/// When it is less, in words.
pub fn check_window(older_than: Duration, is_local: bool) -> Result<()> {
    let least = 2 * RENEWED_AFTER;
    if !is_local && older_than < least {
        bail!(
            "--older-than must be at least {} h: a deployment that is under way may need what it found there",
            least.as_secs() / 3600
        );
    }
    Ok(())
}

/// The stacks of an environment, those that are no longer rendered included.
///
/// # Errors
///
/// What CloudFormation says.
pub async fn users(client: &aws_sdk_cloudformation::Client, prefix: &str) -> Result<Vec<User>> {
    let mut pages = client.describe_stacks().into_paginator().items().send();
    let mut found = Vec::new();
    while let Some(stack) = pages.next().await {
        let stack = stack.map_err(|error| told(error, "the stacks cannot be listed"))?;
        let name = stack.stack_name().unwrap_or_default();
        if !name.starts_with(&format!("{prefix}-")) {
            continue;
        }
        let status = stack.stack_status().map(|status| status.as_str().to_owned()).unwrap_or_default();
        let mut texts: Vec<String> = stack
            .parameters()
            .iter()
            .filter_map(|parameter| parameter.parameter_value().map(str::to_owned))
            .collect();
        // What was never created has no template.
        if status != "REVIEW_IN_PROGRESS" {
            let template = client
                .get_template()
                .stack_name(name)
                .send()
                .await
                .map_err(|error| told(error, &format!("cannot read the template of {name}")))?;
            texts.extend(template.template_body().map(str::to_owned));
        }
        found.push(User { name: name.to_owned(), status, texts });
    }
    Ok(found)
}

/// The objects below a prefix.
///
/// # Errors
///
/// What S3 says.
pub async fn stored(bucket: &Bucket, prefix: &str) -> Result<Vec<Stored>> {
    let request = bucket.client().list_objects_v2().bucket(bucket.name()).prefix(prefix);
    let mut pages = request.into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| told(error, &format!("cannot list {}", bucket.name())))?;
        found.extend(page.contents().iter().filter_map(|object| {
            Some(Stored {
                key: object.key()?.to_owned(),
                bytes: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                written: object.last_modified()?.secs(),
            })
        }));
    }
    Ok(found)
}

/// The texts of the releases and of the records of deployments from them: to these an environment can go back. What
/// was deployed from sources alone is held by the stacks that use it, and by nothing else.
///
/// # Errors
///
/// What S3 says, or a record that cannot be read: then nobody knows what it names.
pub async fn release_records(bucket: &Bucket) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for record in stored(bucket, RELEASES).await?.into_iter().filter(|object| object.key.ends_with(".json")) {
        let what = format!("cannot read the release {}", record.key);
        let answer = bucket
            .client()
            .get_object()
            .bucket(bucket.name())
            .key(&record.key)
            .send()
            .await
            .map_err(|error| told(error, &what))?;
        if answer.content_length().is_none_or(|length| length > RECORD_BYTES_MAX) {
            bail!("{what}: it is too large to be a record");
        }
        let bytes = answer.body.collect().await.with_context(|| what.clone())?.into_bytes();
        let text = String::from_utf8(bytes.to_vec()).with_context(|| what.clone())?;
        let record: Json = serde_json::from_str(&text).with_context(|| what.clone())?;
        if record.get("release") != Some(&Json::Null) {
            texts.push(text);
        }
    }
    Ok(texts)
}

/// Deletes objects. In a bucket that keeps versions they can be brought back until its rules remove them.
///
/// # Errors
///
/// The first that S3 does not delete.
pub async fn delete(bucket: &Bucket, objects: &[Stored]) -> Result<()> {
    for some in objects.chunks(DELETED_AT_ONCE) {
        let keys = some
            .iter()
            .map(|object| ObjectIdentifier::builder().key(&object.key).build())
            .collect::<Result<Vec<_>, _>>()?;
        let delete = Delete::builder().set_objects(Some(keys)).quiet(true).build()?;
        let answer = bucket
            .client()
            .delete_objects()
            .bucket(bucket.name())
            .delete(delete)
            .send()
            .await
            .map_err(|error| told(error, &format!("cannot delete from {}", bucket.name())))?;
        if let Some(error) = answer.errors().first() {
            bail!(
                "S3 does not delete {}: {}",
                error.key().unwrap_or_default(),
                error.message().unwrap_or_default()
            );
        }
    }
    Ok(())
}

/// What was packed on this machine longer ago than that, with what is known of it. Nothing depends on it: what is
/// gone is packed again.
///
/// # Errors
///
/// What the file system says.
pub fn packed_before(store: &Path, now: SystemTime, older_than: Duration) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for folder in ["", "known", "packed"] {
        let Ok(entries) = fs::read_dir(store.join(folder)) else { continue };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", store.display()))?;
            let metadata = entry.metadata()?;
            let age = now.duration_since(metadata.modified()?).unwrap_or_default();
            if metadata.is_file() && age >= older_than {
                found.push((entry.path(), metadata.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Seconds since 1970.
#[must_use]
pub fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// The keys of objects, for what is told.
#[must_use]
pub fn keys(objects: &[Stored]) -> BTreeSet<&str> {
    objects.iter().map(|object| object.key.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn object(key: &str, written: i64) -> Stored {
        Stored { key: key.to_owned(), bytes: 1, written }
    }

    #[test]
    fn what_is_deployed_released_or_young_stays() {
        let now = 100 * 86_400;
        let stored = [
            object("assets/deployed.zip", 0),
            object("assets/released.zip", 0),
            object("assets/young.zip", now - 3600),
            object("assets/old.zip", 0),
            object("templates/old.json", 0),
            object("templates/young.json", now - 3600),
            object("releases/one.json", 0),
            object("elsewhere/old", 0),
        ];
        let texts = ["assets/deployed.zip".to_owned(), r#"{"key": "assets/released.zip"}"#.to_owned()];
        let gone = collectable(&stored, &texts, now, 7 * DAY);
        assert_eq!(keys(&gone), BTreeSet::from(["assets/old.zip", "templates/old.json"]));
    }

    #[test]
    fn a_stack_on_its_way_keeps_everything() {
        let user = |status: &str| User { status: status.to_owned(), ..User::default() };
        for status in
            ["UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_FAILED", "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS"]
        {
            assert_eq!(unsettled(&[user("CREATE_COMPLETE"), user(status)]).len(), 1, "{status}");
        }
        assert!(
            unsettled(&[user("UPDATE_COMPLETE"), user("ROLLBACK_COMPLETE"), user("REVIEW_IN_PROGRESS")])
                .is_empty()
        );
    }

    #[test]
    fn the_window_is_longer_than_a_deployment() {
        assert!(check_window(Duration::from_secs(3600), false).unwrap_err().to_string().contains("24 h"));
        assert!(check_window(7 * DAY, false).is_ok() && check_window(Duration::ZERO, true).is_ok());
    }

    #[test]
    fn old_packed_files_are_found() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("packed")).unwrap();
        fs::write(directory.path().join("a.zip"), "abc").unwrap();
        fs::write(directory.path().join("packed/a.json"), "{}").unwrap();
        let later = SystemTime::now() + 8 * DAY;
        assert_eq!(packed_before(directory.path(), later, 7 * DAY).unwrap().len(), 2);
        assert!(packed_before(directory.path(), SystemTime::now(), 7 * DAY).unwrap().is_empty());
        assert!(packed_before(&directory.path().join("none"), later, DAY).unwrap().is_empty());
    }

    proptest! {
        /// Nothing that is named or young ever goes, whatever else is there.
        #[test]
        fn nothing_needed_goes(objects in proptest::collection::vec((0u8..20, 0i64..1_000_000), 0..30), named in proptest::collection::btree_set(0u8..20, 0..20), window in 0u64..1_000_000) {
            let stored: Vec<Stored> = objects.iter().map(|(n, written)| object(&format!("assets/{n:02}.zip"), *written)).collect();
            let texts: Vec<String> = named.iter().map(|n| format!("key=assets/{n:02}.zip;")).collect();
            let gone = collectable(&stored, &texts, 1_000_000, Duration::from_secs(window));
            for one in &gone {
                prop_assert!(!texts.iter().any(|text| text.contains(&one.key)));
                prop_assert!(1_000_000 - one.written >= i64::try_from(window).unwrap());
            }
            let kept = stored.iter().filter(|one| !gone.contains(one));
            for one in kept {
                prop_assert!(texts.iter().any(|text| text.contains(&one.key)) || 1_000_000 - one.written < i64::try_from(window).unwrap());
            }
        }
    }
}
