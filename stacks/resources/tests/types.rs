//! What the types allow, what they refuse, and what the facts say.

#![allow(clippy::unwrap_used)]

#[test]
fn what_is_wrong_does_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/compile/right.rs");
    cases.compile_fail("tests/compile/missing_property.rs");
    cases.compile_fail("tests/compile/wrong_reference.rs");
    cases.compile_fail("tests/compile/no_such_attribute.rs");
    cases.compile_fail("tests/compile/wrong_direction.rs");
}

#[test]
fn the_facts_of_a_type_are_found() {
    let topic = cfn_resources::schema("AWS::MSK::Topic").unwrap();
    assert_eq!(topic.create_only().collect::<Vec<_>>(), ["ClusterArn", "TopicName", "ReplicationFactor"]);
    assert!(topic.has_attribute("TopicArn") && !topic.has_attribute("Partitions"));
    assert!(topic.handler_actions()["create"].contains(&"kafka-cluster:CreateTopic".to_owned()));
    assert!(cfn_resources::schema("AWS::MSK::Topik").is_none());
    assert!(cfn_resources::schema("AWS::EC2::EIP").unwrap().has_attribute("AllocationId"));
}
