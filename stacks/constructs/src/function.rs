//! Lambda functions: Rust on arm64, with a log group, a role of their own and what they need.

use std::collections::BTreeMap;

use cfn::{Handle, Json, Scope, Value};
use cfn_resources::{
    cloudwatch::AlarmStatistic,
    ec2::SecurityGroup,
    iam::Role,
    lambda::{
        self, EventInvokeConfig, EventInvokeConfigDestinationConfig, EventInvokeConfigOnFailure,
        EventSourceMapping, EventSourceMappingAmazonManagedKafkaEventSourceConfig,
        EventSourceMappingDestinationConfig, EventSourceMappingFunctionResponseTypes,
        EventSourceMappingOnFailure, EventSourceMappingProvisionedPollerConfig, FunctionArchitectures,
        FunctionCode, FunctionEnvironment, FunctionLoggingConfig, FunctionLoggingConfigLogFormat,
        FunctionRuntime, FunctionVpcConfig, Permission, PermissionRequired,
    },
};
use serde_json::json;

use crate::{
    DataPolicy,
    alarm::Metric,
    connections,
    iam::{self, Trust},
    kafka::{KafkaCluster, KafkaTopic},
    logs,
    needs::Needs,
    network::{Network, as_text},
    queue::DeadLetterQueue,
    stream::DataStream,
};

/// What a function is made for.
#[derive(Clone, Copy, Debug)]
pub struct FunctionProperties<'a> {
    /// The asset that holds its code; its name is that of the cargo package.
    pub asset: &'a str,
    /// What it does.
    pub description: &'a str,
    /// MiB; Lambda gives processor time in proportion.
    pub memory_mib: i64,
    /// Seconds, at most 900.
    pub timeout_seconds: i64,
    /// Instances at once, at most; none leaves it to the account's limit.
    pub reserved_concurrency: Option<i64>,
    /// Days that its logs are kept.
    pub log_retention_days: u32,
    /// What happens to its logs with the stack.
    pub data: DataPolicy,
}

/// A function.
#[derive(Clone, Debug)]
pub struct Function {
    /// The function.
    pub function: Handle<lambda::Function>,
    /// Its role.
    pub role: Handle<Role>,
    /// Its security group, if it runs in the network.
    pub security_group: Option<Handle<SecurityGroup>>,
}

/// How a topic's records come to a function.
#[derive(Clone, Copy, Debug)]
pub struct KafkaSource<'a> {
    /// The cluster.
    pub cluster: &'a KafkaCluster,
    /// The topic.
    pub topic: &'a KafkaTopic,
    /// The consumer group.
    pub group: &'a str,
    /// Records in a batch, at most.
    pub batch_size: i64,
    /// How long a batch waits for more, in seconds.
    pub window_seconds: i64,
    /// Event pollers, at least and at most; no more than the topic has partitions.
    pub pollers: (i64, i64),
    /// How often a batch is tried again. To be said: without it, and with a destination for failures, Lambda gives a
    /// batch up after ten retries, which a database that is away for some minutes uses up.
    pub retries: i64,
    /// Where batches go that are given up.
    pub on_failure: &'a DeadLetterQueue,
}

/// How a stream's records come to a function.
#[derive(Clone, Copy, Debug)]
pub struct StreamSource<'a> {
    /// The stream.
    pub stream: &'a DataStream,
    /// Records in a batch, at most.
    pub batch_size: i64,
    /// How long a batch waits for more, in seconds.
    pub window_seconds: i64,
    /// Batches of a shard at once.
    pub parallelization_factor: i64,
    /// How often a batch is tried again.
    pub retries: i64,
    /// Records older than this are given up, in seconds.
    pub record_age_seconds: i64,
    /// Where batches go that are given up.
    pub on_failure: &'a DeadLetterQueue,
}

/// What Lambda does with network interfaces for a function or a poller in a VPC. None of these actions takes a
/// resource that is known beforehand.
const NETWORK_INTERFACE_ACTIONS: [&str; 6] = [
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcs",
];

