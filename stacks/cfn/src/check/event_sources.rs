//! Event source mappings: whether a function may read its source, and what becomes of records that it fails on.

use super::{
    Findings,
    permissions::{self, Permissions},
    rules::{
        SOURCE_BATCH, SOURCE_BISECT, SOURCE_CONCURRENCY, SOURCE_DESTINATION, SOURCE_ENDLESS,
        SOURCE_INCOMPLETE, SOURCE_NETWORK, SOURCE_PERMISSIONS, SOURCE_QUEUE, SOURCE_VISIBILITY,
    },
    template::{Resource, Template, number},
};
use crate::value::Json;

/// The services that a mapping polls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Kafka,
    Stream,
    TableStream,
    Queue,
}

impl Source {
    /// By the resource, or by the service in a literal ARN.
    fn of(arn: &Json, target: Option<Resource<'_>>) -> Option<Self> {
        let kind = target.map_or("", |target| target.kind);
        let service = arn.as_str().and_then(|arn| arn.split(':').nth(2)).unwrap_or_default();
        match (kind, service) {
            ("AWS::MSK::Cluster" | "AWS::MSK::ServerlessCluster", _) | (_, "kafka") => Some(Source::Kafka),
            ("AWS::Kinesis::Stream" | "AWS::Kinesis::StreamConsumer", _) | (_, "kinesis") => {
                Some(Source::Stream)
            }
            ("AWS::DynamoDB::Table", _) | (_, "dynamodb") => Some(Source::TableStream),
            ("AWS::SQS::Queue", _) | (_, "sqs") => Some(Source::Queue),
            _ => None,
        }
    }

    /// What Lambda's developer guide asks of the function's role, a page a source.
    fn actions(self) -> &'static [&'static str] {
        match self {
            Source::Kafka => &[
                "kafka:DescribeCluster",
                "kafka:DescribeClusterV2",
                "kafka:GetBootstrapBrokers",
                "ec2:CreateNetworkInterface",
                "ec2:DeleteNetworkInterface",
                "ec2:DescribeNetworkInterfaces",
                "ec2:DescribeSecurityGroups",
                "ec2:DescribeSubnets",
                "ec2:DescribeVpcs",
            ],
            Source::Stream => &[
                "kinesis:DescribeStream",
                "kinesis:DescribeStreamSummary",
                "kinesis:GetRecords",
                "kinesis:GetShardIterator",
                "kinesis:ListShards",
            ],
            Source::TableStream => &[
                "dynamodb:DescribeStream",
                "dynamodb:GetRecords",
                "dynamodb:GetShardIterator",
                "dynamodb:ListStreams",
            ],
            Source::Queue => &["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
        }
    }
}

/// What a mapping's role needs beside that when the cluster's clients use IAM.
const KAFKA_IAM: [&str; 6] = [
    "kafka-cluster:Connect",
    "kafka-cluster:DescribeGroup",
    "kafka-cluster:AlterGroup",
    "kafka-cluster:DescribeTopic",
    "kafka-cluster:ReadData",
    "kafka-cluster:DescribeClusterDynamicConfiguration",
];

struct Mapping<'a> {
    resource: Resource<'a>,
    source: Source,
    /// The polled resource, where the app declares it.
    polled: Option<Resource<'a>>,
    /// The function, where this stack declares it.
    function: Option<Resource<'a>>,
}

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    let mappings = template.of_kind("AWS::Lambda::EventSourceMapping");
    if mappings.is_empty() {
        return;
    }
    let roles = permissions::by_role(template);
    for resource in mappings {
        let Some(arn) = resource.at("/EventSourceArn") else { continue };
        let polled = template.target(arn);
        let Some(source) = Source::of(arn, polled) else { continue };
        let function = resource.at("/FunctionName").and_then(|name| template.own(name));
        let mapping = Mapping { resource: *resource, source, polled, function };
        complete(&mapping, findings);
        failures(&mapping, findings);
        batches(&mapping, findings);
        concurrency(template, &mapping, findings);
        let role = function
            .and_then(|function| template.own(function.at("/Role")?))
            .and_then(|role| roles.get(role.logical_id));
        if let Some(role) = role {
            may_read(template, &mapping, role, findings);
        }
        match source {
            Source::Kafka => network(template, &mapping, findings),
            Source::Queue => queue(&mapping, findings),
            _ => {}
        }
    }
}

fn complete(mapping: &Mapping<'_>, findings: &mut Findings<'_>) {
    let resource = mapping.resource;
    if mapping.source != Source::Queue && !resource.has("/StartingPosition") {
        findings.resource(SOURCE_INCOMPLETE, resource.logical_id, "it has no StartingPosition".to_owned());
    }
    if mapping.source == Source::Kafka
        && resource
            .at("/Topics")
            .is_none_or(|topics| topics.as_array().is_some_and(|topics| topics.len() != 1))
    {
        findings.resource(SOURCE_INCOMPLETE, resource.logical_id, "it wants one topic".to_owned());
    }
}

