//! References within a template: that each leads somewhere, and that none leads in a circle.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Findings,
    rules::{CIRCULAR, CIRCULAR_GROUPS, EXPORT, NO_ATTRIBUTE, UNRESOLVED, UNUSED_PARAMETER},
    template::{Resource, Template},
};
use crate::{schema::TypeSchema, value::Json};

pub(super) fn check(
    template: &Template<'_>,
    schemas: &BTreeMap<String, Option<TypeSchema>>,
    findings: &mut Findings<'_>,
) {
    let names = |section: &str| -> BTreeSet<&str> {
        template.section(section).map(|(name, _)| name.as_str()).collect()
    };
    let known = Known {
        template,
        schemas,
        parameters: names("Parameters"),
        conditions: names("Conditions"),
        mappings: names("Mappings"),
    };
    let mut edges: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for resource in &template.resources {
        let mut uses = Vec::new();
        uses_in(resource.properties(), &mut uses);
        for section in ["Metadata", "UpdatePolicy", "CreationPolicy"] {
            if let Some(json) = resource.json.get(section) {
                uses_in(json, &mut uses);
            }
        }
        match resource.json.get("DependsOn") {
            Some(Json::String(name)) => uses.push(Use::Resource(name.clone())),
            Some(Json::Array(names)) => {
                uses.extend(names.iter().filter_map(Json::as_str).map(|name| Use::Resource(name.to_owned())));
            }
            _ => {}
        }
        if let Some(condition) = resource.json.get("Condition").and_then(Json::as_str) {
            uses.push(Use::Condition(condition.to_owned()));
        }
        for found in uses {
            if let Some((rule, message)) = known.wrong(&found) {
                findings.resource(rule, resource.logical_id, message);
            }
            if let Use::Ref(name) | Use::Resource(name) | Use::Attribute(name, _) = found {
                if template.resource(&name).is_some() {
                    edges.entry(resource.logical_id).or_default().insert(name);
                } else {
                    used.insert(name);
                }
            }
        }
    }
    for section in ["Outputs", "Conditions"] {
        for (name, json) in template.section(section) {
            if json.get("Export").is_some() {
                findings.stack(EXPORT, format!("the output {name} is exported"));
            }
            let mut uses = Vec::new();
            uses_in(json, &mut uses);
            if let Some(condition) = json.get("Condition").and_then(Json::as_str) {
                uses.push(Use::Condition(condition.to_owned()));
            }
            for found in uses {
                if let Some((rule, message)) = known.wrong(&found) {
                    findings.stack(rule, format!("{section} {name}: {message}"));
                }
                if let Use::Ref(name) = found {
                    used.insert(name);
                }
            }
        }
    }
    for name in known.parameters.iter().filter(|name| !used.contains(**name)) {
        findings.stack(UNUSED_PARAMETER, format!("nothing uses the parameter {name}"));
    }
    if let Some(circle) = circle(&edges) {
        findings.stack(CIRCULAR, format!("these wait for each other: {}", circle.join(" -> ")));
    }
    circular_groups(template, findings);
}

struct Known<'t, 'a> {
    template: &'t Template<'a>,
    schemas: &'t BTreeMap<String, Option<TypeSchema>>,
    parameters: BTreeSet<&'t str>,
    conditions: BTreeSet<&'t str>,
    mappings: BTreeSet<&'t str>,
}

impl Known<'_, '_> {
    fn wrong(&self, found: &Use) -> Option<(super::Rule, String)> {
        let missing = |name: &str| Some((UNRESOLVED, format!("{name} is not in the template")));
        match found {
            Use::Condition(name) if !self.conditions.contains(name.as_str()) => {
                Some((UNRESOLVED, format!("the condition {name} is not declared")))
            }
            Use::Mapping(name) if !self.mappings.contains(name.as_str()) => {
                Some((UNRESOLVED, format!("the mapping {name} is not declared")))
            }
            Use::Condition(_) | Use::Mapping(_) => None,
            Use::Ref(name) => {
                let here = name.starts_with("AWS::")
                    || self.template.resource(name).is_some()
                    || self.parameters.contains(name.as_str());
                if here { None } else { missing(name) }
            }
            Use::Resource(name) => match self.template.resource(name) {
                Some(_) => None,
                None => missing(name),
            },
            Use::Attribute(name, attribute) => {
                let Some(target) = self.template.resource(name) else { return missing(name) };
                let schema = self.schemas.get(target.kind).and_then(Option::as_ref)?;
                (!schema.has_attribute(attribute)).then(|| {
                    (NO_ATTRIBUTE, format!("{name} is a {}, which has no attribute {attribute}", target.kind))
                })
            }
        }
    }
}