impl Function {
    /// A function with its needs. With a network it runs in the private subnets, in a group of its own that
    /// reaches its peers and HTTPS.
    #[track_caller]
    pub fn new(
        scope: &mut Scope<'_>,
        name: &str,
        properties: &FunctionProperties<'_>,
        network: Option<&Network>,
        needs: &Needs,
    ) -> Self {
        let mut scope = scope.child(name);
        let log_group = logs::log_group(&mut scope, "Logs", properties.log_retention_days, properties.data);
        let mut statements = needs.policy();
        statements.push(iam::allow(
            "WriteLogs",
            &["logs:CreateLogStream", "logs:PutLogEvents"],
            &[as_text(&log_group.arn())],
        ));
        if network.is_some() {
            statements.push(iam::allow(
                "NetworkInterfaces",
                &NETWORK_INTERFACE_ACTIONS,
                &[Value::Literal("*".to_owned())],
            ));
        }
        let role = iam::role(
            &mut scope,
            "Role",
            &format!("The function {}", properties.asset),
            &Trust::service("lambda.amazonaws.com"),
            &[],
            statements,
        );
        if network.is_some() {
            for code in ["FG402", "CKV_AWS_111"] {
                scope.waive(
                    role.raw(),
                    code,
                    "EC2's actions on network interfaces take no resource that is known before Lambda makes them",
                );
            }
        }
        let security_group = network.map(|network| {
            let group = network.security_group(
                &mut scope,
                "SecurityGroup",
                &format!("The function {}", properties.asset),
                Vec::new(),
            );
            connections::allow_https(&mut scope, &group);
            for peer in needs.peers() {
                connections::allow(&mut scope, &group, peer);
            }
            group
        });
        let (bucket, key) = (scope.logical_id("CodeBucket"), scope.logical_id("CodeKey"));
        let bucket = scope.asset_field(&bucket, properties.asset, "s3_bucket");
        let key: cfn::Parameter<String> = scope.asset_field(&key, properties.asset, "s3_key");
        let variables: BTreeMap<String, Value<Json>> = needs
            .environment()
            .iter()
            .map(|(name, value)| (name.clone(), Value::Literal(cfn::Property::to_json(value))))
            .collect();
        let mut function = lambda::Function::new(
            FunctionCode::new().s3_bucket(bucket.value()).s3_key(key.value()),
            role.arn(),
        )
        .description(properties.description)
        .runtime(FunctionRuntime::ProvidedAl2023)
        .architectures([FunctionArchitectures::Arm64])
        .handler("bootstrap")
        .memory_size(properties.memory_mib)
        .timeout(properties.timeout_seconds)
        .logging_config(
            FunctionLoggingConfig::new()
                .log_group(log_group.reference())
                .log_format(FunctionLoggingConfigLogFormat::Json),
        )
        .environment(FunctionEnvironment::new().variables(variables));
        if let Some(concurrency) = properties.reserved_concurrency {
            function = function.reserved_concurrent_executions(concurrency);
        }
        if let (Some(network), Some(group)) = (network, &security_group) {
            function = function.vpc_config(
                FunctionVpcConfig::new()
                    .subnet_ids(network.private_subnet_ids())
                    .security_group_ids([group.group_id()]),
            );
        }
        let function = scope.add("Resource", function);
        scope.waive(
            function.raw(),
            "CKV_AWS_173",
            "variables name topics, tables and hosts; no secret is among them, and Lambda encrypts them at rest",
        );
        scope.waive(
            function.raw(),
            "CKV_AWS_116",
            "failures go to the on-failure destination of the event source mapping or of asynchronous invocation",
        );
        if network.is_none() {
            scope.waive(
                function.raw(),
                "CKV_AWS_117",
                "it calls AWS APIs alone: a network of our own would add a path to fail and none to protect",
            );
        }
        Self { function, role, security_group }
    }

    /// What a function needs to be fed from a topic, beside reading it: Lambda's pollers act as the function.
    #[must_use]
    pub fn needs_of_kafka_source(
        needs: Needs,
        cluster: &KafkaCluster,
        topic: &KafkaTopic,
        group: &str,
        dead_letters: &DeadLetterQueue,
    ) -> Needs {
        needs
            .consumes(cluster, topic, group)
            .statements(vec![iam::allow(
                "DescribeKafka",
                &[
                    "kafka:DescribeCluster",
                    "kafka:DescribeClusterV2",
                    "kafka:GetBootstrapBrokers",
                    "kafka-cluster:DescribeClusterDynamicConfiguration",
                ],
                &[as_text(&cluster.arn())],
            )])
            .statements(dead_letters.grant_send("SendDeadLetters"))
    }

    /// What a function needs to be fed from a stream.
    #[must_use]
    pub fn needs_of_stream_source(
        needs: Needs,
        stream: &DataStream,
        dead_letters: &DeadLetterQueue,
    ) -> Needs {
        needs
            .statements(stream.grant_read("ReadStream"))
            .statements(dead_letters.grant_send("SendDeadLetters"))
    }

