//! Event source mappings on the real parts: real records, real functions, counted.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use local_environment::event_sources::status::MappingStatus;
use serde_json::{Value as Json, json};
use support::{
    Environment,
    aws::Aws,
    cloudformation::CloudFormation,
    function::Function,
    topics::{Topics, Written},
    wait_for,
};

const MAPPINGS: &str = "/2015-03-31/event-source-mappings/";

/// An environment with a cluster in it.
struct House {
    environment: Environment,
    aws: Aws,
    topics: Topics,
    cluster: String,
}

impl House {
    fn new() -> Self {
        let environment = Environment::new();
        let state = environment.up();
        let cloudformation = CloudFormation::at(&state.aws.endpoint_url);
        let template = json!({
            "Resources": { "Cluster": { "Type": "AWS::MSK::Cluster", "Properties": {
                "ClusterName": "tests", "KafkaVersion": "3.9.x.kraft", "NumberOfBrokerNodes": 3,
                "BrokerNodeGroupInfo": { "InstanceType": "kafka.m7g.large", "ClientSubnets": ["subnet-1"] } } } },
            "Outputs": { "Arn": { "Value": { "Fn::GetAtt": ["Cluster", "Arn"] } } },
        });
        assert_eq!(cloudformation.deploy("cluster", &template), "CREATE_COMPLETE");
        Self {
            aws: Aws::at(&state.aws.endpoint_url),
            topics: Topics::at(&state.kafka.bootstrap_servers),
            cluster: cloudformation.output("cluster", "Arn").unwrap(),
            environment,
        }
    }

    fn status(&self, uuid: &str) -> Option<MappingStatus> {
        self.environment.status().event_sources.into_iter().find(|mapping| mapping.uuid == uuid)
    }

    /// The status that counts this many records, whatever became of them; it is written once a second.
    fn status_after(&self, uuid: &str, records: u64) -> MappingStatus {
        let mut found = MappingStatus::default();
        wait_for("the records to be counted", || {
            found = self.status(uuid).unwrap_or_default();
            found.records + found.given_up + found.filtered == records && found.in_flight == 0
        });
        found
    }

    /// Makes a mapping and waits until it runs; its id.
    fn map(&self, settings: &Json) -> String {
        let made = self.aws.lambda("POST", MAPPINGS, settings);
        let uuid = made["UUID"].as_str().unwrap().to_owned();
        wait_for("the mapping to run", || self.status(&uuid).is_some_and(|status| status.state == "Running"));
        uuid
    }

    /// Makes a mapping of a topic, in a group of the function's name; its id.
    fn map_topic(&self, function: &Function, topic: &str, settings: &Json) -> String {
        let mut all = json!({
            "EventSourceArn": self.cluster,
            "FunctionName": function.name,
            "Topics": [topic],
            "StartingPosition": "TRIM_HORIZON",
            "MaximumBatchingWindowInSeconds": 0,
            "AmazonManagedKafkaEventSourceConfig": { "ConsumerGroupId": function.name },
            "ProvisionedPollerConfig": { "MinimumPollers": 1, "MaximumPollers": 4 },
        });
        for (key, value) in settings.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        self.map(&all)
    }

    fn function(&self, name: &str, orders: &Json, settings: &Json) -> Function {
        Function::create(&self.environment, &self.aws, name, orders, settings)
    }

    fn write(&self, topic: &str, partitions: i32, values: impl IntoIterator<Item = String>) {
        let values: Vec<String> = values.into_iter().collect();
        let records = values.iter().zip(0..).map(|(value, index)| Written {
            partition: index % partitions,
            key: "account",
            value,
            timestamp_ms: None,
        });
        self.topics.write(topic, records);
    }

    /// Records that the function's group has not committed.
    fn lag(&self, topic: &str, function: &Function) -> i64 {
        self.environment.ask(&["lag", "--topic", topic, "--group", &function.name])["lag_records"]
            .as_i64()
            .unwrap()
    }

    #[track_caller]
    fn wait_until_committed(&self, topic: &str, function: &Function) {
        wait_for("all to be committed", || self.lag(topic, function) == 0);
    }
}

fn values(prefix: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{prefix}-{number}")).collect()
}

/// Fails the test unless each value was done, once.
#[track_caller]
fn assert_each_once(done: &BTreeMap<String, usize>, expected: &[String]) {
    let repeated: Vec<_> = done.iter().filter(|(_, times)| **times != 1).collect();
    assert!(repeated.is_empty(), "done more than once: {repeated:?}");
    let missing: Vec<_> = expected.iter().filter(|value| !done.contains_key(*value)).collect();
    assert!(missing.is_empty(), "not done: {missing:?}");
    assert_eq!(done.len(), expected.len());
}

