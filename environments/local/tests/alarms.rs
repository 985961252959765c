//! Alarms of the local environment: what ends them, and that a function hears of them.

#![allow(clippy::unwrap_used)]

mod support;

use std::{process::Command, time::Duration};

use local_environment::process::wait_until;
use serde_json::{Value as Json, json};
use support::{
    Environment,
    cloudformation::CloudFormation,
    listener::{BUCKET, KEY, Listener},
    parts, wait_for,
};

/// A function that hears of one alarm by a rule and is called every minute by another; one alarm for each meaning of
/// a period without data. A period is a second, which AWS would not take, so that the test need not wait for minutes.
fn template() -> Json {
    let alarm = |name: &str, without_data: &str, threshold: f64| {
        json!({ "Type": "AWS::CloudWatch::Alarm", "Properties": {
            "AlarmName": name, "Namespace": "Tests", "MetricName": "Pressure", "Statistic": "Average",
            "Dimensions": [{ "Name": "Database", "Value": "ours" }], "Period": 1, "EvaluationPeriods": 1,
            "ComparisonOperator": "GreaterThanThreshold", "Threshold": threshold,
            "TreatMissingData": without_data } })
    };
    let attribute = |name: &str, attribute: &str| json!({ "Fn::GetAtt": [name, attribute] });
    json!({ "Resources": {
        "Well": alarm("well", "notBreaching", 40.0),
        "Unknown": alarm("unknown", "missing", 40.0),
        "Wrong": alarm("wrong", "breaching", 40.0),
        "Kept": alarm("kept", "ignore", 40.0),
        "Function": { "Type": "AWS::Lambda::Function", "Properties": {
            "FunctionName": "listener", "Runtime": "provided.al2023", "Handler": "bootstrap", "Timeout": 10,
            "Role": "arn:aws:iam::000000000000:role/tests", "Code": { "S3Bucket": BUCKET, "S3Key": KEY } } },
        "Rule": { "Type": "AWS::Events::Rule", "Properties": {
            "EventPattern": { "source": ["aws.cloudwatch"], "detail-type": ["CloudWatch Alarm State Change"],
                              "resources": [attribute("Well", "Arn")] },
            "Targets": [{ "Id": "function", "Arn": attribute("Function", "Arn") }] } },
        "Clock": { "Type": "AWS::Events::Rule", "Properties": {
            "ScheduleExpression": "rate(1 minute)",
            "Targets": [{ "Id": "function", "Arn": attribute("Function", "Arn"), "Input": "{\"clock\": true}" }] } },
    } })
}

#[test]
fn an_alarm_ends_by_silence_as_its_treatment_says_and_a_function_hears_of_it() {
    let environment = Environment::new();
    let state = environment.up();
    let aws = CloudFormation::at(&state.aws.endpoint_url);
    let function = Listener::upload(&environment, &state.aws.endpoint_url);
    let put = |database: &str, value: &str| {
        let dimension = "MetricData.member.1.Dimensions.member.1";
        let answer = aws.query(
            "monitoring",
            "2010-08-01",
            "PutMetricData",
            &[
                ("Namespace", "Tests"),
                ("MetricData.member.1.MetricName", "Pressure"),
                ("MetricData.member.1.Value", value),
                (&format!("{dimension}.Name"), "Database"),
                (&format!("{dimension}.Value"), database),
            ],
        );
        assert!(!answer.contains("<Error>"), "{answer}");
    };
    let is = |name: &str, wanted: &str| aws.alarm_state(name).as_deref() == Some(wanted);
    let created = aws.deploy("alarms", &template());
    assert_eq!(created, "CREATE_COMPLETE", "{:?}", aws.reasons("alarms"));
    wait_for("an alarm without data to be well", || is("well", "OK"));
    wait_for("an alarm that wants data to go off", || is("wrong", "ALARM"));
    assert!(is("unknown", "INSUFFICIENT_DATA") && is("kept", "INSUFFICIENT_DATA"));

    // Told again and again, as metrics are: of another database, whose pressure is no concern of these alarms; ours.
    wait_for("an alarm that wants data to be well with data", || {
        put("other", "99");
        put("ours", "10");
        is("wrong", "OK") && is("kept", "OK") && is("unknown", "OK")
    });
    assert!(is("well", "OK"), "another database's metric counts");
    wait_for("the alarms to go off", || {
        put("ours", "99");
        ["well", "unknown", "wrong", "kept"].iter().all(|name| is(name, "ALARM"))
    });
    wait_for("silence to end what it ends", || is("well", "OK") && is("unknown", "INSUFFICIENT_DATA"));
    assert!(is("wrong", "ALARM") && is("kept", "ALARM"));

    let changes = || -> Vec<Json> {
        let is_change = |event: &Json| event["detail-type"] == "CloudWatch Alarm State Change";
        function.events().into_iter().filter(is_change).collect()
    };
    // The alarm was well before there was a rule that could have told it.
    let state_of = |event: &Json| event["detail"]["state"]["value"].as_str().map(str::to_owned);
    wait_for("the function to hear of it all", || {
        let states: Vec<String> = changes().iter().filter_map(state_of).collect();
        states.ends_with(&["ALARM".to_owned(), "OK".to_owned()])
    });
    let changes = changes();
    let event = changes.iter().find(|event| event["detail"]["state"]["value"] == "ALARM").unwrap();
    assert_eq!(event["source"], "aws.cloudwatch");
    assert!(event["resources"][0].as_str().unwrap().ends_with(":alarm:well"), "{event}");
    assert_eq!(event["detail"]["alarmName"], "well");
    assert_eq!(event["detail"]["previousState"]["value"], "OK");
    assert_eq!(event["detail"]["configuration"]["metrics"][0]["metricStat"]["stat"], "Average");
    let why = event["detail"]["state"]["reason"].as_str().unwrap();
    assert!(why.contains("1 datapoint [9") && why.contains("threshold (40.0)"), "{why}");

    let called =
        wait_until(Duration::from_secs(90), || function.events().iter().any(|event| event["clock"] == true));
    assert!(called, "the clock's rule does not call the function: {:?}", function.events());
}

