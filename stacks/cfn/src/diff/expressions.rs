//! What an expression of a template names, and how it reads.

use std::collections::{BTreeMap, BTreeSet};

use crate::{canonical::to_canonical_bytes, value::Json};

/// The logical ids, parameters and pseudo parameters that a value refers to by `Ref`, `Fn::GetAtt` or `Fn::Sub`.
#[must_use]
pub fn targets(json: &Json) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(json, &mut found);
    found
}

fn collect(json: &Json, found: &mut BTreeSet<String>) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Json::Object(object) => {
            for (key, value) in object {
                match (key.as_str(), value) {
                    ("Ref", Json::String(name)) => {
                        found.insert(name.clone());
                    }
                    ("Fn::GetAtt", value) => {
                        found.extend(attribute(value).map(|(name, _)| name.to_owned()));
                        collect(value, found);
                    }
                    ("Fn::Sub", Json::String(text)) => substituted(text, found),
                    ("Fn::Sub", Json::Array(parts)) => {
                        let own = parts.get(1).and_then(Json::as_object);
                        let mut names = BTreeSet::new();
                        substituted(parts.first().and_then(Json::as_str).unwrap_or_default(), &mut names);
                        names.retain(|name| own.is_none_or(|own| !own.contains_key(name)));
                        found.append(&mut names);
                        parts.iter().skip(1).for_each(|part| collect(part, found));
                    }
                    (_, value) => collect(value, found),
                }
            }
        }
        _ => {}
    }
}

/// `["Name", "Attribute"]` or `Name.Attribute`.
fn attribute(value: &Json) -> Option<(&str, String)> {
    match value {
        Json::String(text) => text.split_once('.').map(|(name, attribute)| (name, attribute.to_owned())),
        Json::Array(parts) => match parts.as_slice() {
            [Json::String(name), attribute] => Some((name, text(attribute))),
            _ => None,
        },
        _ => None,
    }
}

/// The names between `${` and `}`; `${!` is no substitution.
fn substituted(text: &str, found: &mut BTreeSet<String>) {
    for piece in text.split("${").skip(1) {
        if let Some((name, _)) = piece.split_once('}')
            && !name.starts_with('!')
        {
            found.insert(name.split('.').next().unwrap_or(name).to_owned());
        }
    }
}

/// A value as a text in which references stand as `${Name}` and `${Name.Attribute}`, the way `Fn::Sub` writes
/// them, so that one address written in two ways reads the same.
pub(super) fn text(json: &Json) -> String {
    match json {
        Json::String(text) => text.clone(),
        Json::Object(object) if object.len() == 1 => {
            let Some((key, value)) = object.iter().next() else { return String::new() };
            match (key.as_str(), value) {
                ("Ref", Json::String(name)) => format!("${{{name}}}"),
                ("Fn::GetAtt", value) => match attribute(value) {
                    Some((name, attribute)) => format!("${{{name}.{attribute}}}"),
                    None => raw(json),
                },
                ("Fn::Sub", Json::String(text)) => text.clone(),
                ("Fn::Join", Json::Array(parts)) => match parts.as_slice() {
                    [Json::String(delimiter), Json::Array(items)] => {
                        items.iter().map(text).collect::<Vec<_>>().join(delimiter)
                    }
                    _ => raw(json),
                },
                _ => raw(json),
            }
        }
        _ => raw(json),
    }
}

fn raw(json: &Json) -> String {
    String::from_utf8(to_canonical_bytes(json)).unwrap_or_default()
}

/// A value with logical ids renamed in its references.
pub(super) fn renamed(json: &Json, names: &BTreeMap<String, String>) -> Json {
    match json {
        Json::Array(items) => items.iter().map(|item| renamed(item, names)).collect(),
        Json::Object(object) => object
            .iter()
            .map(|(key, value)| {
                let value = match (key.as_str(), value) {
                    ("Ref", Json::String(name)) => names.get(name).unwrap_or(name).clone().into(),
                    ("Fn::GetAtt", Json::Array(parts)) => {
                        let mut parts = parts.clone();
                        if let Some(Json::String(name)) = parts.first_mut()
                            && let Some(new) = names.get(name)
                        {
                            name.clone_from(new);
                        }
                        parts.into()
                    }
                    ("Fn::Sub", Json::String(text)) => substitution_renamed(text, names).into(),
                    (_, value) => renamed(value, names),
                };
                (key.clone(), value)
            })
            .collect(),
        other => other.clone(),
    }
}

fn substitution_renamed(text: &str, names: &BTreeMap<String, String>) -> String {
    let mut result = text.to_owned();
    for (old, new) in names {
        for end in ['}', '.'] {
            result = result.replace(&format!("${{{old}{end}"), &format!("${{{new}{end}"));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_refer_is_seen() {
        let value = json!({
            "A": { "Ref": "One" },
            "B": [{ "Fn::GetAtt": ["Two", "Arn"] }, { "Fn::GetAtt": "Three.Arn" }],
            "C": { "Fn::Sub": "x-${Four}-${Five.Arn}-${!Literal}" },
            "D": { "Fn::Sub": ["${Six}-${Y}", { "Y": { "Ref": "Seven" } }] }
        });
        let names: Vec<String> = targets(&value).into_iter().collect();
        assert_eq!(names, ["Five", "Four", "One", "Seven", "Six", "Three", "Two"]);
    }

    #[test]
    fn one_address_written_in_two_ways_reads_the_same() {
        let joined = json!({ "Fn::Join": ["", [{ "Fn::GetAtt": ["Bucket", "Arn"] }, "/*"]] });
        let substituted = json!({ "Fn::Sub": "${Bucket.Arn}/*" });
        assert_eq!(text(&joined), "${Bucket.Arn}/*");
        assert_eq!(text(&joined), text(&substituted));
    }

    #[test]
    fn references_follow_a_renaming() {
        let names = BTreeMap::from([("Old".to_owned(), "New".to_owned())]);
        let value = json!([{ "Ref": "Old" }, { "Fn::GetAtt": ["Old", "Arn"] }, { "Fn::Sub": "${Old}${Older}${Old.Arn}" }]);
        assert_eq!(
            renamed(&value, &names),
            json!([{ "Ref": "New" }, { "Fn::GetAtt": ["New", "Arn"] }, { "Fn::Sub": "${New}${Older}${New.Arn}" }])
        );
    }
}
