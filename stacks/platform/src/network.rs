//! The network that everything else is in.

use cfn::{App, StackProperties};
use constructs::{
    addresses::Block,
    network::{Network, NetworkProperties},
};

use crate::environment::{Data, Environment};

/// What the stack holds.
pub const DESCRIPTION: &str = "VPC over two or three zones: subnets, NAT, endpoints, flow logs";

/// Adds the stack.
pub fn add(app: &mut App, id: &str, environment: &Environment) -> Network {
    let stack = app.stack(id, stack_properties(environment, DESCRIPTION));
    Network::new(
        &mut stack.scope(),
        "Network",
        &NetworkProperties {
            // The environment's own check has parsed it; this block is never used.
            cidr: environment.network.cidr.parse().unwrap_or(FALLBACK),
            zones: environment.network.zones,
            nat_gateway_per_zone: environment.network.nat_gateway_per_zone,
            interface_endpoints: environment.network.interface_endpoints.clone(),
            flow_log_retention_days: environment.log_retention_days,
            data: environment.data_policy(),
        },
    )
}

const FALLBACK: Block = Block::PRIVATE;

/// What every stack of the environment has.
pub(crate) fn stack_properties(environment: &Environment, description: &str) -> StackProperties {
    StackProperties {
        description: format!("Floodgate {}: {description}", environment.name),
        termination_protection: environment.data == Data::Kept,
        ..StackProperties::default()
    }
}
