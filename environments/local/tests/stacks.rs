//! Stacks on the real parts: what CloudFormation is asked for happens on the broker, and crashes are survived.

#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewPartitions, ResourceSpecifier},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value as Json, json};
use support::{Environment, cloudformation::CloudFormation, is_loopback, listening_addresses, wait_for};

const TIMEOUT: Duration = Duration::from_secs(10);

/// The topics of a broker and how many partitions each has.
fn topics(bootstrap_servers: &str) -> BTreeMap<String, usize> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", bootstrap_servers).create().unwrap();
    let Ok(metadata) = consumer.fetch_metadata(None, TIMEOUT) else { return BTreeMap::new() };
    metadata
        .topics()
        .iter()
        .filter(|topic| !topic.name().starts_with("__"))
        .map(|topic| (topic.name().to_owned(), topic.partitions().len()))
        .collect()
}

/// A topic's setting, as the broker has it.
fn setting(bootstrap_servers: &str, topic: &str, name: &str) -> Option<String> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap_servers).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asked = [ResourceSpecifier::Topic(topic)];
    let found = runtime.block_on(admin.describe_configs(&asked, &AdminOptions::new())).unwrap();
    let resource = found.into_iter().next()?.ok()?;
    resource.get(name)?.value.clone()
}

fn add_partitions(servers: &str, topic: &str, count: usize) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let wanted = [NewPartitions::new(topic, count)];
    let done = runtime.block_on(admin.create_partitions(&wanted, &AdminOptions::new())).unwrap();
    assert!(done.iter().all(Result::is_ok), "{done:?}");
}

/// A network, a cluster and a topic, of the types that the emulator does not have by itself.
fn template(topic: &str, partitions: u32) -> Json {
    let reference = |name: &str| json!({ "Ref": name });
    let attribute = |name: &str, attribute: &str| json!({ "Fn::GetAtt": [name, attribute] });
    json!({
        "Resources": {
            "Vpc": { "Type": "AWS::EC2::VPC", "Properties": { "CidrBlock": "10.0.0.0/16" } },
            "Subnet": { "Type": "AWS::EC2::Subnet", "Properties": {
                "VpcId": reference("Vpc"), "CidrBlock": "10.0.0.0/24" } },
            "Address": { "Type": "AWS::EC2::EIP", "Properties": { "Domain": "vpc" } },
            "Nat": { "Type": "AWS::EC2::NatGateway", "Properties": {
                "SubnetId": reference("Subnet"), "AllocationId": attribute("Address", "AllocationId") } },
            "Group": { "Type": "AWS::EC2::SecurityGroup", "Properties": {
                "GroupDescription": "clients", "VpcId": reference("Vpc") } },
            "Ingress": { "Type": "AWS::EC2::SecurityGroupIngress", "Properties": {
                "GroupId": attribute("Group", "GroupId"), "IpProtocol": "tcp", "FromPort": 9098, "ToPort": 9098,
                "CidrIp": attribute("Vpc", "CidrBlock") } },
            "FlowLog": { "Type": "AWS::EC2::FlowLog", "Properties": {
                "ResourceId": reference("Vpc"), "ResourceType": "VPC", "TrafficType": "REJECT",
                "LogGroupName": "flow" } },
            "Configuration": { "Type": "AWS::MSK::Configuration", "Properties": {
                "Name": "tests", "ServerProperties": "auto.create.topics.enable=false" } },
            "Cluster": { "Type": "AWS::MSK::Cluster", "Properties": {
                "ClusterName": "tests", "KafkaVersion": "3.9.x.kraft", "NumberOfBrokerNodes": 3,
                "BrokerNodeGroupInfo": { "InstanceType": "kafka.m7g.large", "ClientSubnets": [reference("Subnet")] },
                "ConfigurationInfo": { "Arn": reference("Configuration"),
                    "Revision": attribute("Configuration", "LatestRevision.Revision") } } },
            "Topic": { "Type": "AWS::MSK::Topic", "Properties": {
                "ClusterArn": reference("Cluster"), "TopicName": topic, "PartitionCount": partitions,
                "ReplicationFactor": 3,
                // retention.ms=7200000 and min.insync.replicas=2
                "Configs": "cmV0ZW50aW9uLm1zPTcyMDAwMDAKbWluLmluc3luYy5yZXBsaWNhcz0yCg==" } },
            "Access": { "Type": "AWS::EKS::AccessEntry", "Properties": {
                "ClusterName": "tests", "PrincipalArn": "arn:aws:iam::000000000000:role/deployer" } },
            "Identity": { "Type": "AWS::EKS::PodIdentityAssociation", "Properties": {
                "ClusterName": "tests", "Namespace": "trades", "ServiceAccount": "consumer",
                "RoleArn": "arn:aws:iam::000000000000:role/consumer" } },
        },
        "Outputs": {
            "Cidr": { "Value": attribute("Vpc", "CidrBlock") },
            "Nat": { "Value": attribute("Nat", "NatGatewayId") },
            "ClusterArn": { "Value": attribute("Cluster", "Arn") },
            "TopicArn": { "Value": attribute("Topic", "TopicArn") },
            "Association": { "Value": attribute("Identity", "AssociationId") },
        }
    })
}

