//! CloudWatch's embedded metric format: a log line that is metrics as well, without a call to CloudWatch.

use serde_json::{Map, Value as Json, json};

/// A metric's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// A time.
    Milliseconds,
}

/// One line in the embedded metric format (Amazon CloudWatch user guide, "Specification: Embedded metric format"):
/// metrics of a namespace under its dimensions, and properties that are for reading alone.
#[must_use]
pub fn line(
    namespace: &str,
    dimensions: &[(&str, &str)],
    metrics: &[(&str, Unit, f64)],
    properties: &[(&str, Json)],
    unix_ms: i64,
) -> String {
    let names: Vec<&str> = dimensions.iter().map(|(name, _)| *name).collect();
    let declared: Vec<Json> = metrics
        .iter()
        .map(|(name, unit, _)| {
            let unit = match unit {
                Unit::Count => "Count",
                Unit::Milliseconds => "Milliseconds",
            };
            json!({ "Name": name, "Unit": unit })
        })
        .collect();
    let mut members = Map::new();
    members.insert(
        "_aws".to_owned(),
        json!({
            "Timestamp": unix_ms,
            "CloudWatchMetrics": [{ "Namespace": namespace, "Dimensions": [names], "Metrics": declared }]
        }),
    );
    for (name, value) in dimensions {
        members.insert((*name).to_owned(), (*value).into());
    }
    for (name, _, value) in metrics {
        members.insert((*name).to_owned(), json!(value));
    }
    for (name, value) in properties {
        members.entry(*name).or_insert_with(|| value.clone());
    }
    Json::Object(members).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_declares_what_it_holds() {
        let line = line(
            "Floodgate/Ledger",
            &[("Function", "writer")],
            &[("Rows", Unit::Count, 30.0), ("ChunkMilliseconds", Unit::Milliseconds, 4.5)],
            &[("mode", "GREEN".into()), ("Rows", 0.into())],
            1_700_000_000_000,
        );
        let json: Json = serde_json::from_str(&line).unwrap();
        assert_eq!(json["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["Function"]]));
        assert_eq!(json["_aws"]["CloudWatchMetrics"][0]["Metrics"][1]["Unit"], "Milliseconds");
        assert_eq!((&json["Rows"], &json["mode"]), (&json!(30.0), &json!("GREEN")));
        assert!(!line.contains('\n'));
    }
}
