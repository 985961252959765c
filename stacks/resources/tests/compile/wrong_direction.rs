use cfn::{App, AppProperties, StackProperties};
use cfn_resources::{ec2::InternetGateway, ec2::VpcGatewayAttachment, ec2::Vpc};

fn main() {
    let mut app = App::new(AppProperties::new("e", "111111111111", "eu-west-1", "p"));
    let first = app.stack("first", StackProperties::default());
    let second = app.stack("second", StackProperties::default());
    let vpc = second.scope().add("Vpc", Vpc::new());
    let gateway = second.scope().add("Gateway", InternetGateway::new());
    first.scope().add(
        "Attachment",
        VpcGatewayAttachment::new(vpc.vpc_id()).internet_gateway_id(gateway.internet_gateway_id()),
    );
}
