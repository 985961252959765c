//! Rules see references through to other stacks, and do not mistake one stack's logical ids for another's.

#![allow(clippy::unwrap_used)]

mod support;

use cfn::{
    Assembly, Json,
    check::{Finding, check},
};
use serde_json::json;
use support::{Facts, app};

fn found(assembly: &Assembly, code: &str) -> Vec<Finding> {
    let facts = Facts::default();
    let all = check(assembly, &|kind| facts.schema(kind));
    all.into_iter().filter(|finding| finding.code == code).collect()
}

/// A stack of brokers whose group has no way out, and a stack with a mapping, a group of the same logical id
/// that is open, and further resources.
fn kafka_and_ledger(more: Json) -> Assembly {
    let kafka = json!({
        "Resources": {
            "Kafka": {"Type": "AWS::MSK::Cluster", "Properties": {
                "BrokerNodeGroupInfo": {"SecurityGroups": [{"Fn::GetAtt": ["Group", "GroupId"]}]},
                "ClientAuthentication": {"Sasl": {"Iam": {"Enabled": true}}}
            }},
            "Topic": {"Type": "AWS::MSK::Topic", "Properties": {"TopicName": "trades", "PartitionCount": 24}},
            "Group": {"Type": "AWS::EC2::SecurityGroup", "Properties": {
                "GroupDescription": "brokers",
                "SecurityGroupEgress": [{"IpProtocol": "icmp", "FromPort": 252, "ToPort": 86, "CidrIp": "127.0.0.1/32"}]
            }}
        },
        "Outputs": {
            "Arn": {"Value": {"Fn::GetAtt": ["Kafka", "Arn"]}},
            "Group": {"Value": {"Fn::GetAtt": ["Group", "GroupId"]}}
        }
    });
    let mut ledger = json!({
        "Parameters": {"KafkaArn": {"Type": "String"}, "KafkaGroup": {"Type": "String"}},
        "Resources": {
            "Source": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": {
                "EventSourceArn": {"Ref": "KafkaArn"}, "FunctionName": {"Ref": "Writer"}, "Topics": ["trades"]
            }},
            "Writer": {"Type": "AWS::Lambda::Function", "Properties": {
                "Role": {"Fn::GetAtt": ["Role", "Arn"]}, "ReservedConcurrentExecutions": 8
            }},
            "Role": {"Type": "AWS::IAM::Role", "Properties": {}},
            "Group": {"Type": "AWS::EC2::SecurityGroup", "Properties": {
                "GroupDescription": "open", "SecurityGroupIngress": [{"IpProtocol": "-1", "CidrIp": "10.0.0.0/16"}]
            }}
        }
    });
    for (id, resource) in more.as_object().unwrap() {
        ledger["Resources"][id] = resource.clone();
    }
    app(vec![
        ("kafka", kafka, vec![]),
        ("ledger", ledger, vec![("KafkaArn", "kafka", "Arn"), ("KafkaGroup", "kafka", "Group")]),
    ])
}

#[test]
fn a_mapping_is_checked_against_the_cluster_of_another_stack() {
    let assembly = kafka_and_ledger(json!({}));
    let network = found(&assembly, "FG465");
    assert_eq!(network.len(), 1, "{network:?}");
    assert_eq!(network[0].path, "ledger/Source");
    for way in ["in at 9098", "out to 9098", "out to 443"] {
        assert!(network[0].message.contains(way), "{way} is missing in: {}", network[0].message);
    }
    let lacking = found(&assembly, "FG460").remove(0).message;
    assert!(lacking.contains("kafka-cluster:ReadData"), "the cluster's IAM is known here: {lacking}");
    let pollers = found(&assembly, "FG464").remove(0).message;
    assert!(pollers.contains("24 pollers"), "the topic's partitions are known here: {pollers}");
}

#[test]
fn doors_that_one_stack_opens_in_a_group_of_another_count() {
    let door = |direction: &str, peer: &str, port: u32| {
        json!({"Type": format!("AWS::EC2::SecurityGroup{direction}"), "Properties": {
            "GroupId": {"Ref": "KafkaGroup"}, peer: {"Ref": "KafkaGroup"},
            "IpProtocol": "tcp", "FromPort": port, "ToPort": port
        }})
    };
    let mut internet = door("Egress", "DestinationSecurityGroupId", 443);
    internet["Properties"].as_object_mut().unwrap().remove("DestinationSecurityGroupId");
    internet["Properties"]["CidrIp"] = "10.0.0.0/16".into();
    let open = json!({
        "In": door("Ingress", "SourceSecurityGroupId", 9098),
        "Out": door("Egress", "DestinationSecurityGroupId", 9098),
        "Https": internet
    });
    assert_eq!(found(&kafka_and_ledger(open), "FG465"), []);
    let wrong = json!({"Plain": door("Ingress", "SourceSecurityGroupId", 9092)});
    let doors = found(&kafka_and_ledger(wrong), "FG436");
    assert!(doors[0].message.contains("ledger/Plain opens 9092"), "{doors:?}");
}

