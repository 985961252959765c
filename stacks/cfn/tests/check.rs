//! Every rule of the checks: a template that it finds, and the template as it should be, which it does not.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

mod support;

use cfn::{
    Assembly, Json, Waiver,
    check::{Page, RULES, check},
    schema::TypeSchema,
};
use serde_json::json;
use support::assembly;

/// A type of the tests' own, and enough of the others that their properties pass.
fn schema(kind: &str) -> Option<TypeSchema> {
    match kind {
        "Test::Unknown" => None,
        "Test::Elsewhere" => Some(TypeSchema::new(json!({"absentRegions": ["eu-west-1"]}))),
        "Test::Here" => Some(TypeSchema::new(json!({"absentRegions": ["eu-west-2"]}))),
        "Test::Thing" => Some(TypeSchema::new(json!({
            "additionalProperties": false,
            "required": ["Name"],
            "readOnlyProperties": ["Id"],
            "attributes": {"Arn": "string"},
            "requiredXor": ["Left", "Right"],
            "dependentRequired": {"Port": ["Host"]},
            "definitions": {"Color": {"type": "string", "enum": ["red", "green"]}},
            "properties": {
                "Name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 8},
                "Id": {"type": "string"},
                "Count": {"type": "integer", "minimum": 1, "maximum": 9},
                "Items": {"type": "array", "minItems": 1, "items": {"type": "integer"}},
                "Color": {"$ref": "#/definitions/Color"},
                "Left": {"type": "boolean"}, "Right": {"type": "boolean"},
                "Host": {"type": "string"}, "Port": {"type": "integer"}
            }
        }))),
        _ => Some(TypeSchema::new(json!({"attributes": {"Arn": "string"}}))),
    }
}

fn codes(assembly: &Assembly) -> BTreeSet<&'static str> {
    check(assembly, &schema).into_iter().map(|finding| finding.code).collect()
}

fn thing(properties: Json) -> Json {
    let mut all = json!({"Name": "abc", "Left": true});
    for (key, value) in properties.as_object().unwrap() {
        if value.is_null() {
            all.as_object_mut().unwrap().remove(key);
        } else {
            all[key] = value.clone();
        }
    }
    json!({"T": {"Type": "Test::Thing", "Properties": all}})
}

fn one(kind: &str, properties: Json) -> Json {
    json!({"R": {"Type": kind, "Properties": properties}})
}

fn role(principal: &str, trust: Json, statement: Json) -> Json {
    one(
        "AWS::IAM::Role",
        json!({
            "AssumeRolePolicyDocument": {"Statement": [{"Effect": "Allow", "Principal": {"Service": principal}, "Action": trust}]},
            "Policies": [{"PolicyDocument": {"Statement": [statement]}}]
        }),
    )
}

fn allows(actions: Json, resource: &str) -> Json {
    role(
        "ec2.amazonaws.com",
        json!("sts:AssumeRole"),
        json!({"Effect": "Allow", "Action": actions, "Resource": resource}),
    )
}

fn kafka(change: impl Fn(&mut Json)) -> Json {
    let mut properties = json!({
        "NumberOfBrokerNodes": 3,
        "BrokerNodeGroupInfo": {"ClientSubnets": ["a", "b", "c"]},
        "ClientAuthentication": {"Unauthenticated": {"Enabled": false}},
        "EncryptionInfo": {
            "EncryptionAtRest": {"DataVolumeKMSKeyId": "key"},
            "EncryptionInTransit": {"ClientBroker": "TLS", "InCluster": true}
        }
    });
    change(&mut properties);
    one("AWS::MSK::Cluster", properties)
}

fn eks(load_balancing: bool, add_ons: bool) -> Json {
    one(
        "AWS::EKS::Cluster",
        json!({
            "ComputeConfig": {"Enabled": true, "NodePools": ["system"], "NodeRoleArn": "role"},
            "KubernetesNetworkConfig": {"ElasticLoadBalancing": {"Enabled": load_balancing}},
            "StorageConfig": {"BlockStorage": {"Enabled": true}},
            "BootstrapSelfManagedAddons": add_ons
        }),
    )
}

