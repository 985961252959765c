//! A VPC over two or three zones: public subnets for what faces the internet, private ones for everything
//! else, a way out through NAT, endpoints, flow logs.

use cfn::{Handle, Property, Scope, Value};
use cfn_resources::{
    Tag,
    ec2::{
        Eip, FlowLog, FlowLogLogDestinationType, FlowLogResourceType, FlowLogTrafficType, InternetGateway,
        NatGateway, Route, RouteTable, SecurityGroup, SecurityGroupEgressProperty, SecurityGroupIngress,
        Subnet, SubnetRouteTableAssociation, Vpc, VpcEndpoint, VpcEndpointVpcEndpointType,
        VpcGatewayAttachment,
    },
    ids,
};

use crate::{
    DataPolicy,
    addresses::Block,
    iam::{self, Trust},
    logs,
};

/// What a network is made for.
#[derive(Clone, Debug)]
pub struct NetworkProperties {
    /// The VPC's block; a /16 to /20.
    pub cidr: Block,
    /// 2 or 3.
    pub zones: u32,
    /// A NAT gateway in each zone instead of one for all: a lost zone then cuts nobody else off.
    pub nat_gateway_per_zone: bool,
    /// Interface endpoints, by service such as `ecr.api`.
    pub interface_endpoints: Vec<String>,
    /// Days that flow logs are kept.
    pub flow_log_retention_days: u32,
    /// What happens to the flow logs with the stack.
    pub data: DataPolicy,
}

/// A network.
#[derive(Clone, Debug)]
pub struct Network {
    /// The VPC.
    pub vpc: Handle<Vpc>,
    /// Its block.
    pub cidr: Block,
    /// One a zone; they face the internet.
    pub public_subnets: Vec<Handle<Subnet>>,
    /// One a zone; they do not.
    pub private_subnets: Vec<Handle<Subnet>>,
}

impl Network {
    /// Makes a network below `scope`.
    #[track_caller]
    pub fn new(scope: &mut Scope<'_>, name: &str, properties: &NetworkProperties) -> Self {
        let mut scope = scope.child(name);
        let vpc = scope.add(
            "Resource",
            Vpc::new()
                .cidr_block(properties.cidr.to_string())
                .enable_dns_hostnames(true)
                .enable_dns_support(true)
                .tags([name_tag(&scope, "vpc")]),
        );
        let gateway = scope.add("InternetGateway", InternetGateway::new());
        let attachment = scope.add(
            "InternetGatewayAttachment",
            VpcGatewayAttachment::new(vpc.vpc_id()).internet_gateway_id(gateway.internet_gateway_id()),
        );

        let public_routes =
            scope.add("PublicRoutes", RouteTable::new(vpc.vpc_id()).tags([name_tag(&scope, "public")]));
        let out = scope.add(
            "PublicDefaultRoute",
            Route::new(public_routes.route_table_id())
                .destination_cidr_block("0.0.0.0/0")
                .gateway_id(gateway.internet_gateway_id()),
        );
        scope.depend(out.raw(), attachment.raw());

        let mut public_subnets = Vec::new();
        let mut private_subnets = Vec::new();
        let mut private_tables = Vec::new();
        let mut nat_gateways: Vec<Handle<NatGateway>> = Vec::new();
        for zone in 0..properties.zones {
            let number = zone + 1;
            let public = subnet(&mut scope, &vpc, properties.cidr, zone, true);
            scope.add(
                &format!("PublicRoutesAssociation{number}"),
                SubnetRouteTableAssociation::new(public_routes.route_table_id(), public.subnet_id()),
            );
            if zone == 0 || properties.nat_gateway_per_zone {
                let address = scope.add(&format!("NatAddress{number}"), Eip::new().domain("vpc"));
                scope.depend(address.raw(), attachment.raw());
                nat_gateways.push(scope.add(
                    &format!("NatGateway{number}"),
                    NatGateway::new().allocation_id(address.allocation_id()).subnet_id(public.subnet_id()),
                ));
            }
            let private = subnet(&mut scope, &vpc, properties.cidr, zone, false);
            let table = scope.add(
                &format!("PrivateRoutes{number}"),
                RouteTable::new(vpc.vpc_id()).tags([name_tag(&scope, &format!("private-{number}"))]),
            );
            if let Some(nat_gateway) = nat_gateways.last() {
                scope.add(
                    &format!("PrivateDefaultRoute{number}"),
                    Route::new(table.route_table_id())
                        .destination_cidr_block("0.0.0.0/0")
                        .nat_gateway_id(nat_gateway.nat_gateway_id()),
                );
            }
            scope.add(
                &format!("PrivateRoutesAssociation{number}"),
                SubnetRouteTableAssociation::new(table.route_table_id(), private.subnet_id()),
            );
            public_subnets.push(public);
            private_subnets.push(private);
            private_tables.push(table);
        }

        let network = Self { vpc, cidr: properties.cidr, public_subnets, private_subnets };
        network.endpoints(&mut scope, properties, &private_tables);
        network.flow_logs(&mut scope, properties);
        network
    }

    /// The private subnets' ids.
    #[must_use]
    pub fn private_subnet_ids(&self) -> Vec<Value<ids::SubnetId>> {
        self.private_subnets.iter().map(|subnet| subnet.subnet_id()).collect()
    }

