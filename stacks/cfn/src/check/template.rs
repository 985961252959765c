//! A template as the rules see it: resources by type, and what a reference leads to.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    assembly::{Assembly, Source, StackEntry},
    value::Json,
};

/// A resource of a template.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resource<'a> {
    /// The stack that declares it.
    pub(super) home: &'a str,
    pub(super) logical_id: &'a str,
    pub(super) kind: &'a str,
    pub(super) json: &'a Json,
}

impl<'a> Resource<'a> {
    fn new(home: &'a str, logical_id: &'a str, json: &'a Json) -> Self {
        let kind = json.get("Type").and_then(Json::as_str).unwrap_or_default();
        Self { home, logical_id, kind, json }
    }

    pub(super) fn properties(&self) -> &'a Json {
        self.json.get("Properties").unwrap_or(&Json::Null)
    }

    /// A property by its JSON pointer.
    pub(super) fn at(&self, pointer: &str) -> Option<&'a Json> {
        self.properties().pointer(pointer).filter(|json| !is_no_value(json))
    }

    /// A property that is a literal text.
    pub(super) fn text(&self, pointer: &str) -> Option<&'a str> {
        self.at(pointer).and_then(Json::as_str)
    }

    /// A property that is a literal number, or a text that is one.
    pub(super) fn number(&self, pointer: &str) -> Option<f64> {
        self.at(pointer).and_then(number)
    }

    /// A property that is a literal list, or nothing.
    pub(super) fn list(&self, pointer: &str) -> &'a [Json] {
        self.at(pointer).and_then(Json::as_array).map_or(&[], Vec::as_slice)
    }

    pub(super) fn has(&self, pointer: &str) -> bool {
        self.at(pointer).is_some()
    }

    /// Whether a switch is literally on.
    pub(super) fn on(&self, pointer: &str) -> bool {
        self.at(pointer).and_then(switch) == Some(true)
    }

    /// Whether a switch is literally off or not given. An expression is neither on nor off.
    pub(super) fn off(&self, pointer: &str) -> bool {
        self.at(pointer).is_none_or(|json| switch(json) == Some(false))
    }
}

/// `{"Ref": "AWS::NoValue"}` is a property that is not given.
fn is_no_value(json: &Json) -> bool {
    json.get("Ref").and_then(Json::as_str) == Some("AWS::NoValue")
}

/// CloudFormation takes a flag as text as well.
pub(super) fn switch(json: &Json) -> Option<bool> {
    json.as_bool().or_else(|| json.as_str().and_then(|text| text.parse().ok()))
}

/// CloudFormation takes a number as text as well.
pub(super) fn number(json: &Json) -> Option<f64> {
    json.as_f64().or_else(|| json.as_str().and_then(|text| text.parse().ok()))
}

/// One or several literal texts.
pub(super) fn texts(json: Option<&Json>) -> Vec<&str> {
    match json {
        Some(Json::String(text)) => vec![text],
        Some(Json::Array(items)) => items.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The name that a `Ref`, an `Fn::GetAtt` or an `Fn::Sub` of nothing but one variable refers to.
pub(super) fn referred(json: &Json) -> Option<&str> {
    if let Some(name) = json.get("Ref").and_then(Json::as_str) {
        return Some(name);
    }
    match json.get("Fn::GetAtt") {
        Some(Json::Array(parts)) => return parts.first().and_then(Json::as_str),
        Some(Json::String(text)) => return text.split('.').next(),
        _ => {}
    }
    let text = json.get("Fn::Sub").and_then(Json::as_str)?;
    let inner = text.strip_prefix("${")?.strip_suffix('}')?;
    (!inner.contains('$')).then(|| inner.split('.').next().unwrap_or(inner))
}

/// A stack of the app.
struct Stack<'a> {
    resources: BTreeMap<&'a str, Resource<'a>>,
    /// Parameters that stand for outputs of other stacks: (stack, output).
    parameters: BTreeMap<&'a str, (&'a str, &'a str)>,
    outputs: Option<&'a Json>,
}

/// A rule of a security group, wherever it is declared.
#[derive(Clone, Copy)]
pub(super) struct Door<'a> {
    /// Into the group, or out of it.
    pub(super) inward: bool,
    /// The resource that declares it: the group or a rule of its own.
    pub(super) declared_by: Resource<'a>,
    pub(super) rule: &'a Json,
}

/// What leads from one stack to another, and what every stack of the app may know of the others.
pub(super) struct Wiring<'a> {
    stacks: BTreeMap<&'a str, Stack<'a>>,
    /// Topics of the app by name: their partitions.
    topics: BTreeMap<&'a str, f64>,
    /// Kafka clusters of the app by name.
    clusters: BTreeMap<&'a str, Resource<'a>>,
    /// Policies that are attached to roles from outside, of all stacks.
    policies: Vec<Resource<'a>>,
    /// Subnets with a default route, by stack and logical id.
    routed: BTreeSet<(&'a str, &'a str)>,
    /// The services of interface endpoints, as they are written.
    endpoints: Vec<String>,
    /// The rules of security groups, by stack and logical id.
    doors: BTreeMap<(&'a str, &'a str), Vec<Door<'a>>>,
}

