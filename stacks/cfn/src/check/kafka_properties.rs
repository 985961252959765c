//! Properties of Kafka servers and topics: whether MSK takes them, what they may be, and how they go together.

use std::collections::BTreeMap;

use super::{
    Findings, Rule,
    kafka::is_kraft,
    names::nearest,
    rules::{
        KAFKA_DURABILITY, KAFKA_MINIMUM, KAFKA_PROPERTY, KAFKA_REPLICAS, KAFKA_TOPIC_CONFIG, KAFKA_VALUE,
        KAFKA_ZOOKEEPER_PROPERTY,
    },
    template::{Resource, Template},
};
use crate::value::Json;

/// What a property's value is.
#[derive(Clone, Copy)]
enum Kind {
    Flag,
    /// A whole number from this one on.
    From(i64),
    Ratio,
    Text,
    /// A list, separated by commas, of some of these.
    Some(&'static [&'static str]),
}

use Kind::{Flag, From, Ratio, Some as AnyOf, Text};

const CODECS: &[&str] = &["gzip", "snappy", "lz4", "zstd", "uncompressed", "producer"];
const CLEANUP: &[&str] = &["delete", "compact"];
const TIMESTAMPS: &[&str] = &["CreateTime", "LogAppendTime"];

/// What MSK lets a custom configuration set: the MSK developer guide's page of custom configurations. The list
/// is MSK's own and static; a key of Kafka's that is not in it is refused.
const SERVER: [(&str, Kind); 54] = [
    ("allow.everyone.if.no.acl.found", Flag),
    ("auto.create.topics.enable", Flag),
    ("compression.type", AnyOf(CODECS)),
    ("connections.max.idle.ms", From(-1)),
    ("default.replication.factor", From(1)),
    ("delete.topic.enable", Flag),
    ("group.initial.rebalance.delay.ms", From(0)),
    ("group.max.session.timeout.ms", From(1)),
    ("group.min.session.timeout.ms", From(1)),
    ("leader.imbalance.per.broker.percentage", From(0)),
    ("log.cleaner.delete.retention.ms", From(0)),
    ("log.cleaner.min.cleanable.ratio", Ratio),
    ("log.cleanup.policy", AnyOf(CLEANUP)),
    ("log.flush.interval.messages", From(1)),
    ("log.flush.interval.ms", From(0)),
    ("log.local.retention.bytes", From(-2)),
    ("log.local.retention.ms", From(-2)),
    ("log.message.timestamp.after.max.ms", From(0)),
    ("log.message.timestamp.before.max.ms", From(0)),
    ("log.message.timestamp.difference.max.ms", From(0)),
    ("log.message.timestamp.type", AnyOf(TIMESTAMPS)),
    ("log.retention.bytes", From(-1)),
    ("log.retention.hours", From(-1)),
    ("log.retention.minutes", From(-1)),
    ("log.retention.ms", From(-1)),
    ("log.roll.ms", From(1)),
    ("log.segment.bytes", From(14)),
    ("max.incremental.fetch.session.cache.slots", From(0)),
    ("message.max.bytes", From(0)),
    ("min.insync.replicas", From(1)),
    ("num.io.threads", From(1)),
    ("num.network.threads", From(1)),
    ("num.partitions", From(1)),
    ("num.recovery.threads.per.data.dir", From(1)),
    ("num.replica.fetchers", From(1)),
    ("offsets.retention.minutes", From(1)),
    ("offsets.topic.replication.factor", From(1)),
    ("remote.log.msk.disable.policy", Text),
    ("replica.fetch.max.bytes", From(0)),
    ("replica.fetch.response.max.bytes", From(0)),
    ("replica.lag.time.max.ms", From(1)),
    ("replica.selector.class", Text),
    ("replica.socket.receive.buffer.bytes", From(-1)),
    ("socket.receive.buffer.bytes", From(-1)),
    ("socket.request.max.bytes", From(1)),
    ("socket.send.buffer.bytes", From(-1)),
    ("transaction.max.timeout.ms", From(1)),
    ("transaction.state.log.min.isr", From(1)),
    ("transaction.state.log.replication.factor", From(1)),
    ("transactional.id.expiration.ms", From(1)),
    ("unclean.leader.election.enable", Flag),
    ("zookeeper.connection.timeout.ms", From(1)),
    ("zookeeper.session.timeout.ms", From(6000)),
    ("zookeeper.set.acl", Flag),
];

