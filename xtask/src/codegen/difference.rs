//! What a schema update changes for those who use the vocabulary.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::Facts;

/// Prints types added and removed, changes of what is required and of what replaces a resource, and enum
/// values that are gone.
pub(super) fn print(before: &Facts, after: &Facts) {
    let lines = lines(before, after);
    if lines.is_empty() {
        println!("codegen: no change of meaning");
    }
    for line in lines {
        println!("{line}");
    }
}

fn lines(before: &Facts, after: &Facts) -> Vec<String> {
    let flat = |facts: &Facts| -> std::collections::BTreeMap<String, Json> {
        facts.values().flatten().map(|(name, facts)| (name.clone(), facts.clone())).collect()
    };
    let (before, after) = (flat(before), flat(after));
    let mut lines = Vec::new();
    for name in after.keys().filter(|name| !before.contains_key(*name)) {
        lines.push(format!("+ {name}"));
    }
    for (name, old) in &before {
        let Some(new) = after.get(name) else {
            lines.push(format!("- {name}"));
            continue;
        };
        for key in ["required", "createOnlyProperties", "readOnlyProperties"] {
            let (old, new) = (set(old, key), set(new, key));
            for gone in old.difference(&new) {
                lines.push(format!("~ {name}: {key} no longer has {gone}"));
            }
            for added in new.difference(&old) {
                lines.push(format!("~ {name}: {key} now has {added}"));
            }
        }
        let (mut old_values, mut new_values) = (BTreeSet::new(), BTreeSet::new());
        enum_values(old, "", &mut old_values);
        enum_values(new, "", &mut new_values);
        for gone in old_values.difference(&new_values) {
            lines.push(format!("~ {name}: enum value gone: {gone}"));
        }
    }
    lines
}

fn set(facts: &Json, key: &str) -> BTreeSet<String> {
    facts
        .get(key)
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

fn enum_values(facts: &Json, path: &str, found: &mut BTreeSet<String>) {
    match facts {
        Json::Object(object) => {
            for (key, value) in object {
                if key == "enum" {
                    for value in value.as_array().into_iter().flatten() {
                        found.insert(format!("{path} {value}"));
                    }
                } else {
                    enum_values(value, &format!("{path}/{key}"), found);
                }
            }
        }
        Json::Array(items) => items.iter().for_each(|item| enum_values(item, path, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts(json: Json) -> Facts {
        Facts::from([("T".to_owned(), serde_json::from_value(json).unwrap())])
    }

    #[test]
    fn a_change_of_meaning_is_said_and_a_change_of_prose_is_not() {
        let old = facts(json!({
            "AWS::T::Gone": {},
            "AWS::T::A": {"required": ["X"], "properties": {"M": {"enum": ["a", "b"]}}, "createOnlyProperties": []},
        }));
        let new = facts(json!({
            "AWS::T::New": {},
            "AWS::T::A": {"required": ["X", "Y"], "properties": {"M": {"enum": ["a"]}}, "createOnlyProperties": ["X"]},
        }));
        assert_eq!(
            lines(&old, &new),
            [
                "+ AWS::T::New",
                "~ AWS::T::A: required now has Y",
                "~ AWS::T::A: createOnlyProperties now has X",
                "~ AWS::T::A: enum value gone: /properties/M \"b\"",
                "- AWS::T::Gone",
            ]
        );
        assert!(lines(&old, &old).is_empty());
    }
}
