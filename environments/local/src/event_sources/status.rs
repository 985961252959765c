//! How the mappings do, for `local-environment status`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// How one mapping does. Counts are since the runner was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappingStatus {
    /// The mapping's id.
    pub uuid: String,
    /// The function's ARN.
    pub function: String,
    /// The topic or stream; the source's ARN where it is neither.
    pub source: String,
    /// `Starting`, `Running`, `Stopping`, `Disabled`, `Problem` (it tries again) or `Refused` (it does not run).
    pub state: String,
    /// What the problem is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Event pollers; for a stream, lanes (shards times parallelisation factor) that had records.
    pub pollers: usize,
    /// Batches in flight.
    pub in_flight: usize,
    /// The most that there were at once.
    pub in_flight_max: usize,
    /// Batches that have ended.
    pub batches: u64,
    /// Invocations.
    pub invocations: u64,
    /// Records that the function took.
    pub records: u64,
    /// Records that no filter wanted.
    pub filtered: u64,
    /// Invocations that failed, in whole or in part.
    pub failures: u64,
    /// Invocations that were throttled.
    pub throttles: u64,
    /// Records that were given up.
    pub given_up: u64,
    /// Failure records that a destination took.
    pub destination_sends: u64,
    /// Failure records that no destination took.
    pub destination_failures: u64,
    /// The age of the last record of the batch that was sent last, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub iterator_age_ms: Option<i64>,
    /// Records of the topic that are not committed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub offset_lag: Option<i64>,
}

/// Where the runner writes it.
#[must_use]
pub fn file(layout: &Layout) -> PathBuf {
    layout.event_sources().join("status.json")
}

/// Reads what was written last; nothing when there is nothing.
#[must_use]
pub fn read(path: &Path) -> Vec<MappingStatus> {
    fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// Writes it, whole or not at all.
///
/// # Errors
///
/// When it cannot be written.
pub fn write(path: &Path, mappings: &[MappingStatus]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    fs::write(&partial, serde_json::to_vec(mappings)?)?;
    fs::rename(&partial, path)
}