    /// A security group that lets nothing in, and out what `egress` allows.
    #[track_caller]
    pub fn security_group(
        &self,
        scope: &mut Scope<'_>,
        name: &str,
        description: &str,
        egress: Vec<SecurityGroupEgressProperty>,
    ) -> Handle<SecurityGroup> {
        // CloudFormation opens a group that has no rule at all to everything; this one goes nowhere.
        let egress = if egress.is_empty() {
            vec![egress_rule("No way out", "127.0.0.1/32", "icmp", 252, 86)]
        } else {
            egress
        };
        scope.add(
            name,
            SecurityGroup::new(description).vpc_id(self.vpc.vpc_id()).security_group_egress(egress),
        )
    }

    /// Gateway endpoints cost nothing and keep the traffic off the NAT gateways; interface endpoints are
    /// listed.
    fn endpoints(
        &self,
        scope: &mut Scope<'_>,
        properties: &NetworkProperties,
        tables: &[Handle<RouteTable>],
    ) {
        for service in ["s3", "dynamodb"] {
            let tables: Vec<Value<ids::RouteTableId>> =
                tables.iter().map(|table| table.route_table_id()).collect();
            scope.add(
                &format!("{}Endpoint", capitalised(service)),
                VpcEndpoint::new(self.vpc.vpc_id())
                    .service_name(Value::sub(&format!("com.amazonaws.${{AWS::Region}}.{service}"), []))
                    .vpc_endpoint_type(VpcEndpointVpcEndpointType::Gateway)
                    .route_table_ids(tables),
            );
        }
        if properties.interface_endpoints.is_empty() {
            return;
        }
        let group =
            self.security_group(scope, "EndpointSecurityGroup", "Interface endpoints of the VPC", Vec::new());
        scope.add(
            "EndpointIngress",
            SecurityGroupIngress::new("tcp")
                .group_id(group.group_id())
                .description("HTTPS from within the VPC")
                .cidr_ip(self.cidr.to_string())
                .from_port(443)
                .to_port(443),
        );
        for service in &properties.interface_endpoints {
            scope.add(
                &format!("{}Endpoint", capitalised(service)),
                VpcEndpoint::new(self.vpc.vpc_id())
                    .service_name(Value::sub(&format!("com.amazonaws.${{AWS::Region}}.{service}"), []))
                    .vpc_endpoint_type(VpcEndpointVpcEndpointType::Interface)
                    .private_dns_enabled(true)
                    .subnet_ids(self.private_subnet_ids())
                    .security_group_ids([group.group_id()]),
            );
        }
    }

    fn flow_logs(&self, scope: &mut Scope<'_>, properties: &NetworkProperties) {
        let group =
            logs::log_group(scope, "FlowLogGroup", properties.flow_log_retention_days, properties.data);
        let group_arn: Value<String> = cfn::IntoValue::into_value(group.arn());
        let role = iam::role(
            scope,
            "FlowLogRole",
            "Writes the VPC's flow logs",
            &Trust::service("vpc-flow-logs.amazonaws.com"),
            &[],
            vec![iam::allow(
                "WriteFlowLogs",
                &["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
                &[group_arn],
            )],
        );
        scope.add(
            "FlowLog",
            FlowLog::new(self.vpc.vpc_id(), FlowLogResourceType::Vpc)
                .traffic_type(FlowLogTrafficType::All)
                .log_destination_type(FlowLogLogDestinationType::CloudWatchLogs)
                .log_group_name(group.reference())
                .deliver_logs_permission_arn(role.arn())
                .max_aggregation_interval(600),
        );
    }
}

/// A rule of traffic out.
#[must_use]
pub fn egress_rule(
    description: &str,
    cidr: &str,
    protocol: &str,
    from: i64,
    to: i64,
) -> SecurityGroupEgressProperty {
    SecurityGroupEgressProperty::new(protocol)
        .description(description)
        .cidr_ip(cidr)
        .from_port(from)
        .to_port(to)
}

/// Public subnets are small (a /24 of a /16) and come last; private ones are large (a /19) and come first, so
/// that a third zone can be added without moving anything.
fn subnet(scope: &mut Scope<'_>, vpc: &Handle<Vpc>, cidr: Block, zone: u32, public: bool) -> Handle<Subnet> {
    let (kind, prefix, position) =
        if public { ("Public", cidr.prefix() + 8, 252 + zone) } else { ("Private", cidr.prefix() + 3, zone) };
    // The environment's bounds leave room for both; an impossible block is refused by `check`.
    let block = cidr.subdivide(prefix, position).map(|block| block.to_string()).unwrap_or_default();
    let zone_name: Value<String> = Value::select(zone, Value::get_azs(""));
    let role = if public { "kubernetes.io/role/elb" } else { "kubernetes.io/role/internal-elb" };
    let name = format!("{kind}Subnet{}", zone + 1);
    let tags = [name_tag(scope, &format!("{}-{}", kind.to_ascii_lowercase(), zone + 1)), Tag::new(role, "1")];
    scope.add(
        &name,
        Subnet::new(vpc.vpc_id())
            .cidr_block(block)
            .availability_zone(zone_name)
            .map_public_ip_on_launch(false)
            .tags(tags),
    )
}

fn name_tag(scope: &Scope<'_>, suffix: &str) -> Tag {
    Tag::new("Name", format!("{}-{suffix}", scope.stack_name()))
}

fn capitalised(service: &str) -> String {
    service
        .split(['.', '-'])
        .map(|word| {
            word.chars().next().map_or_else(String::new, |c| c.to_ascii_uppercase().to_string() + &word[1..])
        })
        .collect()
}

/// The id of a security group as text, where a property takes any.
#[must_use]
pub fn as_text<K: cfn::IdKind>(id: &Value<K>) -> Value<String> {
    match id {
        Value::Literal(id) => Value::Literal(id.as_ref().to_owned()),
        Value::Expression(_) => Value::Expression(id.to_json()),
    }
}
