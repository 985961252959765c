use cfn::Value;
use cfn_resources::msk;

fn main() {
    let _ = msk::Topic::new(msk::TopicRequired {
        cluster_arn: Value::Literal("arn".to_owned().into()),
        partition_count: Value::Literal(3),
        topic_name: Value::Literal("t".to_owned()),
    });
}
