//! What a function says of the records that it was given.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::record::{Position, Record};

/// What a mapping reads in its function's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Nothing: a batch succeeds or fails as a whole.
    Whole,
    /// `ReportBatchItemFailures` of Kafka: the items named, and only those, are tried again.
    KafkaItems,
    /// `ReportBatchItemFailures` of Kinesis: everything from the lowest sequence number named is tried again.
    StreamCheckpoint,
}

/// The indices of the records that failed; empty when all is well. An answer that names what was not in the event
/// fails the whole batch, as AWS documents it.
#[must_use]
pub fn failed(report: Report, body: &[u8], records: &[Record]) -> BTreeSet<usize> {
    let all = || (0..records.len()).collect();
    if report == Report::Whole || body.is_empty() {
        return BTreeSet::new();
    }
    let items = match serde_json::from_slice(body) {
        Ok(Json::Null) => return BTreeSet::new(),
        Ok(Json::Object(answer)) => match answer.get("batchItemFailures") {
            None | Some(Json::Null) => return BTreeSet::new(),
            Some(Json::Array(items)) => items.clone(),
            Some(_) => return all(),
        },
        _ => return all(),
    };
    let mut found = BTreeSet::new();
    for item in &items {
        match item.get("itemIdentifier").and_then(|identifier| index_of(report, identifier, records)) {
            Some(index) => found.insert(index),
            None => return all(),
        };
    }
    match (report, found.first()) {
        (Report::StreamCheckpoint, Some(lowest)) => (*lowest..records.len()).collect(),
        _ => found,
    }
}

fn index_of(report: Report, identifier: &Json, records: &[Record]) -> Option<usize> {
    if report == Report::StreamCheckpoint {
        let text = identifier.as_str().filter(|text| !text.is_empty())?;
        return records.iter().position(|record| record.position.as_str() == text);
    }
    let part = identifier.get("partition")?.as_str()?;
    let offset = Position::from(identifier.get("offset")?.as_i64()?);
    records.iter().position(|record| &*record.part == part && record.position == offset)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn records(part: &str) -> Vec<Record> {
        (10..14)
            .map(|offset| Record {
                part: part.into(),
                position: Position::from(offset),
                timestamp_ms: 0,
                key: None,
                json: "{}".to_owned(),
            })
            .collect()
    }

    fn of(report: Report, answer: &Json) -> Vec<usize> {
        failed(report, answer.to_string().as_bytes(), &records("trades-0")).into_iter().collect()
    }

    #[test]
    fn kafka_names_items_and_kinesis_a_checkpoint() {
        let kafka = |offsets: &[i64]| {
            let items: Vec<Json> = offsets
                .iter()
                .map(|offset| json!({ "itemIdentifier": { "partition": "trades-0", "offset": offset } }))
                .collect();
            of(Report::KafkaItems, &json!({ "batchItemFailures": items }))
        };
        assert_eq!(kafka(&[13, 11]), [1, 3]);
        assert_eq!(kafka(&[]), Vec::<usize>::new());
        assert_eq!(kafka(&[11, 99]), [0, 1, 2, 3], "an offset that was not in the event");
        let kinesis = |numbers: &[&str]| {
            let items: Vec<Json> = numbers.iter().map(|number| json!({ "itemIdentifier": number })).collect();
            of(Report::StreamCheckpoint, &json!({ "batchItemFailures": items }))
        };
        assert_eq!(kinesis(&["13", "11"]), [1, 2, 3]);
        assert_eq!(kinesis(&[""]), [0, 1, 2, 3]);
    }

    #[test]
    fn an_answer_without_a_list_is_a_success_and_one_that_cannot_be_read_is_none() {
        for report in [Report::KafkaItems, Report::StreamCheckpoint] {
            for well in [json!(null), json!({}), json!({ "batchItemFailures": null })] {
                assert_eq!(of(report, &well), Vec::<usize>::new(), "{well}");
            }
            for broken in [
                json!("done"),
                json!({ "batchItemFailures": 3 }),
                json!({ "batchItemFailures": [{ "id": 1 }] }),
            ] {
                assert_eq!(of(report, &broken), [0, 1, 2, 3], "{broken}");
            }
        }
        assert_eq!(of(Report::Whole, &json!("anything")), Vec::<usize>::new());
    }
}
