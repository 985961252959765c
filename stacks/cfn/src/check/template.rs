//! A template as the rules see it: resources by type, and what a reference leads to.

use std::collections::BTreeMap;

use crate::{
    assembly::{Assembly, Source, StackEntry},
    value::Json,
};

/// A resource of a template.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resource<'a> {
    pub(super) logical_id: &'a str,
    pub(super) kind: &'a str,
    pub(super) json: &'a Json,
}

impl<'a> Resource<'a> {
    fn new(logical_id: &'a str, json: &'a Json) -> Self {
        let kind = json.get("Type").and_then(Json::as_str).unwrap_or_default();
        Self { logical_id, kind, json }
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

/// Whether a value is known to CloudFormation alone.
pub(super) fn is_intrinsic(json: &Json) -> bool {
    json.as_object().is_some_and(|object| {
        object.len() == 1
            && object.keys().all(|key| key == "Ref" || key == "Condition" || key.starts_with("Fn::"))
    })
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

/// What leads from one stack to another, and what every stack of the app may know of the others.
pub(super) struct Wiring<'a> {
    assembly: &'a Assembly,
    /// Topics of the app by name: their partitions.
    topics: BTreeMap<&'a str, f64>,
}

impl<'a> Wiring<'a> {
    pub(super) fn new(assembly: &'a Assembly) -> Self {
        let topics = assembly
            .templates
            .values()
            .filter_map(|template| template.get("Resources").and_then(Json::as_object))
            .flatten()
            .map(|(id, json)| Resource::new(id, json))
            .filter(|resource| resource.kind == "AWS::MSK::Topic")
            .filter_map(|topic| Some((topic.text("/TopicName")?, topic.number("/PartitionCount")?)))
            .collect();
        Self { assembly, topics }
    }

    /// The resource of another stack that an output of it tells.
    fn behind(&self, stack: &str, output: &str) -> Option<Resource<'a>> {
        let template = self.assembly.template(stack)?;
        let value = template.get("Outputs")?.get(output)?.get("Value")?;
        let (id, json) = template.get("Resources")?.as_object()?.get_key_value(referred(value)?)?;
        Some(Resource::new(id, json))
    }
}

/// A template.
pub(super) struct Template<'a> {
    pub(super) body: &'a Json,
    pub(super) resources: Vec<Resource<'a>>,
    /// Whether the environment keeps its data: its stacks are protected.
    pub(super) data_kept: bool,
    by_id: BTreeMap<&'a str, Resource<'a>>,
    by_kind: BTreeMap<&'a str, Vec<Resource<'a>>>,
    /// Parameters that stand for resources of other stacks.
    foreign: BTreeMap<&'a str, Resource<'a>>,
    wiring: &'a Wiring<'a>,
}

impl<'a> Template<'a> {
    pub(super) fn new(entry: &'a StackEntry, body: &'a Json, wiring: &'a Wiring<'a>) -> Self {
        let resources: Vec<Resource<'a>> = body
            .get("Resources")
            .and_then(Json::as_object)
            .into_iter()
            .flatten()
            .map(|(id, json)| Resource::new(id, json))
            .collect();
        let by_id = resources.iter().map(|resource| (resource.logical_id, *resource)).collect();
        let mut by_kind: BTreeMap<&str, Vec<Resource<'a>>> = BTreeMap::new();
        for resource in &resources {
            by_kind.entry(resource.kind).or_default().push(*resource);
        }
        let foreign = entry
            .parameters
            .iter()
            .filter_map(|parameter| match &parameter.source {
                Source::Output { stack, output } => {
                    Some((parameter.name.as_str(), wiring.behind(stack, output)?))
                }
                _ => None,
            })
            .collect();
        Self { body, resources, data_kept: entry.termination_protection, by_id, by_kind, foreign, wiring }
    }

    /// The resources of a type.
    pub(super) fn of_kind(&self, kind: &str) -> &[Resource<'a>] {
        self.by_kind.get(kind).map_or(&[], Vec::as_slice)
    }

    /// The resource of this stack with that logical id.
    pub(super) fn resource(&self, logical_id: &str) -> Option<Resource<'a>> {
        self.by_id.get(logical_id).copied()
    }

    /// The resource that a reference leads to, in this stack or, through a parameter, in another.
    pub(super) fn target(&self, json: &Json) -> Option<Resource<'a>> {
        let name = referred(json)?;
        self.by_id.get(name).or_else(|| self.foreign.get(name)).copied()
    }

    /// The resource of this stack that a reference leads to.
    pub(super) fn own(&self, json: &Json) -> Option<Resource<'a>> {
        self.by_id.get(referred(json)?).copied()
    }

    /// The partitions of a topic that the app declares, by the topic's name.
    pub(super) fn partitions(&self, topic: &str) -> Option<f64> {
        self.wiring.topics.get(topic).copied()
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
