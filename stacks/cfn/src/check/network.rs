//! Networks: who may come in, and from where.

use std::collections::BTreeMap;

use super::{
    Findings,
    rules::{OPEN_INGRESS, PUBLIC_SUBNET, SUBNET_BLOCK, WIDE_INGRESS},
    template::{Resource, Template, number},
};
use crate::value::Json;

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    for rule in template.of_kind("AWS::EC2::SecurityGroupIngress") {
        ingress(rule, rule.properties(), findings);
    }
    for group in template.of_kind("AWS::EC2::SecurityGroup") {
        for rule in group.list("/SecurityGroupIngress") {
            ingress(group, rule, findings);
        }
    }
    blocks(template, findings);
    for subnet in template.of_kind("AWS::EC2::Subnet") {
        if subnet.on("/MapPublicIpOnLaunch") {
            findings.resource(
                PUBLIC_SUBNET,
                subnet.logical_id,
                "what starts in it gets a public address".to_owned(),
            );
        }
    }
}

/// Addresses of an IPv4 block, first and last.
fn block(text: &str) -> Option<(u32, u32)> {
    let (address, length) = text.split_once('/')?;
    let address = u32::from(address.parse::<std::net::Ipv4Addr>().ok()?);
    let length: u32 = length.parse().ok().filter(|length| *length <= 32)?;
    let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
    Some((address & !hosts, address | hosts))
}

/// Subnets of a VPC overlap nowhere, and lie within its block.
fn blocks(template: &Template<'_>, findings: &mut Findings<'_>) {
    let mut by_vpc: BTreeMap<String, Vec<(u32, u32, Resource<'_>)>> = BTreeMap::new();
    for subnet in template.of_kind("AWS::EC2::Subnet") {
        let Some((vpc, (first, last))) = subnet.at("/VpcId").zip(subnet.text("/CidrBlock").and_then(block))
        else {
            continue;
        };
        let declared = template.own(vpc).filter(|vpc| vpc.kind == "AWS::EC2::VPC");
        let outer = declared.and_then(|vpc| vpc.text("/CidrBlock")).and_then(block);
        // A VPC can have further blocks; those of its own resources are not looked at.
        let more = !template.of_kind("AWS::EC2::VPCCidrBlock").is_empty();
        if outer.is_some_and(|(from, to)| first < from || last > to) && !more {
            findings.resource(
                SUBNET_BLOCK,
                subnet.logical_id,
                "its block is not within its VPC's".to_owned(),
            );
        }
        by_vpc.entry(vpc.to_string()).or_default().push((first, last, *subnet));
    }
    for subnets in by_vpc.values_mut() {
        subnets.sort_by_key(|(first, last, _)| (*first, *last));
        for pair in subnets.windows(2) {
            if let [(_, last, one), (first, _, other)] = pair
                && first <= last
            {
                findings.resource(
                    SUBNET_BLOCK,
                    other.logical_id,
                    format!("its block overlaps that of {}", one.logical_id),
                );
            }
        }
    }
}

fn ingress(resource: &Resource<'_>, rule: &Json, findings: &mut Findings<'_>) {
    let open = |key: &str, every: &str| rule.get(key).and_then(Json::as_str) == Some(every);
    if open("CidrIp", "0.0.0.0/0") || open("CidrIpv6", "::/0") {
        findings.resource(OPEN_INGRESS, resource.logical_id, "every address may come in".to_owned());
    }
    let block = rule.get("CidrIp").is_some() || rule.get("CidrIpv6").is_some();
    let bound = |key: &str| rule.get(key).and_then(number);
    let every_port = rule.get("IpProtocol").and_then(Json::as_str) == Some("-1")
        || (bound("FromPort").is_some_and(|from| from <= 1.0)
            && bound("ToPort").is_some_and(|to| to >= 65_535.0));
    if block && every_port {
        findings.resource(WIDE_INGRESS, resource.logical_id, "a block may reach every port".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_a_first_and_a_last_address() {
        assert_eq!(block("10.0.0.0/8"), Some((0x0a00_0000, 0x0aff_ffff)));
        assert_eq!(block("10.0.0.1/32"), Some((0x0a00_0001, 0x0a00_0001)));
        assert_eq!(block("0.0.0.0/0"), Some((0, u32::MAX)));
        assert_eq!(block("10.0.0.0/33"), None);
    }
}
