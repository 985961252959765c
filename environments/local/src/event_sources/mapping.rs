//! What a mapping is configured to do, read from what the Lambda API answers.

use std::time::Duration;

use serde_json::Value as Json;

use super::{delivery::Policy, filter::Filter, response::Report};

/// Retries of a Kafka mapping that has an on-failure destination and no number of them (Lambda developer guide,
/// "Configuring error handling controls for Kafka event sources").
const KAFKA_RETRIES_WITH_DESTINATION: u32 = 10;

/// The window of a Kafka mapping that names none, in milliseconds (Lambda developer guide, "Batching behavior").
const KAFKA_WINDOW_MS: i64 = 500;

/// Where reading begins when nothing was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest record.
    TrimHorizon,
    /// With what comes from now on.
    Latest,
    /// With the first record since a time, in milliseconds since 1970.
    AtTimestamp(i64),
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A topic of an MSK cluster.
    Kafka {
        /// The topic.
        topic: String,
        /// The consumer group whose offsets are committed.
        group: String,
        /// Event pollers, at least and at most.
        pollers: (usize, usize),
    },
    /// A Kinesis stream.
    Kinesis {
        /// Its name.
        stream: String,
        /// Batches of a shard at once.
        parallelization_factor: u32,
    },
}

/// Where failure records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An SQS queue: account and name.
    Queue(String, String),
    /// An SNS topic, by its ARN.
    Topic(String),
    /// An S3 bucket, by its name.
    Bucket(String),
    /// A topic of the cluster that is read.
    KafkaTopic(String),
}

/// A mapping that can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    /// Its id.
    pub uuid: String,
    /// The function's ARN, with a qualifier if it was named with one.
    pub function_arn: String,
    /// The source's ARN.
    pub source_arn: String,
    /// The region of both.
    pub region: String,
    /// Whether it is to run.
    pub enabled: bool,
    /// What is read.
    pub source: Source,
    /// From where.
    pub start: Start,
    /// Records in a batch, at most.
    pub batch_size: usize,
    /// How long a batch waits for more, in milliseconds.
    pub window_ms: i64,
    /// When it tries again and gives up.
    pub policy: Policy,
    /// Who is told of what is given up.
    pub destination: Option<Destination>,
    /// Which records it wants: those that one of these takes, or all if there are none.
    pub filters: Vec<Filter>,
}

/// A mapping that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its id.
    pub uuid: String,
    /// The function's ARN.
    pub function_arn: String,
    /// The source's ARN.
    pub source_arn: String,
    /// Why, and what to do.
    pub reason: String,
}

impl Mapping {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// What it asks for that AWS refuses or that is not done here.
    pub fn read(json: &Json) -> Result<Self, Refused> {
        read(json).map_err(|reason| Refused {
            uuid: text(json, "/UUID").unwrap_or_default(),
            function_arn: text(json, "/FunctionArn").unwrap_or_default(),
            source_arn: text(json, "/EventSourceArn").unwrap_or_default(),
            reason,
        })
    }

    /// The function's name, without its qualifier.
    #[must_use]
    pub fn function_name(&self) -> &str {
        let name = self.function_arn.split(":function:").nth(1).unwrap_or(&self.function_arn);
        name.split(':').next().unwrap_or(name)
    }
}

