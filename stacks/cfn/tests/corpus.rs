//! A corpus of templates: wrong ones, each naming what must be found in it, and right ones, in which nothing is.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use cfn::{
    Json,
    check::{Finding, RULES, check},
};
use proptest::prelude::*;
use serde_json::json;
use support::{Facts, assembly, templates};

fn found(facts: &Facts, template: &Json) -> Vec<Finding> {
    let mut sections = template.clone();
    sections.as_object_mut().unwrap().remove("Resources");
    check(&assembly(template["Resources"].clone(), sections), &|kind| facts.schema(kind))
}

fn must_find(template: &Json) -> BTreeSet<String> {
    let codes = template["Metadata"]["must-find"].as_array().unwrap();
    codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_is_wrong_is_found_in_every_template() {
    let facts = Facts::default();
    let templates = templates("wrong-templates");
    let mut missed = Vec::new();
    let mut tally: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, template) in &templates {
        let findings = found(&facts, template);
        let codes: BTreeSet<&str> = findings.iter().map(|finding| finding.code).collect();
        for code in must_find(template).iter().filter(|code| !codes.contains(code.as_str())) {
            missed.push(format!("{name}: {code} is not found"));
        }
        for code in &codes {
            *tally.entry(code).or_default() += 1;
        }
        println!("{name}: {} findings of {} rules", findings.len(), codes.len());
    }
    println!("{} templates, {} of {} rules fired: {tally:?}", templates.len(), tally.len(), RULES.len());
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert!(templates.len() >= 40, "the corpus has shrunk to {}", templates.len());
}

/// A corpus that leaves out a rule of a family would not notice when it stops to work.
#[test]
fn the_corpus_names_every_policy() {
    let named: BTreeSet<String> = templates("wrong-templates").values().flat_map(must_find).collect();
    let left_out: Vec<&str> = RULES
        .iter()
        .map(|rule| rule.code)
        .filter(|code| *code >= "FG400" && !named.contains(*code))
        .collect();
    assert_eq!(left_out, Vec::<&str>::new());
    let unknown: Vec<&String> =
        named.iter().filter(|code| RULES.iter().all(|rule| rule.code != code.as_str())).collect();
    assert!(unknown.is_empty(), "the corpus names rules that are not: {unknown:?}");
}

#[test]
fn nothing_is_found_in_what_is_right() {
    let facts = Facts::default();
    for (name, template) in templates("right-templates") {
        let findings: Vec<String> = found(&facts, &template).iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{name}:\n{}", findings.join("\n"));
    }
}

/// A rule that is unsure is silent: what only the deployment knows is never a finding of a policy.
#[test]
fn expressions_are_given_the_benefit_of_the_doubt() {
    let facts = Facts::default();
    let unknown = json!({"Ref": "Given"});
    let parameters = json!({
        "Parameters": {"Given": {"Type": "String"}},
        "Conditions": {"Sorted": {"Fn::Equals": [{"Ref": "Given"}, "x"]}}
    });
    let resources = json!({
        "Queue": {"Type": "AWS::SQS::Queue", "Properties": {"SqsManagedSseEnabled": unknown}},
        "Topic": {"Type": "AWS::SNS::Topic", "Properties": {"KmsMasterKeyId": unknown}},
        "Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": {"Statement": unknown}, "EnableKeyRotation": unknown}},
        "Source": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": {"EventSourceArn": unknown, "FunctionName": unknown}},
        "Subnet": {"Type": "AWS::EC2::Subnet", "Properties": {"VpcId": unknown, "CidrBlock": unknown, "MapPublicIpOnLaunch": unknown}},
        "Group": {"Type": "AWS::RDS::DBSubnetGroup", "Properties": {"DBSubnetGroupDescription": "d", "SubnetIds": unknown}},
        "Endpoint": {"Type": "AWS::EC2::VPCEndpoint", "Properties": {"VpcId": unknown, "ServiceName": "com.amazonaws.eu-west-1.s3",
            "PolicyDocument": {"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::records/*"}]}}},
        "Table": {"Type": "AWS::DynamoDB::Table", "Properties": {
            "KeySchema": {"Fn::If": ["Sorted", [{"AttributeName": "id", "KeyType": "HASH"}], unknown]}, "BillingMode": unknown, "SSESpecification": {"SSEEnabled": true},
            "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": unknown},
            "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}]}},
        "Function": {"Type": "AWS::Lambda::Function", "Properties": {
            "FunctionName": "writer", "Code": {"ZipFile": "x"}, "Role": unknown, "Runtime": unknown,
            "LoggingConfig": {"LogGroup": unknown}, "DeadLetterConfig": {"TargetArn": unknown}}},
        "Permission": {"Type": "AWS::Lambda::Permission", "Properties": {
            "Action": "lambda:InvokeFunction", "FunctionName": "writer", "Principal": "events.amazonaws.com", "SourceArn": unknown}},
        "Rule": {"Type": "AWS::Events::Rule", "Properties": {"ScheduleExpression": unknown, "Targets": [
            {"Id": "writer", "Arn": {"Fn::GetAtt": ["Function", "Arn"]}, "DeadLetterConfig": {"Arn": unknown}}]}},
        "Proxy": {"Type": "AWS::RDS::DBProxy", "Properties": {
            "DBProxyName": "p", "EngineFamily": "POSTGRESQL", "RoleArn": unknown, "VpcSubnetIds": unknown,
            "RequireTLS": unknown, "IdleClientTimeout": unknown}},
        "Role": {"Type": "AWS::IAM::Role", "Properties": {
            "AssumeRolePolicyDocument": {"Statement": [{"Effect": "Allow", "Principal": {"Service": unknown}, "Action": "sts:AssumeRole"}]},
            "ManagedPolicyArns": [unknown]}},
        "Images": {"Type": "AWS::ECR::Repository", "Properties": {"ImageTagMutability": unknown}}
    });
    let findings: Vec<String> = check(&assembly(resources, parameters), &|kind| facts.schema(kind))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// Puts another value in the place with that number, counted through a template; false when there are fewer.
fn put(json: &mut Json, number: &mut usize, value: &Json) -> bool {
    if *number == 0 {
        *json = value.clone();
        return true;
    }
    *number -= 1;
    match json {
        Json::Array(items) => items.iter_mut().any(|item| put(item, number, value)),
        Json::Object(object) => object.values_mut().any(|item| put(item, number, value)),
        _ => false,
    }
}

fn anything() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        "\\PC{0,12}".prop_map(Json::from),
        Just(json!([])),
        Just(json!([[], {}, "x", null])),
        Just(json!({})),
        Just(json!({"Ref": 5})),
        Just(json!({"Fn::GetAtt": []})),
        Just(json!({"Fn::Sub": "${"})),
        Just(json!({"Fn::If": [[], {"Fn::If": []}]})),
    ]
}

proptest! {
    /// Whatever stands in a template, the checks come to an end: a template can be written by hand.
    #[test]
    fn no_template_stops_the_checks(which in 0usize..1000, place in 0usize..150, value in anything()) {
        thread_local! {
            static CORPUS: Vec<Json> =
                templates("wrong-templates").into_values().chain(templates("right-templates").into_values()).collect();
            static FACTS: Facts = Facts::default();
        }
        let mut template = CORPUS.with(|corpus| corpus[which % corpus.len()].clone());
        put(&mut template["Resources"], &mut place.clone(), &value);
        // The harness itself wants resources with types.
        prop_assume!(template["Resources"].as_object().is_some_and(|resources| {
            resources.values().all(|resource| resource["Type"].is_string())
        }));
        FACTS.with(|facts| found(facts, &template));
    }
}
