//! Alarms: that they can fire, that somebody hears them, and what silence means.

use super::{
    Findings,
    metrics::{NAMESPACES, Namespace},
    names::nearest,
    rules::{
        ALARM_ACTION, ALARM_DIMENSION, ALARM_LAG_GROUP, ALARM_LAG_SILENCE, ALARM_LEVEL, ALARM_METRIC,
        ALARM_MISSING_DATA, ALARM_PERIOD, ALARM_TOPIC_KEY,
    },
    template::{Resource, Template},
};
use crate::value::Json;

/// Metrics that MSK emits only while the group is stable or empty.
const LAG: [&str; 5] =
    ["SumOffsetLag", "MaxOffsetLag", "EstimatedMaxTimeLag", "OffsetLag", "EstimatedTimeLag"];

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    for alarm in template.of_kind("AWS::CloudWatch::Alarm") {
        let actions: Vec<&Json> = ["/AlarmActions", "/OKActions", "/InsufficientDataActions"]
            .into_iter()
            .flat_map(|pointer| alarm.list(pointer))
            .collect();
        let silent =
            !alarm.has("/AlarmActions") || alarm.at("/AlarmActions") == Some(&Json::Array(Vec::new()));
        if silent || alarm.at("/ActionsEnabled").and_then(Json::as_bool) == Some(false) {
            findings.resource(ALARM_ACTION, alarm.logical_id, "nobody is told when it fires".to_owned());
        }
        topics(template, alarm, &actions, findings);
        times(alarm, findings);
        let mut namespaces = Vec::new();
        metric(alarm, alarm.properties(), &mut namespaces, findings);
        level(template, alarm, alarm.properties(), findings);
        for query in alarm.list("/Metrics") {
            if let Some(stat) = query.get("MetricStat") {
                let inner = stat.get("Metric").unwrap_or(&Json::Null);
                metric(alarm, inner, &mut namespaces, findings);
                level(template, alarm, inner, findings);
            }
        }
        // DynamoDB's metrics ignore the setting.
        if !alarm.has("/TreatMissingData") && namespaces.iter().all(|name| *name != "AWS/DynamoDB") {
            findings.resource(ALARM_MISSING_DATA, alarm.logical_id, "TreatMissingData is not set".to_owned());
        }
    }
    for composite in template.of_kind("AWS::CloudWatch::CompositeAlarm") {
        if composite.list("/AlarmActions").is_empty()
            && composite.at("/AlarmActions").is_none_or(Json::is_array)
        {
            findings.resource(ALARM_ACTION, composite.logical_id, "nobody is told when it fires".to_owned());
        }
    }
}

/// CloudWatch may not use the key that AWS keeps for SNS.
fn topics(template: &Template<'_>, alarm: &Resource<'_>, actions: &[&Json], findings: &mut Findings<'_>) {
    for topic in actions.iter().filter_map(|action| template.target(action)) {
        if topic.kind == "AWS::SNS::Topic"
            && topic.text("/KmsMasterKeyId").is_some_and(|key| key.ends_with("alias/aws/sns"))
        {
            findings.resource(
                ALARM_TOPIC_KEY,
                alarm.logical_id,
                format!("{} is encrypted with alias/aws/sns", topic.logical_id),
            );
        }
    }
}

fn times(alarm: &Resource<'_>, findings: &mut Findings<'_>) {
    if let (Some(wanted), Some(all)) =
        (alarm.number("/DatapointsToAlarm"), alarm.number("/EvaluationPeriods"))
        && wanted > all
    {
        findings.resource(ALARM_PERIOD, alarm.logical_id, format!("it wants {wanted} of {all} data points"));
    }
    let Some(period) = alarm.number("/Period") else { return };
    let whole = period % 60.0 == 0.0 && period > 0.0;
    // A high-resolution metric has no namespace of AWS's.
    let fine = [10.0, 20.0, 30.0].contains(&period)
        && !alarm.text("/Namespace").is_some_and(|namespace| namespace.starts_with("AWS/"));
    if !whole && !fine {
        findings.resource(ALARM_PERIOD, alarm.logical_id, format!("a period of {period} s"));
    }
    let range = period * alarm.number("/EvaluationPeriods").unwrap_or(1.0);
    // CloudWatch: at most a day, or seven for periods of an hour and more.
    let most = if period >= 3600.0 { 7.0 * 86_400.0 } else { 86_400.0 };
    if range > most {
        findings.resource(ALARM_PERIOD, alarm.logical_id, format!("it looks back {range} s of {most}"));
    }
}

