use cfn::Handle;
use cfn_resources::msk;

fn brokers(cluster: &Handle<msk::Cluster>) {
    let _ = cluster.bootstrap_brokers();
}

fn main() {}