impl<'a> Wiring<'a> {
    pub(super) fn new(assembly: &'a Assembly) -> Self {
        let mut wiring = Self {
            stacks: assembly.manifest.stacks.iter().filter_map(|entry| stack(assembly, entry)).collect(),
            topics: BTreeMap::new(),
            clusters: BTreeMap::new(),
            policies: Vec::new(),
            routed: BTreeSet::new(),
            endpoints: Vec::new(),
            doors: BTreeMap::new(),
        };
        let all: Vec<Resource<'a>> =
            wiring.stacks.values().flat_map(|stack| stack.resources.values()).copied().collect();
        wiring.routes(&all);
        for resource in all {
            match resource.kind {
                "AWS::EC2::VPCEndpoint" => {
                    wiring.endpoints.extend(resource.at("/ServiceName").map(Json::to_string));
                }
                "AWS::MSK::Topic" => {
                    let partitions = resource.number("/PartitionCount");
                    wiring.topics.extend(resource.text("/TopicName").zip(partitions));
                }
                "AWS::MSK::Cluster" => {
                    wiring.clusters.extend(resource.text("/ClusterName").map(|name| (name, resource)));
                }
                "AWS::IAM::Policy" | "AWS::IAM::ManagedPolicy" | "AWS::IAM::RolePolicy" => {
                    wiring.policies.push(resource);
                }
                "AWS::EC2::SecurityGroup" => {
                    for (list, inward) in [("/SecurityGroupIngress", true), ("/SecurityGroupEgress", false)] {
                        for rule in resource.list(list) {
                            wiring.door(resource, inward, resource, rule);
                        }
                    }
                }
                "AWS::EC2::SecurityGroupIngress" | "AWS::EC2::SecurityGroupEgress" => {
                    let group = resource.at("/GroupId").and_then(|id| wiring.resolve(resource.home, id));
                    if let Some(group) = group {
                        let inward = resource.kind.ends_with("Ingress");
                        wiring.door(group, inward, resource, resource.properties());
                    }
                }
                _ => {}
            }
        }
        wiring
    }

    /// Subnets whose route table has a default route: through a NAT gateway, or whatever else leads out.
    fn routes(&mut self, all: &[Resource<'a>]) {
        let lead = |resource: &Resource<'a>, pointer: &str| {
            resource.at(pointer).and_then(|json| self.resolve(resource.home, json))
        };
        let out: BTreeSet<(&str, &str)> = all
            .iter()
            .filter(|route| route.kind == "AWS::EC2::Route")
            .filter(|route| route.text("/DestinationCidrBlock") == Some("0.0.0.0/0"))
            .filter_map(|route| lead(route, "/RouteTableId"))
            .map(|table| (table.home, table.logical_id))
            .collect();
        self.routed = all
            .iter()
            .filter(|link| link.kind == "AWS::EC2::SubnetRouteTableAssociation")
            .filter(|link| {
                lead(link, "/RouteTableId").is_some_and(|table| out.contains(&(table.home, table.logical_id)))
            })
            .filter_map(|link| lead(link, "/SubnetId"))
            .map(|subnet| (subnet.home, subnet.logical_id))
            .collect();
    }

    fn door(&mut self, group: Resource<'a>, inward: bool, declared_by: Resource<'a>, rule: &'a Json) {
        let door = Door { inward, declared_by, rule };
        self.doors.entry((group.home, group.logical_id)).or_default().push(door);
    }

    /// The resource that a reference in a stack leads to, through parameters and outputs into other stacks.
    fn resolve(&self, home: &str, json: &Json) -> Option<Resource<'a>> {
        let mut stack = self.stacks.get(home)?;
        let mut name = referred(json)?;
        // References lead to earlier stacks alone; more steps than these are a manifest that was written by hand.
        for _ in 0..8 {
            if let Some(resource) = stack.resources.get(name) {
                return Some(*resource);
            }
            let (producer, output) = stack.parameters.get(name)?;
            stack = self.stacks.get(producer)?;
            name = referred(stack.outputs?.get(output)?.get("Value")?)?;
        }
        None
    }
}

