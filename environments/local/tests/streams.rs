//! Streams on the real parts: their event source mappings, their limits, and shards that are split amid traffic.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use local_environment::event_sources::status::MappingStatus;
use serde_json::{Value as Json, json};
use support::{Environment, aws::Aws, cloudformation::CloudFormation, function::Function, wait_for};

const KEYS: usize = 40;

struct House {
    environment: Environment,
    aws: Aws,
}

impl House {
    fn new() -> Self {
        let environment = Environment::new();
        let aws = Aws::at(&environment.up().aws.endpoint_url);
        Self { environment, aws }
    }

    fn kinesis(&self, operation: &str, ask: &Json) -> Json {
        self.aws.json("kinesis", &format!("Kinesis_20131202.{operation}"), ask)
    }

    fn create(&self, stream: &str, shards: u32) {
        let _ = self.kinesis("CreateStream", &json!({ "StreamName": stream, "ShardCount": shards }));
    }

    /// Puts the values of a range, a call for each hundred; each key gets its values in their order.
    fn put(&self, stream: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
        let all: Vec<String> = numbers.clone().map(|number| format!("view-{number}")).collect();
        let records: Vec<Json> = numbers
            .zip(&all)
            .map(|(number, value)| {
                json!({ "Data": STANDARD.encode(value), "PartitionKey": format!("learner-{}", number % KEYS) })
            })
            .collect();
        for records in records.chunks(100) {
            let answer = self.kinesis("PutRecords", &json!({ "StreamName": stream, "Records": records }));
            assert_eq!(answer["FailedRecordCount"], 0, "{answer}");
        }
        all
    }

    fn map(&self, function: &Function, stream: &str, settings: &Json) -> String {
        let mut all = json!({
            "EventSourceArn": format!("arn:aws:kinesis:us-east-1:000000000000:stream/{stream}"),
            "FunctionName": function.name,
            "StartingPosition": "TRIM_HORIZON",
        });
        for (key, value) in settings.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        let made = self.aws.lambda("POST", "/2015-03-31/event-source-mappings/", &all);
        let uuid = made["UUID"].as_str().unwrap().to_owned();
        wait_for("the mapping to run", || self.status(&uuid).state == "Running");
        uuid
    }

    fn status(&self, uuid: &str) -> MappingStatus {
        let all = self.environment.status().event_sources;
        all.into_iter().find(|mapping| mapping.uuid == uuid).unwrap_or_default()
    }

    /// The status that counts this many records, whatever became of them; it is written once a second.
    fn status_after(&self, uuid: &str, records: u64) -> MappingStatus {
        let mut status = MappingStatus::default();
        wait_for("the records to be counted", || {
            status = self.status(uuid);
            status.records + status.given_up + status.filtered == records && status.in_flight == 0
        });
        status
    }

    fn function(&self, name: &str, orders: &Json) -> Function {
        Function::create(&self.environment, &self.aws, name, orders, &json!({}))
    }
}

fn number_of(value: &str) -> usize {
    value.trim_start_matches("view-").parse().unwrap()
}

