//! Templates changed on the way to what is rendered. Pure.

use std::collections::BTreeSet;

use cfn::{Json, diff::targets};
use serde_json::json;

/// Why a template cannot be changed so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The resource is not rendered.
    #[error("the stack renders no resource `{logical_id}`{hint}")]
    NotRendered {
        /// The logical id.
        logical_id: String,
        /// What there is instead, to be read after it.
        hint: String,
    },
    /// The resource is not deployed.
    #[error("the deployed stack has no resource `{logical_id}`{hint}")]
    NotDeployed {
        /// The logical id.
        logical_id: String,
        /// What there is instead, to be read after it.
        hint: String,
    },
    /// The resource is deployed already.
    #[error("the resource `{logical_id}` is in the deployed stack already")]
    Deployed {
        /// The logical id.
        logical_id: String,
    },
    /// The resource is still rendered.
    #[error(
        "the resource `{logical_id}` is still rendered: the next deploy would make it again. Remove it from the stack's code first"
    )]
    StillRendered {
        /// The logical id.
        logical_id: String,
    },
    /// Something in the template refers to the resource.
    #[error("{} refer to `{logical_id}`; deploy a version in which they do not, then run this again", by.join(", "))]
    Referred {
        /// The logical id.
        logical_id: String,
        /// What refers to it.
        by: Vec<String>,
    },
    /// The resource refers to something that the other template does not have.
    #[error("`{logical_id}` refers to {}, which the template that it comes into does not have", to.join(", "))]
    Refers {
        /// The logical id.
        logical_id: String,
        /// What it refers to.
        to: Vec<String>,
    },
}

/// The resources of a template that a name may be meant for.
fn hint(template: &Json, logical_id: &str) -> String {
    let near = template["Resources"]
        .as_object()
        .into_iter()
        .flat_map(|resources| resources.keys())
        .filter(|known| {
            known.to_lowercase().contains(&logical_id.to_lowercase())
                || logical_id.to_lowercase().contains(&known.to_lowercase())
        })
        .take(5)
        .cloned()
        .collect::<Vec<_>>();
    if near.is_empty() { String::new() } else { format!("; is {} meant?", near.join(" or ")) }
}

/// The names that a resource or another value refers to by `Ref`, `Fn::GetAtt`, `Fn::Sub` and `DependsOn`.
#[must_use]
pub fn referred(json: &Json) -> BTreeSet<String> {
    let mut found = targets(json);
    found.retain(|name| !name.starts_with("AWS::"));
    match &json["DependsOn"] {
        Json::String(name) => {
            found.insert(name.clone());
        }
        names => {
            found.extend(names.as_array().into_iter().flatten().filter_map(Json::as_str).map(str::to_owned))
        }
    }
    found
}

/// What of a template refers to a resource: other resources and outputs.
fn referring(template: &Json, logical_id: &str) -> Vec<String> {
    let mut by = Vec::new();
    for section in ["Resources", "Outputs"] {
        for (name, value) in template[section].as_object().into_iter().flatten() {
            if !(section == "Resources" && name == logical_id) && referred(value).contains(logical_id) {
                by.push(if section == "Outputs" { format!("the output {name}") } else { name.clone() });
            }
        }
    }
    by
}

