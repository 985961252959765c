"""EC2's network: recorded, because everything here is on loopback."""

from ministack.services.cloudformation import provisioners

from floodgate.resources import by_id, recorded


def eip(identity, props):
    address = "198.51.100." + str(int(identity[:2], 16) % 254 + 1)
    return address, {"AllocationId": f"eipalloc-{identity}", "PublicIp": address}


RECORDED = {
    "AWS::EC2::EIP": recorded(eip),
    "AWS::EC2::FlowLog": recorded(by_id("fl"), ("ResourceId", "LogGroupName")),
    "AWS::EC2::NatGateway": recorded(by_id("nat", "NatGatewayId"), ("SubnetId", "AllocationId")),
    "AWS::EC2::SecurityGroupEgress": recorded(by_id("sgr")),
    "AWS::EC2::SecurityGroupIngress": recorded(by_id("sgr")),
}

EXERCISED = {}

# Types that the emulator knows itself, but behind which nothing happens.
RECORDED_BY_EMULATOR = {
    "AWS::EC2::InternetGateway", "AWS::EC2::Route", "AWS::EC2::RouteTable", "AWS::EC2::SecurityGroup",
    "AWS::EC2::Subnet", "AWS::EC2::SubnetRouteTableAssociation", "AWS::EC2::VPC", "AWS::EC2::VPCEndpoint",
    "AWS::EC2::VPCGatewayAttachment",
}


def install():
    """Adds the attribute of a VPC that the emulator forgets."""
    handler = provisioners._RESOURCE_HANDLERS["AWS::EC2::VPC"]
    create = handler["create"]

    def completed(logical_id, props, stack_name):
        physical_id, known = create(logical_id, props, stack_name)
        return physical_id, {"CidrBlock": props.get("CidrBlock", ""), **(known or {})}

    handler["create"] = completed