fn failures(mapping: &Mapping<'_>, findings: &mut Findings<'_>) {
    let resource = mapping.resource;
    if mapping.source == Source::Queue {
        return;
    }
    if !resource.has("/DestinationConfig/OnFailure/Destination") {
        findings.resource(
            SOURCE_DESTINATION,
            resource.logical_id,
            "records that it gives up are forgotten".to_owned(),
        );
    }
    if mapping.source == Source::Kafka {
        return;
    }
    let partial = resource
        .list("/FunctionResponseTypes")
        .iter()
        .any(|kind| kind.as_str() == Some("ReportBatchItemFailures"));
    if resource.off("/BisectBatchOnFunctionError") && !partial {
        findings.resource(
            SOURCE_BISECT,
            resource.logical_id,
            "one record that fails takes its whole batch with it".to_owned(),
        );
    }
    // -1 is for ever, and the default of both.
    let endless = |pointer: &str| resource.at(pointer).is_none_or(|json| number(json) == Some(-1.0));
    if endless("/MaximumRecordAgeInSeconds") && endless("/MaximumRetryAttempts") {
        findings.resource(
            SOURCE_ENDLESS,
            resource.logical_id,
            "a record that fails holds its shard until it expires".to_owned(),
        );
    }
}

/// Lambda's bounds that no schema tells, because they depend on the source.
fn batches(mapping: &Mapping<'_>, findings: &mut Findings<'_>) {
    let resource = mapping.resource;
    let Some(size) = resource.number("/BatchSize") else { return };
    let window = resource.number("/MaximumBatchingWindowInSeconds");
    if mapping.source == Source::Queue && size > 10.0 && window.unwrap_or(0.0) < 1.0 {
        findings.resource(
            SOURCE_BATCH,
            resource.logical_id,
            format!("a batch of {size} wants a window of 1 s at least"),
        );
    }
    let fifo = mapping.polled.is_some_and(|queue| queue.kind == "AWS::SQS::Queue" && queue.on("/FifoQueue"));
    if fifo && size > 10.0 {
        findings.resource(SOURCE_BATCH, resource.logical_id, format!("a FIFO queue gives 10, not {size}"));
    }
}

/// Pollers that find no room call, are throttled, and wait: lag goes up and down by itself.
fn concurrency(template: &Template<'_>, mapping: &Mapping<'_>, findings: &mut Findings<'_>) {
    let Some(reserved) =
        mapping.function.and_then(|function| function.number("/ReservedConcurrentExecutions"))
    else {
        return;
    };
    let resource = mapping.resource;
    let pollers = match mapping.source {
        Source::Kafka => resource.number("/ProvisionedPollerConfig/MaximumPollers").or_else(|| {
            let topic = resource.list("/Topics").first()?.as_str()?;
            template.partitions(topic)
        }),
        Source::Stream => mapping
            .polled
            .and_then(|stream| stream.number("/ShardCount"))
            .map(|shards| shards * resource.number("/ParallelizationFactor").unwrap_or(1.0)),
        Source::Queue => resource.number("/ScalingConfig/MaximumConcurrency"),
        Source::TableStream => None,
    };
    if let Some(pollers) = pollers.filter(|pollers| *pollers > reserved) {
        findings.resource(
            SOURCE_CONCURRENCY,
            resource.logical_id,
            format!("{pollers} pollers call a function with {reserved} executions"),
        );
    }
}

fn may_read(
    template: &Template<'_>,
    mapping: &Mapping<'_>,
    role: &Permissions<'_>,
    findings: &mut Findings<'_>,
) {
    let mut needed = mapping.source.actions().to_vec();
    let resource = mapping.resource;
    if mapping.source == Source::Kafka {
        let iam = mapping.polled.is_some_and(|cluster| {
            cluster.on("/ClientAuthentication/Sasl/Iam/Enabled")
                || cluster.kind == "AWS::MSK::ServerlessCluster"
        });
        if iam && resource.list("/SourceAccessConfigurations").is_empty() {
            needed.extend(KAFKA_IAM);
        }
    }
    let destination = resource.at("/DestinationConfig/OnFailure/Destination");
    let send = match destination.and_then(|destination| template.target(destination)).map(|found| found.kind)
    {
        Some("AWS::SQS::Queue") => Some("sqs:SendMessage"),
        Some("AWS::SNS::Topic") => Some("sns:Publish"),
        Some("AWS::S3::Bucket") => Some("s3:PutObject"),
        _ => None,
    };
    needed.extend(send);
    let missing = role.lacks(&needed);
    if !missing.is_empty() {
        findings.resource(
            SOURCE_PERMISSIONS,
            resource.logical_id,
            format!("its function's role lacks {}", missing.join(", ")),
        );
    }
}