enum Use {
    Ref(String),
    Resource(String),
    Attribute(String, String),
    Condition(String),
    Mapping(String),
}

fn uses_in(json: &Json, found: &mut Vec<Use>) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| uses_in(item, found)),
        Json::Object(object) => {
            for (key, value) in object {
                match (key.as_str(), value) {
                    ("Ref", Json::String(name)) => found.push(Use::Ref(name.clone())),
                    ("Fn::GetAtt", Json::Array(parts)) => {
                        if let [Json::String(name), Json::String(attribute)] = parts.as_slice() {
                            found.push(Use::Attribute(name.clone(), attribute.clone()));
                        }
                    }
                    ("Fn::GetAtt", Json::String(text)) => {
                        if let Some((name, attribute)) = text.split_once('.') {
                            found.push(Use::Attribute(name.to_owned(), attribute.to_owned()));
                        }
                    }
                    ("Fn::If", Json::Array(parts)) => {
                        if let Some(Json::String(condition)) = parts.first() {
                            found.push(Use::Condition(condition.clone()));
                        }
                        parts.iter().skip(1).for_each(|part| uses_in(part, found));
                    }
                    ("Fn::FindInMap", Json::Array(parts)) => {
                        if let Some(Json::String(mapping)) = parts.first() {
                            found.push(Use::Mapping(mapping.clone()));
                        }
                        parts.iter().for_each(|part| uses_in(part, found));
                    }
                    ("Fn::Sub", Json::String(text)) => variables(text, &[], found),
                    ("Fn::Sub", Json::Array(parts)) => {
                        let own: Vec<&str> = parts
                            .get(1)
                            .and_then(Json::as_object)
                            .into_iter()
                            .flatten()
                            .map(|(name, _)| name.as_str())
                            .collect();
                        if let Some(Json::String(text)) = parts.first() {
                            variables(text, &own, found);
                        }
                        parts.iter().skip(1).for_each(|part| uses_in(part, found));
                    }
                    (_, value) => uses_in(value, found),
                }
            }
        }
        _ => {}
    }
}

/// The variables of an `Fn::Sub`; `${!Literal}` is none.
fn variables(text: &str, own: &[&str], found: &mut Vec<Use>) {
    for part in text.split("${").skip(1) {
        let Some((name, _)) = part.split_once('}') else { continue };
        if name.starts_with('!') || own.contains(&name) {
            continue;
        }
        match name.split_once('.') {
            Some((name, attribute)) => found.push(Use::Attribute(name.to_owned(), attribute.to_owned())),
            None => found.push(Use::Ref(name.to_owned())),
        }
    }
}

/// A circle in a graph, if there is one.
fn circle(edges: &BTreeMap<&str, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        node: &str,
        edges: &BTreeMap<&str, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if done.contains(node) {
            return None;
        }
        if let Some(at) = path.iter().position(|known| known == node) {
            let mut circle = path[at..].to_vec();
            circle.push(node.to_owned());
            return Some(circle);
        }
        path.push(node.to_owned());
        for next in edges.get(node).into_iter().flatten() {
            if let Some(circle) = visit(next, edges, path, done) {
                return Some(circle);
            }
        }
        path.pop();
        done.insert(node.to_owned());
        None
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|node| visit(node, edges, &mut Vec::new(), &mut done))
}

/// Security groups that name each other, or themselves, in their own rules.
fn circular_groups(template: &Template<'_>, findings: &mut Findings<'_>) {
    let groups = template.of_kind("AWS::EC2::SecurityGroup");
    let named: BTreeMap<&str, BTreeSet<&str>> =
        groups.iter().map(|group| (group.logical_id, groups_named(template, group))).collect();
    for (group, others) in &named {
        for other in others {
            let back = named.get(other).is_some_and(|others| others.contains(group));
            // Each pair is told once, by the group that comes first.
            if other == group {
                findings.resource(CIRCULAR_GROUPS, group, "it names itself in its own rules".to_owned());
            } else if back && *group < *other {
                findings.resource(CIRCULAR_GROUPS, group, format!("it and {other} name each other"));
            }
        }
    }
}

fn groups_named<'a>(template: &Template<'a>, group: &Resource<'a>) -> BTreeSet<&'a str> {
    group
        .list("/SecurityGroupIngress")
        .iter()
        .chain(group.list("/SecurityGroupEgress"))
        .flat_map(|rule| ["SourceSecurityGroupId", "DestinationSecurityGroupId"].map(|key| rule.get(key)))
        .flatten()
        .filter_map(|json| template.own(json))
        .map(|resource| resource.logical_id)
        .collect()
}