/// The deployed template with rendered resources beside it: what an import takes, which may change nothing else.
/// Each gets `DeletionPolicy: Retain` where it has none, as an import wants.
///
/// # Errors
///
/// When a resource is not rendered, is deployed already, or refers to what is not there.
pub fn with_imported(deployed: Option<&Json>, rendered: &Json, ids: &[String]) -> Result<Json, ChangeError> {
    let mut template = deployed.cloned().unwrap_or_else(|| {
        let mut empty = rendered.clone();
        empty["Resources"] = json!({});
        if let Some(object) = empty.as_object_mut() {
            object.remove("Outputs");
            object.remove("Parameters");
        }
        empty
    });
    for id in ids {
        let Some(resource) = rendered["Resources"].get(id) else {
            return Err(ChangeError::NotRendered { logical_id: id.clone(), hint: hint(rendered, id) });
        };
        if template["Resources"].get(id).is_some() {
            return Err(ChangeError::Deployed { logical_id: id.clone() });
        }
        let mut resource = resource.clone();
        if resource.get("DeletionPolicy").is_none() {
            resource["DeletionPolicy"] = json!("Retain");
        }
        template["Resources"][id] = resource;
    }
    for id in ids {
        let mut missing = Vec::new();
        for name in referred(&template["Resources"][id]) {
            if template["Resources"].get(&name).is_some() || template["Parameters"].get(&name).is_some() {
                continue;
            }
            match rendered["Parameters"].get(&name) {
                Some(parameter) => template["Parameters"][&name] = parameter.clone(),
                None => missing.push(name),
            }
        }
        if !missing.is_empty() {
            return Err(ChangeError::Refers { logical_id: id.clone(), to: missing });
        }
    }
    Ok(template)
}

/// The two steps by which a resource leaves its stack and stays alive: it is retained, then it is gone from the
/// template. The first is `None` where the resource is retained already.
///
/// # Errors
///
/// When it is not deployed, is still rendered, or something refers to it.
pub fn without_orphan(
    deployed: &Json,
    rendered: &Json,
    id: &str,
) -> Result<(Option<Json>, Json), ChangeError> {
    let Some(resource) = deployed["Resources"].get(id) else {
        return Err(ChangeError::NotDeployed { logical_id: id.to_owned(), hint: hint(deployed, id) });
    };
    if rendered["Resources"].get(id).is_some() {
        return Err(ChangeError::StillRendered { logical_id: id.to_owned() });
    }
    let mut without = deployed.clone();
    if let Some(resources) = without["Resources"].as_object_mut() {
        resources.remove(id);
    }
    // An output of a resource goes with it, where it is no longer rendered.
    if let Some(outputs) = without.get_mut("Outputs").and_then(Json::as_object_mut) {
        outputs
            .retain(|name, output| rendered["Outputs"].get(name).is_some() || !referred(output).contains(id));
    }
    let by = referring(&without, id);
    if !by.is_empty() {
        return Err(ChangeError::Referred { logical_id: id.to_owned(), by });
    }
    let retained = resource.get("DeletionPolicy").and_then(Json::as_str) == Some("Retain");
    let first = (!retained).then(|| {
        let mut first = deployed.clone();
        first["Resources"][id]["DeletionPolicy"] = json!("Retain");
        first
    });
    Ok((first, without))
}

/// A template in which a resource has another logical id, wherever it is named.
///
/// # Errors
///
/// When it is not there, or the other id is taken.
pub fn renamed(template: &Json, from: &str, to: &str) -> Result<Json, ChangeError> {
    if template["Resources"].get(from).is_none() {
        return Err(ChangeError::NotDeployed { logical_id: from.to_owned(), hint: hint(template, from) });
    }
    if template["Resources"].get(to).is_some() {
        return Err(ChangeError::Deployed { logical_id: to.to_owned() });
    }
    let mut changed = template.clone();
    if let Some(resources) = changed["Resources"].as_object_mut()
        && let Some(resource) = resources.remove(from)
    {
        resources.insert(to.to_owned(), resource);
    }
    for section in ["Resources", "Outputs", "Conditions"] {
        if let Some(section) = changed.get_mut(section) {
            rename(section, from, to);
        }
    }
    Ok(changed)
}

