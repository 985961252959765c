//! Reads the streams behind the enricher from now on, and counts what came of a run's events.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use aws_sdk_kinesis::{Client, types::ShardIteratorType};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::DateTime;
use serde::Serialize;
use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;

use worker_kit::ages::{AgeReport, Ages};

use crate::traffic::{Kind, RunId};

/// Between two reads of a shard: it gives five a second, to all who read.
const READ_EVERY: Duration = Duration::from_millis(400);

/// What came of a run's events.
#[derive(Clone, Debug, Default)]
pub struct Came {
    /// How often each event came.
    pub times: BTreeMap<u64, u64>,
    /// How old events were when they first came: from when they happened until the stream had what came of them. The first
    /// time is by the clock of this machine, the second by that of the stream.
    pub ages: Ages,
}

impl Came {
    /// Takes in that a record came of an event, whose times are in milliseconds since the epoch.
    fn note(&mut self, number: u64, occurred_ms: Option<i64>, arrived_ms: Option<i64>) {
        let times = self.times.entry(number).or_default();
        *times += 1;
        if *times == 1
            && let (Some(occurred), Some(arrived)) = (occurred_ms, arrived_ms)
        {
            self.ages.note(u64::try_from(arrived - occurred).unwrap_or(0));
        }
    }
}

/// What has come so far.
pub type Arrivals = Arc<Mutex<Came>>;

/// When the event of a record happened, in milliseconds since the epoch, where it says so.
fn occurred(record: &Json) -> Option<i64> {
    let at = DateTime::parse_from_rfc3339(record.get("occurred_at")?.as_str()?).ok()?;
    Some(at.timestamp_millis())
}

/// The number of the event of a run that a record of the output stream came of.
#[must_use]
pub fn enriched(record: &Json, id: RunId) -> Option<u64> {
    record.get("id")?.as_str()?.strip_suffix(":enriched")?.strip_prefix(&id.prefix())?.parse().ok()
}

/// The number of the event of a run that a record of the failed stream holds.
#[must_use]
pub fn failed(record: &Json, id: RunId) -> Option<u64> {
    let payload = STANDARD.decode(record.get("payload_base64")?.as_str()?).ok()?;
    let text = String::from_utf8_lossy(&payload).into_owned();
    let (_, after) = text.split_once(&id.prefix())?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Where a stream is read.
struct Places {
    client: Client,
    stream: String,
    iterators: VecDeque<String>,
}

impl Places {
    async fn iterator(&self, shard: &str, kind: ShardIteratorType) -> Result<Option<String>> {
        let request = self.client.get_shard_iterator().stream_name(&self.stream).shard_id(shard);
        let answer = request.shard_iterator_type(kind).send().await;
        Ok(answer.with_context(|| format!("{} {shard} cannot be read", self.stream))?.shard_iterator)
    }
}

/// Reads a stream from now on, in the background, until `ended`.
///
/// # Errors
///
/// When its shards cannot be listed or read.
pub async fn follow(
    client: &Client,
    stream: &str,
    ended: CancellationToken,
    number: impl Fn(&Json) -> Option<u64> + Send + Sync + 'static,
) -> Result<Arrivals> {
    let shards = client.list_shards().stream_name(stream).send().await;
    let shards = shards.with_context(|| format!("the shards of {stream} cannot be listed"))?;
    let mut places = Places { client: client.clone(), stream: stream.to_owned(), iterators: VecDeque::new() };
    for shard in shards.shards() {
        places.iterators.extend(places.iterator(shard.shard_id(), ShardIteratorType::Latest).await?);
    }
    let arrivals = Arrivals::default();
    let noted = arrivals.clone();
    tokio::spawn(async move {
        while ended.run_until_cancelled(tokio::time::sleep(READ_EVERY)).await.is_some() {
            if let Err(error) = read(&mut places, &noted, &number).await {
                tracing::warn!(stream = places.stream, "a read has failed: {error:#}");
            }
        }
    });
    Ok(arrivals)
}

/// Reads each shard once.
async fn read(
    places: &mut Places,
    arrivals: &Arrivals,
    number: &(impl Fn(&Json) -> Option<u64> + Sync),
) -> Result<()> {
    for _ in 0..places.iterators.len() {
        let Some(at) = places.iterators.pop_front() else { break };
        let page = match places.client.get_records().shard_iterator(&at).send().await {
            Ok(page) => page,
            Err(error) => {
                places.iterators.push_back(at);
                return Err(error).context("the shard gives no records now");
            }
        };
        for record in page.records() {
            let Ok(json) = serde_json::from_slice::<Json>(record.data().as_ref()) else { continue };
            let Some(number) = number(&json) else { continue };
            let arrived = record.approximate_arrival_timestamp().and_then(|at| at.to_millis().ok());
            let mut came = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            came.note(number, occurred(&json), arrived);
        }
        places.iterators.extend(page.next_shard_iterator().map(str::to_owned));
        // A shard that was split or merged is read to its end, then those that came of it. A child of two parents is
        // read when the first of them names it: from its beginning, once.
        for child in page.child_shards() {
            let is_first = child.parent_shards().first().is_none_or(|parent| at.contains(parent.as_str()))
                || child.parent_shards().len() == 1;
            if is_first {
                let begin = places.iterator(child.shard_id(), ShardIteratorType::TrimHorizon).await?;
                places.iterators.extend(begin);
            }
        }
    }
    Ok(())
}

/// What came of the acknowledged events of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Lessons that were to be enriched.
    pub to_enrich: u64,
    /// Those of them that came out.
    pub enriched: u64,
    /// Events that were to fail.
    pub to_fail: u64,
    /// Those of them that are among the failed ones.
    pub failed: u64,
    /// Events that came out though they were to fail, or failed though they were to come out.
    pub wrong: u64,
    /// Records that came more than once. No loss: whoever reads them knows the id.
    pub repeated: u64,
    /// How long it took after the stream had the last event until all had come out; nothing where they never had.
    pub settled_seconds: Option<f64>,
    /// How old lessons were when they were out enriched.
    pub ages: Option<AgeReport>,
}

