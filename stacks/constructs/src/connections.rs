//! Who may connect to whom.
//!
//! Each rule is a resource of its own, in the stack of the client: two groups can then name each other, and
//! neither stack waits for the other's groups.

use cfn::{Handle, Scope};
use cfn_resources::ec2::{SecurityGroup, SecurityGroupEgress, SecurityGroupIngress};

use crate::needs::Peer;

/// Lets the members of a group connect to a peer: a way out of the one and a way into the other.
#[track_caller]
pub fn allow(scope: &mut Scope<'_>, client: &Handle<SecurityGroup>, peer: &Peer) {
    let mut scope = scope.child(&format!("To{}", peer.name));
    let description = format!("To {}", peer.name);
    scope.add(
        "Egress",
        SecurityGroupEgress::new(client.group_id(), "tcp")
            .description(description)
            .destination_security_group_id(peer.group.group_id())
            .from_port(peer.port)
            .to_port(peer.port),
    );
    let place = scope.path();
    scope.add(
        "Ingress",
        SecurityGroupIngress::new("tcp")
            .group_id(peer.group.group_id())
            .description(format!("From {place}"))
            .source_security_group_id(client.group_id())
            .from_port(peer.port)
            .to_port(peer.port),
    );
}

/// Lets the members of a group reach AWS's APIs, which answer at HTTPS through endpoints or NAT.
#[track_caller]
pub fn allow_https(scope: &mut Scope<'_>, client: &Handle<SecurityGroup>) {
    scope.add(
        "ToHttps",
        SecurityGroupEgress::new(client.group_id(), "tcp")
            .description("HTTPS to AWS APIs, through endpoints or NAT")
            .cidr_ip("0.0.0.0/0")
            .from_port(443)
            .to_port(443),
    );
}

/// Lets addresses of a block connect to a peer: pods, whose group is the Kubernetes cluster's own.
#[track_caller]
pub fn allow_cidr(scope: &mut Scope<'_>, peer: &Peer, cidr: &str) {
    scope.add(
        &format!("{}FromNetwork", peer.name),
        SecurityGroupIngress::new("tcp")
            .group_id(peer.group.group_id())
            .description("From within the VPC")
            .cidr_ip(cidr)
            .from_port(peer.port)
            .to_port(peer.port),
    );
}