fn read(json: &Json) -> Result<Mapping, String> {
    let required = |pointer: &str| text(json, pointer).ok_or_else(|| format!("it has no {}", &pointer[1..]));
    let source_arn = required("/EventSourceArn")?;
    let function_arn = required("/FunctionArn")?;
    let fields: Vec<&str> = source_arn.splitn(6, ':').collect();
    let [_, _, service, region, _, resource] = fields[..] else {
        return Err(format!("{source_arn} is no ARN"));
    };
    let uuid = required("/UUID")?;
    let is_kafka = match service {
        "kafka" => true,
        "kinesis" => false,
        _ => return Err(format!("{source_arn} is neither an MSK cluster nor a Kinesis stream")),
    };
    let (source, provisioned) =
        if is_kafka { kafka(json, &uuid)? } else { (kinesis(json, resource)?, false) };
    let destination = text(json, "/DestinationConfig/OnFailure/Destination").filter(|arn| !arn.is_empty());
    let destination = destination.map(|arn| destination_of(&arn, &source, provisioned)).transpose()?;
    let unlimited = |number: Option<i64>| number.filter(|number| *number >= 0);
    let retries = unlimited(number(json, "/MaximumRetryAttempts", -1, 10_000)?);
    let record_age = unlimited(number(json, "/MaximumRecordAgeInSeconds", -1, 604_800)?);
    if record_age.is_some_and(|age| age < 60) {
        return Err("MaximumRecordAgeInSeconds is -1, or 60 at least".to_owned());
    }
    let bisect = json.pointer("/BisectBatchOnFunctionError").and_then(Json::as_bool).unwrap_or(false);
    let reports = json
        .pointer("/FunctionResponseTypes")
        .and_then(Json::as_array)
        .is_some_and(|types| types.iter().any(|kind| kind.as_str() == Some("ReportBatchItemFailures")));
    if is_kafka && !provisioned && (retries.is_some() || record_age.is_some() || bisect || reports) {
        return Err("retries, record age, bisecting and batch item failures want a ProvisionedPollerConfig"
            .to_owned());
    }
    let retries = match retries {
        Some(retries) => u32::try_from(retries).ok(),
        None if is_kafka && destination.is_some() => Some(KAFKA_RETRIES_WITH_DESTINATION),
        None => None,
    };
    let window = number(json, "/MaximumBatchingWindowInSeconds", 0, 300)?;
    let policy = Policy {
        retries,
        record_age: record_age.and_then(|age| u64::try_from(age).ok()).map(Duration::from_secs),
        bisect,
        report: match (reports, is_kafka) {
            (false, _) => Report::Whole,
            (true, true) => Report::KafkaItems,
            (true, false) => Report::StreamCheckpoint,
        },
    };
    let filters = json.pointer("/FilterCriteria/Filters").and_then(Json::as_array);
    Ok(Mapping {
        start: start(json)?,
        enabled: text(json, "/State").as_deref() != Some("Disabled"),
        batch_size: number(json, "/BatchSize", 1, 10_000)?
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or(100),
        window_ms: window.map_or(if is_kafka { KAFKA_WINDOW_MS } else { 0 }, |seconds| seconds * 1_000),
        filters: filters
            .into_iter()
            .flatten()
            .map(|filter| Filter::read(filter.get("Pattern").and_then(Json::as_str).unwrap_or_default()))
            .collect::<Result<_, _>>()?,
        region: region.to_owned(),
        uuid,
        function_arn,
        source,
        policy,
        destination,
        source_arn,
    })
}

fn kafka(json: &Json, uuid: &str) -> Result<(Source, bool), String> {
    let topics = json.pointer("/Topics").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    let [topic] = topics else { return Err(format!("it names {} topics, not one", topics.len())) };
    let provisioned = json.get("ProvisionedPollerConfig").is_some_and(Json::is_object);
    let bound = |pointer: &str, most: i64| -> Result<Option<usize>, String> {
        Ok(number(json, pointer, 1, most)?.and_then(|count| usize::try_from(count).ok()))
    };
    let least = bound("/ProvisionedPollerConfig/MinimumPollers", 200)?.unwrap_or(1);
    // Without provisioned pollers there is one to begin with and one a partition at most; 200 is provisioned
    // mode's default.
    let most = bound("/ProvisionedPollerConfig/MaximumPollers", 10_000)?.unwrap_or(200);
    if most < least {
        return Err(format!("it wants {least} pollers at least and {most} at most"));
    }
    Ok((
        Source::Kafka {
            topic: topic.as_str().unwrap_or_default().to_owned(),
            group: text(json, "/AmazonManagedKafkaEventSourceConfig/ConsumerGroupId")
                .unwrap_or_else(|| uuid.to_owned()),
            pollers: (least, most),
        },
        provisioned,
    ))
}

