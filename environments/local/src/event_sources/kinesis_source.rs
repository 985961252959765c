//! Reads a stream for a mapping, shard by shard, and keeps how far it came.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::{
    aws_api::{StreamError, data_of},
    batches::{Batches, Done},
    dispatch::{Worker, now_ms},
    event, filter,
    gathering::{Lane, Pollers},
    mapping::{Source, Start},
    progress::Progress,
    record::{Position, Record},
};
use crate::supervised::note;

/// How often a shard is read that had records, and one that had none. Lambda reads a shard once a second, and at once
/// again while there is more; a shard gives five reads a second.
const READ_AGAIN: Duration = Duration::from_millis(210);
const READ_IDLE: Duration = Duration::from_secs(1);

/// How often shards are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const PAUSE: Duration = Duration::from_millis(10);

/// What is kept, so that a runner that is started again goes on where it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// When the mapping was first run, in milliseconds since 1970.
    began_ms: i64,
    /// The shards that were there then: only they begin at the mapping's starting position.
    first_shards: BTreeSet<String>,
    /// The last sequence number of each shard such that it and all before it are done.
    done_to: BTreeMap<String, String>,
    /// Shards that are closed and done.
    finished: BTreeSet<String>,
}

impl Kept {
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    }

    fn write(&self, path: &Path) -> Result<()> {
        let partial = path.with_extension("partial");
        fs::write(&partial, serde_json::to_vec(self)?)
            .and_then(|()| fs::rename(&partial, path))
            .with_context(|| format!("cannot write {} (is the disk full?)", path.display()))
    }
}

struct Shard {
    part: Arc<str>,
    progress: Progress,
    iterator: Option<String>,
    /// The last record that was read.
    read_to: Option<Position>,
    read_next: Instant,
    /// Nothing will come any more.
    closed: bool,
}

struct Reader<'a> {
    worker: &'a Worker,
    stream: &'a str,
    factor: u32,
    role: String,
    file: PathBuf,
    kept: Kept,
    unwritten: bool,
    shards: BTreeMap<String, Shard>,
    batches: Batches<'a>,
}

/// Reads until the worker is to stop; what is in flight then is waited for. How far it came is kept in a directory.
///
/// # Errors
///
/// When how far it came cannot be kept, or the function is not there. It may be called again.
pub fn run(worker: &Worker, directory: &Path) -> Result<()> {
    let Source::Kinesis { stream, parallelization_factor } = &worker.mapping.source else { return Ok(()) };
    let file = directory.join(format!("{}.json", worker.mapping.uuid));
    let mut reader = Reader {
        worker,
        stream,
        factor: *parallelization_factor,
        role: worker.api.role_of(&worker.mapping.function_arn, &worker.mapping.region)?,
        kept: Kept::read(&file).unwrap_or_default(),
        file,
        unwritten: false,
        shards: BTreeMap::new(),
        batches: Batches::new(worker, Pollers::EachLane),
    };
    reader.find_shards()?;
    worker.counts.state("Running", None);
    let ended = reader.read();
    reader.drain()?;
    ended
}