fn all_well(house: &House) {
    house.topics.create("well", 4);
    let function = house.function("well", &json!({ "keep_events": true }), &json!({}));
    let uuid =
        house.map_topic(&function, "well", &json!({ "BatchSize": 50, "MaximumBatchingWindowInSeconds": 1 }));
    let expected = values("trade", 0..2_000);
    house.write("well", 4, expected.clone());
    wait_for("2,000 records to be done", || function.done().len() == expected.len());
    assert_each_once(&function.done(), &expected);
    function.assert_order_and_concurrency();
    house.wait_until_committed("well", &function);
    let invocations = function.invocations();
    assert!(invocations.iter().all(|invocation| invocation.records.len() <= 50));
    let event = &invocations[0].event;
    assert_eq!(event["eventSource"], "aws:kafka");
    assert_eq!(event["eventSourceArn"], house.cluster.as_str());
    let (part, records) = event["records"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(*part, format!("well-{}", records[0]["partition"]));
    assert_eq!(records[0]["headers"], json!([{ "trace": [1, -56] }]));
    assert_eq!(records[0]["timestampType"], "CREATE_TIME");
    let status = house.status_after(&uuid, 2_000);
    assert_eq!((status.records, status.failures, status.given_up), (2_000, 0, 0), "{status:?}");
    wait_for("the lag as a metric", || house.aws.highest("well", "OffsetLag").is_some());
    assert!(status.in_flight_max >= 2 && status.in_flight_max <= 4, "pollers did not scale: {status:?}");
}

fn partial_failures(house: &House) {
    house.topics.create("partial", 3);
    let failing: Vec<String> = values("trade", 0..300).into_iter().step_by(10).collect();
    let function = house.function("partial", &json!({ "report": true, "fail_once": failing }), &json!({}));
    let uuid = house.map_topic(
        &function,
        "partial",
        &json!({
            "BatchSize": 20,
            "BisectBatchOnFunctionError": true,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
        }),
    );
    let expected = values("trade", 0..300);
    house.write("partial", 3, expected.clone());
    wait_for("300 records to be done", || function.done().len() == expected.len());
    assert_each_once(&function.done(), &expected);
    function.assert_order_and_concurrency();
    house.wait_until_committed("partial", &function);
    let delivered: usize = function.invocations().iter().map(|invocation| invocation.records.len()).sum();
    assert_eq!(delivered, 300 + 30, "only the items that were named come again");
    assert_eq!(house.status_after(&uuid, 300).given_up, 0);
}

fn poison(house: &House) {
    house.topics.create("poison", 1);
    let queue = house.aws.create_queue("dead");
    let function = house.function("poison", &json!({ "fail": ["trade-37"] }), &json!({}));
    // What is there before the mapping is read too, and comes in one batch.
    house.write("poison", 1, values("trade", 0..64));
    let uuid = house.map_topic(
        &function,
        "poison",
        &json!({
            "BatchSize": 64,
            "MaximumBatchingWindowInSeconds": 1,
            "BisectBatchOnFunctionError": true,
            "MaximumRetryAttempts": 1,
            "DestinationConfig": { "OnFailure": { "Destination": queue } },
        }),
    );
    house.wait_until_committed("poison", &function);
    let mut expected = values("trade", 0..64);
    expected.remove(37);
    assert_each_once(&function.done(), &expected);
    function.assert_order_and_concurrency();
    let told = house.aws.receive("dead");
    assert_eq!(told.len(), 1, "{told:?}");
    let batch = &told[0]["KafkaBatchInfo"];
    assert_eq!((&batch["batchSize"], &batch["eventSourceArn"]), (&json!(1), &json!(house.cluster)));
    assert_eq!(batch["recordsInfo"]["poison-0"]["firstRecordOffset"], "37");
    assert_eq!(told[0]["requestContext"]["condition"], "RetryAttemptsExhausted");
    assert_eq!(told[0]["responseContext"]["functionError"], "Unhandled");
    let status = house.status_after(&uuid, 64);
    assert_eq!((status.given_up, status.destination_sends), (1, 1), "{status:?}");
    let alone = function
        .invocations()
        .iter()
        .filter(|one| one.records.len() == 1 && one.records[0][1] == "37")
        .count();
    assert_eq!(alone, 2, "one retry");
}

/// One execution for four pollers, and a process that ends in the middle of a batch.
fn killed_and_throttled(house: &House) {
    house.topics.create("narrow", 4);
    let orders = json!({ "seconds": 0.05, "die_once_at": ["trade-55"] });
    let function = house.function("narrow", &orders, &json!({}));
    let _ = house.aws.lambda(
        "PUT",
        "/2017-10-31/functions/narrow/concurrency",
        &json!({ "ReservedConcurrentExecutions": 1 }),
    );
    let uuid = house.map_topic(&function, "narrow", &json!({ "BatchSize": 5, "MaximumRetryAttempts": 1 }));
    let expected = values("trade", 0..200);
    house.write("narrow", 4, expected.clone());
    wait_for("200 records to be done", || function.done().len() == expected.len());
    assert_each_once(&function.done(), &expected);
    function.assert_order_and_concurrency();
    house.wait_until_committed("narrow", &function);
    let status = house.status_after(&uuid, 200);
    assert!(status.throttles > 0, "{status:?}");
    assert_eq!((status.failures, status.given_up), (1, 0), "a throttle is no attempt: {status:?}");
    let cut_short = function.invocations().iter().filter(|invocation| invocation.ended.is_none()).count();
    assert_eq!(cut_short, 1);
}

/// Records that are too old when they are read go to a topic, whole, and are never sent.
fn too_old(house: &House) {
    house.topics.create("aged", 1);
    house.topics.create("aged-failed", 1);
    let function = house.function("aged", &json!({}), &json!({}));
    let all = values("trade", 0..20);
    let an_hour_ago = local_environment::event_sources::dispatch::now_ms() - 3_600_000;
    let records = all.iter().enumerate().map(|(index, value)| Written {
        partition: 0,
        key: "account",
        value,
        timestamp_ms: (index % 2 == 0).then_some(an_hour_ago),
    });
    house.topics.write("aged", records);
    let uuid = house.map_topic(
        &function,
        "aged",
        &json!({
            "MaximumRecordAgeInSeconds": 60,
            "DestinationConfig": { "OnFailure": { "Destination": "kafka://aged-failed" } },
        }),
    );
    house.wait_until_committed("aged", &function);
    let fresh: Vec<String> = all.into_iter().skip(1).step_by(2).collect();
    assert_each_once(&function.done(), &fresh);
    let failed = house.topics.read("aged-failed");
    assert_eq!(failed.len(), 10);
    for ((key, text), offset) in failed.iter().zip((0..).step_by(2)) {
        let document: Json = serde_json::from_str(text).unwrap();
        assert_eq!(key, "account", "the record's own key");
        assert_eq!(document["requestContext"]["condition"], "RecordAgeExceeded");
        assert_eq!(document["responseContext"], Json::Null);
        assert_eq!(document["payload"]["records"]["aged-0"][0]["offset"], offset);
    }
    assert_eq!(house.status_after(&uuid, 20).given_up, 10);
}

fn filtered(house: &House) {
    house.topics.create("wanted", 2);
    let function = house.function("wanted", &json!({}), &json!({}));
    let pattern = json!({ "value": { "side": ["buy"], "price": [{ "numeric": [">=", 50] }] } }).to_string();
    let uuid = house.map_topic(
        &function,
        "wanted",
        &json!({ "FilterCriteria": { "Filters": [{ "Pattern": pattern }] } }),
    );
    let side = |price: i32| if price % 2 == 0 { "buy" } else { "sell" };
    let all: Vec<String> =
        (0..100).map(|price| json!({ "side": side(price), "price": price }).to_string()).collect();
    house.write("wanted", 2, all.clone());
    house.wait_until_committed("wanted", &function);
    let expected: Vec<String> = all.into_iter().skip(50).step_by(2).collect();
    assert_each_once(&function.done(), &expected);
    assert_eq!(house.status_after(&uuid, 100).filtered, 75);
}

/// A bucket gets the whole event with the failure record, an SNS topic the record alone.
fn other_destinations(house: &House) {
    house.aws.create_bucket("failed-batches");
    let notices = house.aws.create_topic_into("failed-batches", &house.aws.create_queue("notices"));
    for (name, destination) in [("bucket", "arn:aws:s3:::failed-batches"), ("notices", notices.as_str())] {
        house.topics.create(name, 1);
        let function = house.function(name, &json!({ "fail": ["trade-1"] }), &json!({}));
        house.write(name, 1, values("trade", 0..3));
        let uuid = house.map_topic(
            &function,
            name,
            &json!({
                "MaximumRetryAttempts": 0,
                "MaximumBatchingWindowInSeconds": 1,
                "DestinationConfig": { "OnFailure": { "Destination": destination } },
            }),
        );
        let status = house.status_after(&uuid, 3);
        assert_eq!(
            (status.given_up, status.destination_sends, status.records),
            (3, 1, 0),
            "the batch, whole"
        );
    }
    let objects = house.aws.objects("failed-batches");
    let [(key, document)] = &objects[..] else { panic!("{objects:?}") };
    assert!(key.starts_with("aws/lambda/") && key.contains("/bucket-0/20"), "{key}");
    assert_eq!(document["KafkaBatchInfo"]["batchSize"], 3);
    let event: Json = serde_json::from_str(document["payload"].as_str().unwrap()).unwrap();
    assert_eq!(event["records"]["bucket-0"].as_array().unwrap().len(), 3);
    let mut told = Vec::new();
    wait_for("the notice", || {
        told.extend(house.aws.receive("notices"));
        !told.is_empty()
    });
    let message: Json = serde_json::from_str(told[0]["Message"].as_str().unwrap()).unwrap();
    assert_eq!(message["KafkaBatchInfo"]["recordsInfo"]["notices-0"]["lastRecordOffset"], "2");
    assert_eq!(message["requestContext"]["approximateInvokeCount"], 1);
    assert!(message.get("payload").is_none());
}

fn starting_positions(house: &House) {
    house.topics.create("starts", 2);
    let noon = local_environment::event_sources::dispatch::now_ms() - 3_600_000;
    let old = values("trade", 0..20);
    let records = old.iter().zip(0..).map(|(value, index)| Written {
        partition: index % 2,
        key: "account",
        value,
        timestamp_ms: Some(noon - 100_000 + i64::from(index) * 10_000),
    });
    house.topics.write("starts", records);
    let since = house.function("starts-since", &json!({}), &json!({}));
    let latest = house.function("starts-latest", &json!({}), &json!({}));
    #[allow(clippy::cast_precision_loss)]
    let seconds = noon as f64 / 1_000.0;
    let _ = house.map_topic(
        &since,
        "starts",
        &json!({ "StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": seconds }),
    );
    let _ = house.map_topic(&latest, "starts", &json!({ "StartingPosition": "LATEST" }));
    house.wait_until_committed("starts", &latest);
    house.wait_until_committed("starts", &since);
    house.environment.crash("event-sources");
    house.write("starts", 2, values("trade", 20..30));
    for (function, range) in [(&since, 10..30), (&latest, 20..30)] {
        house.wait_until_committed("starts", function);
        let expected = values("trade", range);
        wait_for("the records since then", || function.done().len() >= expected.len());
        assert_each_once(&function.done(), &expected);
    }
}

#[test]
fn a_topic_reaches_its_function_as_lambda_would_bring_it() {
    let house = House::new();
    all_well(&house);
    partial_failures(&house);
    poison(&house);
    killed_and_throttled(&house);
    too_old(&house);
    filtered(&house);
    other_destinations(&house);
    starting_positions(&house);
}

#[test]
fn nothing_is_lost_when_the_broker_the_runner_or_the_emulator_is_killed() {
    let house = House::new();
    house.topics.create("faults", 3);
    let function = house.function("faults", &json!({ "seconds": 0.02 }), &json!({}));
    let _ = house.map_topic(&function, "faults", &json!({ "BatchSize": 10 }));
    let mut expected = Vec::new();
    for (part, range) in [("kafka", 0..300), ("event-sources", 300..600), ("aws", 600..900)] {
        let written = values("trade", range.clone());
        house.write("faults", 3, written.clone());
        expected.extend(written);
        wait_for("records to flow", || function.done().len() > range.start + 50);
        // What the emulator holds is saved within a second or so.
        let saved = house.environment.root().join("emulator/state/lambda.json");
        wait_for("the mapping to be saved", || {
            std::fs::read_to_string(&saved).is_ok_and(|text| text.contains("\"faults\""))
        });
        house.environment.crash(part);
    }
    wait_for("900 records to be done", || function.done().len() == expected.len());
    house.wait_until_committed("faults", &function);
    let done = function.done();
    assert!(expected.iter().all(|value| done.contains_key(value)));
    let again: usize = done.values().map(|times| times - 1).sum();
    assert!(again <= 3 * 3 * 10, "{again} records came again: more than three kills had in flight");
    println!("900 records, three kills: lost 0, again {again}");
}

#[test]
fn a_mapping_follows_its_stack() {
    let house = House::new();
    house.topics.create("orders", 2);
    let function = house.function("orders", &json!({}), &json!({}));
    let state = local_environment::control::State::read(
        &local_environment::layout::Layout::new(house.environment.root(), None).unwrap(),
    )
    .unwrap();
    let cloudformation = CloudFormation::at(&state.aws.endpoint_url);
    let template = |batch_size: u32, enabled: bool, position: &str| {
        json!({
            "Resources": { "Mapping": { "Type": "AWS::Lambda::EventSourceMapping", "Properties": {
                "EventSourceArn": house.cluster, "FunctionName": "orders", "Topics": ["orders"],
                "StartingPosition": position, "BatchSize": batch_size, "Enabled": enabled,
                "MaximumRetryAttempts": 3, "BisectBatchOnFunctionError": "true",
                "AmazonManagedKafkaEventSourceConfig": { "ConsumerGroupId": "orders" },
                "ProvisionedPollerConfig": { "MinimumPollers": "1", "MaximumPollers": 2 } } } },
            "Outputs": {
                "Id": { "Value": { "Fn::GetAtt": ["Mapping", "Id"] } },
                "Arn": { "Value": { "Fn::GetAtt": ["Mapping", "EventSourceMappingArn"] } },
            },
        })
    };
    let deploy = |template: &Json| {
        let status = cloudformation.deploy("mapped", template);
        assert!(
            status.ends_with("_COMPLETE") && !status.contains("ROLLBACK"),
            "{:?}",
            cloudformation.reasons("mapped")
        );
        cloudformation.output("mapped", "Id").unwrap()
    };
    let id = deploy(&template(10, true, "TRIM_HORIZON"));
    assert!(cloudformation.output("mapped", "Arn").unwrap().ends_with(&format!("event-source-mapping:{id}")));
    let shown = house.aws.lambda("GET", &format!("{MAPPINGS}{id}"), &Json::Null);
    assert_eq!((&shown["BatchSize"], &shown["State"]), (&json!(10), &json!("Enabled")));
    assert_eq!(shown["ProvisionedPollerConfig"], json!({ "MinimumPollers": 1, "MaximumPollers": 2 }));
    assert_eq!((&shown["BisectBatchOnFunctionError"], &shown["Topics"]), (&json!(true), &json!(["orders"])));
    let listed = house.aws.lambda("GET", MAPPINGS, &Json::Null);
    assert_eq!(listed["EventSourceMappings"].as_array().unwrap().len(), 1);
    wait_for("the mapping to run", || house.status(&id).is_some_and(|status| status.state == "Running"));

    function.order(&json!({ "seconds": 1.5 }));
    house.write("orders", 2, values("trade", 0..20));
    wait_for("a batch to be in flight", || !function.invocations().is_empty());
    assert_eq!(deploy(&template(5, false, "TRIM_HORIZON")), id, "a change keeps the mapping");
    wait_for("the mapping to rest", || house.status(&id).is_some_and(|status| status.state == "Disabled"));
    let cut_short = function.invocations().iter().filter(|invocation| invocation.ended.is_none()).count();
    assert_eq!(cut_short, 0, "what was in flight was waited for");

    function.order(&json!({}));
    assert_eq!(deploy(&template(5, true, "TRIM_HORIZON")), id);
    house.wait_until_committed("orders", &function);
    assert_each_once(&function.done(), &values("trade", 0..20));

    let another = deploy(&template(5, true, "LATEST"));
    assert_ne!(another, id, "another starting position is another mapping");
    wait_for("the other mapping alone", || {
        let status = house.environment.status().event_sources;
        status.len() == 1 && status[0].uuid == another && status[0].state == "Running"
    });
    cloudformation.delete("mapped");
    wait_for("no mapping", || house.environment.status().event_sources.is_empty());

    let _ = house.aws.json(
        "kinesis",
        "Kinesis_20131202.CreateStream",
        &json!({ "StreamName": "s", "ShardCount": 1 }),
    );
    let refused = house.aws.lambda(
        "POST",
        MAPPINGS,
        &json!({
            "EventSourceArn": "arn:aws:kinesis:us-east-1:000000000000:stream/s", "FunctionName": "orders",
            "StartingPosition": "LATEST", "TumblingWindowInSeconds": 30,
        }),
    );
    let uuid = refused["UUID"].as_str().unwrap();
    wait_for("the mapping to be refused", || {
        house.status(uuid).is_some_and(|status| status.state == "Refused")
    });
    assert!(house.status(uuid).unwrap().reason.unwrap().contains("TumblingWindowInSeconds"));
    let (status, answer) = house.aws.try_lambda("POST", MAPPINGS, &json!({
        "EventSourceArn": house.cluster, "FunctionName": "nobody", "Topics": ["orders"], "StartingPosition": "LATEST",
    }));
    assert_eq!(
        (status, answer["message"].as_str().unwrap_or_default().contains("nobody")),
        (400, true),
        "{answer}"
    );
}