fn kinesis(json: &Json, resource: &str) -> Result<Source, String> {
    if number(json, "/TumblingWindowInSeconds", 0, 900)?.is_some_and(|window| window > 0) {
        return Err("tumbling windows are not done here; leave TumblingWindowInSeconds out".to_owned());
    }
    // A consumer's ARN goes on after the stream's name.
    let stream = resource.strip_prefix("stream/").and_then(|rest| rest.split('/').next());
    Ok(Source::Kinesis {
        stream: stream.ok_or_else(|| format!("{resource} is no stream"))?.to_owned(),
        parallelization_factor: number(json, "/ParallelizationFactor", 1, 10)?
            .and_then(|factor| u32::try_from(factor).ok())
            .unwrap_or(1),
    })
}

fn start(json: &Json) -> Result<Start, String> {
    match text(json, "/StartingPosition").as_deref() {
        Some("TRIM_HORIZON") => Ok(Start::TrimHorizon),
        Some("LATEST") => Ok(Start::Latest),
        Some("AT_TIMESTAMP") => {
            let seconds = json.get("StartingPositionTimestamp").and_then(Json::as_f64);
            let seconds = seconds.ok_or("AT_TIMESTAMP wants a StartingPositionTimestamp")?;
            #[allow(clippy::cast_possible_truncation)]
            Ok(Start::AtTimestamp((seconds * 1_000.0) as i64))
        }
        other => Err(format!("its StartingPosition is {}", other.unwrap_or("absent"))),
    }
}

fn destination_of(arn: &str, source: &Source, provisioned: bool) -> Result<Destination, String> {
    if let Some(target) = arn.strip_prefix("kafka://") {
        return match source {
            Source::Kafka { topic, .. } if topic == target => {
                Err("the topic that is read cannot be the destination of what fails".to_owned())
            }
            Source::Kafka { .. } if provisioned => Ok(Destination::KafkaTopic(target.to_owned())),
            _ => Err("a topic as destination wants a Kafka source and a ProvisionedPollerConfig".to_owned()),
        };
    }
    let fields: Vec<&str> = arn.splitn(6, ':').collect();
    match fields[..] {
        [_, _, "sqs", _, account, name] => Ok(Destination::Queue(account.to_owned(), name.to_owned())),
        [_, _, "sns", ..] => Ok(Destination::Topic(arn.to_owned())),
        [_, _, "s3", _, _, bucket] => Ok(Destination::Bucket(bucket.to_owned())),
        _ => Err(format!("{arn} is no destination: a queue, a topic or a bucket is wanted")),
    }
}

fn text(json: &Json, pointer: &str) -> Option<String> {
    json.pointer(pointer).and_then(Json::as_str).map(str::to_owned)
}