/// Kafka's configuration of topics.
const TOPIC: [(&str, Kind); 29] = [
    ("cleanup.policy", AnyOf(CLEANUP)),
    ("compression.gzip.level", From(-1)),
    ("compression.lz4.level", From(1)),
    ("compression.type", AnyOf(CODECS)),
    ("compression.zstd.level", From(-131_072)),
    ("delete.retention.ms", From(0)),
    ("file.delete.delay.ms", From(0)),
    ("flush.messages", From(1)),
    ("flush.ms", From(0)),
    ("index.interval.bytes", From(0)),
    ("local.retention.bytes", From(-2)),
    ("local.retention.ms", From(-2)),
    ("max.compaction.lag.ms", From(1)),
    ("max.message.bytes", From(0)),
    ("message.timestamp.after.max.ms", From(0)),
    ("message.timestamp.before.max.ms", From(0)),
    ("message.timestamp.type", AnyOf(TIMESTAMPS)),
    ("min.cleanable.dirty.ratio", Ratio),
    ("min.compaction.lag.ms", From(0)),
    ("min.insync.replicas", From(1)),
    ("preallocate", Flag),
    ("remote.log.copy.disable", Flag),
    ("remote.storage.enable", Flag),
    ("retention.bytes", From(-1)),
    ("retention.ms", From(-1)),
    ("segment.bytes", From(14)),
    ("segment.index.bytes", From(4)),
    ("segment.jitter.ms", From(0)),
    ("segment.ms", From(1)),
];

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    for configuration in template.of_kind("AWS::MSK::Configuration") {
        let Some(text) = server_properties(configuration) else { continue };
        let properties = parse(&text);
        each(configuration, &properties, &SERVER, KAFKA_PROPERTY, findings);
        let kraft = configuration.list("/KafkaVersionsList").iter().filter_map(Json::as_str).any(is_kraft)
            || used_with_kraft(template, configuration);
        let old: Vec<&str> =
            properties.keys().copied().filter(|key| key.starts_with("zookeeper.") && kraft).collect();
        if !old.is_empty() {
            findings.resource(
                KAFKA_ZOOKEEPER_PROPERTY,
                configuration.logical_id,
                format!("{} with a version that has no ZooKeeper", old.join(", ")),
            );
        }
        replicas(
            configuration,
            number(&properties, "min.insync.replicas"),
            number(&properties, "default.replication.factor"),
            findings,
        );
        // Disposable data on two brokers takes one replica in sync, so that a broker may be away.
        let alone = template.data_kept && number(&properties, "min.insync.replicas") == Some(1);
        if alone || properties.get("unclean.leader.election.enable") == Some(&"true") {
            findings.resource(
                KAFKA_DURABILITY,
                configuration.logical_id,
                "a record that was acknowledged can be lost with one broker".to_owned(),
            );
        }
    }
    for topic in template.of_kind("AWS::MSK::Topic") {
        let factor = topic.number("/ReplicationFactor").map(|factor| factor as i64);
        let text = topic.text("/Configs").map(decode_base64);
        if text == Some(None) {
            findings.resource(KAFKA_TOPIC_CONFIG, topic.logical_id, "Configs is not base64".to_owned());
        }
        let text = text
            .flatten()
            .or_else(|| topic.at("/Configs/Fn::Base64").and_then(Json::as_str).map(str::to_owned));
        let text = text.unwrap_or_default();
        let properties = parse(&text);
        each(topic, &properties, &TOPIC, KAFKA_TOPIC_CONFIG, findings);
        replicas(topic, number(&properties, "min.insync.replicas"), factor, findings);
    }
}

