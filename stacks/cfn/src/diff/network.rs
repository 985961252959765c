//! Where a change lets more of the network in: rules of security groups, and switches that make something public.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::expressions::text;
use crate::value::Json;

/// Who may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// A block of addresses, as the first address in 128 bits and the length of the prefix.
    Block { version: u8, address: u128, prefix: u32, text: String },
    /// A group, a list of prefixes, or a block that is known to CloudFormation alone.
    Named(String),
}

impl Source {
    fn block(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|| Source::Named(text.to_owned()))
    }

    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let prefix: u32 = prefix.parse().ok()?;
        let (version, address, bits) = match address.parse::<Ipv4Addr>() {
            Ok(address) => (4, u128::from(u32::from(address)), 32),
            Err(_) => (6, u128::from(address.parse::<Ipv6Addr>().ok()?), 128),
        };
        let free = bits - Some(prefix).filter(|prefix| *prefix <= bits)?;
        // A shift by all 128 bits is none that the language has.
        let address = address.checked_shr(free).unwrap_or(0).checked_shl(free).unwrap_or(0);
        Some(Source::Block { version, address, prefix, text: text.to_owned() })
    }

    fn covers(&self, other: &Source) -> bool {
        match (self, other) {
            (
                Source::Block { version, address, prefix, .. },
                Source::Block { version: other_version, address: other, prefix: longer, .. },
            ) => {
                let bits = if *version == 4 { 32 } else { 128 };
                let free = bits - prefix;
                version == other_version
                    && prefix <= longer
                    && address.checked_shr(free).unwrap_or(0) == other.checked_shr(free).unwrap_or(0)
            }
            (Source::Named(known), Source::Named(asked)) => known == asked,
            _ => false,
        }
    }

    fn words(&self) -> &str {
        match self {
            Source::Block { text, .. } | Source::Named(text) => text,
        }
    }
}

/// A rule by which traffic comes into a group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    protocol: String,
    /// The ports as texts; numbers where they are literals.
    ports: (String, String),
    source: Source,
}

impl Rule {
    fn read(rule: &Json) -> Option<Self> {
        let part = |name: &str| rule.get(name).map(text);
        let source = ["CidrIp", "CidrIpv6"]
            .iter()
            .find_map(|name| part(name).map(|cidr| Source::block(&cidr)))
            .or_else(|| {
                ["SourceSecurityGroupId", "SourcePrefixListId", "SourceSecurityGroupName"]
                    .iter()
                    .find_map(|name| part(name).map(Source::Named))
            })?;
        let port = |name: &str| part(name).unwrap_or_else(|| "-1".to_owned());
        Some(Self {
            protocol: part("IpProtocol")?.to_lowercase(),
            ports: (port("FromPort"), port("ToPort")),
            source,
        })
    }

    fn all_protocols(&self) -> bool {
        self.protocol == "-1"
    }

    /// The range of ports; `None` where it is not known before the deployment.
    fn range(&self) -> Option<(i64, i64)> {
        match (self.ports.0.parse().ok()?, self.ports.1.parse().ok()?) {
            // -1 stands for all.
            (-1, _) => Some((i64::MIN, i64::MAX)),
            range => Some(range),
        }
    }

    fn covers(&self, other: &Rule) -> bool {
        let ports = self.all_protocols()
            || self.protocol == other.protocol
                && (self.ports == other.ports
                    || matches!(
                        (self.range(), other.range()),
                        (Some((from, to)), Some((lower, upper))) if from <= lower && upper <= to
                    ));
        ports && self.source.covers(&other.source)
    }

    fn words(&self) -> String {
        let ports = match (self.all_protocols(), &self.ports) {
            (true, _) => "every protocol and port".to_owned(),
            (_, (from, _)) if from == "-1" => format!("{} on every port", self.protocol),
            (_, (from, to)) if from == to => format!("{} {from}", self.protocol),
            (_, (from, to)) => format!("{} {from}-{to}", self.protocol),
        };
        format!("{ports} from {}", self.source.words())
    }

    /// What of an old rule is wider in this one.
    fn widening(&self, old: &[Rule]) -> String {
        let wider = |known: &&Rule| self.covers(known) && *known != self;
        match old.iter().find(wider) {
            Some(known) if known.source == self.source => format!(", more than {}", known.words()),
            Some(known) => format!(", wider than {}", known.source.words()),
            None if old.iter().any(|known| known.source == self.source) => String::new(),
            None => ", a new source".to_owned(),
        }
    }
}

/// The rules of a stack's groups, whether they stand in the group or beside it: a rule that moves from one
/// to the other lets nobody in.
#[derive(Clone, Debug, Default)]
pub(super) struct Ingress(BTreeMap<String, Vec<Rule>>);

impl Ingress {
    /// Adds the rules of a resource. A resource of another type has none.
    pub(super) fn add(&mut self, logical_id: &str, kind: &str, properties: &Json) {
        let (group, mut rules) = rules(logical_id, kind, properties);
        self.0.entry(group).or_default().append(&mut rules);
    }
}