#[test]
fn what_waits_in_a_queue_and_comes_into_a_stream_sets_alarms_off() {
    let environment = Environment::new();
    let state = environment.up();
    let aws = CloudFormation::at(&state.aws.endpoint_url);
    let alarm = |metric: (&str, &str), dimension: (&str, &str), threshold: u32| {
        json!({ "Type": "AWS::CloudWatch::Alarm", "Properties": {
            "AlarmName": metric.1, "Namespace": metric.0, "MetricName": metric.1, "Statistic": "Sum",
            "Dimensions": [{ "Name": dimension.0, "Value": dimension.1 }], "Period": 60, "EvaluationPeriods": 1,
            "ComparisonOperator": "GreaterThanThreshold", "Threshold": threshold,
            "TreatMissingData": "notBreaching" } })
    };
    let (queue, stream) = (("QueueName", "failed"), ("StreamName", "events"));
    let template = json!({
        "Resources": {
            "Queue": { "Type": "AWS::SQS::Queue", "Properties": { "QueueName": "failed" } },
            "Stream": { "Type": "AWS::Kinesis::Stream", "Properties": { "Name": "events", "ShardCount": 1 } },
            "Waiting": alarm(("AWS/SQS", "ApproximateNumberOfMessagesVisible"), queue, 0),
            "Records": alarm(("AWS/Kinesis", "IncomingRecords"), stream, 20),
            "Bytes": alarm(("AWS/Kinesis", "IncomingBytes"), stream, 89),
        },
        "Outputs": { "Url": { "Value": { "Ref": "Queue" } } }
    });
    let created = aws.deploy("flow", &template);
    assert_eq!(created, "CREATE_COMPLETE", "{:?}", aws.reasons("flow"));
    let is = |name: &str, wanted: &str| aws.alarm_state(name).as_deref() == Some(wanted);
    let put = |count: usize| {
        // Three bytes each.
        let records = vec![json!({ "Data": "YWJj", "PartitionKey": "one" }); count];
        let asked = json!({ "StreamName": "events", "Records": records });
        assert_eq!(aws.json("kinesis", "Kinesis_20131202.PutRecords", &asked)["FailedRecordCount"], 0);
    };
    put(20);
    let metrics = || aws.query("monitoring", "2010-08-01", "ListMetrics", &[("Namespace", "AWS/Kinesis")]);
    wait_for("the records to be counted", || metrics().contains("IncomingRecords"));
    assert!(
        is("IncomingRecords", "OK") && is("IncomingBytes", "OK"),
        "20 records of 60 bytes are within both"
    );
    put(10);
    wait_for("one more to be too many", || is("IncomingRecords", "ALARM") && is("IncomingBytes", "ALARM"));

    wait_for("an empty queue to be well", || is("ApproximateNumberOfMessagesVisible", "OK"));
    let url = aws.output("flow", "Url").unwrap();
    let message = [("QueueUrl", url.as_str()), ("MessageBody", "a failed batch")];
    let answer = aws.query("sqs", "2012-11-05", "SendMessage", &message);
    assert!(answer.contains("<MessageId>"), "{answer}");
    wait_for("a failed batch to be told", || is("ApproximateNumberOfMessagesVisible", "ALARM"));
}

#[test]
fn what_the_emulator_decides_on_plain_data_is_as_it_should_be() {
    let output = Command::new(parts().join("python/bin/python"))
        .args(["-m", "unittest", "discover", "--start-directory", "tests", "--top-level-directory", "."])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/emulator"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("OK") && !told.contains("Ran 0 tests"), "{told}");
}