fn many(count: usize) -> Json {
    (0..count)
        .map(|index| (format!("T{index}"), thing(json!({}))["T"].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn outputs(count: usize) -> Json {
    let outputs: serde_json::Map<_, _> =
        (0..count).map(|index| (format!("O{index}"), json!({"Value": "x"}))).collect();
    json!({ "Outputs": outputs })
}

/// (code, what it finds, the same as it should be).
fn cases() -> Vec<(&'static str, Assembly, Assembly)> {
    let none = || json!({});
    let of = |wrong: Json, right: Json| (assembly(wrong, none()), assembly(right, none()));
    let topic = |wanted: &str| {
        // min.insync.replicas=N, as base64.
        one("AWS::MSK::Topic", json!({"ReplicationFactor": 2, "Configs": wanted}))
    };
    let long = "x".repeat(60_000);
    let refers = |target: Json| {
        json!({
            "T": thing(json!({"Host": target}))["T"], "Other": thing(json!({}))["T"]
        })
    };
    let circle = |back: Json| {
        json!({
            "T": thing(json!({"Host": {"Ref": "Other"}}))["T"], "Other": thing(json!({"Host": back}))["T"]
        })
    };
    let mut cases: Vec<(&'static str, (Assembly, Assembly))> = vec![
        ("FG100", of(one("Test::Unknown", none()), thing(none()))),
        ("FG113", of(one("Test::Elsewhere", none()), one("Test::Here", none()))),
        ("FG101", of(thing(json!({"Nmae": "x"})), thing(none()))),
        ("FG102", of(thing(json!({"Name": null})), thing(none()))),
        ("FG103", of(thing(json!({"Items": 5})), thing(json!({"Items": [5]})))),
        ("FG104", of(thing(json!({"Name": "A1"})), thing(none()))),
        ("FG105", of(thing(json!({"Items": []})), thing(json!({"Items": [1]})))),
        ("FG106", of(thing(json!({"Count": 10})), thing(json!({"Count": 9})))),
        ("FG107", of(thing(json!({"Color": "blue"})), thing(json!({"Color": "red"})))),
        ("FG108", of(thing(json!({"Id": "x"})), thing(none()))),
        ("FG109", of(thing(json!({"Right": true})), thing(json!({"Host": "h", "Port": 1})))),
        ("FG201", of(many(501), many(400))),
        ("FG202", of(many(401), many(400))),
        ("FG203", (assembly(thing(none()), outputs(201)), assembly(thing(none()), outputs(200)))),
        ("FG204", of(thing(json!({"Host": long})), thing(none()))),
        (
            "FG205",
            (
                assembly(thing(none()), json!({"Description": "x".repeat(1025)})),
                assembly(thing(none()), json!({"Description": "x".repeat(1024)})),
            ),
        ),
        ("FG301", of(refers(json!({"Ref": "Gone"})), refers(json!({"Ref": "AWS::Region"})))),
        ("FG302", of(circle(json!({"Ref": "T"})), circle(json!("h")))),
        (
            "FG303",
            of(
                refers(json!({"Fn::GetAtt": ["Other", "Size"]})),
                refers(json!({"Fn::GetAtt": ["Other", "Arn"]})),
            ),
        ),
        ("FG401", of(allows(json!("s3:*"), "arn:x"), allows(json!("s3:GetObject"), "arn:x"))),
        ("FG402", of(allows(json!("s3:GetObject"), "*"), allows(json!("s3:GetObject"), "arn:x"))),
        (
            "FG403",
            of(
                allows(json!(["kafka-cluster:Connect", "kafka-cluster:WriteData"]), "arn:x"),
                allows(
                    json!([
                        "kafka-cluster:Connect",
                        "kafka-cluster:DescribeTopic",
                        "kafka-cluster:WriteData"
                    ]),
                    "arn:x",
                ),
            ),
        ),
        (
            "FG404",
            of(
                role("pods.eks.amazonaws.com", json!(["sts:AssumeRole"]), json!({})),
                role("pods.eks.amazonaws.com", json!(["sts:AssumeRole", "sts:TagSession"]), json!({})),
            ),
        ),
        (
            "FG405",
            of(one("AWS::Logs::LogGroup", none()), one("AWS::Logs::LogGroup", json!({"RetentionInDays": 1}))),
        ),
        (
            "FG406",
            of(
                kafka(|p| {
                    p["EncryptionInfo"]["EncryptionInTransit"]["ClientBroker"] = "TLS_PLAINTEXT".into()
                }),
                kafka(|_| {}),
            ),
        ),
        ("FG407", of(kafka(|p| p["EncryptionInfo"]["EncryptionAtRest"] = none()), kafka(|_| {}))),
        (
            "FG408",
            of(
                kafka(|p| p["NumberOfBrokerNodes"] = 4.into()),
                kafka(|p| p["NumberOfBrokerNodes"] = 6.into()),
            ),
        ),
        ("FG409", of(topic("bWluLmluc3luYy5yZXBsaWNhcz0zCg=="), topic("bWluLmluc3luYy5yZXBsaWNhcz0yCg=="))),
        ("FG410", of(eks(false, false), eks(true, false))),
        (
            "FG411",
            of(
                one("AWS::EC2::SecurityGroupIngress", json!({"CidrIp": "0.0.0.0/0"})),
                one("AWS::EC2::SecurityGroupIngress", json!({"CidrIp": "10.0.0.0/8"})),
            ),
        ),
    ];
    let deleted = |policy: &str| {
        let mut resource = thing(json!({}));
        resource["T"]["DeletionPolicy"] = policy.into();
        resource
    };
    cases.push(("FG412", of(deleted("Delete"), deleted("Retain"))));
    let section = |name: &str, wrong: Json, right: Json| {
        (assembly(thing(none()), json!({ name: wrong })), assembly(thing(none()), json!({ name: right })))
    };
    let attributes = |count: usize| -> Json {
        let all: serde_json::Map<_, _> = (0..count).map(|index| (format!("A{index}"), json!("x"))).collect();
        json!({ "Sizes": all })
    };
    let default = |bytes: usize| json!({"P": {"Type": "String", "Default": "x".repeat(bytes)}});
    let used = |mut assembly: Assembly| {
        assembly.templates.get_mut("s").unwrap()["Outputs"] = json!({"O": {"Value": {"Ref": "P"}}});
        assembly
    };
    cases.push(("FG206", section("Mappings", attributes(201), attributes(200))));
    cases.push(("FG207", section("Outputs", json!({"a_b": {"Value": "x"}}), json!({"AB": {"Value": "x"}}))));
    cases.push(("FG208", section("Parameters", default(4097), default(4096))));
    cases.push((
        "FG306",
        section(
            "Outputs",
            json!({"O": {"Value": "x", "Export": {"Name": "o"}}}),
            json!({"O": {"Value": "x"}}),
        ),
    ));
    let waived = |count: u32| {
        let mut assembly = assembly(thing(json!({ "Count": count })), none());
        assembly.provenance[0].waivers = vec![Waiver { code: "FG106".to_owned(), reason: "why".to_owned() }];
        assembly
    };
    cases.push(("FG308", (waived(9), waived(10))));
    let named = |name: &str| {
        let mut assembly = assembly(thing(none()), none());
        assembly.manifest.stacks[0].name = name.to_owned();
        assembly
    };
    cases.push(("FG209", (named("1-network"), named("fg-network"))));
    cases.push((
        "FG305",
        (
            assembly(thing(none()), json!({ "Parameters": default(1) })),
            used(assembly(thing(none()), json!({ "Parameters": default(1) }))),
        ),
    ));
    cases.into_iter().map(|(code, (wrong, right))| (code, wrong, right)).collect()
}

#[test]
fn every_rule_finds_what_it_is_for_and_leaves_the_rest_alone() {
    for (code, wrong, right) in cases() {
        assert!(codes(&wrong).contains(code), "{code} did not fire: {:?}", codes(&wrong));
        assert!(!codes(&right).contains(code), "{code} fired without cause: {:?}", check(&right, &schema));
    }
}

#[test]
fn no_rule_is_without_a_case() {
    // Beside these cases there are the examples of the rules' pages, which are tried as well.
    let tried: BTreeSet<&str> = cases().into_iter().map(|(code, _, _)| code).collect();
    let shown = RULES.iter().map(|rule| rule.code).filter(|code| !Page::of(code).unwrap().example.is_empty());
    let all: BTreeSet<&str> = RULES.iter().map(|rule| rule.code).collect();
    assert_eq!(tried.into_iter().chain(shown).collect::<BTreeSet<_>>(), all);
    assert_eq!(all.len(), RULES.len(), "a code is used twice");
}

#[test]
fn more_ways_to_be_wrong_are_seen() {
    let wrong = allows(
        json!([
            "kafka-cluster:Connect",
            "kafka-cluster:WriteData",
            "kafka-cluster:DescribeTopic",
            "kafka-cluster:WriteDataIdempotently"
        ]),
        "arn:aws:kafka:r:a:topic/c/u/t",
    );
    assert!(
        codes(&assembly(wrong, json!({}))).contains("FG403"),
        "an action on the cluster, granted on a topic"
    );
    assert!(
        codes(&assembly(eks(true, true), json!({}))).contains("FG410"),
        "self-managed add-ons in Auto Mode"
    );
    assert!(
        codes(&assembly(thing(json!({"Port": 1})), json!({}))).contains("FG109"),
        "a property without its companion"
    );
    let branch = thing(json!({"Color": {"Fn::If": ["Large", "blue", {"Ref": "AWS::NoValue"}]}}));
    let found = codes(&assembly(branch, json!({"Conditions": {"Large": {"Fn::Equals": ["a", "b"]}}})));
    assert_eq!(found, BTreeSet::from(["FG107"]), "branches of a condition are checked");
}

#[test]
fn a_finding_tells_the_construct_the_source_and_what_to_do() {
    let finding = check(&assembly(thing(json!({"Count": 10})), json!({})), &schema).remove(0);
    let text = finding.to_string();
    assert!(text.contains("error[FG106] s/T: Count is 10") && text.contains("stacks/s.rs:1"), "{text}");
}

#[test]
fn a_waiver_keeps_its_reason_and_counts_for_its_rule_alone() {
    let mut assembly = assembly(thing(json!({"Count": 10, "Color": "blue"})), json!({}));
    assembly.provenance[0].waivers =
        vec![Waiver { code: "FG106".to_owned(), reason: "ten is right here".to_owned() }];
    let waived: BTreeMap<_, _> =
        check(&assembly, &schema).into_iter().map(|finding| (finding.code, finding.waived)).collect();
    assert_eq!(waived["FG106"].as_deref(), Some("ten is right here"));
    assert_eq!(waived["FG107"], None);
}