/// The group that a resource's rules belong to, and the rules.
fn rules(logical_id: &str, kind: &str, properties: &Json) -> (String, Vec<Rule>) {
    match kind {
        "AWS::EC2::SecurityGroup" => {
            let mut found = Vec::new();
            inline(properties.get("SecurityGroupIngress").unwrap_or(&Json::Null), &mut found);
            (logical_id.to_owned(), found)
        }
        "AWS::EC2::SecurityGroupIngress" => {
            let group = properties.get("GroupId").or(properties.get("GroupName")).map(text);
            // `${Group.GroupId}` and `${Group}` are the group itself.
            let group = group.unwrap_or_default();
            let name = group
                .strip_prefix("${")
                .and_then(|rest| rest.strip_suffix('}'))
                .map(|name| name.split('.').next().unwrap_or(name).to_owned());
            (name.unwrap_or(group), Rule::read(properties).into_iter().collect())
        }
        _ => (String::new(), Vec::new()),
    }
}

/// Rules of a group, also below a `Fn::If`.
fn inline(json: &Json, found: &mut Vec<Rule>) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| inline(item, found)),
        Json::Object(object) if object.contains_key("IpProtocol") => found.extend(Rule::read(json)),
        Json::Object(object) => object.values().for_each(|value| inline(value, found)),
        _ => {}
    }
}

/// Where a resource lets more in than `old`, the rules of the stack as it was, in words.
pub(super) fn opened(logical_id: &str, kind: &str, properties: &Json, old: &Ingress) -> Vec<String> {
    let (group, rules) = rules(logical_id, kind, properties);
    let known = old.0.get(&group).map(Vec::as_slice).unwrap_or_default();
    rules
        .iter()
        .filter(|rule| !known.iter().any(|known| known.covers(rule)))
        .map(|rule| format!("lets in {}{}", rule.words(), rule.widening(known)))
        .collect()
}

/// Something that the public network reaches, and from where.
type Exposure = (&'static str, Source);

/// What has become public, in words.
pub(super) fn exposed(kind: &str, before: &Json, after: &Json) -> Vec<String> {
    let old = exposures(kind, before);
    exposures(kind, after)
        .into_iter()
        .filter(|(what, from)| !old.iter().any(|(known, reach)| known == what && reach.covers(from)))
        .map(|(what, from)| match from {
            Source::Named(_) => what.to_owned(),
            block => format!("{what} {}", block.words()),
        })
        .collect()
}

fn exposures(kind: &str, properties: &Json) -> Vec<Exposure> {
    if properties.is_null() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let flag = |pointer: &str| properties.pointer(pointer).and_then(Json::as_bool);
    let mut public = |is: bool, what: &'static str| {
        if is {
            found.push((what, Source::Named(String::new())));
        }
    };
    match kind {
        "AWS::RDS::DBCluster" | "AWS::RDS::DBInstance" => {
            public(flag("/PubliclyAccessible") == Some(true), "it gets a public address");
        }
        "AWS::MSK::Cluster" => {
            let access = properties.pointer("/BrokerNodeGroupInfo/ConnectivityInfo/PublicAccess/Type");
            let off = access.is_none_or(|access| access.as_str() == Some("DISABLED"));
            public(!off, "its brokers get public addresses");
        }
        "AWS::EC2::Subnet" => {
            public(flag("/MapPublicIpOnLaunch") == Some(true), "what starts in it gets a public address");
        }
        "AWS::Lambda::Url" => {
            let open = properties.get("AuthType").and_then(Json::as_str) == Some("NONE");
            public(open, "everybody may call it");
        }
        "AWS::S3::Bucket" => {
            // Buckets block all of it unless told otherwise.
            let block = |name: &str| flag(&format!("/PublicAccessBlockConfiguration/{name}")) == Some(false);
            public(block("BlockPublicAcls"), "it takes public access lists");
            public(block("IgnorePublicAcls"), "it obeys public access lists");
            public(block("BlockPublicPolicy"), "it takes public policies");
            public(block("RestrictPublicBuckets"), "its public policies are obeyed for everybody");
        }
        // The endpoint is public unless told otherwise, and for every address.
        "AWS::EKS::Cluster" if flag("/ResourcesVpcConfig/EndpointPublicAccess") != Some(false) => {
            let blocks = properties.pointer("/ResourcesVpcConfig/PublicAccessCidrs").and_then(Json::as_array);
            match blocks.filter(|blocks| !blocks.is_empty()) {
                Some(blocks) => {
                    found.extend(blocks.iter().map(|block| (ENDPOINT, Source::block(&text(block)))));
                }
                None => found.push((ENDPOINT, Source::block("0.0.0.0/0"))),
            }
        }
        _ => {}
    }
    found
}

