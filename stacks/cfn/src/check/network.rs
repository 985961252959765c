//! Networks: who may come in, and from where.

use super::{
    Findings,
    rules::{OPEN_INGRESS, PUBLIC_SUBNET, WIDE_INGRESS},
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