impl Outcome {
    /// By what was acknowledged and what came.
    #[must_use]
    pub fn of(
        acknowledged: &BTreeMap<u64, Kind>,
        enriched: &BTreeMap<u64, u64>,
        failed: &BTreeMap<u64, u64>,
    ) -> Self {
        let mut outcome = Self::default();
        for (number, kind) in acknowledged {
            let came = (enriched.contains_key(number), failed.contains_key(number));
            match kind {
                Kind::Lesson => {
                    outcome.to_enrich += 1;
                    outcome.enriched += u64::from(came.0);
                    outcome.wrong += u64::from(came.1);
                }
                Kind::Unsubscribed | Kind::Malformed => {
                    outcome.to_fail += 1;
                    outcome.failed += u64::from(came.1);
                    outcome.wrong += u64::from(came.0);
                }
                Kind::User | Kind::Subscription => outcome.wrong += u64::from(came.0 || came.1),
            }
        }
        outcome.repeated =
            enriched.values().chain(failed.values()).map(|times| times.saturating_sub(1)).sum();
        outcome
    }

    /// Whether everything came out where it was to.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.enriched == self.to_enrich && self.failed == self.to_fail && self.wrong == 0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: RunId = RunId { seed: 7, run: 5 };

    #[test]
    fn records_tell_which_event_they_came_of() {
        let prefix = ID.prefix();
        assert_eq!(enriched(&json!({ "id": format!("{prefix}17:enriched") }), ID), Some(17));
        assert_eq!(enriched(&json!({ "id": format!("{prefix}17") }), ID), None);
        assert_eq!(enriched(&json!({ "id": "load-x-17:enriched" }), ID), None, "somebody else's");
        let with = |payload: String| json!({ "payload_base64": STANDARD.encode(payload) });
        assert_eq!(failed(&with(format!("no event {prefix}23 ")), ID), Some(23));
        assert_eq!(failed(&with(format!("{{\"id\":\"{prefix}4\",\"data\":5}}")), ID), Some(4));
        assert_eq!(failed(&with("something else".to_owned()), ID), None);
    }

    #[test]
    fn an_event_is_as_old_as_when_it_first_came() {
        let record = json!({ "occurred_at": "2026-01-31T12:00:00.500Z" });
        let happened = occurred(&record).unwrap();
        let mut came = Came::default();
        came.note(7, Some(happened), Some(happened + 1500));
        came.note(7, Some(happened), Some(happened + 9000));
        came.note(8, None, Some(happened));
        // By another clock it may have come before it happened.
        came.note(9, Some(happened), Some(happened - 3));
        assert_eq!(came.times, BTreeMap::from([(7, 2), (8, 1), (9, 1)]));
        let told = came.ages.told().unwrap();
        assert_eq!((told.count, told.p50_seconds, told.p95_seconds), (2, 0.0, 1.5));
        assert_eq!(occurred(&json!({ "occurred_at": "yesterday" })), None);
    }

    #[test]
    fn what_is_missing_wrong_or_repeated_is_counted() {
        let acknowledged = BTreeMap::from([
            (0, Kind::User),
            (1, Kind::Lesson),
            (2, Kind::Lesson),
            (3, Kind::Malformed),
            (4, Kind::Unsubscribed),
        ]);
        let came = |numbers: &[(u64, u64)]| numbers.iter().copied().collect::<BTreeMap<u64, u64>>();
        let well = Outcome::of(&acknowledged, &came(&[(1, 1), (2, 2)]), &came(&[(3, 1), (4, 1)]));
        assert!(well.is_well() && well.repeated == 1, "{well:?}");
        let lost = Outcome::of(&acknowledged, &came(&[(1, 1)]), &came(&[(3, 1), (4, 1)]));
        assert_eq!((lost.is_well(), lost.to_enrich, lost.enriched), (false, 2, 1));
        let wrong = Outcome::of(&acknowledged, &came(&[(1, 1), (2, 1), (4, 1)]), &came(&[(3, 1), (4, 1)]));
        assert_eq!((wrong.is_well(), wrong.wrong), (false, 1));
    }
}