const ENDPOINT: &str = "its Kubernetes endpoint is open to";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const GROUP: &str = "AWS::EC2::SecurityGroup";

    fn rule(cidr: &str, from: i64, to: i64) -> Json {
        json!({ "IpProtocol": "tcp", "CidrIp": cidr, "FromPort": from, "ToPort": to })
    }

    fn opened_by(before: &[Json], after: &[Json]) -> Vec<String> {
        let mut old = Ingress::default();
        old.add("Group", GROUP, &json!({ "SecurityGroupIngress": before }));
        opened("Group", GROUP, &json!({ "SecurityGroupIngress": after }), &old)
    }

    #[test]
    fn more_addresses_ports_or_sources_are_told() {
        let now = [rule("10.30.0.0/16", 9098, 9098)];
        assert_eq!(
            opened_by(&now, &[rule("10.0.0.0/8", 9098, 9098)]),
            ["lets in tcp 9098 from 10.0.0.0/8, wider than 10.30.0.0/16"]
        );
        assert_eq!(
            opened_by(&now, &[rule("10.30.0.0/16", 9092, 9098)]),
            ["lets in tcp 9092-9098 from 10.30.0.0/16, more than tcp 9098 from 10.30.0.0/16"]
        );
        assert_eq!(
            opened_by(&now, &[now[0].clone(), rule("192.168.0.0/24", 9098, 9098)]),
            ["lets in tcp 9098 from 192.168.0.0/24, a new source"]
        );
        let all = json!({ "IpProtocol": "-1", "CidrIp": "10.30.0.0/16" });
        assert_eq!(opened_by(&now, &[all]).len(), 1);
    }

    #[test]
    fn less_is_not_told() {
        let now = [rule("10.0.0.0/8", 9000, 9100)];
        assert!(opened_by(&now, &[rule("10.30.0.0/16", 9098, 9098)]).is_empty());
        assert!(opened_by(&now, &[]).is_empty());
        let all = json!({ "IpProtocol": -1, "CidrIp": "0.0.0.0/0" });
        assert!(opened_by(&[all], &now).is_empty());
    }

    #[test]
    fn a_rule_that_moves_out_of_its_group_lets_nobody_in() {
        let mut old = Ingress::default();
        old.add("Group", GROUP, &json!({ "SecurityGroupIngress": [rule("10.0.0.0/8", 1, 2)] }));
        let mut beside = rule("10.0.0.0/8", 1, 2);
        beside["GroupId"] = json!({ "Fn::GetAtt": ["Group", "GroupId"] });
        assert!(opened("Rule", "AWS::EC2::SecurityGroupIngress", &beside, &old).is_empty());
        beside["GroupId"] = json!({ "Ref": "Other" });
        assert_eq!(opened("Rule", "AWS::EC2::SecurityGroupIngress", &beside, &old).len(), 1);
    }

    #[test]
    fn public_access_is_told_when_it_is_turned_on() {
        let cluster = |public: bool, blocks: Json| json!({ "ResourcesVpcConfig": { "EndpointPublicAccess": public, "PublicAccessCidrs": blocks } });
        let kind = "AWS::EKS::Cluster";
        let closed = cluster(false, json!([]));
        let office = cluster(true, json!(["192.0.2.0/24"]));
        assert_eq!(exposed(kind, &closed, &office), ["its Kubernetes endpoint is open to 192.0.2.0/24"]);
        assert_eq!(exposed(kind, &office, &cluster(true, json!([]))).len(), 1);
        assert!(exposed(kind, &cluster(true, json!([])), &office).is_empty());
        assert!(exposed(kind, &office, &closed).is_empty());
        for (kind, on) in [
            ("AWS::RDS::DBInstance", json!({ "PubliclyAccessible": true })),
            (
                "AWS::MSK::Cluster",
                json!({ "BrokerNodeGroupInfo": { "ConnectivityInfo": { "PublicAccess": { "Type": "SERVICE_PROVIDED_EIPS" } } } }),
            ),
            ("AWS::EC2::Subnet", json!({ "MapPublicIpOnLaunch": true })),
            ("AWS::Lambda::Url", json!({ "AuthType": "NONE" })),
            ("AWS::S3::Bucket", json!({ "PublicAccessBlockConfiguration": { "BlockPublicPolicy": false } })),
        ] {
            assert_eq!(exposed(kind, &json!({}), &on).len(), 1, "{kind}");
            assert!(exposed(kind, &on, &on).is_empty(), "{kind}");
            assert!(exposed(kind, &on, &json!({})).is_empty(), "{kind}");
        }
    }

    proptest! {
        /// A block covers another exactly when all of the other's ends lie in it.
        #[test]
        fn blocks_cover_what_lies_in_them(a in any::<u32>(), x in 0u32..=32, b in any::<u32>(), y in 0u32..=32) {
            let block = |address: u32, prefix: u32| Source::block(&format!("{}/{prefix}", Ipv4Addr::from(address)));
            let ends = |address: u32, prefix: u32| {
                let host = u32::MAX.checked_shr(prefix).unwrap_or(0);
                (address & !host, address | host)
            };
            let ((low, high), (lower, upper)) = (ends(a, x), ends(b, y));
            prop_assert_eq!(block(a, x).covers(&block(b, y)), low <= lower && upper <= high);
            prop_assert!(block(a, x).covers(&block(a, x)));
        }
    }
}