fn metric<'a>(
    alarm: &Resource<'a>,
    metric: &'a Json,
    namespaces: &mut Vec<&'a str>,
    findings: &mut Findings<'_>,
) {
    let text = |key: &str| metric.get(key).and_then(Json::as_str);
    let Some(namespace) = text("Namespace") else { return };
    namespaces.push(namespace);
    let dimensions: Vec<&'a Json> =
        metric.get("Dimensions").and_then(Json::as_array).into_iter().flatten().collect();
    let Some(known) = NAMESPACES.iter().find(|known| known.name == namespace) else { return };
    let Namespace { dimensions: names, metrics, .. } = known;
    for name in dimensions.iter().filter_map(|dimension| dimension.get("Name")?.as_str()) {
        if !names.contains(&name) {
            let near = nearest(name, names.iter().copied());
            let hint = near.unwrap_or("one of them");
            findings.resource(
                ALARM_DIMENSION,
                alarm.logical_id,
                format!("{namespace} has no dimension `{name}`; it has {}; take {hint}", names.join(", ")),
            );
        }
    }
    let Some(name) = text("MetricName") else { return };
    if !metrics.contains(&name) {
        // The tables are not whole: only what looks like a known name is taken for a slip.
        if let Some(near) = nearest(name, metrics.iter().copied()) {
            findings.resource(
                ALARM_METRIC,
                alarm.logical_id,
                format!("{namespace} has no metric `{name}`; is {near} meant?"),
            );
        }
    }
    if namespace == "AWS/Kafka" && LAG.contains(&name) {
        lag(alarm, &dimensions, findings);
    }
}

fn lag(alarm: &Resource<'_>, dimensions: &[&Json], findings: &mut Findings<'_>) {
    let group = dimensions
        .iter()
        .find(|dimension| dimension.get("Name").and_then(Json::as_str) == Some("Consumer Group"))
        .and_then(|dimension| dimension.get("Value")?.as_str());
    if let Some(group) = group.filter(|group| group.contains(':') || !group.is_ascii()) {
        findings.resource(ALARM_LAG_GROUP, alarm.logical_id, format!("the group is called `{group}`"));
    }
    if matches!(alarm.text("/TreatMissingData"), Some("notBreaching" | "ignore")) {
        findings.resource(
            ALARM_LAG_SILENCE,
            alarm.logical_id,
            "a group that rebalances has no lag, and the alarm takes that for good".to_owned(),
        );
    }
}

/// MSK's levels of monitoring, each with what those before it have.
const LEVELS: [&str; 4] = ["DEFAULT", "PER_BROKER", "PER_TOPIC_PER_BROKER", "PER_TOPIC_PER_PARTITION"];

/// The level from which on MSK emits a metric with these dimensions. Source: the MSK developer guide, metrics
/// for monitoring standard brokers.
fn level_of(metric: &str, by_topic: bool) -> usize {
    match metric {
        "OffsetLag" | "EstimatedTimeLag" => 3,
        "BytesInPerSec" | "BytesOutPerSec" | "MessagesInPerSec" if by_topic => 2,
        "IAMTooManyConnections" | "IAMNumberOfConnectionRequests" | "RequestHandlerAvgIdlePercent" => 1,
        _ => 0,
    }
}

/// An alarm on what the cluster is not told to measure.
fn level(template: &Template<'_>, alarm: &Resource<'_>, metric: &Json, findings: &mut Findings<'_>) {
    if metric.get("Namespace").and_then(Json::as_str) != Some("AWS/Kafka") {
        return;
    }
    let dimensions = metric.get("Dimensions").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    let value = |name: &str| {
        dimensions
            .iter()
            .find(|dimension| dimension.get("Name").and_then(Json::as_str) == Some(name))
            .and_then(|dimension| dimension.get("Value")?.as_str())
    };
    let by_topic =
        dimensions.iter().any(|dimension| dimension.get("Name").and_then(Json::as_str) == Some("Topic"));
    let Some(name) = metric.get("MetricName").and_then(Json::as_str) else { return };
    let Some(cluster) = value("Cluster Name").and_then(|name| template.kafka_cluster(name)) else { return };
    let needed = level_of(name, by_topic);
    let given = match cluster.at("/EnhancedMonitoring") {
        None => Some("DEFAULT"),
        Some(json) => json.as_str(),
    };
    let given = given.and_then(|given| LEVELS.iter().position(|level| *level == given));
    if let Some(given) = given.filter(|given| *given < needed) {
        findings.resource(
            ALARM_LEVEL,
            alarm.logical_id,
            format!("{name} comes from {} on, and the cluster is at {}", LEVELS[needed], LEVELS[given]),
        );
    }
}
