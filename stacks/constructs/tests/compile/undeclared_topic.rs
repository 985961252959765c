use constructs::{kafka::KafkaCluster, needs::Needs};

fn needs(cluster: &KafkaCluster) -> Needs {
    Needs::new().consumes(cluster, "trade-tx", "trade-tx-consumer")
}

fn main() {}
