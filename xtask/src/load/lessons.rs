//! The lessons' traffic: `lesson-load` sends events and reads the streams behind the enricher, to count what came of each.

use serde_json::Value as Json;

use super::counted::{Account, Counts, ages, known, number, ringing};

/// The system.
pub(super) const SYSTEM: &str = "lessons";

/// What is seen of the lessons, and what came of a run.
#[derive(Debug, Default)]
pub(super) struct Lessons {
    /// Of the newest look.
    shards: Option<u64>,
    iterator_age: Option<f64>,
    source: String,
    dead_letters: Option<u64>,
    /// Batches that had been given up before.
    dead_letters_before: Option<u64>,
    ringing: Vec<String>,
    /// What the enricher told since the last figures.
    enriched: f64,
    failed: f64,
    returned: f64,
}

impl Account for Lessons {
    const SYSTEM: &'static str = SYSTEM;
    const RECORDS: &'static str = "events";

    fn hear(&mut self, look: &Json) {
        self.shards = look.get("shards").and_then(Json::as_u64);
        self.iterator_age = look.get("iterator_age_seconds").and_then(Json::as_f64);
        let state = look.pointer("/event_source/state").and_then(Json::as_str);
        self.source = state.unwrap_or("unknown").to_owned();
        self.dead_letters = look.get("dead_letters").and_then(Json::as_u64);
        self.dead_letters_before = self.dead_letters_before.or(self.dead_letters);
        self.ringing = ringing(look);
        for line in look.get("lines").and_then(Json::as_array).into_iter().flatten() {
            self.enriched += number(line, "/LessonsEnriched");
            self.failed += number(line, "/RecordsFailed");
            self.returned += number(line, "/RecordsReturned");
        }
    }

    fn figures(&mut self, seconds: f64) -> Vec<String> {
        let age = known(self.iterator_age.map(|age| format!("{age:.2}")));
        let mut figures = vec![
            format!("enriched {:>6.1}/s", self.enriched / seconds),
            format!("failed {:>5.1}/s", self.failed / seconds),
            format!("iterator age {age:>5} s"),
            format!("shards {}", known(self.shards)),
            format!("dead letters {}", known(self.dead_letters)),
        ];
        if self.returned > 0.0 {
            figures.push(format!("{} records went back", self.returned));
        }
        if !["Running", "Enabled"].contains(&self.source.as_str()) {
            figures.push(format!("the event source is {}", self.source));
        }
        figures.extend(self.ringing.iter().map(|alarm| format!("ALARM {alarm}")));
        (self.enriched, self.failed, self.returned) = (0.0, 0.0, 0.0);
        figures
    }

    fn sent(&self, report: &Json) -> String {
        let count = |key: &str| number(report, key);
        format!(
            "{} events sent, {:.1}/s; the stream has taken {} of them, {} not, and refused {} at first",
            count("/events"),
            count("/events_per_second"),
            count("/records_acknowledged"),
            count("/records_failed"),
            count("/records_repeated")
        )
    }

    fn came(&self, report: &Json) -> Option<Counts> {
        let outcome = report.get("outcome").filter(|outcome| outcome.is_object())?;
        let count = |key: &str| number(outcome, key);
        let given_up = match (self.dead_letters_before, self.dead_letters) {
            (Some(before), Some(now)) => now.saturating_sub(before).to_string(),
            _ => "unknown".to_owned(),
        };
        let words = format!(
            "{} of {} lessons in the output stream, {} of {} events that must fail in the failed stream, {} lost, {} in the wrong one, {} twice; {given_up} new dead letters; {}",
            count("/enriched"),
            count("/to_enrich"),
            count("/failed"),
            count("/to_fail"),
            count("/to_enrich") - count("/enriched") + count("/to_fail") - count("/failed"),
            count("/wrong"),
            count("/repeated"),
            ages(outcome, "/ages")
        );
        Some(Counts { words, settled_seconds: outcome.get("settled_seconds").and_then(Json::as_f64) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_seen_and_counted_reads_well() {
        let mut lessons = Lessons::default();
        let look = |dead_letters: u64, state: &str, ringing: &[&str]| {
            let ringing: Vec<Json> = ringing.iter().map(|name| json!({"name": name})).collect();
            json!({
                "at_ms": 1, "shards": 2, "iterator_age_seconds": 0.416, "dead_letters": dead_letters,
                "event_source": {"state": state}, "alarms": {"ringing": ringing, "quiet": 9},
                "lines": [{"LessonsEnriched": 300, "RecordsFailed": 10}, {"LessonsEnriched": 20, "RecordsReturned": 5}],
            })
        };
        lessons.hear(&look(1, "Running", &[]));
        let calm = lessons.figures(2.0).join("  ");
        let silence = lessons.figures(1.0).join("  ");
        lessons.hear(&look(4, "Problem", &["lessons-AlarmsDeadLetters"]));
        let trouble = lessons.figures(1.0).join("  ");
        let report = |enriched: u64, settled: Option<f64>| {
            json!({
                "events": 6001, "events_per_second": 200.03, "seconds": 30.0, "records_acknowledged": 6001,
                "records_failed": 0, "records_repeated": 12,
                "outcome": {
                    "to_enrich": 4800, "enriched": enriched, "to_fail": 60, "failed": 60, "wrong": 0, "repeated": 1,
                    "settled_seconds": settled,
                    "ages": {"count": 4800, "p50_seconds": 0.61, "p95_seconds": 1.02, "p99_seconds": 1.4},
                },
            })
        };
        let well = lessons.came(&report(4800, Some(1.2))).unwrap();
        assert_eq!(well.settled_seconds, Some(1.2));
        let lost = lessons.came(&report(4797, None)).unwrap();
        assert_eq!(lost.settled_seconds, None);
        assert_eq!(lessons.came(&json!({"outcome": null})), None);
        let sent = lessons.sent(&report(0, None));
        insta::assert_snapshot!([calm, silence, trouble, sent, well.words, lost.words].join("\n"));
    }
}
