use cfn::{Handle, Value};
use cfn_resources::{ec2, ids, msk};

fn groups(subnet: &Handle<ec2::Subnet>) -> msk::ClusterBrokerNodeGroupInfo {
    let id: Value<ids::SubnetId> = subnet.subnet_id();
    msk::ClusterBrokerNodeGroupInfo::new([id.clone()], "kafka.m7g.large").security_groups([id])
}

fn main() {}