#[test]
fn a_stack_makes_changes_replaces_and_deletes_a_real_topic_and_outlives_crashes() {
    let environment = Environment::new();
    let state = environment.up();
    let servers = state.kafka.bootstrap_servers.as_str();
    let cloudformation = CloudFormation::at(&state.aws.endpoint_url);
    let deploy = |topic: &str, partitions: u32| {
        let status = cloudformation.deploy("water", &template(topic, partitions));
        assert!(
            ["CREATE_COMPLETE", "UPDATE_COMPLETE"].contains(&status.as_str()),
            "{status}: {:?}",
            cloudformation.reasons("water")
        );
    };

    deploy("trades", 3);
    assert_eq!(topics(servers), BTreeMap::from([("trades".to_owned(), 3)]));
    assert_eq!(setting(servers, "trades", "retention.ms").as_deref(), Some("7200000"));
    assert_eq!(
        setting(servers, "trades", "min.insync.replicas").as_deref(),
        Some("1"),
        "one broker cannot have two in sync"
    );
    let output = |name: &str| cloudformation.output("water", name).unwrap_or_default();
    assert_eq!(output("Cidr"), "10.0.0.0/16");
    assert!(output("Nat").starts_with("nat-"), "{}", output("Nat"));
    assert!(output("Association").starts_with("a-"), "{}", output("Association"));
    assert!(output("TopicArn").contains(":topic/tests/") && output("TopicArn").ends_with("/trades"));
    let brokers = cloudformation.bootstrap_brokers(&output("ClusterArn"));
    assert!(brokers.contains(servers), "{brokers} does not name {servers}");

    let nat = output("Nat");
    deploy("trades", 6);
    assert_eq!(topics(servers), BTreeMap::from([("trades".to_owned(), 6)]), "partitions are added in place");
    assert_eq!(output("Nat"), nat, "what did not change stays what it was");

    let fewer = cloudformation.deploy("water", &template("trades", 2));
    assert_eq!(fewer, "UPDATE_ROLLBACK_COMPLETE", "Kafka cannot take partitions away");
    assert_eq!(topics(servers), BTreeMap::from([("trades".to_owned(), 6)]));

    deploy("trades-v2", 2);
    assert_eq!(
        topics(servers),
        BTreeMap::from([("trades-v2".to_owned(), 2)]),
        "another name is another topic"
    );

    for part in ["kafka", "aws"] {
        let pid = environment.running_part(part).unwrap();
        let addresses = listening_addresses(pid);
        assert!(!addresses.is_empty(), "{part} listens nowhere");
        assert!(addresses.iter().all(|address| is_loopback(address)), "{part} listens on {addresses:?}");
    }

    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
    producer.send(BaseRecord::to("trades-v2").key("account").payload("a trade")).unwrap();
    producer.flush(TIMEOUT).unwrap();
    environment.crash("kafka");
    let after = environment.status();
    assert!(after.parts.iter().any(|part| part.endpoint == servers), "the broker has moved: {after:?}");
    let lag = environment.ask(&["lag", "--topic", "trades-v2", "--group", "nobody"]);
    assert_eq!(lag, json!({ "partitions": 2, "end_offset_total": 1, "lag_records": 1 }));

    let mut shorter = template("trades-v2", 3);
    // retention.ms=3600000
    shorter["Resources"]["Topic"]["Properties"]["Configs"] = json!("cmV0ZW50aW9uLm1zPTM2MDAwMDAK");
    assert_eq!(cloudformation.deploy("water", &shorter), "UPDATE_COMPLETE");
    assert_eq!(setting(servers, "trades-v2", "retention.ms").as_deref(), Some("3600000"));

    // Whoever was told that a stack is done is told so by the next emulator as well.
    environment.crash("aws");
    wait_for("the stack to be known again", || cloudformation.status("water").is_some());
    assert_eq!(cloudformation.status("water").as_deref(), Some("UPDATE_COMPLETE"));
    assert_eq!(topics(servers), BTreeMap::from([("trades-v2".to_owned(), 3)]));

    // An update that a crash cut short has reached the broker: the next one finds its partitions there.
    add_partitions(servers, "trades-v2", 4);
    deploy("trades-v2", 4);
    assert_eq!(topics(servers), BTreeMap::from([("trades-v2".to_owned(), 4)]));

    cloudformation.delete("water");
    wait_for("the topic to be deleted", || topics(servers).is_empty());
}

#[test]
fn every_type_of_a_stack_is_said_to_be_exercised_or_recorded() {
    let types = Environment::new().ask(&["resource-types"]);
    for (name, expected) in [
        ("AWS::MSK::Topic", "exercised"),
        ("AWS::MSK::Cluster", "exercised"),
        ("AWS::SSM::Parameter", "exercised"),
        ("AWS::RDS::DBCluster", "exercised"),
        ("AWS::RDS::DBProxy", "recorded"),
        ("AWS::MemoryDB::Cluster", "exercised"),
        ("AWS::MemoryDB::ACL", "recorded"),
        ("AWS::IAM::OIDCProvider", "recorded"),
        ("AWS::S3::Bucket", "exercised"),
        ("AWS::EC2::NatGateway", "recorded"),
        ("AWS::EC2::VPC", "recorded"),
        ("AWS::EKS::Cluster", "recorded"),
        ("AWS::IAM::Role", "recorded"),
    ] {
        assert_eq!(types[name], expected, "{name}");
    }
}