/// The poller sits in the cluster's subnets with the cluster's security groups: these must let their own members
/// in at 9098, and out there and to 443.
fn network(template: &Template<'_>, mapping: &Mapping<'_>, findings: &mut Findings<'_>) {
    let Some(cluster) = mapping.polled.filter(|cluster| cluster.kind == "AWS::MSK::Cluster") else { return };
    way_to_lambda(template, mapping, &cluster, findings);
    let groups: Option<Vec<Resource<'_>>> = cluster
        .list("/BrokerNodeGroupInfo/SecurityGroups")
        .iter()
        .map(|group| template.target_of(&cluster, group))
        .collect();
    // Groups that the app does not declare: nothing is known of their rules.
    let Some(groups) = groups.filter(|groups| !groups.is_empty()) else { return };
    let opens = |inward: bool, port: f64| {
        let mut doors = groups.iter().flat_map(|group| template.doors(group));
        doors.any(|door| door.inward == inward && reaches(door.rule, port))
    };
    // A group without rules for the way out lets everything out.
    let closed = groups.iter().all(|group| template.doors(group).iter().any(|door| !door.inward));
    let missing: Vec<&str> = [
        (!opens(true, 9098.0), "in at 9098"),
        (closed && !opens(false, 9098.0), "out to 9098"),
        (closed && !opens(false, 443.0), "out to 443"),
    ]
    .into_iter()
    .filter(|(missing, _)| *missing)
    .map(|(_, what)| what)
    .collect();
    if !missing.is_empty() {
        findings.resource(
            SOURCE_NETWORK,
            mapping.resource.logical_id,
            format!("the cluster's security group does not let its own members {}", missing.join(", ")),
        );
    }
}

/// In on-demand mode the poller calls Lambda and STS from the cluster's subnets: through a default route, or
/// through endpoints of both. With a provisioned poller it does not.
fn way_to_lambda<'a>(
    template: &Template<'a>,
    mapping: &Mapping<'a>,
    cluster: &Resource<'a>,
    findings: &mut Findings<'_>,
) {
    if mapping.resource.has("/ProvisionedPollerConfig") {
        return;
    }
    let subnets: Option<Vec<Resource<'_>>> = cluster
        .list("/BrokerNodeGroupInfo/ClientSubnets")
        .iter()
        .map(|subnet| template.target_of(cluster, subnet))
        .collect();
    // Subnets that the app does not declare: nothing is known of their routes.
    let Some(subnets) = subnets.filter(|subnets| !subnets.is_empty()) else { return };
    let missing: Vec<&str> =
        ["lambda", "sts"].into_iter().filter(|service| !template.has_endpoint(service)).collect();
    let shut = subnets.iter().find(|subnet| !template.leads_out(subnet));
    if let Some(shut) = shut.filter(|_| !missing.is_empty()) {
        findings.resource(
            SOURCE_NETWORK,
            mapping.resource.logical_id,
            format!(
                "{} has no default route, and there is no endpoint of {}",
                shut.logical_id,
                missing.join(" and ")
            ),
        );
    }
}

fn reaches(rule: &Json, port: f64) -> bool {
    let bound = |key: &str| rule.get(key).and_then(number);
    let tcp = matches!(rule.get("IpProtocol").and_then(Json::as_str), Some("tcp" | "6"));
    let every = rule.get("IpProtocol").and_then(Json::as_str) == Some("-1");
    // The rule by which a group says that it has no way out.
    let nowhere = rule.get("CidrIp").and_then(Json::as_str) == Some("127.0.0.1/32");
    let ports = bound("FromPort").zip(bound("ToPort"));
    !nowhere && (every || tcp && ports.is_some_and(|(from, to)| (from..=to).contains(&port)))
}

fn queue(mapping: &Mapping<'_>, findings: &mut Findings<'_>) {
    let Some(queue) = mapping.polled.filter(|queue| queue.kind == "AWS::SQS::Queue") else { return };
    if !queue.has("/RedrivePolicy") {
        findings.resource(
            SOURCE_QUEUE,
            mapping.resource.logical_id,
            format!("a message of {} that fails comes back until it expires", queue.logical_id),
        );
    }
    let Some(function) = mapping.function else { return };
    let known = |resource: Resource<'_>, pointer: &str, default: f64| match resource.at(pointer) {
        None => Some(default),
        Some(json) => number(json),
    };
    let hidden = known(queue, "/VisibilityTimeout", 30.0);
    let runs = known(function, "/Timeout", 3.0);
    if let (Some(hidden), Some(runs)) = (hidden, runs)
        && hidden < runs
    {
        findings.resource(
            SOURCE_VISIBILITY,
            mapping.resource.logical_id,
            format!("a message is hidden for {hidden} s, and the function may run for {runs} s"),
        );
    }
}
