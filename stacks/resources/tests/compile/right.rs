use cfn::{App, AppProperties, StackProperties, Value};
use cfn_resources::{ec2, msk};

fn main() {
    let mut app = App::new(AppProperties::new("dev", "111111111111", "eu-west-1", "fg"));
    let stack = app.stack("s", StackProperties::default());
    let mut scope = stack.scope();
    let vpc = scope.add("Vpc", ec2::Vpc::new().cidr_block("10.0.0.0/16"));
    let subnet = scope.add("Subnet", ec2::Subnet::new(vpc.vpc_id()));
    let group = scope.add("Group", ec2::SecurityGroup::new("brokers").vpc_id(vpc.vpc_id()));
    let _ = msk::ClusterBrokerNodeGroupInfo::new([subnet.subnet_id()], "kafka.m7g.large").security_groups([group.group_id()]);
    let _ = msk::Topic::new(msk::TopicRequired {
        cluster_arn: Value::<String>::sub("arn:${AWS::Partition}:kafka", []).assume(),
        partition_count: Value::Literal(3),
        replication_factor: Value::Literal(3),
        topic_name: Value::Literal("t".to_owned()),
    });
}