/// Fails the test if a key's records came for the first time out of their order, or in two invocations at once.
#[track_caller]
fn assert_order_of_keys(function: &Function) {
    let mut newest: BTreeMap<String, usize> = BTreeMap::new();
    let mut busy: BTreeMap<String, f64> = BTreeMap::new();
    for invocation in function.invocations() {
        let mut keys = std::collections::BTreeSet::new();
        for [_, _, value, key] in &invocation.records {
            let number = number_of(value);
            let before = newest.entry(key.clone()).or_insert(number);
            // One that comes again is no new one.
            *before = (*before).max(number);
            if keys.insert(key.clone()) {
                let free = busy.get(key).copied().unwrap_or_default();
                assert!(invocation.began >= free, "{key} is in two invocations at once");
            }
        }
        for key in keys {
            busy.insert(key, invocation.ended.unwrap_or(invocation.began));
        }
    }
    let mut seen: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for [_, _, value, key] in function.invocations().into_iter().flat_map(|invocation| invocation.records) {
        let numbers = seen.entry(key).or_default();
        if !numbers.contains(&number_of(&value)) {
            numbers.push(number_of(&value));
        }
    }
    for (key, numbers) in seen {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
}

#[track_caller]
fn assert_each_once(function: &Function, expected: &[String]) {
    let done = function.done();
    let odd: Vec<_> = expected.iter().filter(|value| done.get(*value) != Some(&1)).collect();
    assert!(odd.is_empty(), "not done once: {odd:?}");
    assert_eq!(done.len(), expected.len());
}

fn all_well(house: &House) {
    house.create("well", 2);
    let function = house.function("well", &json!({ "seconds": 0.05, "keep_events": true }));
    let uuid = house.map(&function, "well", &json!({ "BatchSize": 20, "ParallelizationFactor": 2 }));
    let expected = house.put("well", 0..600);
    wait_for("600 records to be done", || function.done().len() == expected.len());
    assert_each_once(&function, &expected);
    assert_order_of_keys(&function);
    let status = house.status_after(&uuid, 600);
    assert!(
        status.in_flight_max > 2 && status.in_flight_max <= 4,
        "two shards, two batches each: {status:?}"
    );
    assert_eq!(status.failures, 0);
    wait_for("the age as a metric", || house.aws.highest("well", "IteratorAge").is_some_and(|age| age > 0.0));
    let record = function.invocations()[0].event["Records"][0].clone();
    assert_eq!(
        (&record["eventSource"], &record["eventName"]),
        (&json!("aws:kinesis"), &json!("aws:kinesis:record"))
    );
    assert_eq!(record["invokeIdentityArn"], "arn:aws:iam::000000000000:role/tests");
    assert!(record["eventID"].as_str().unwrap().starts_with("shardId-00000000000"));
}

/// A function that stops at the first record that fails, and says where.
fn checkpoints(house: &House) {
    house.create("checkpoints", 1);
    let failing: Vec<String> = (0..200).step_by(25).map(|number| format!("view-{number}")).collect();
    let orders = json!({ "report": true, "checkpoint": true, "fail_once": failing });
    let function = house.function("checkpoints", &orders);
    let uuid = house.map(
        &function,
        "checkpoints",
        &json!({
            "BatchSize": 50, "MaximumRetryAttempts": 2, "BisectBatchOnFunctionError": true,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
        }),
    );
    let expected = house.put("checkpoints", 0..200);
    wait_for("200 records to be done", || function.done().len() == expected.len());
    assert_each_once(&function, &expected);
    assert_order_of_keys(&function);
    let status = house.status_after(&uuid, 200);
    assert_eq!((status.failures, status.given_up), (8, 0), "{status:?}");
}

fn poison(house: &House) {
    house.create("poison", 1);
    let queue = house.aws.create_queue("dead-views");
    let function = house.function("poison", &json!({ "fail": ["view-21"] }));
    let mut expected = house.put("poison", 0..50);
    let pattern = json!({ "partitionKey": [{ "anything-but": ["learner-3"] }] }).to_string();
    let uuid = house.map(
        &function,
        "poison",
        &json!({
            "BatchSize": 50, "MaximumRetryAttempts": 1, "BisectBatchOnFunctionError": true,
            "DestinationConfig": { "OnFailure": { "Destination": queue } },
            "FilterCriteria": { "Filters": [{ "Pattern": pattern }] },
        }),
    );
    expected.retain(|value| value != "view-21" && number_of(value) % KEYS != 3);
    let status = house.status_after(&uuid, 50);
    assert_eq!((status.given_up, status.filtered), (1, 2), "{status:?}");
    assert_each_once(&function, &expected);
    let told = house.aws.receive("dead-views");
    assert_eq!(told.len(), 1);
    let batch = &told[0]["KinesisBatchInfo"];
    assert_eq!((&batch["batchSize"], &batch["shardId"]), (&json!(1), &json!("shardId-000000000000")));
    assert_eq!(batch["startSequenceNumber"], batch["endSequenceNumber"]);
    let poisonous = function.invocations().into_iter().flat_map(|invocation| invocation.records);
    let position =
        poisonous.into_iter().find(|[_, _, value, _]| value == "view-21").map(|[_, position, ..]| position);
    assert_eq!(batch["startSequenceNumber"].as_str(), position.as_deref());
    assert_eq!(told[0]["requestContext"]["condition"], "RetryAttemptsExhausted");
}

/// Shards are split and merged, and the runner is killed, while records come and wait.
fn resharded_and_killed(house: &House) {
    house.create("reshard", 2);
    let function = house.function("reshard", &json!({ "seconds": 0.02 }));
    let uuid = house.map(&function, "reshard", &json!({ "BatchSize": 10 }));
    let mut expected = house.put("reshard", 0..300);
    for (target, range) in [(3, 300..500), (4, 500..700), (2, 700..900)] {
        let _ = house.kinesis(
            "UpdateShardCount",
            &json!({ "StreamName": "reshard", "TargetShardCount": target, "ScalingType": "UNIFORM_SCALING" }),
        );
        expected.extend(house.put("reshard", range));
    }
    wait_for("900 records to be done", || function.done().len() == expected.len());
    assert_each_once(&function, &expected);
    assert_order_of_keys(&function);
    assert_eq!(house.status_after(&uuid, 900).given_up, 0);

    expected.extend(house.put("reshard", 900..1_200));
    wait_for("records to flow", || function.done().len() > 950);
    house.environment.crash("event-sources");
    wait_for("1,200 records to be done", || function.done().len() == expected.len());
    assert_order_of_keys(&function);
    let again: usize = function.done().values().map(|times| times - 1).sum();
    assert!(again <= 2 * 2 * 10, "{again} records came again");
    println!("1,200 records, three reshardings, one kill: lost 0, again {again}");
}

#[test]
fn a_stream_reaches_its_function_as_lambda_would_bring_it() {
    let house = House::new();
    all_well(&house);
    checkpoints(&house);
    poison(&house);
    resharded_and_killed(&house);
}

#[test]
fn a_shard_takes_and_gives_what_aws_says_and_a_closed_one_is_read_to_its_end() {
    let house = House::new();
    house.create("narrow", 1);
    let began = Instant::now();
    let record = json!({ "Data": STANDARD.encode("view"), "PartitionKey": "learner" });
    let (mut put, mut refused) = (0, 0);
    // More than a thousand a second, whatever else the machine does.
    while refused == 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "{put} records were put and none was refused");
        let ask = json!({ "StreamName": "narrow", "Records": vec![record.clone(); 500] });
        let answer = house.kinesis("PutRecords", &ask);
        let failed = answer["FailedRecordCount"].as_u64().unwrap();
        let records = answer["Records"].as_array().unwrap();
        assert_eq!(records.len(), 500);
        let told = records.iter().filter(|one| one["ErrorCode"] == "ProvisionedThroughputExceededException");
        assert_eq!(told.count(), usize::try_from(failed).unwrap());
        refused += failed;
        put += 500 - failed;
    }
    let seconds = began.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let most = 1_000 + (seconds * 1_000.0) as u64 + 1;
    assert!((1_000..=most).contains(&put), "{put} in {seconds} s, and {refused} refused");

    let iterator = |shard: &str| {
        let ask = json!({ "StreamName": "narrow", "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON" });
        house.kinesis("GetShardIterator", &ask)["ShardIterator"].clone()
    };
    let read = |iterator: &Json, limit: u64| {
        let ask = json!({ "ShardIterator": iterator, "Limit": limit });
        house.aws.try_json("kinesis", "Kinesis_20131202.GetRecords", &ask)
    };
    let first = iterator("shardId-000000000000");
    let (mut answered, mut throttled) = (0, 0);
    let began = Instant::now();
    while throttled == 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "{answered} reads were answered and none refused");
        match read(&first, 1) {
            (200, _) => answered += 1,
            (_, answer) => {
                assert_eq!(answer["__type"], "ProvisionedThroughputExceededException");
                throttled += 1;
            }
        }
    }
    let most = 5.0 + began.elapsed().as_secs_f64() * 5.0 + 1.0;
    assert!(f64::from(answered) <= most, "{answered} reads");

    // A stack changes the count; what the closed shard holds is still there, and its end is told.
    let cloudformation = CloudFormation::at(&house.environment.up().aws.endpoint_url);
    let template = |count: u32| {
        json!({ "Resources": { "Stream": { "Type": "AWS::Kinesis::Stream",
            "Properties": { "Name": "scaled", "ShardCount": count } } } })
    };
    assert_eq!(cloudformation.deploy("scaled", &template(1)), "CREATE_COMPLETE");
    assert_eq!(
        cloudformation.deploy("scaled", &template(2)),
        "UPDATE_COMPLETE",
        "{:?}",
        cloudformation.reasons("scaled")
    );
    let _ = house.kinesis("UpdateShardCount", &json!({ "StreamName": "narrow", "TargetShardCount": 2 }));
    for stream in ["narrow", "scaled"] {
        let summary = house.kinesis("DescribeStreamSummary", &json!({ "StreamName": stream }));
        assert_eq!(summary["StreamDescriptionSummary"]["OpenShardCount"], 2, "{stream}");
        let shards = house.kinesis("ListShards", &json!({ "StreamName": stream }))["Shards"].clone();
        assert_eq!(shards.as_array().unwrap().len(), 3);
        assert!(shards[0]["SequenceNumberRange"]["EndingSequenceNumber"].is_string());
        assert_eq!(shards[1]["ParentShardId"], "shardId-000000000000");
    }
    let (mut next, mut found) = (iterator("shardId-000000000000"), 0);
    wait_for("the closed shard's end", || {
        if let (200, answer) = read(&next, 10_000) {
            found += answer["Records"].as_array().unwrap().len();
            next = answer["NextShardIterator"].clone();
        }
        next.is_null()
    });
    assert_eq!(u64::try_from(found).unwrap(), put, "all that was put");
    let (status, _) = house.aws.try_json(
        "kinesis",
        "Kinesis_20131202.UpdateShardCount",
        &json!({ "StreamName": "narrow", "TargetShardCount": 5 }),
    );
    assert_eq!(status, 400, "more than the double");
}