impl Reader<'_> {
    fn read(&mut self) -> Result<()> {
        let mut looked = Instant::now();
        while !self.worker.is_stopping() {
            let due: Vec<String> = self
                .shards
                .iter()
                .filter(|(_, shard)| !shard.closed && Instant::now() >= shard.read_next)
                .filter(|(_, shard)| !self.is_full(shard))
                .map(|(id, _)| id.clone())
                .collect();
            for id in due {
                self.read_shard(&id);
            }
            self.finish_shards();
            self.keep()?;
            self.batches.deliver_due();
            if looked.elapsed() >= LOOK_EVERY {
                let found = self.find_shards();
                self.batches.trouble(found.err().map(|error| format!("{error:#}")));
                looked = Instant::now();
            }
            self.batches.count();
            let (done, ended) = self.batches.heard(PAUSE);
            self.note(done);
            ended?;
        }
        Ok(())
    }

    /// Waits for what is in flight, then keeps how far it came.
    fn drain(&mut self) -> Result<()> {
        let done = self.batches.drain();
        self.note(done);
        self.keep()
    }

    fn note(&mut self, done: Done) {
        for (part, position) in done {
            self.done(&part, &position);
        }
    }

    fn done(&mut self, part: &str, position: &Position) {
        let Some(shard) = self.shards.get_mut(part) else { return };
        shard.progress.done(position);
        if let Some(done_to) = shard.progress.done_to() {
            self.kept.done_to.insert(part.to_owned(), done_to.as_str().to_owned());
            self.unwritten = true;
        }
    }

    fn keep(&mut self) -> Result<()> {
        if std::mem::take(&mut self.unwritten) {
            self.kept.write(&self.file)?;
        }
        Ok(())
    }

    fn is_full(&self, shard: &Shard) -> bool {
        (0..self.factor).any(|share| self.batches.is_full(&Lane { part: shard.part.clone(), share }))
    }

    /// Begins to read shards that are not read yet. A shard that came of others waits until these are done, so that the
    /// order of a key outlives a split.
    fn find_shards(&mut self) -> Result<()> {
        let mapping = &self.worker.mapping;
        let listed = self
            .worker
            .api
            .shards(self.stream, &mapping.region)
            .map_err(|error| anyhow::anyhow!("the stream {} cannot be read: {error:?}", self.stream))?;
        let id_of = |shard: &Json| shard.get("ShardId").and_then(Json::as_str).map(str::to_owned);
        let ids: BTreeSet<String> = listed.iter().filter_map(id_of).collect();
        if self.kept.began_ms == 0 {
            self.kept.began_ms = now_ms();
            self.kept.first_shards.clone_from(&ids);
            self.unwritten = true;
            self.keep()?;
        }
        for shard in &listed {
            let Some(id) = id_of(shard) else { continue };
            if self.shards.contains_key(&id) || self.kept.finished.contains(&id) {
                continue;
            }
            let waits = ["ParentShardId", "AdjacentParentShardId"].iter().any(|key| {
                let parent = shard.get(key).and_then(Json::as_str).unwrap_or_default();
                !self.kept.finished.contains(parent)
                    && (ids.contains(parent) || self.shards.contains_key(parent))
            });
            if !waits {
                let part: Arc<str> = id.as_str().into();
                let shard = Shard {
                    read_to: self.kept.done_to.get(&id).map(Position::new),
                    part,
                    progress: Progress::default(),
                    iterator: None,
                    read_next: Instant::now(),
                    closed: false,
                };
                self.shards.insert(id, shard);
            }
        }
        Ok(())
    }

    /// Shards that are closed and whose records are all done give way to their children.
    fn finish_shards(&mut self) {
        let finished: Vec<String> = self
            .shards
            .iter()
            .filter(|(_, shard)| shard.closed && shard.progress.is_settled())
            .map(|(id, _)| id.clone())
            .collect();
        for id in finished {
            self.shards.remove(&id);
            self.kept.finished.insert(id);
            self.unwritten = true;
        }
    }

    fn read_shard(&mut self, id: &str) {
        let region = &self.worker.mapping.region;
        let Some(shard) = self.shards.get_mut(id) else { return };
        shard.read_next = Instant::now() + READ_IDLE;
        let iterator = match shard.iterator.clone() {
            Some(iterator) => Ok(iterator),
            None => {
                let from = where_to_begin(id, shard.read_to.as_ref(), &self.kept, self.worker.mapping.start);
                self.worker.api.iterator(self.stream, id, region, from)
            }
        };
        // A batch of a record more than fits is no gain; ten thousand is what one read gives at most.
        let limit = (self.worker.mapping.batch_size * self.factor as usize).clamp(1, 10_000);
        let read = iterator.and_then(|iterator| self.worker.api.records(&iterator, limit, region));
        match read {
            Ok(read) => {
                shard.closed = read.next_iterator.is_none();
                shard.iterator = read.next_iterator;
                if !read.records.is_empty() {
                    shard.read_next = Instant::now() + READ_AGAIN;
                }
                for record in read.records {
                    self.took(id, &record);
                }
            }
            Err(StreamError::Expired) => {
                shard.iterator = None;
                shard.read_next = Instant::now();
            }
            Err(StreamError::Throttled) => {}
            Err(StreamError::NotFound) => {
                note(&format!(
                    "{}: {id} is gone; what it held and was not read is lost",
                    self.worker.mapping.uuid
                ));
                shard.closed = true;
            }
            Err(StreamError::Other(reason)) => {
                shard.iterator = None;
                self.batches.trouble(Some(format!("{id} cannot be read: {reason}")));
            }
        }
    }

    fn took(&mut self, id: &str, record: &Json) {
        let mapping = &self.worker.mapping;
        let Some(shard) = self.shards.get_mut(id) else { return };
        let Some(position) = record.get("SequenceNumber").and_then(Json::as_str).map(Position::new) else {
            return;
        };
        let arrived = record.get("ApproximateArrivalTimestamp").and_then(Json::as_f64).unwrap_or_default();
        #[allow(clippy::cast_possible_truncation)]
        let timestamp_ms = (arrived * 1_000.0) as i64;
        let json = event::kinesis_record(record, id, &mapping.source_arn, &mapping.region, &self.role);
        shard.read_to = Some(position.clone());
        shard.progress.read(position.clone());
        let wanted = mapping.filters.is_empty() || {
            let mut seen = json.clone();
            if let Some(Json::Object(fields)) = json.get("kinesis") {
                for (name, value) in fields {
                    seen[name] = value.clone();
                }
            }
            seen["data"] = filter::content(&data_of(record));
            mapping.filters.iter().any(|filter| filter.takes(&seen))
        };
        let part = shard.part.clone();
        if !wanted {
            self.worker.counts.lock().filtered += 1;
            return self.done(&part, &position);
        }
        let key = record.get("PartitionKey").and_then(Json::as_str).unwrap_or_default();
        let lane = Lane { part: part.clone(), share: share_of(key, self.factor) };
        let record = Record { part, position, timestamp_ms, key: None, json: json.to_string() };
        self.batches.push(lane, record);
    }
}

