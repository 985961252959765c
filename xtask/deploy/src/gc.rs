//! `gc`: lists what nobody needs any more, and deletes it when told so.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use cfn::assembly::{Manifest, Source};
use serde_json::json;

use crate::{
    assets::{
        bucket::{ASSETS, Bucket, TEMPLATES},
        collect::{self, Stored, collectable, packed_before, release_records, stored, unsettled, users},
    },
    report::Reporter,
    sdk::told,
};

/// What a collection looks at.
pub struct Collection<'a> {
    /// The environment's manifest.
    pub manifest: &'a Manifest,
    /// CloudFormation.
    pub stacks: &'a aws_sdk_cloudformation::Client,
    /// S3.
    pub s3: aws_sdk_s3::Client,
    /// Where what was packed on this machine is.
    pub store: &'a Path,
    /// How long ago something must have been written.
    pub older_than: Duration,
    /// What the user sees.
    pub reporter: &'a Reporter,
}

/// What may go.
#[derive(Debug, Default)]
pub struct Found {
    bucket: Option<Bucket>,
    objects: Vec<Stored>,
    files: Vec<(std::path::PathBuf, u64)>,
}

impl Found {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.files.is_empty()
    }

    /// What of this was found again as it was.
    fn that_stand_in(mut self, again: &Self) -> Self {
        self.objects.retain(|object| again.objects.contains(object));
        self.files.retain(|file| again.files.contains(file));
        self
    }
}

impl Collection<'_> {
    /// Looks, and lists what may go.
    ///
    /// # Errors
    ///
    /// When a stack is under way, or what AWS says.
    pub async fn find(&self, now: SystemTime) -> Result<Found> {
        let (found, all) = self.look(now).await?;
        match &found.bucket {
            Some(bucket) => self.reporter.say(&format!(
                "{}: {all} objects, of which {} are old and named by no stack and no release",
                bucket.name(),
                found.objects.len()
            )),
            None => self.reporter.say("there is no bucket of artifacts; only this machine is looked at"),
        }
        self.list(&found);
        Ok(found)
    }

    /// What of `found` may still go. Whoever was asked may have taken their time, and a deployment may have found,
    /// renewed or named some of it meanwhile; who calls this keeps others from deploying.
    ///
    /// # Errors
    ///
    /// As [`Self::find`].
    pub async fn still(&self, found: Found, now: SystemTime) -> Result<Found> {
        let (again, _) = self.look(now).await?;
        Ok(found.that_stand_in(&again))
    }

    /// What may go, and how many objects there are.
    async fn look(&self, now: SystemTime) -> Result<(Found, usize)> {
        collect::check_window(self.older_than, self.manifest.provider == "local")?;
        let mut found = Found { files: packed_before(self.store, now, self.older_than)?, ..Found::default() };
        let Some(bucket) = self.bucket().await? else { return Ok((found, 0)) };
        let users = users(self.stacks, &self.manifest.prefix).await?;
        if let Some(user) = unsettled(&users).first() {
            bail!(
                "the stack {} is {}: on its way forth or back it may need what nothing names now. Collect when it is at rest",
                user.name,
                user.status
            );
        }
        let mut texts: Vec<String> = users.into_iter().flat_map(|user| user.texts).collect();
        texts.extend(release_records(&bucket).await?);
        let mut all = stored(&bucket, ASSETS).await?;
        all.extend(stored(&bucket, TEMPLATES).await?);
        found.objects = collectable(&all, &texts, collect::seconds(now), self.older_than);
        found.bucket = Some(bucket);
        Ok((found, all.len()))
    }

    fn list(&self, found: &Found) {
        for object in &found.objects {
            let text = format!("  {:>8.1} MB  {}", object.bytes as f64 / 1e6, object.key);
            self.reporter
                .result(&text, &json!({ "event": "collectable", "key": object.key, "bytes": object.bytes }));
        }
        let bytes: u64 = found.files.iter().map(|(_, bytes)| bytes).sum();
        if !found.files.is_empty() {
            let text = format!(
                "{} files of {:.1} MB were packed on this machine and are old, in {}",
                found.files.len(),
                bytes as f64 / 1e6,
                self.store.display()
            );
            self.reporter.result(
                &text,
                &json!({ "event": "collectable", "directory": self.store, "files": found.files.len(), "bytes": bytes }),
            );
        }
    }

    /// Deletes what was found.
    ///
    /// # Errors
    ///
    /// What cannot be deleted; what is gone by then is gone, and it can be run again.
    pub async fn delete(&self, found: &Found) -> Result<()> {
        if let Some(bucket) = &found.bucket {
            collect::delete(bucket, &found.objects).await?;
        }
        for (file, _) in &found.files {
            fs::remove_file(file).with_context(|| format!("cannot delete {}", file.display()))?;
        }
        let bytes: u64 = found
            .objects
            .iter()
            .map(|object| object.bytes)
            .chain(found.files.iter().map(|(_, bytes)| *bytes))
            .sum();
        self.reporter.say(&format!(
            "{} objects and {} files are deleted, {:.1} MB",
            found.objects.len(),
            found.files.len(),
            bytes as f64 / 1e6
        ));
        Ok(())
    }

    /// The bucket, if its stack is deployed.
    async fn bucket(&self) -> Result<Option<Bucket>> {
        let Some(Source::Output { stack, output }) = &self.manifest.artifact_bucket else { return Ok(None) };
        let entry = self.manifest.stack(stack).context("the stack of the bucket is not in the manifest")?;
        let answer = match self.stacks.describe_stacks().stack_name(&entry.name).send().await {
            Ok(answer) => answer,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(told(error, &format!("cannot describe the stack {}", entry.name))),
        };
        let name = answer
            .stacks()
            .first()
            .and_then(|stack| stack.outputs().iter().find(|one| one.output_key() == Some(output)))
            .and_then(|output| output.output_value());
        Ok(name.map(|name| Bucket::new(self.s3.clone(), name.to_owned(), self.manifest.region.clone(), None)))
    }
}

fn is_absent<E: aws_sdk_cloudformation::error::ProvideErrorMetadata>(error: &E) -> bool {
    error.message().is_some_and(|message| message.contains("does not exist"))
}

/// A duration such as `7d`, `12h`, `30m` or `0s`.
///
/// # Errors
///
/// When it is none, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("`{text}` is no duration; write 7d, 12h, 30m or 90s");
    let unit = text.chars().next_back().ok_or_else(refused)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(refused()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| refused())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_again_meanwhile_stays() {
        let object = |key: &str, written| Stored { key: key.to_owned(), bytes: 1, written };
        let file = |name: &str| (std::path::PathBuf::from(name), 1);
        let found = Found {
            objects: vec![object("assets/a.zip", 1), object("assets/b.zip", 1), object("assets/c.zip", 1)],
            files: vec![file("a.zip"), file("b.zip")],
            ..Found::default()
        };
        // `b` has another date and `c` is named by a stack now; what is old since then was not shown to anybody.
        let again = Found {
            objects: vec![object("assets/a.zip", 1), object("assets/b.zip", 9), object("assets/d.zip", 1)],
            files: vec![file("b.zip"), file("c.zip")],
            ..Found::default()
        };
        let still = found.that_stand_in(&again);
        assert_eq!(still.objects, [object("assets/a.zip", 1)]);
        assert_eq!(still.files, [file("b.zip")]);
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "7", "d", "-1d", "7 d", "7é", "99999999999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