#[test]
fn a_proxy_before_a_pausing_database_of_another_stack_is_blamed_itself() {
    let data = json!({
        "Resources": {"Cluster": {"Type": "AWS::RDS::DBCluster", "Properties": {
            "ServerlessV2ScalingConfiguration": {"MinCapacity": 0, "MaxCapacity": 4}
        }}},
        "Outputs": {"Cluster": {"Value": {"Ref": "Cluster"}}}
    });
    let ledger = json!({
        "Parameters": {"Database": {"Type": "String"}},
        "Resources": {"Targets": {"Type": "AWS::RDS::DBProxyTargetGroup", "Properties": {
            "DBClusterIdentifiers": [{"Ref": "Database"}], "DBProxyName": "main", "TargetGroupName": "default"
        }}}
    });
    let assembly =
        app(vec![("data", data, vec![]), ("ledger", ledger, vec![("Database", "data", "Cluster")])]);
    let paths: Vec<String> = found(&assembly, "FG482").into_iter().map(|finding| finding.path).collect();
    assert_eq!(paths, ["ledger/Targets"]);
}

/// A network, brokers in it and a mapping; `more` are further resources of the network.
fn network_and_kafka(more: Json, mapping: Json) -> Vec<String> {
    let mut network = json!({
        "Resources": {
            "Subnet": {"Type": "AWS::EC2::Subnet", "Properties": {}},
            "Routes": {"Type": "AWS::EC2::RouteTable", "Properties": {}},
            "Link": {"Type": "AWS::EC2::SubnetRouteTableAssociation", "Properties": {
                "SubnetId": {"Ref": "Subnet"}, "RouteTableId": {"Ref": "Routes"}
            }}
        },
        "Outputs": {"Subnet": {"Value": {"Fn::GetAtt": ["Subnet", "SubnetId"]}}}
    });
    for (id, resource) in more.as_object().unwrap() {
        network["Resources"][id] = resource.clone();
    }
    let mut source = json!({"EventSourceArn": {"Fn::GetAtt": ["Kafka", "Arn"]}, "Topics": ["trades"]});
    for (name, value) in mapping.as_object().unwrap() {
        source[name] = value.clone();
    }
    let kafka = json!({
        "Parameters": {"Subnet": {"Type": "String"}},
        "Resources": {
            "Kafka": {"Type": "AWS::MSK::Cluster", "Properties": {
                "BrokerNodeGroupInfo": {"ClientSubnets": [{"Ref": "Subnet"}]}
            }},
            "Source": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": source}
        }
    });
    let assembly =
        app(vec![("network", network, vec![]), ("kafka", kafka, vec![("Subnet", "network", "Subnet")])]);
    found(&assembly, "FG465").into_iter().map(|finding| finding.message).collect()
}

#[test]
fn a_poller_needs_a_way_to_lambda_from_the_brokers_subnets() {
    let shut = network_and_kafka(json!({}), json!({}));
    assert_eq!(shut, ["Subnet has no default route, and there is no endpoint of lambda and sts"]);
    let route = json!({"Out": {"Type": "AWS::EC2::Route", "Properties": {
        "RouteTableId": {"Ref": "Routes"}, "DestinationCidrBlock": "0.0.0.0/0", "NatGatewayId": "nat-0"
    }}});
    assert_eq!(network_and_kafka(route, json!({})), Vec::<String>::new());
    let endpoint = |service: &str| {
        json!({"Type": "AWS::EC2::VPCEndpoint", "Properties": {
            "ServiceName": {"Fn::Sub": format!("com.amazonaws.${{AWS::Region}}.{service}")}
        }})
    };
    let sts = network_and_kafka(json!({"Sts": endpoint("sts")}), json!({}));
    assert_eq!(sts, ["Subnet has no default route, and there is no endpoint of lambda"]);
    let both = json!({"Sts": endpoint("sts"), "Lambda": endpoint("lambda")});
    assert_eq!(network_and_kafka(both, json!({})), Vec::<String>::new());
    let provisioned = json!({"ProvisionedPollerConfig": {"MaximumPollers": 4}});
    assert_eq!(network_and_kafka(json!({}), provisioned), Vec::<String>::new());
}
