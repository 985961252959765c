//! The traffic of tags: `tag-load` sends updates, follows some channels meanwhile, and compares the cache with what it
//! sent.

use serde_json::Value as Json;

use super::counted::{Account, Counts, ages, known, number, ringing};

/// The system.
pub(super) const SYSTEM: &str = "tags";

/// What is seen of the tags, and what came of a run.
#[derive(Debug, Default)]
pub(super) struct Tags {
    /// Records that are committed, at the last figures and now.
    committed_before: Option<u64>,
    committed: Option<u64>,
    lag: Option<u64>,
    workers: Option<(u64, u64)>,
    keys: Option<u64>,
    ringing: Vec<String>,
}

impl Account for Tags {
    const SYSTEM: &'static str = SYSTEM;
    const RECORDS: &'static str = "updates";

    fn hear(&mut self, look: &Json) {
        let count = |pointer: &str| look.pointer(pointer).and_then(Json::as_u64);
        self.lag = count("/lag_records");
        let committed = count("/written_total").zip(self.lag);
        self.committed = committed.map(|(written, lag)| written.saturating_sub(lag));
        self.committed_before = self.committed_before.or(self.committed);
        self.workers = count("/replicas/ready").zip(count("/replicas/desired"));
        self.keys = count("/keys");
        self.ringing = ringing(look);
    }

    fn figures(&mut self, seconds: f64) -> Vec<String> {
        let done = self.committed.zip(self.committed_before).map(|(now, before)| now.saturating_sub(before));
        let done = known(done.map(|done| format!("{:.1}", done as f64 / seconds)));
        let workers = known(self.workers.map(|(ready, desired)| format!("{ready} of {desired}")));
        let mut figures = vec![
            format!("processed {done:>6}/s"),
            format!("lag {:>5} records", known(self.lag)),
            format!("{workers} workers"),
            format!("{} keys", known(self.keys)),
        ];
        figures.extend(self.ringing.iter().map(|alarm| format!("ALARM {alarm}")));
        self.committed_before = self.committed.or(self.committed_before);
        figures
    }

    fn sent(&self, report: &Json) -> String {
        let count = |key: &str| number(report, key);
        format!(
            "{} updates sent, {:.1}/s, {} of them deletions; the brokers have {} of them, and {} are not known to be there",
            count("/updates"),
            count("/updates_per_second"),
            count("/deletions"),
            count("/records_acknowledged"),
            count("/records_failed")
        )
    }

    fn came(&self, report: &Json) -> Option<Counts> {
        let found = report.get("verification").filter(|found| found.is_object())?;
        let count = |key: &str| number(found, key);
        let words = format!(
            "{} of {} objects as they were written last, {} lost, {} stale, {} uncertain, {} foreign; {} channels were followed by {} changes: {} missing, {} out of order, {} channels ended otherwise; {}",
            count("/right"),
            count("/objects"),
            count("/lost"),
            count("/stale"),
            count("/uncertain"),
            count("/foreign"),
            count("/following/channels"),
            count("/following/deltas"),
            count("/following/missing"),
            count("/following/out_of_order"),
            count("/following/diverged"),
            ages(found, "/ages")
        );
        Some(Counts { words, settled_seconds: found.get("settled_seconds").and_then(Json::as_f64) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_seen_and_counted_reads_well() {
        let mut tags = Tags::default();
        let look = |written: u64, lag: u64, ringing: &[&str]| {
            let ringing: Vec<Json> = ringing.iter().map(|name| json!({"name": name})).collect();
            json!({
                "at_ms": 1, "written_total": written, "lag_records": lag, "replicas": {"desired": 2, "ready": 1},
                "keys": 200, "memory_percent": 0.2, "alarms": {"ringing": ringing, "quiet": 2},
            })
        };
        let unseen = tags.figures(1.0).join("  ");
        tags.hear(&look(1000, 10, &[]));
        let begun = tags.figures(1.0).join("  ");
        tags.hear(&look(2000, 30, &["tags-AlarmsCpu"]));
        let under_way = tags.figures(2.0).join("  ");
        let report = |lost: u64, settled: Option<f64>| {
            json!({
                "updates": 15001, "updates_per_second": 500.03, "seconds": 30.0, "deletions": 740,
                "records_acknowledged": 15001, "records_failed": 0,
                "verification": {
                    "objects": 1600, "right": 1600 - lost, "uncertain": 0, "lost": lost, "stale": 0, "foreign": 0,
                    "channels_unread": 0, "settled_seconds": settled,
                    "following": {"channels": 16, "deltas": 2400, "gaps": 0, "missing": 0, "out_of_order": 0,
                                  "diverged": 0, "unanswered": 0},
                    "ages": {"count": 2280, "p50_seconds": 0.05, "p95_seconds": 0.09, "p99_seconds": 0.12},
                },
            })
        };
        let well = tags.came(&report(0, Some(0.3))).unwrap();
        assert_eq!(well.settled_seconds, Some(0.3));
        let lost = tags.came(&report(2, None)).unwrap();
        assert_eq!(tags.came(&json!({"verification": null})), None);
        let sent = tags.sent(&report(0, None));
        insta::assert_snapshot!([unseen, begun, under_way, sent, well.words, lost.words].join("\n"));
    }
}
