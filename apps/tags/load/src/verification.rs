//! Reads the cache after a run until it holds what was written, and counts what it does not.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use serde::Serialize;
use tag_store::reader::Reader;
use tag_worker::worker::machine_time_ms;
use tokio_util::sync::CancellationToken;
use worker_kit::ages::AgeReport;

use crate::{
    expectations::{Acknowledged, Held, Tally, judge},
    following::Followed,
    traffic::{Data, Names, Sent},
};

/// How long the workers may take to bring the last updates.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at what is not there yet.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Channels that are read at once.
const CHANNELS_AT_ONCE: usize = 32;

/// What the cache holds after a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Verification {
    /// Object by object.
    #[serde(flatten)]
    pub tally: Tally,
    /// Channels that the cache did not tell of.
    pub channels_unread: u64,
    /// How long it took after the last update until all was there; nothing where it never was.
    pub settled_seconds: Option<f64>,
    /// What a reader saw meanwhile.
    pub following: Followed,
    /// How old updates were when that reader, who looks twenty times a second, had them; nothing where there were none.
    pub ages: Option<AgeReport>,
}

impl Verification {
    /// Whether all that was written is there, and came in order.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.tally.is_well() && self.channels_unread == 0 && self.following.is_well()
    }
}

/// What was written.
#[derive(Clone, Copy)]
pub struct Written<'a> {
    /// How it is called.
    pub names: Names,
    /// Object by object, what was sent last.
    pub sent: &'a [Sent],
    /// What of that was acknowledged.
    pub acknowledged: &'a Acknowledged,
}

/// The objects of a channel, judged; `None` when the cache does not answer.
async fn read(reader: &Reader, written: Written<'_>, channel: u32) -> Option<Tally> {
    let names = written.names;
    let snapshot = match reader.snapshot(&names.channel(channel), machine_time_ms()).await {
        Ok(snapshot) => snapshot,
        Err(error) => {
            tracing::warn!(%error, channel, "the channel cannot be read");
            return None;
        }
    };
    let mut tally = Tally::default();
    for object in names.objects(channel) {
        let Some(sent) = written.sent.get(object).copied().filter(|sent| sent.version > 0) else { continue };
        let held = match snapshot.objects.get(&names.object(object)) {
            None => Held::Nothing,
            Some(held) => Data::parse(&held.data).map_or(Held::Other, Held::Written),
        };
        tally.add(judge(names.run(), sent, written.acknowledged.last(object), held));
    }
    Some(tally)
}

/// Reads until all is there, for `patience` at most or until `stop`. Gives what was found, the channels that could not
/// be read, and how long it took until nothing was amiss.
pub async fn settle(
    reader: &Reader,
    written: Written<'_>,
    patience: Duration,
    stop: &CancellationToken,
) -> (Tally, u64, Option<f64>) {
    let begun = Instant::now();
    let mut settled = Tally::default();
    let mut waiting: Vec<u32> = (0..written.names.channels).collect();
    loop {
        let reads: Vec<_> = waiting
            .iter()
            .map(|channel| async move { (*channel, read(reader, written, *channel).await) })
            .collect();
        let found: Vec<(u32, Option<Tally>)> =
            stream::iter(reads).buffer_unordered(CHANNELS_AT_ONCE).collect().await;
        let (well, amiss): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(_, tally)| tally.is_some_and(Tally::is_well));
        settled = well.into_iter().filter_map(|(_, tally)| tally).fold(settled, Tally::and);
        if amiss.is_empty() {
            return (settled, 0, Some(begun.elapsed().as_secs_f64()));
        }
        if begun.elapsed() >= patience || stop.is_cancelled() {
            let unread = amiss.iter().filter(|(_, tally)| tally.is_none()).count();
            let found = amiss.into_iter().filter_map(|(_, tally)| tally).fold(settled, Tally::and);
            return (found, u64::try_from(unread).unwrap_or(u64::MAX), None);
        }
        waiting = amiss.into_iter().map(|(channel, _)| channel).collect();
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => {}
        }
    }
}
