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

/// Values of a metric in one line, at most (the same specification).
pub const VALUES_MAX: usize = 100;

/// Values that stand for all of them: every so many of them by rank, so that percentiles stay.
#[must_use]
pub fn distribution(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    let all = values.len();
    if all <= VALUES_MAX {
        return values;
    }
    (0..VALUES_MAX).filter_map(|place| values.get(place * (all - 1) / (VALUES_MAX - 1)).copied()).collect()
}

/// One line in the embedded metric format (Amazon CloudWatch user guide, "Specification: Embedded metric format"):
/// metrics of a namespace under its dimensions, of which `distributions` have many values, and properties that are for
/// reading alone.
#[must_use]
pub fn line(
    namespace: &str,
    dimensions: &[(&str, &str)],
    metrics: &[(&str, Unit, f64)],
    distributions: &[(&str, Unit, Vec<f64>)],
    properties: &[(&str, Json)],
    unix_ms: i64,
) -> String {
    let names: Vec<&str> = dimensions.iter().map(|(name, _)| *name).collect();
    let declared: Vec<Json> = metrics
        .iter()
        .map(|(name, unit, _)| (name, unit))
        .chain(distributions.iter().map(|(name, unit, _)| (name, unit)))
        .map(|(name, unit)| {
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
    for (name, _, values) in distributions {
        let values = values.get(..VALUES_MAX).unwrap_or(values);
        members.insert((*name).to_owned(), json!(values));
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
            &[("AgeMilliseconds", Unit::Milliseconds, vec![1.0, 2.5])],
            &[("mode", "GREEN".into()), ("Rows", 0.into())],
            1_700_000_000_000,
        );
        let json: Json = serde_json::from_str(&line).unwrap();
        assert_eq!(json["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["Function"]]));
        assert_eq!(json["_aws"]["CloudWatchMetrics"][0]["Metrics"][1]["Unit"], "Milliseconds");
        assert_eq!((&json["Rows"], &json["mode"]), (&json!(30.0), &json!("GREEN")));
        assert_eq!(json["_aws"]["CloudWatchMetrics"][0]["Metrics"][2]["Name"], "AgeMilliseconds");
        assert_eq!(json["AgeMilliseconds"], json!([1.0, 2.5]));
        assert!(!line.contains('\n'));
    }

    #[test]
    fn many_values_keep_their_ends_and_their_middle() {
        let values = distribution((0..1000).rev().map(f64::from).collect());
        assert_eq!((values.len(), values[0], values[99]), (VALUES_MAX, 0.0, 999.0));
        assert!((values[50] - 504.0).abs() < 2.0, "{}", values[50]);
        assert_eq!(distribution(vec![2.0, 1.0]), [1.0, 2.0]);
        assert!(distribution(Vec::new()).is_empty());
    }
}