fn rename(json: &mut Json, from: &str, to: &str) {
    match json {
        Json::Array(items) => items.iter_mut().for_each(|item| rename(item, from, to)),
        Json::Object(object) => {
            for (key, value) in object.iter_mut() {
                match (key.as_str(), &mut *value) {
                    ("Ref" | "DependsOn", Json::String(name)) if name == from => *name = to.to_owned(),
                    ("DependsOn", Json::Array(names)) => {
                        for name in names.iter_mut().filter(|name| name.as_str() == Some(from)) {
                            *name = json!(to);
                        }
                    }
                    ("Fn::GetAtt", Json::Array(parts)) => {
                        if let Some(name) = parts.first_mut().filter(|name| name.as_str() == Some(from)) {
                            *name = json!(to);
                        }
                    }
                    ("Fn::GetAtt", Json::String(text)) => {
                        if let Some(attribute) = text.strip_prefix(&format!("{from}.")) {
                            *text = format!("{to}.{attribute}");
                        }
                    }
                    ("Fn::Sub", Json::String(text)) => *text = rename_variables(text, from, to),
                    ("Fn::Sub", Json::Array(parts)) => {
                        if let Some(Json::String(text)) = parts.first_mut() {
                            *text = rename_variables(text, from, to);
                        }
                        parts.iter_mut().skip(1).for_each(|part| rename(part, from, to));
                    }
                    _ => rename(value, from, to),
                }
            }
        }
        _ => {}
    }
}

fn rename_variables(text: &str, from: &str, to: &str) -> String {
    text.replace(&format!("${{{from}}}"), &format!("${{{to}}}"))
        .replace(&format!("${{{from}."), &format!("${{{to}."))
}