    /// Feeds it from a topic, by pollers of its own (provisioned mode), which need no endpoints for Lambda and
    /// STS. Failures of single records are reported; a batch that is given up goes to the dead letters.
    #[track_caller]
    pub fn kafka_source(&self, scope: &mut Scope<'_>, name: &str, source: &KafkaSource<'_>) {
        let destination = EventSourceMappingOnFailure::new().destination(source.on_failure.arn());
        scope.add(
            name,
            EventSourceMapping::new(as_text(&self.function.reference()))
                .event_source_arn(as_text(&source.cluster.arn()))
                .topics([source.topic.name.clone()])
                .starting_position("TRIM_HORIZON")
                .amazon_managed_kafka_event_source_config(
                    EventSourceMappingAmazonManagedKafkaEventSourceConfig::new()
                        .consumer_group_id(source.group),
                )
                .batch_size(source.batch_size)
                .maximum_batching_window_in_seconds(source.window_seconds)
                .bisect_batch_on_function_error(true)
                .maximum_retry_attempts(source.retries)
                .function_response_types([EventSourceMappingFunctionResponseTypes::ReportBatchItemFailures])
                .provisioned_poller_config(
                    EventSourceMappingProvisionedPollerConfig::new()
                        .minimum_pollers(source.pollers.0)
                        .maximum_pollers(source.pollers.1),
                )
                .destination_config(EventSourceMappingDestinationConfig::new().on_failure(destination)),
        );
    }

    /// Feeds it from a stream.
    #[track_caller]
    pub fn stream_source(
        &self,
        scope: &mut Scope<'_>,
        name: &str,
        source: &StreamSource<'_>,
    ) -> Handle<EventSourceMapping> {
        let destination = EventSourceMappingOnFailure::new().destination(source.on_failure.arn());
        scope.add(
            name,
            EventSourceMapping::new(as_text(&self.function.reference()))
                .event_source_arn(source.stream.arn())
                .starting_position("TRIM_HORIZON")
                .batch_size(source.batch_size)
                .maximum_batching_window_in_seconds(source.window_seconds)
                .parallelization_factor(source.parallelization_factor)
                .maximum_retry_attempts(source.retries)
                .maximum_record_age_in_seconds(source.record_age_seconds)
                .bisect_batch_on_function_error(true)
                .function_response_types([EventSourceMappingFunctionResponseTypes::ReportBatchItemFailures])
                .destination_config(EventSourceMappingDestinationConfig::new().on_failure(destination)),
        )
    }

    /// Lets a service invoke it for one source, asynchronously: twice more after a failure, then to the dead
    /// letters. The role needs [`DeadLetterQueue::grant_send`].
    #[track_caller]
    pub fn invoked_by(
        &self,
        scope: &mut Scope<'_>,
        name: &str,
        principal: &str,
        source_arn: Value<String>,
        dead_letters: &DeadLetterQueue,
    ) {
        let mut scope = scope.child(name);
        self.permit(&mut scope, "Permission", principal, source_arn);
        scope.add(
            "Invocation",
            EventInvokeConfig::new(as_text(&self.function.reference()), "$LATEST")
                .maximum_retry_attempts(2)
                .destination_config(
                    EventInvokeConfigDestinationConfig::new()
                        .on_failure(EventInvokeConfigOnFailure::new(dead_letters.arn())),
                ),
        );
    }

    /// Lets a service invoke it for one more source. What happens after a failure is the function's, as
    /// [`Function::invoked_by`] has set it.
    #[track_caller]
    pub fn permit(&self, scope: &mut Scope<'_>, name: &str, principal: &str, source_arn: Value<String>) {
        scope.add(
            name,
            Permission::new(PermissionRequired {
                action: Value::Literal("lambda:InvokeFunction".to_owned()),
                function_name: as_text(&self.function.reference()),
                principal: Value::Literal(principal.to_owned()),
            })
            .source_arn(source_arn),
        );
    }

    /// A metric of the function.
    #[must_use]
    pub fn metric(&self, name: &'static str, statistic: AlarmStatistic) -> Metric {
        Metric {
            namespace: "AWS/Lambda",
            name,
            dimensions: BTreeMap::from([("FunctionName", as_text(&self.function.reference()))]),
            statistic,
        }
    }

    /// A widget of a dashboard with the function's invocations, errors, throttles and duration.
    #[must_use]
    pub fn widget(&self, title: &str) -> Json {
        let name = cfn::Property::to_json(&as_text(&self.function.reference()));
        json!({
            "type": "metric", "width": 12, "height": 6,
            "properties": {
                "title": title, "view": "timeSeries", "period": 60, "stat": "Sum",
                "metrics": [
                    ["AWS/Lambda", "Invocations", "FunctionName", name],
                    ["AWS/Lambda", "Errors", "FunctionName", name],
                    ["AWS/Lambda", "Throttles", "FunctionName", name],
                    ["AWS/Lambda", "Duration", "FunctionName", name, { "stat": "p95", "yAxis": "right" }]
                ]
            }
        })
    }
}