fn number(json: &Json, pointer: &str, least: i64, most: i64) -> Result<Option<i64>, String> {
    match json.pointer(pointer) {
        None | Some(Json::Null) => Ok(None),
        Some(value) => match value.as_i64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(format!("{} is {value}, not between {least} and {most}", &pointer[1..])),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_kafka() -> Json {
        json!({
            "UUID": "5f6d",
            "EventSourceArn": "arn:aws:kafka:eu-west-1:000000000000:cluster/floodgate/1-2",
            "FunctionArn": "arn:aws:lambda:eu-west-1:000000000000:function:writer",
            "State": "Enabled",
            "StartingPosition": "TRIM_HORIZON",
            "Topics": ["ledger-buffer"],
            "BatchSize": 30,
            "BisectBatchOnFunctionError": true,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "ProvisionedPollerConfig": { "MinimumPollers": 2, "MaximumPollers": 5 },
            "AmazonManagedKafkaEventSourceConfig": { "ConsumerGroupId": "ledger-writer" },
            "DestinationConfig": { "OnFailure": { "Destination": "arn:aws:sqs:eu-west-1:000000000000:dead" } },
        })
    }

    fn of_kinesis() -> Json {
        json!({
            "UUID": "77aa",
            "EventSourceArn": "arn:aws:kinesis:eu-west-1:000000000000:stream/lessons",
            "FunctionArn": "arn:aws:lambda:eu-west-1:000000000000:function:enricher",
            "State": "Disabled",
            "StartingPosition": "AT_TIMESTAMP",
            "StartingPositionTimestamp": 1_700_000_000.5,
            "BatchSize": 100,
            "MaximumRetryAttempts": -1,
            "MaximumRecordAgeInSeconds": 3600,
            "ParallelizationFactor": 3,
            "TumblingWindowInSeconds": 0,
        })
    }

    fn with(mut json: Json, key: &str, value: Json) -> Json {
        json[key] = value;
        json
    }

    fn refusal(json: &Json) -> String {
        Mapping::read(json).unwrap_err().reason
    }

    #[test]
    fn the_settings_of_both_sources_are_read() {
        let kafka = Mapping::read(&of_kafka()).unwrap();
        assert_eq!(
            kafka.source,
            Source::Kafka {
                topic: "ledger-buffer".to_owned(),
                group: "ledger-writer".to_owned(),
                pollers: (2, 5)
            }
        );
        assert_eq!(kafka.policy.retries, Some(10), "infinite retries with a destination are ten");
        assert_eq!(kafka.function_name(), "writer");
        assert_eq!((kafka.window_ms, kafka.batch_size, kafka.enabled), (500, 30, true));
        assert_eq!(kafka.policy.report, Report::KafkaItems);
        assert_eq!(kafka.destination, Some(Destination::Queue("000000000000".to_owned(), "dead".to_owned())));
        let kinesis = Mapping::read(&of_kinesis()).unwrap();
        assert_eq!(
            kinesis.source,
            Source::Kinesis { stream: "lessons".to_owned(), parallelization_factor: 3 }
        );
        assert_eq!((kinesis.policy.retries, kinesis.window_ms, kinesis.enabled), (None, 0, false));
        assert_eq!(kinesis.policy.record_age, Some(Duration::from_secs(3600)));
        assert_eq!(kinesis.start, Start::AtTimestamp(1_700_000_000_500));
    }

    #[test]
    fn what_aws_refuses_or_what_is_not_done_here_is_refused_with_a_reason() {
        let destination = |arn: &str| json!({ "OnFailure": { "Destination": arn } });
        for (json, part) in [
            (with(of_kinesis(), "TumblingWindowInSeconds", json!(30)), "tumbling"),
            (with(of_kinesis(), "MaximumRecordAgeInSeconds", json!(5)), "60 at least"),
            (with(of_kinesis(), "ParallelizationFactor", json!(11)), "between 1 and 10"),
            (with(of_kinesis(), "DestinationConfig", destination("kafka://failed")), "Kafka source"),
            (with(of_kafka(), "Topics", json!(["a", "b"])), "2 topics"),
            (with(of_kafka(), "ProvisionedPollerConfig", json!(null)), "ProvisionedPollerConfig"),
            (with(of_kafka(), "DestinationConfig", destination("kafka://ledger-buffer")), "cannot be"),
            (with(of_kafka(), "DestinationConfig", destination("arn:aws:ec2:::x")), "is no destination"),
            (with(of_kafka(), "EventSourceArn", json!("arn:aws:sqs:eu-west-1:0:queue")), "neither"),
            (
                with(
                    of_kafka(),
                    "FilterCriteria",
                    json!({ "Filters": [{ "Pattern": "{\"value\":[{\"near\":1}]}" }] }),
                ),
                "near",
            ),
        ] {
            assert!(refusal(&json).contains(part), "{} does not say {part}", refusal(&json));
        }
    }
}
