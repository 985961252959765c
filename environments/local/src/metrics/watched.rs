//! What alarms watch.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

/// A metric that an alarm watches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Watched {
    namespace: String,
    name: String,
    dimensions: BTreeMap<String, String>,
}

impl Watched {
    /// Whether it is the metric of a name.
    pub(super) fn is(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    /// One value of it, for PutMetricData.
    pub(super) fn datum(&self, value: f64) -> Json {
        let dimensions: Vec<Json> =
            self.dimensions.iter().map(|(name, value)| json!({ "Name": name, "Value": value })).collect();
        json!({ "MetricName": self.name, "Dimensions": dimensions, "Value": value })
    }
}

/// The metrics of the alarms in an answer of DescribeAlarms.
pub(super) fn of(answer: &Json) -> Vec<Watched> {
    let alarms = answer["MetricAlarms"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |json: &Json, name: &str| json[name].as_str().map(str::to_owned);
    alarms
        .iter()
        .filter_map(|alarm| {
            let dimensions = alarm["Dimensions"].as_array().map(Vec::as_slice).unwrap_or_default();
            Some(Watched {
                namespace: text(alarm, "Namespace")?,
                name: text(alarm, "MetricName")?,
                dimensions: dimensions
                    .iter()
                    .map(|dimension| Some((text(dimension, "Name")?, text(dimension, "Value")?)))
                    .collect::<Option<_>>()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_of_a_metric_is_told_with_its_own_dimensions() {
        let answer = json!({ "MetricAlarms": [
            { "Namespace": "AWS/RDS", "MetricName": "CPUUtilization",
              "Dimensions": [{ "Name": "DBClusterIdentifier", "Value": "ledger" }] },
            { "AlarmName": "of metrics that are calculated", "Metrics": [] },
        ] });
        let watched = of(&answer);
        assert_eq!(watched.len(), 1);
        assert!(watched[0].is("AWS/RDS", "CPUUtilization") && !watched[0].is("AWS/RDS", "Other"));
        assert_eq!(
            watched[0].datum(42.5),
            json!({ "MetricName": "CPUUtilization", "Value": 42.5,
                    "Dimensions": [{ "Name": "DBClusterIdentifier", "Value": "ledger" }] })
        );
        assert_eq!(of(&Json::Null), []);
    }
}
