//! Networks: who may come in, and from where.

use std::collections::BTreeMap;

use super::{
    Findings,
    rules::{ADDRESS_BLOCK, OPEN_INGRESS, PORTS, PUBLIC_SUBNET, SUBNET_BLOCK, WIDE_INGRESS},
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
    doors(template, findings);
    addresses(template, findings);
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

/// Properties that hold address blocks, by type.
const BLOCKS: [(&str, &[&str]); 3] = [
    ("AWS::EC2::VPC", &["CidrBlock"]),
    ("AWS::EC2::Subnet", &["CidrBlock", "Ipv6CidrBlock"]),
    ("AWS::EC2::Route", &["DestinationCidrBlock", "DestinationIpv6CidrBlock"]),
];

fn addresses(template: &Template<'_>, findings: &mut Findings<'_>) {
    for (kind, properties) in BLOCKS {
        for resource in template.of_kind(kind) {
            for property in properties {
                block_of(resource, resource.properties(), property, findings);
            }
        }
    }
}

/// Whether a property is an address block, where it is a literal.
fn block_of(resource: &Resource<'_>, json: &Json, property: &str, findings: &mut Findings<'_>) {
    let Some(text) = json.get(property).and_then(Json::as_str) else { return };
    let fits = if property.contains("v6") { is_block_v6(text) } else { block(text).is_some() };
    if !fits {
        findings.resource(
            ADDRESS_BLOCK,
            resource.logical_id,
            format!("{property} is `{text}`, which is no address block"),
        );
    }
}

fn is_block_v6(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, length)| {
        address.parse::<std::net::Ipv6Addr>().is_ok() && length.parse().is_ok_and(|length: u32| length <= 128)
    })
}

/// Protocols that have ports, by name and number, and those of ICMP, which have types in their place.
const WITH_PORTS: [&str; 4] = ["tcp", "udp", "6", "17"];
const ICMP: [&str; 4] = ["icmp", "icmpv6", "1", "58"];

/// Rules of security groups: blocks that are such, protocols that there are, ports that go with them.
fn doors(template: &Template<'_>, findings: &mut Findings<'_>) {
    for kind in ["AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress"] {
        for rule in template.of_kind(kind) {
            door(rule, rule.properties(), findings);
        }
    }
    for group in template.of_kind("AWS::EC2::SecurityGroup") {
        for list in ["/SecurityGroupIngress", "/SecurityGroupEgress"] {
            for rule in group.list(list) {
                door(group, rule, findings);
            }
        }
    }
}

fn door(resource: &Resource<'_>, rule: &Json, findings: &mut Findings<'_>) {
    block_of(resource, rule, "CidrIp", findings);
    block_of(resource, rule, "CidrIpv6", findings);
    let Some(protocol) = rule.get("IpProtocol").and_then(Json::as_str) else { return };
    let known = WITH_PORTS.contains(&protocol) || ICMP.contains(&protocol);
    let bound = |key: &str| rule.get(key).and_then(number);
    let given = |key: &str| rule.get(key).is_some();
    let (from, to) = (bound("FromPort"), bound("ToPort"));
    let wrong = if !known && protocol != "-1" && !protocol.parse().is_ok_and(|number: u8| number > 0) {
        Some(format!("`{protocol}` is no protocol"))
    } else if known && !(given("FromPort") && given("ToPort")) {
        Some(format!("{protocol} wants FromPort and ToPort"))
    } else if WITH_PORTS.contains(&protocol)
        && from.zip(to).is_some_and(|(from, to)| from < 0.0 || to > 65_535.0 || from > to)
    {
        Some("the ports are no range from 0 to 65535".to_owned())
    } else if ICMP.contains(&protocol) && from.zip(to).is_some_and(|(from, to)| from == -1.0 && to != -1.0) {
        Some("every ICMP type has every code: both are -1".to_owned())
    } else {
        None
    };
    if let Some(wrong) = wrong {
        findings.resource(PORTS, resource.logical_id, wrong);
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
