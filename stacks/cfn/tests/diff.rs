//! Comparing assemblies: nothing is told where nothing differs, everything where something does, and each kind
//! of callout where it belongs.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use cfn::{
    Json,
    diff::{CalloutKind, Cause, Certainty, Change, Difference, Place, Side, compare, diff},
    schema::TypeSchema,
};
use proptest::prelude::*;
use serde_json::json;
use support::{Wire, entry, manifest};

fn side(stacks: &[(&str, &[Wire<'_>], Json)]) -> Side {
    Side {
        manifest: manifest(stacks.iter().map(|(id, wires, _)| entry(id, wires)).collect()),
        templates: stacks.iter().map(|(id, _, template)| ((*id).to_owned(), template.clone())).collect(),
        files: Some(BTreeMap::new()),
    }
}

/// One stack with these resources.
fn one(resources: Json) -> Side {
    side(&[("s", &[], json!({ "Resources": resources }))])
}

/// Facts of the types that the tests use.
fn schema(kind: &str) -> Option<TypeSchema> {
    let facts = match kind {
        "AWS::MSK::Cluster" => {
            json!({ "createOnlyProperties": ["ClusterName", "BrokerNodeGroupInfo/ClientSubnets", "Rules/*/Port"], "primaryIdentifier": ["Arn"], "readOnlyProperties": ["Arn"] })
        }
        "AWS::MSK::Topic" => {
            json!({ "createOnlyProperties": ["ClusterArn", "TopicName", "ReplicationFactor"], "primaryIdentifier": ["TopicArn"], "readOnlyProperties": ["TopicArn"] })
        }
        "AWS::DynamoDB::Table" => {
            json!({ "createOnlyProperties": ["TableName"], "conditionalCreateOnlyProperties": ["KeySchema"], "primaryIdentifier": ["TableName"] })
        }
        "AWS::EC2::Subnet" => {
            json!({ "createOnlyProperties": ["CidrBlock"], "primaryIdentifier": ["SubnetId"], "readOnlyProperties": ["SubnetId"] })
        }
        "Unknown::Type" => return None,
        _ => json!({}),
    };
    Some(TypeSchema::new(facts))
}

fn told(old: &Side, new: &Side) -> Difference {
    diff(old, new, &schema)
}

fn resource(kind: &str, properties: Json) -> Json {
    json!({ "Type": kind, "Properties": properties, "DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain" })
}

fn kinds(difference: &Difference) -> Vec<CalloutKind> {
    difference.callouts.iter().map(|callout| callout.kind).collect()
}

#[test]
fn a_replacement_spreads_through_references_and_parameters() {
    let sides = |cidr: &str| {
        let network = json!({
            "Resources": { "Subnet": resource("AWS::EC2::Subnet", json!({ "CidrBlock": cidr })) },
            "Outputs": { "SubnetId": { "Value": { "Fn::GetAtt": ["Subnet", "SubnetId"] } } }
        });
        let kafka = json!({ "Resources": {
            "Kafka": resource("AWS::MSK::Cluster", json!({ "BrokerNodeGroupInfo": { "ClientSubnets": [{ "Ref": "NetworkSubnetId" }] } })),
            "Topic": resource("AWS::MSK::Topic", json!({ "ClusterArn": { "Fn::GetAtt": ["Kafka", "Arn"] }, "TopicName": "t" })),
            "Alarm": resource("AWS::CloudWatch::Alarm", json!({ "Cluster": { "Ref": "Kafka" } })),
        } });
        side(&[("network", &[], network), ("kafka", &[("NetworkSubnetId", "network", "SubnetId")], kafka)])
    };
    let difference = told(&sides("10.0.0.0/20"), &sides("10.0.0.0/19"));
    assert_eq!((difference.counts.replaced, difference.counts.changed), (3, 3));
    let kafka = &difference.stacks[1];
    assert_eq!(kafka.resources.len(), 2, "an alarm follows without being replaced");
    let cause = kafka.resources[0].replacement.as_ref().unwrap().causes.first().unwrap();
    let to = Place::new("network", "Subnet");
    assert_eq!(
        *cause,
        Cause::Reference { pointer: "/Properties/BrokerNodeGroupInfo/ClientSubnets".to_owned(), to }
    );
    assert!(told(&sides("10.0.0.0/20"), &sides("10.0.0.0/20")).is_empty());
}

#[test]
fn a_parameter_of_another_source_replaces_what_is_made_with_it() {
    let with = |output: &str| {
        let topic = resource("AWS::MSK::Topic", json!({ "ClusterArn": { "Ref": "Arn" }, "TopicName": "t" }));
        side(&[("s", &[("Arn", "kafka", output)], json!({ "Resources": { "Topic": topic } }))])
    };
    let difference = told(&with("One"), &with("Other"));
    let replacement = difference.stacks[0].resources[0].replacement.as_ref().unwrap();
    assert_eq!(replacement.certainty, Certainty::Certain);
    assert!(difference.stacks[0].resources[0].changes.is_empty());
    assert_eq!(difference.stacks[0].entry.len(), 1);
}

#[test]
fn what_replaces_is_told_and_how_sure_it_is() {
    let table = |name: &str, key: &str| {
        one(
            json!({ "T": resource("AWS::DynamoDB::Table", json!({ "TableName": name, "KeySchema": [{ "AttributeName": key }], "Mode": name })) }),
        )
    };
    let certain = told(&table("a", "k"), &table("b", "k"));
    let changes: BTreeMap<&str, Option<Certainty>> = certain.stacks[0].resources[0]
        .changes
        .iter()
        .map(|change| (change.value.pointer.as_str(), change.replacement))
        .collect();
    assert_eq!(changes["/Properties/TableName"], Some(Certainty::Certain));
    assert_eq!(changes["/Properties/Mode"], None);
    let possible = told(&table("a", "k"), &table("a", "l"));
    assert_eq!((possible.counts.replaced, possible.counts.may_be_replaced), (0, 1));
    let rule = |port: u16| {
        one(
            json!({ "C": resource("AWS::MSK::Cluster", json!({ "Rules": [{ "Name": "a", "Port": 1 }, { "Name": "b", "Port": port }] })) }),
        )
    };
    let nested = told(&rule(2), &rule(3));
    assert_eq!(nested.stacks[0].resources[0].changes[0].replacement, Some(Certainty::Certain));
    let unknown = |size: u16| one(json!({ "U": resource("Unknown::Type", json!({ "Size": size })) }));
    assert_eq!(told(&unknown(1), &unknown(2)).counts.may_be_replaced, 1);
}

#[test]
fn a_name_that_stays_keeps_a_replacement_from_happening() {
    let topic = |arn: &str, factor: u16| {
        one(
            json!({ "T": resource("AWS::MSK::Topic", json!({ "ClusterArn": arn, "TopicName": "t", "ReplicationFactor": factor })) }),
        )
    };
    assert!(kinds(&told(&topic("a", 2), &topic("a", 3))).contains(&CalloutKind::Refused));
    assert!(!kinds(&told(&topic("a", 2), &topic("b", 3))).contains(&CalloutKind::Refused));
}

#[test]
fn another_type_under_the_same_id_is_refused() {
    let of = |kind: &str| one(json!({ "R": { "Type": kind } }));
    let difference = told(&of("AWS::DynamoDB::Table"), &of("AWS::SNS::Topic"));
    assert_eq!(kinds(&difference), [CalloutKind::DataAtRisk, CalloutKind::Refused]);
}

#[test]
fn a_resource_under_another_id_is_known_again() {
    let table = |mode: &str| resource("AWS::DynamoDB::Table", json!({ "Mode": mode }));
    let alarm = |of: &str| resource("AWS::CloudWatch::Alarm", json!({ "Table": { "Ref": of } }));
    let old = one(json!({ "Old": table("a"), "OldAlarm": alarm("Old"), "Gone": table("b") }));
    let new = one(json!({ "New": table("a"), "NewAlarm": alarm("New"), "Came": table("c") }));
    let difference = told(&old, &new);
    assert_eq!((difference.counts.renamed, difference.counts.added, difference.counts.removed), (2, 3, 3));
    assert_eq!(kinds(&difference), [CalloutKind::Renamed]);
    let moved = told(
        &side(&[("a", &[], json!({ "Resources": { "T": table("a") } })), ("b", &[], json!({}))]),
        &side(&[("a", &[], json!({})), ("b", &[], json!({ "Resources": { "T": table("a") } }))]),
    );
    assert_eq!(moved.counts.renamed, 1);
    assert_eq!(moved.stacks[1].resources[0].counterpart, Some(Place::new("a", "T")));
}

#[test]
fn a_named_resource_under_another_id_is_refused() {
    let table = resource("AWS::DynamoDB::Table", json!({ "TableName": "t" }));
    let difference = told(&one(json!({ "Old": table })), &one(json!({ "New": table })));
    assert_eq!(kinds(&difference), [CalloutKind::Refused, CalloutKind::Renamed]);
}

#[test]
fn a_renaming_opens_and_allows_nothing() {
    let group = |id: &str| json!({ id: resource("AWS::EC2::SecurityGroup", json!({ "SecurityGroupIngress": [{ "IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "CidrIp": "10.0.0.0/8" }] })) });
    assert!(told(&one(group("Old")), &one(group("New"))).callouts.is_empty());
    let role =
        |id: &str| json!({ id: resource("AWS::IAM::Role", json!({ "ManagedPolicyArns": ["arn:a"] })) });
    assert!(told(&one(role("Old")), &one(role("New"))).callouts.is_empty());
}

#[test]
fn protection_that_is_turned_off_is_told() {
    let old = one(json!({}));
    let mut new = old.clone();
    new.manifest.stacks[0].termination_protection = false;
    assert_eq!(kinds(&told(&old, &new)), [CalloutKind::DataAtRisk]);
    assert!(told(&new, &old).callouts.is_empty());
}

#[test]
fn what_is_deployed_is_compared_by_its_stacks_alone() {
    let mut old = one(json!({}));
    let mut new = old.clone();
    new.manifest.region = "eu-central-1".to_owned();
    new.files = Some(BTreeMap::from([("kubernetes/a.yaml".to_owned(), "a: 1\n".to_owned())]));
    let difference = told(&old, &new);
    assert_eq!((difference.manifest.len(), difference.files.len()), (1, 1));
    old.files = None;
    assert!(told(&old, &new).is_empty());
}

#[test]
fn a_wiring_in_a_circle_comes_to_an_end() {
    let template = json!({
        "Resources": { "T": resource("AWS::MSK::Topic", json!({ "ClusterArn": { "Ref": "P" } })) },
        "Outputs": { "O": { "Value": { "Ref": "P" } } }
    });
    let circle = side(&[("a", &[("P", "b", "O")], template.clone()), ("b", &[("P", "a", "O")], template)]);
    assert!(told(&circle, &circle).is_empty());
}

/// JSON of a few levels, with lists of objects that have names.
fn value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Json::from),
        (0i64..4).prop_map(Json::from),
        "[a-c]{0,2}".prop_map(Json::from),
        "[A-C]".prop_map(|name| json!({ "Ref": name })),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            proptest::collection::btree_map("[a-d/~]|Sid|Name", inner, 0..4)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

fn template() -> impl Strategy<Value = Json> {
    let kind = proptest::sample::select(vec![
        "AWS::MSK::Topic",
        "AWS::DynamoDB::Table",
        "AWS::EC2::Subnet",
        "Unknown::Type",
        "AWS::IAM::Role",
    ]);
    let properties =
        proptest::collection::btree_map("[A-D]|TopicName|TableName|KeySchema|Policies", value(), 0..4);
    let resource =
        (kind, properties).prop_map(|(kind, properties)| json!({ "Type": kind, "Properties": properties }));
    (
        proptest::collection::btree_map("[A-E]", resource, 0..5),
        proptest::collection::btree_map("[A-C]", value(), 0..3),
    )
        .prop_map(|(resources, outputs)| json!({ "Resources": resources, "Outputs": outputs }))
}

fn stack(template: &Json) -> Side {
    side(&[("s", &[], template.clone())])
}

/// Pointers of all values below one.
fn places(json: &Json, pointer: String, found: &mut Vec<String>) {
    found.push(pointer.clone());
    match json {
        Json::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                places(item, format!("{pointer}/{at}"), found);
            }
        }
        Json::Object(members) => {
            for (key, value) in members {
                places(value, format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn nothing_differs_from_itself(template in template()) {
        let same = told(&stack(&template), &stack(&template));
        prop_assert!(same.is_empty() && same.callouts.is_empty(), "{:?}", same);
    }

    /// Every place that is told is one where the values differ, with what is there; and one is told exactly when
    /// they do.
    #[test]
    fn places_are_told_exactly_where_values_differ(before in value(), after in value()) {
        let found = compare("", Some(&before), Some(&after));
        prop_assert_eq!(found.is_empty(), before == after);
        for change in found {
            if let Some(was) = &change.before
                && change.change == Change::Removed
            {
                // Within an element that has moved, the place is told as of the new list.
                let moved = after.pointer(&change.pointer).is_none();
                prop_assert!(before.pointer(&change.pointer) == Some(was) || moved, "{:?}", change);
            }
            if let Some(is) = &change.after {
                prop_assert_eq!(after.pointer(&change.pointer), Some(is));
            }
            prop_assert_ne!(&change.before, &change.after);
        }
    }

    /// A value edited anywhere in a template is told.
    #[test]
    fn every_edit_is_told(before in template(), edit in value(), at in any::<prop::sample::Index>()) {
        let mut all = Vec::new();
        places(&before, String::new(), &mut all);
        // The template and its sections stay objects.
        all.retain(|pointer| pointer.matches('/').count() > 1);
        prop_assume!(!all.is_empty());
        let mut after = before.clone();
        *after.pointer_mut(at.get::<String>(&all)).unwrap() = edit;
        let difference = told(&stack(&before), &stack(&after));
        prop_assert_eq!(difference.is_empty(), before == after);
        prop_assert_eq!(difference.counts.stacks, usize::from(before != after));
    }

    /// There and back tells as much: what came one way goes the other way.
    #[test]
    fn counts_are_symmetric(before in template(), after in template()) {
        let (there, back) = (told(&stack(&before), &stack(&after)), told(&stack(&after), &stack(&before)));
        prop_assert_eq!(there.counts.added, back.counts.removed);
        prop_assert_eq!(there.counts.removed, back.counts.added);
        prop_assert_eq!(there.counts.renamed, back.counts.renamed);
        prop_assert_eq!(there.counts.stacks, back.counts.stacks);
        let edited = |difference: &Difference| difference.stacks.iter().flat_map(|stack| &stack.resources).filter(|resource| resource.change == Change::Changed && !resource.changes.is_empty()).count();
        prop_assert_eq!(edited(&there), edited(&back));
    }
}
