//! Questions that tests ask of a template: by type, by properties, by pattern.

use crate::value::Json;

/// The resources of a type, as `(logical id, resource)`, sorted by logical id.
pub fn resources_of_type<'a>(template: &'a Json, resource_type: &str) -> Vec<(&'a str, &'a Json)> {
    let mut found: Vec<_> = template
        .get("Resources")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, resource)| resource.get("Type").and_then(Json::as_str) == Some(resource_type))
        .map(|(id, resource)| (id.as_str(), resource))
        .collect();
    found.sort_by_key(|(id, _)| *id);
    found
}

/// Whether `json` has everything that `pattern` has: objects may have more keys, arrays must have an element
/// for each of the pattern's, in any order, and everything else must be equal.
pub fn matches(json: &Json, pattern: &Json) -> bool {
    match (json, pattern) {
        (Json::Object(json), Json::Object(pattern)) => {
            pattern.iter().all(|(key, wanted)| json.get(key).is_some_and(|found| matches(found, wanted)))
        }
        (Json::Array(json), Json::Array(pattern)) => {
            pattern.iter().all(|wanted| json.iter().any(|found| matches(found, wanted)))
        }
        (json, pattern) => json == pattern,
    }
}

/// Asserts that the template has a resource of that type whose properties match the pattern, and returns its
/// logical id.
///
/// # Panics
///
/// When there is none; the message shows those of the type that there are.
#[track_caller]
pub fn has_resource(template: &Json, resource_type: &str, pattern: &Json) -> String {
    let of_type = resources_of_type(template, resource_type);
    let empty = Json::Object(serde_json::Map::new());
    let found = of_type
        .iter()
        .find(|(_, resource)| matches(resource.get("Properties").unwrap_or(&empty), pattern))
        .map(|(id, _)| (*id).to_owned());
    match found {
        Some(id) => id,
        None => panic!(
            "no {resource_type} matches {pattern:#}; there are:\n{}",
            of_type.iter().map(|(id, resource)| format!("{id}: {resource:#}")).collect::<Vec<_>>().join("\n")
        ),
    }
}

/// Asserts how many resources of a type the template has.
///
/// # Panics
///
/// When there are more or fewer.
#[track_caller]
pub fn resource_count(template: &Json, resource_type: &str, expected: usize) {
    let of_type = resources_of_type(template, resource_type);
    assert_eq!(
        of_type.len(),
        expected,
        "{resource_type}: {:?}",
        of_type.iter().map(|(id, _)| *id).collect::<Vec<_>>()
    );
}

/// The value at a JSON pointer of the properties of a resource, to be looked at further.
///
/// # Panics
///
/// When there is no such resource or it has nothing there.
#[track_caller]
pub fn capture<'a>(template: &'a Json, logical_id: &str, pointer: &str) -> &'a Json {
    let properties = template.pointer(&format!("/Resources/{logical_id}/Properties"));
    match properties.and_then(|properties| properties.pointer(pointer)) {
        Some(found) => found,
        None => panic!(
            "{logical_id} has nothing at {pointer}; its properties are {:#}",
            properties.unwrap_or(&Json::Null)
        ),
    }
}