/// Two templates between which a resource has changed hands, under a name of its own in each.
///
/// # Errors
///
/// When it is not there, the other id is taken, something in the first refers to it, or it refers to something
/// that the second does not have.
pub fn transferred(
    source: &Json,
    destination: &Json,
    from: &str,
    to: &str,
) -> Result<(Json, Json), ChangeError> {
    let Some(resource) = source["Resources"].get(from) else {
        return Err(ChangeError::NotDeployed { logical_id: from.to_owned(), hint: hint(source, from) });
    };
    if destination["Resources"].get(to).is_some() {
        return Err(ChangeError::Deployed { logical_id: to.to_owned() });
    }
    let by = referring(source, from);
    if !by.is_empty() {
        return Err(ChangeError::Referred { logical_id: from.to_owned(), by });
    }
    let missing: Vec<String> = referred(resource)
        .into_iter()
        .filter(|name| {
            destination["Resources"].get(name).is_none() && destination["Parameters"].get(name).is_none()
        })
        .collect();
    if !missing.is_empty() {
        return Err(ChangeError::Refers { logical_id: from.to_owned(), to: missing });
    }
    let (mut left, mut gained) = (source.clone(), destination.clone());
    if let Some(resources) = left["Resources"].as_object_mut() {
        resources.remove(from);
    }
    gained["Resources"][to] = resource.clone();
    Ok((left, gained))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template() -> Json {
        json!({
            "Parameters": { "Network": { "Type": "String" } },
            "Resources": {
                "Queue": { "Type": "AWS::SQS::Queue" },
                "Topic": { "Type": "AWS::SNS::Topic", "DependsOn": ["Queue"], "Properties": {
                    "TopicName": { "Fn::Sub": "${Queue.QueueName}-${AWS::Region}-${!literal}" } } },
                "Table": { "Type": "AWS::DynamoDB::Table", "DeletionPolicy": "Retain" },
            },
            "Outputs": { "QueueUrl": { "Value": { "Ref": "Queue" } }, "Table": { "Value": { "Fn::GetAtt": ["Table", "Arn"] } } }
        })
    }

    fn without(template: &Json, id: &str) -> Json {
        let mut template = template.clone();
        template["Resources"].as_object_mut().unwrap().remove(id);
        template
    }

    #[test]
    fn references_of_all_kinds_are_found() {
        let topic = &template()["Resources"]["Topic"];
        assert_eq!(referred(topic), BTreeSet::from(["Queue".to_owned()]));
        let sub = json!({ "Fn::Sub": ["${A}-${B}", { "A": { "Fn::GetAtt": "C.Arn" } }] });
        assert_eq!(referred(&sub), BTreeSet::from(["B".to_owned(), "C".to_owned()]));
    }

    #[test]
    fn an_import_adds_what_is_named_and_nothing_else() {
        let rendered = template();
        let deployed = without(&rendered, "Queue");
        let imported = with_imported(Some(&deployed), &rendered, &["Queue".to_owned()]).unwrap();
        assert_eq!(imported["Resources"]["Queue"]["DeletionPolicy"], "Retain");
        assert_eq!(without(&imported, "Queue"), deployed);
        let fresh = with_imported(None, &rendered, &["Table".to_owned()]).unwrap();
        assert_eq!(fresh["Resources"].as_object().unwrap().len(), 1);
        assert!(fresh.get("Outputs").is_none());
    }

    #[test]
    fn an_import_that_cannot_be_says_why() {
        let rendered = template();
        let error = |deployed: Option<&Json>, id: &str| {
            with_imported(deployed, &rendered, &[id.to_owned()]).unwrap_err()
        };
        assert_eq!(error(Some(&rendered), "Queue"), ChangeError::Deployed { logical_id: "Queue".to_owned() });
        assert!(error(None, "Queues").to_string().contains("is Queue meant?"));
        assert_eq!(
            error(None, "Topic"),
            ChangeError::Refers { logical_id: "Topic".to_owned(), to: vec!["Queue".to_owned()] }
        );
    }

    #[test]
    fn an_orphan_is_retained_before_it_goes() {
        let deployed = template();
        let rendered = json!({ "Resources": {}, "Outputs": {} });
        let (first, then) = without_orphan(&deployed, &rendered, "Table").unwrap();
        assert_eq!(first, None, "it is retained already");
        assert!(then["Resources"].get("Table").is_none() && then["Outputs"].get("Table").is_none());
        let bare = json!({ "Resources": { "Table": deployed["Resources"]["Table"] } });
        let (_, then) = without_orphan(&bare, &rendered, "Table").unwrap();
        assert_eq!(then, json!({ "Resources": {} }), "no section comes from nowhere");
        let (first, _) = without_orphan(&deployed, &rendered, "Topic").unwrap();
        assert_eq!(first.unwrap()["Resources"]["Topic"]["DeletionPolicy"], "Retain");
        assert!(matches!(without_orphan(&deployed, &rendered, "Queue"), Err(ChangeError::Referred { .. })));
        assert!(matches!(
            without_orphan(&deployed, &deployed, "Table"),
            Err(ChangeError::StillRendered { .. })
        ));
    }

    #[test]
    fn a_renamed_resource_is_renamed_wherever_it_is_named() {
        let renamed = renamed(&template(), "Queue", "Buffer").unwrap();
        assert!(!renamed.to_string().contains("\"Queue\"") && !renamed.to_string().contains("${Queue"));
        assert_eq!(renamed["Outputs"]["QueueUrl"]["Value"]["Ref"], "Buffer");
        assert_eq!(renamed["Resources"]["Topic"]["DependsOn"][0], "Buffer");
    }

    #[test]
    fn what_is_referred_to_stays_in_its_stack() {
        let empty = json!({ "Resources": {} });
        assert!(matches!(
            transferred(&template(), &empty, "Queue", "Queue"),
            Err(ChangeError::Referred { .. })
        ));
        assert!(matches!(
            transferred(&template(), &empty, "Topic", "Topic"),
            Err(ChangeError::Refers { .. })
        ));
        let mut source = template();
        source["Outputs"] = json!({});
        let (left, gained) = transferred(&source, &empty, "Table", "Users").unwrap();
        assert!(left["Resources"].get("Table").is_none());
        assert_eq!(gained["Resources"]["Users"], source["Resources"]["Table"]);
    }

    proptest! {
        /// Renaming there and back is nothing.
        #[test]
        fn a_renaming_can_be_undone(to in "[A-Z][a-z]{1,8}[0-9]") {
            let there = renamed(&template(), "Queue", &to).unwrap();
            prop_assert_eq!(renamed(&there, &to, "Queue").unwrap(), template());
        }
    }
}
