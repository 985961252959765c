//! CloudFormation's limits, and references within a template.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    BODY_LIMIT, CIRCULAR, DESCRIPTION_LIMIT, Findings, NAME_LIMIT, NO_ATTRIBUTE, RESOURCE_LIMIT,
    RESOURCE_LIMIT_NEAR, Resource, UNRESOLVED,
};
use crate::{canonical::to_canonical_bytes, schema::TypeSchema, value::Json};

const RESOURCES_MAX: usize = 500;
const RESOURCES_NEAR: usize = 400;
const NAMES_MAX: usize = 200;
const BODY_BYTES_MAX: usize = 51_200;
const DESCRIPTION_BYTES_MAX: usize = 1024;

pub(super) fn check(
    template: &Json,
    resources: &[Resource<'_>],
    schemas: &BTreeMap<String, Option<TypeSchema>>,
    findings: &mut Findings<'_>,
) {
    limits(template, resources.len(), findings);
    let section = |name: &str| template.get(name).and_then(Json::as_object);
    let kinds: BTreeMap<&str, &str> =
        resources.iter().map(|resource| (resource.logical_id, resource.kind)).collect();
    let parameters: BTreeSet<&str> =
        section("Parameters").into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let conditions: BTreeSet<&str> =
        section("Conditions").into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let mut edges: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for resource in resources {
        let mut uses = Vec::new();
        uses_in(resource.properties(), &mut uses);
        for dependency in resource.json.get("DependsOn").and_then(Json::as_array).into_iter().flatten() {
            uses.push(Use::Resource(dependency.as_str().unwrap_or_default().to_owned()));
        }
        if let Some(condition) = resource.json.get("Condition").and_then(Json::as_str) {
            uses.push(Use::Condition(condition.to_owned()));
        }
        for found in uses {
            match found {
                Use::Condition(name) if !conditions.contains(name.as_str()) => {
                    findings.resource(
                        UNRESOLVED,
                        resource.logical_id,
                        format!("the condition {name} is not declared"),
                    );
                }
                Use::Condition(_) => {}
                Use::Ref(name) | Use::Resource(name) if kinds.contains_key(name.as_str()) => {
                    edges.entry(resource.logical_id).or_default().insert(name);
                }
                Use::Ref(name) if name.starts_with("AWS::") || parameters.contains(name.as_str()) => {}
                Use::Ref(name) | Use::Resource(name) => {
                    findings.resource(
                        UNRESOLVED,
                        resource.logical_id,
                        format!("{name} is not in the template"),
                    );
                }
                Use::Attribute(name, attribute) => match kinds.get(name.as_str()) {
                    None => {
                        findings.resource(
                            UNRESOLVED,
                            resource.logical_id,
                            format!("{name} is not in the template"),
                        );
                    }
                    Some(kind) => {
                        if schemas
                            .get(*kind)
                            .and_then(Option::as_ref)
                            .is_some_and(|schema| !schema.has_attribute(&attribute))
                        {
                            findings.resource(
                                NO_ATTRIBUTE,
                                resource.logical_id,
                                format!("{name} is a {kind}, which has no attribute {attribute}"),
                            );
                        }
                        edges.entry(resource.logical_id).or_default().insert(name);
                    }
                },
            }
        }
    }
    if let Some(circle) = circle(&edges) {
        findings.stack(CIRCULAR, format!("these wait for each other: {}", circle.join(" -> ")));
    }
}

fn limits(template: &Json, resources: usize, findings: &mut Findings<'_>) {
    if resources > RESOURCES_MAX {
        findings.stack(RESOURCE_LIMIT, format!("the stack has {resources} resources"));
    } else if resources > RESOURCES_NEAR {
        findings.stack(RESOURCE_LIMIT_NEAR, format!("the stack has {resources} resources"));
    }
    for name in ["Outputs", "Parameters"] {
        let count = template.get(name).and_then(Json::as_object).map_or(0, serde_json::Map::len);
        if count > NAMES_MAX {
            findings.stack(NAME_LIMIT, format!("the stack has {count} {}", name.to_lowercase()));
        }
    }
    let bytes = to_canonical_bytes(template).len();
    if bytes > BODY_BYTES_MAX {
        findings.stack(BODY_LIMIT, format!("the template has {bytes} bytes"));
    }
    let description = template.get("Description").and_then(Json::as_str).unwrap_or_default();
    if description.len() > DESCRIPTION_BYTES_MAX {
        findings.stack(DESCRIPTION_LIMIT, format!("the description has {} bytes", description.len()));
    }
}

enum Use {
    Ref(String),
    Resource(String),
    Attribute(String, String),
    Condition(String),
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
                    ("Fn::If", Json::Array(parts)) => {
                        if let Some(Json::String(condition)) = parts.first() {
                            found.push(Use::Condition(condition.clone()));
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

/// A circle in a graph, if there is one.
fn circle(edges: &BTreeMap<&str, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        node: &str,
        edges: &BTreeMap<&str, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(at) = path.iter().position(|known| known == node) {
            let mut circle = path[at..].to_vec();
            circle.push(node.to_owned());
            return Some(circle);
        }
        if done.contains(node) {
            return None;
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