fn stack<'a>(assembly: &'a Assembly, entry: &'a StackEntry) -> Option<(&'a str, Stack<'a>)> {
    let body = assembly.template(&entry.id)?;
    let resources = body.get("Resources").and_then(Json::as_object).into_iter().flatten();
    let parameters = entry.parameters.iter().filter_map(|parameter| match &parameter.source {
        Source::Output { stack, output } => {
            Some((parameter.name.as_str(), (stack.as_str(), output.as_str())))
        }
        _ => None,
    });
    let stack = Stack {
        resources: resources.map(|(id, json)| (id.as_str(), Resource::new(&entry.id, id, json))).collect(),
        parameters: parameters.collect(),
        outputs: body.get("Outputs"),
    };
    Some((&entry.id, stack))
}

/// A template.
pub(super) struct Template<'a> {
    pub(super) id: &'a str,
    pub(super) body: &'a Json,
    pub(super) resources: Vec<Resource<'a>>,
    /// Whether the environment keeps its data: its stacks are protected.
    pub(super) data_kept: bool,
    by_id: BTreeMap<&'a str, Resource<'a>>,
    by_kind: BTreeMap<&'a str, Vec<Resource<'a>>>,
    wiring: &'a Wiring<'a>,
}

impl<'a> Template<'a> {
    pub(super) fn new(entry: &'a StackEntry, body: &'a Json, wiring: &'a Wiring<'a>) -> Self {
        let by_id =
            wiring.stacks.get(entry.id.as_str()).map(|stack| stack.resources.clone()).unwrap_or_default();
        let resources: Vec<Resource<'a>> = by_id.values().copied().collect();
        let mut by_kind: BTreeMap<&str, Vec<Resource<'a>>> = BTreeMap::new();
        for resource in &resources {
            by_kind.entry(resource.kind).or_default().push(*resource);
        }
        Self {
            id: &entry.id,
            body,
            resources,
            data_kept: entry.termination_protection,
            by_id,
            by_kind,
            wiring,
        }
    }

    /// The resources of a type.
    pub(super) fn of_kind(&self, kind: &str) -> &[Resource<'a>] {
        self.by_kind.get(kind).map_or(&[], Vec::as_slice)
    }

    /// The resource of this stack with that logical id.
    pub(super) fn resource(&self, logical_id: &str) -> Option<Resource<'a>> {
        self.by_id.get(logical_id).copied()
    }

    /// The resource that a reference of this stack leads to, in it or in another.
    pub(super) fn target(&self, json: &Json) -> Option<Resource<'a>> {
        self.wiring.resolve(self.id, json)
    }

    /// The resource that a reference within another resource leads to, from where that one is declared.
    pub(super) fn target_of(&self, holder: &Resource<'_>, json: &Json) -> Option<Resource<'a>> {
        self.wiring.resolve(holder.home, json)
    }

    /// The resource of this stack that a reference of this stack leads to.
    pub(super) fn own(&self, json: &Json) -> Option<Resource<'a>> {
        self.by_id.get(referred(json)?).copied()
    }

    /// The partitions of a topic that the app declares, by the topic's name.
    pub(super) fn partitions(&self, topic: &str) -> Option<f64> {
        self.wiring.topics.get(topic).copied()
    }

    /// The Kafka cluster of the app with that name.
    pub(super) fn kafka_cluster(&self, name: &str) -> Option<Resource<'a>> {
        self.wiring.clusters.get(name).copied()
    }

    /// Policies that are attached to roles from outside, of all stacks.
    pub(super) fn policies(&self) -> &[Resource<'a>] {
        &self.wiring.policies
    }

    /// Whether a subnet of the app has a default route.
    pub(super) fn leads_out(&self, subnet: &Resource<'a>) -> bool {
        self.wiring.routed.contains(&(subnet.home, subnet.logical_id))
    }

    /// Whether the app has an endpoint of a service, such as `sts`.
    pub(super) fn has_endpoint(&self, service: &str) -> bool {
        let ending = format!(".{service}\"");
        self.wiring.endpoints.iter().any(|name| name.trim_end_matches(['}', ']']).ends_with(&ending))
    }

    /// The rules of a security group, wherever the app declares them.
    pub(super) fn doors(&self, group: &Resource<'a>) -> &[Door<'a>] {
        self.wiring.doors.get(&(group.home, group.logical_id)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn section(&self, name: &str) -> impl Iterator<Item = (&'a String, &'a Json)> + use<'a> {
        self.body.get(name).and_then(Json::as_object).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reference_is_seen_in_each_of_its_forms() {
        for form in [
            json!({"Ref": "A"}),
            json!({"Fn::GetAtt": ["A", "Arn"]}),
            json!({"Fn::GetAtt": "A.Arn"}),
            json!({"Fn::Sub": "${A.Arn}"}),
            json!({"Fn::Sub": "${A}"}),
        ] {
            assert_eq!(referred(&form), Some("A"), "{form}");
        }
        assert_eq!(referred(&json!({"Fn::Sub": "${A}/${B}"})), None);
        assert_eq!(referred(&json!("A")), None);
    }
}