/// Which of a shard's concurrent batches a key belongs to: always the same one.
fn share_of(key: &str, factor: u32) -> u32 {
    let digest = Sha256::digest(key.as_bytes());
    let number = digest.iter().take(4).fold(0u32, |number, byte| (number << 8) | u32::from(*byte));
    number % factor.max(1)
}

/// What a shard's first iterator is asked for.
fn where_to_begin(id: &str, read_to: Option<&Position>, kept: &Kept, start: Start) -> Json {
    let at = |ms: i64| {
        #[allow(clippy::cast_precision_loss)]
        let seconds = ms as f64 / 1_000.0;
        json!({ "ShardIteratorType": "AT_TIMESTAMP", "Timestamp": seconds })
    };
    match (read_to, start) {
        (Some(position), _) => json!({
            "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
            "StartingSequenceNumber": position.as_str(),
        }),
        // From when the mapping was first run, not from when this runner was.
        (None, Start::Latest) if kept.first_shards.contains(id) => at(kept.began_ms),
        (None, Start::AtTimestamp(ms)) => at(ms),
        (None, _) => json!({ "ShardIteratorType": "TRIM_HORIZON" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_share_and_all_shares_have_keys() {
        let shares: BTreeSet<u32> =
            (0..200).map(|number| share_of(&format!("learner-{number}"), 10)).collect();
        assert_eq!(shares, (0..10).collect());
        assert_eq!(share_of("learner", 10), share_of("learner", 10));
        assert_eq!(share_of("learner", 1), 0);
    }

    #[test]
    fn a_shard_goes_on_where_it_was_and_a_new_one_begins_at_its_beginning() {
        let kept = Kept { began_ms: 5_000, first_shards: ["old".to_owned()].into(), ..Kept::default() };
        let kind = |json: Json| json["ShardIteratorType"].as_str().unwrap_or_default().to_owned();
        let done = Position::new("49");
        assert_eq!(kind(where_to_begin("old", Some(&done), &kept, Start::Latest)), "AFTER_SEQUENCE_NUMBER");
        assert_eq!(where_to_begin("old", None, &kept, Start::Latest)["Timestamp"], 5.0);
        assert_eq!(kind(where_to_begin("new", None, &kept, Start::Latest)), "TRIM_HORIZON");
        assert_eq!(where_to_begin("old", None, &kept, Start::AtTimestamp(7_000))["Timestamp"], 7.0);
    }
}