/// Whether a cluster of the template uses the configuration and runs without ZooKeeper.
fn used_with_kraft(template: &Template<'_>, configuration: &Resource<'_>) -> bool {
    template.of_kind("AWS::MSK::Cluster").iter().any(|cluster| {
        let used = cluster.at("/ConfigurationInfo/Arn").and_then(|arn| template.own(arn));
        used.is_some_and(|used| used.logical_id == configuration.logical_id)
            && cluster.text("/KafkaVersion").is_some_and(is_kraft)
    })
}

/// CloudFormation takes the text itself or base64 of it.
fn server_properties(configuration: &Resource<'_>) -> Option<String> {
    if let Some(text) = configuration.at("/ServerProperties/Fn::Base64") {
        return text.as_str().map(str::to_owned);
    }
    let text = configuration.text("/ServerProperties")?;
    Some(decode_base64(text).unwrap_or_else(|| text.to_owned()))
}

fn parse(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect()
}

fn number(properties: &BTreeMap<&str, &str>, key: &str) -> Option<i64> {
    properties.get(key)?.parse().ok()
}

fn each(
    resource: &Resource<'_>,
    properties: &BTreeMap<&str, &str>,
    known: &[(&str, Kind)],
    rule: Rule,
    findings: &mut Findings<'_>,
) {
    for (key, value) in properties {
        let Some((_, kind)) = known.iter().find(|(name, _)| name == key) else {
            let near = nearest(key, known.iter().map(|(name, _)| *name));
            let hint = near.map(|near| format!("; is {near} meant?")).unwrap_or_default();
            findings.resource(rule, resource.logical_id, format!("{key} is not known here{hint}"));
            continue;
        };
        let wanted = match kind {
            Flag if !["true", "false"].contains(value) => "true or false".to_owned(),
            From(least)
                if value.parse::<i64>().is_ok_and(|number| number < *least)
                    || value.parse::<i64>().is_err() =>
            {
                format!("a whole number from {least}")
            }
            Ratio if !value.parse::<f64>().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio)) => {
                "a number from 0 to 1".to_owned()
            }
            AnyOf(names) if !value.split(',').all(|part| names.contains(&part.trim())) => names.join(", "),
            _ => continue,
        };
        findings.resource(
            KAFKA_VALUE,
            resource.logical_id,
            format!("{key} is `{value}`; it can be {wanted}"),
        );
    }
}

fn replicas(resource: &Resource<'_>, wanted: Option<i64>, factor: Option<i64>, findings: &mut Findings<'_>) {
    let (Some(wanted), Some(factor)) = (wanted, factor) else { return };
    let message = format!("min.insync.replicas is {wanted}, the replication factor {factor}");
    if wanted > factor {
        findings.resource(KAFKA_REPLICAS, resource.logical_id, message);
    } else if wanted == factor && factor > 1 {
        findings.resource(KAFKA_MINIMUM, resource.logical_id, message);
    }
}

/// Standard base64; `None` when it is none. Small enough not to be worth a dependency of the language.
fn decode_base64(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for symbol in text.trim_end_matches('=').bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_and_other_text_is_not() {
        assert_eq!(decode_base64("bWluLmluc3luYy5yZXBsaWNhcz0zCg==").unwrap(), "min.insync.replicas=3\n");
        assert_eq!(decode_base64("a.b=c"), None);
    }

    #[test]
    fn comments_and_empty_lines_are_no_properties() {
        let found = parse("# a=b\n\n num.partitions = 6 \n");
        assert_eq!(found, BTreeMap::from([("num.partitions", "6")]));
    }

    #[test]
    fn a_slip_in_any_server_property_is_recognised() {
        for (name, _) in SERVER {
            let slipped = name.replacen('e', "ee", 1);
            assert_eq!(nearest(&slipped, SERVER.iter().map(|(name, _)| *name)), Some(name));
        }
    }
}
