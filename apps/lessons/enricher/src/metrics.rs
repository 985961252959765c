//! What an invocation did, as one line in CloudWatch's embedded metric format: the log becomes metrics, without
//! a call.

use std::{collections::BTreeMap, ops::AddAssign};

use serde_json::{Map, Value as Json, json};

/// The metrics' namespace.
pub const NAMESPACE: &str = "Floodgate/Lessons";

/// What became of records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that came.
    pub received: u64,
    /// Lessons that went out enriched.
    pub enriched: u64,
    /// Users and subscriptions that went out.
    pub passed: u64,
    /// Records that went to the failed ones, by cause.
    pub failed: BTreeMap<&'static str, u64>,
    /// Events that told what a table, or the batch itself, knew already.
    pub known: u64,
    /// Events that were refused because something newer was known.
    pub older: u64,
    /// Records that go back to the stream, to be sent again.
    pub returned: u64,
    /// Calls that were made again.
    pub retries: u64,
}

impl Counts {
    /// Records that went to the failed ones.
    #[must_use]
    pub fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }

    /// The line. `now_ms` is milliseconds since the epoch.
    #[must_use]
    pub fn to_line(&self, function: &str, now_ms: i64) -> String {
        let figures = [
            ("RecordsReceived", self.received),
            ("LessonsEnriched", self.enriched),
            ("EventsPassed", self.passed),
            ("RecordsFailed", self.failed_total()),
            ("EventsKnown", self.known),
            ("EventsOlder", self.older),
            ("RecordsReturned", self.returned),
            ("CallsRetried", self.retries),
        ];
        let metrics: Vec<Json> =
            figures.iter().map(|(name, _)| json!({ "Name": name, "Unit": "Count" })).collect();
        let mut line: Map<String, Json> =
            figures.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        line.insert("Function".to_owned(), json!(function));
        line.insert("failed_by_cause".to_owned(), json!(self.failed));
        line.insert(
            "_aws".to_owned(),
            json!({
                "Timestamp": now_ms,
                "CloudWatchMetrics": [{ "Namespace": NAMESPACE, "Dimensions": [["Function"]], "Metrics": metrics }],
            }),
        );
        Json::Object(line).to_string()
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.enriched += other.enriched;
        self.passed += other.passed;
        self.known += other.known;
        self.older += other.older;
        self.returned += other.returned;
        self.retries += other.retries;
        for (cause, count) in other.failed {
            *self.failed.entry(cause).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_that_is_declared_has_a_figure() {
        let mut counts = Counts { received: 3, enriched: 1, ..Counts::default() };
        counts += Counts { failed: BTreeMap::from([("malformed", 2)]), ..Counts::default() };
        let line: Json = serde_json::from_str(&counts.to_line("enricher", 1)).unwrap();
        let declared = line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap();
        assert!(declared.iter().all(|metric| line[metric["Name"].as_str().unwrap()].is_u64()));
        assert_eq!((&line["RecordsFailed"], &line["failed_by_cause"]["malformed"]), (&json!(2), &json!(2)));
    }
}
