//! A template on the way from one to another: the new one with what others still use of the old.

use std::collections::BTreeSet;

use cfn::Json;

/// The new template with outputs of the old one and all that they refer to. Gives also the names of the parameters
/// that came along.
pub(super) fn keep(new: &Json, old: &Json, outputs: &[String]) -> (Json, BTreeSet<String>) {
    let mut kept = new.clone();
    let mut parameters = BTreeSet::new();
    let mut names = BTreeSet::new();
    for output in outputs {
        if let Some(json) = insert(&mut kept, old, "Outputs", output) {
            references(&json, &mut names);
        }
    }
    let mut done = BTreeSet::new();
    while let Some(name) = names.pop_first() {
        if !done.insert(name.clone()) {
            continue;
        }
        // A name is of one section only, apart from conditions and mappings, which come along where they are meant.
        for section in ["Resources", "Parameters", "Conditions", "Mappings"] {
            if let Some(json) = insert(&mut kept, old, section, &name) {
                references(&json, &mut names);
                if section == "Parameters" {
                    parameters.insert(name.clone());
                }
            }
        }
    }
    (kept, parameters)
}

/// Inserts a member of a section of the old template where the new one has none; gives what was inserted.
fn insert(kept: &mut Json, old: &Json, section: &str, name: &str) -> Option<Json> {
    let json = old.get(section)?.get(name)?.clone();
    let members = kept
        .as_object_mut()?
        .entry(section)
        .or_insert_with(|| Json::Object(serde_json::Map::new()))
        .as_object_mut()?;
    if members.contains_key(name) {
        return None;
    }
    members.insert(name.to_owned(), json.clone());
    Some(json)
}

/// Every name that may refer to a resource, parameter, condition or mapping. One too many does no harm: only names
/// that the old template has are looked at.
fn references(json: &Json, names: &mut BTreeSet<String>) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| references(item, names)),
        Json::Object(members) => {
            for (key, value) in members {
                let first = value.as_array().and_then(|items| items.first()).and_then(Json::as_str);
                match (key.as_str(), value) {
                    ("Ref" | "Condition" | "DependsOn", Json::String(name)) => {
                        names.insert(name.clone());
                    }
                    ("DependsOn", Json::Array(items)) => {
                        names.extend(items.iter().filter_map(Json::as_str).map(str::to_owned));
                    }
                    ("Fn::GetAtt", Json::String(path)) => {
                        names.extend(path.split('.').next().map(str::to_owned));
                    }
                    ("Fn::GetAtt" | "Fn::If" | "Fn::FindInMap", _) => {
                        names.extend(first.map(str::to_owned));
                    }
                    ("Fn::Sub", Json::String(text)) => substituted(text, names),
                    ("Fn::Sub", _) => substituted(first.unwrap_or_default(), names),
                    _ => {}
                }
                references(value, names);
            }
        }
        _ => {}
    }
}

/// The names in the `${…}` of a text.
fn substituted(text: &str, names: &mut BTreeSet<String>) {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("${") {
        let Some((name, after)) = after.split_once('}') else { return };
        names.extend(name.split('.').next().map(|name| name.trim().to_owned()));
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_output_needs_comes_along_and_nothing_else() {
        let old = json!({
            "Parameters": { "Zone": { "Type": "String" }, "Other": { "Type": "String" } },
            "Conditions": { "Big": { "Fn::Equals": [{ "Ref": "Zone" }, "a"] } },
            "Mappings": { "Sizes": { "a": { "b": "c" } } },
            "Resources": {
                "Group": { "Type": "T", "Condition": "Big", "Properties": { "Vpc": { "Fn::GetAtt": ["Vpc", "Id"] } } },
                "Vpc": { "Type": "T", "Properties": { "Size": { "Fn::FindInMap": ["Sizes", "a", "b"] } } },
                "Gone": { "Type": "T", "Properties": { "Other": { "Ref": "Other" } } },
            },
            "Outputs": { "A": { "Value": { "Fn::Sub": "x-${Group.Arn}" } }, "B": { "Value": { "Ref": "Gone" } } },
        });
        let new = json!({
            "Resources": { "Vpc": { "Type": "T", "Properties": { "Size": "new" } } },
            "Outputs": { "C": { "Value": "c" } },
        });
        let (kept, parameters) = keep(&new, &old, &["A".to_owned()]);
        assert_eq!(parameters, BTreeSet::from(["Zone".to_owned()]));
        assert_eq!(
            kept,
            json!({
                "Parameters": { "Zone": { "Type": "String" } },
                "Conditions": { "Big": { "Fn::Equals": [{ "Ref": "Zone" }, "a"] } },
                "Resources": {
                    "Group": { "Type": "T", "Condition": "Big", "Properties": { "Vpc": { "Fn::GetAtt": ["Vpc", "Id"] } } },
                    "Vpc": { "Type": "T", "Properties": { "Size": "new" } },
                },
                "Outputs": { "A": { "Value": { "Fn::Sub": "x-${Group.Arn}" } }, "C": { "Value": "c" } },
            })
        );
    }
}
