//! What of a stack is code, and what else sets it apart from what it should be. Pure.

use std::collections::BTreeSet;

use cfn::{
    Json,
    assembly::{Source, StackEntry},
    to_canonical_bytes,
};

use crate::{
    cloudformation::NOT_ECHOED,
    plan::Present,
    wiring::{Known, resolve},
};

/// A function whose code is an asset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// Its logical id.
    pub logical_id: String,
    /// The asset.
    pub asset: String,
}

/// The functions of a template whose code is an asset.
#[must_use]
pub fn code_of(entry: &StackEntry, template: &Json) -> Vec<Code> {
    let found = resources(template).filter_map(|(logical_id, resource)| {
        if resource.get("Type")?.as_str()? != "AWS::Lambda::Function" {
            return None;
        }
        let parameter = resource.pointer("/Properties/Code/S3Key/Ref")?.as_str()?;
        match &entry.parameters.iter().find(|wired| wired.name == parameter)?.source {
            Source::Asset { name, .. } => Some(Code { logical_id: logical_id.clone(), asset: name.clone() }),
            _ => None,
        }
    });
    found.collect()
}

/// The functions that a stack wants invoked when it is deployed, by logical id: new code of these is of use only
/// with the invocation, and before what depends on it. Where an output does not tell which function it names, all are.
#[must_use]
pub fn invoked(entry: &StackEntry, template: &Json) -> BTreeSet<String> {
    let function = |output: &str| -> Option<String> {
        let value = template.pointer(&format!("/Outputs/{output}/Value"))?;
        let id = value.get("Ref").or_else(|| value.get("Fn::GetAtt")?.get(0))?;
        id.as_str().map(str::to_owned)
    };
    let named: Option<BTreeSet<String>> =
        entry.invocations.iter().map(|invocation| function(&invocation.output)).collect();
    named.unwrap_or_else(|| code_of(entry, template).into_iter().map(|code| code.logical_id).collect())
}

/// What sets a deployed stack apart from what it should be, beside where its functions' code lies; in words, a thing
/// each.
#[must_use]
pub fn beside_code(entry: &StackEntry, template: &Json, present: &Present, known: &Known) -> Vec<String> {
    let mut found = Vec::new();
    let (new, old) = (template, &present.template);
    let empty = serde_json::Map::new();
    let all = |template: &Json| {
        template.get("Resources").and_then(Json::as_object).cloned().unwrap_or_else(|| empty.clone())
    };
    let (before, after) = (all(old), all(new));
    let ids: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for id in ids {
        match (before.get(id), after.get(id)) {
            (Some(was), Some(is)) if !same(was, is) => {
                found.push(format!("{} ({}) has changed", path(is, id), changed(was, is).join(", ")));
            }
            (None, Some(is)) => found.push(format!("{} is new", path(is, id))),
            (Some(was), None) => found.push(format!("{} is gone", path(was, id))),
            _ => {}
        }
    }
    let sections = |template: &Json| {
        let keys: Vec<String> =
            template.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect();
        keys
    };
    let all: BTreeSet<String> = sections(old).into_iter().chain(sections(new)).collect();
    for section in all.iter().filter(|section| *section != "Resources") {
        if !same(old.get(section).unwrap_or(&Json::Null), new.get(section).unwrap_or(&Json::Null)) {
            found.push(format!("its section {section} has changed"));
        }
    }
    for wired in &entry.parameters {
        if matches!(wired.source, Source::Asset { .. }) {
            continue;
        }
        let (Ok(wanted), Some(now)) =
            (resolve(&wired.source, known), present.deployed.parameters.get(&wired.name))
        else {
            continue;
        };
        if now != NOT_ECHOED && *now != wanted {
            found.push(format!("its parameter {} has changed", wired.name));
        }
    }
    if present.deployed.tags != entry.tags {
        found.push("its tags have changed".to_owned());
    }
    found
}

fn resources(template: &Json) -> impl Iterator<Item = (&String, &Json)> {
    template.get("Resources").and_then(Json::as_object).into_iter().flatten()
}

fn same(one: &Json, other: &Json) -> bool {
    to_canonical_bytes(one) == to_canonical_bytes(other)
}

fn path(resource: &Json, id: &str) -> String {
    let path = resource.pointer("/Metadata/floodgate:path").and_then(Json::as_str);
    path.unwrap_or(id).to_owned()
}

/// What of a resource differs: its properties by name, anything else by its key.
fn changed(was: &Json, is: &Json) -> Vec<String> {
    let keys = |json: &Json| -> Vec<String> {
        json.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    let differing = |was: &Json, is: &Json| -> Vec<String> {
        let all: BTreeSet<String> = keys(was).into_iter().chain(keys(is)).collect();
        all.into_iter()
            .filter(|key| !same(was.get(key).unwrap_or(&Json::Null), is.get(key).unwrap_or(&Json::Null)))
            .collect()
    };
    let mut found = Vec::new();
    for key in differing(was, is) {
        match (was.get(&key), is.get(&key)) {
            (Some(before @ Json::Object(_)), Some(after @ Json::Object(_))) if key == "Properties" => {
                found.extend(differing(before, after).into_iter().map(|name| format!("Properties.{name}")));
            }
            _ => found.push(key),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use cfn::assembly::{Invocation, ParameterWiring};
    use serde_json::json;

    use super::*;
    use crate::cloudformation::Deployed;

    fn entry() -> StackEntry {
        let asset =
            |name: &str, field: &str| Source::Asset { name: name.to_owned(), field: field.to_owned() };
        let wired = |name: &str, source| ParameterWiring { name: name.to_owned(), source };
        StackEntry {
            id: "ledger".to_owned(),
            name: "fg-ledger".to_owned(),
            parameters: vec![
                wired("Bucket", asset("ledger-writer", "s3_bucket")),
                wired("Key", asset("ledger-writer", "s3_key")),
                wired("MigrateKey", asset("ledger-migrate", "s3_key")),
                wired("Topic", Source::Literal("events".to_owned())),
            ],
            invocations: vec![Invocation { output: "Migration".to_owned() }],
            ..StackEntry::default()
        }
    }

    fn template() -> Json {
        let function = |key: &str| {
            json!({ "Type": "AWS::Lambda::Function", "Properties": {
                "Code": { "S3Bucket": { "Ref": "Bucket" }, "S3Key": { "Ref": key } }, "MemorySize": 512 },
                "Metadata": { "floodgate:path": format!("ledger/{key}") } })
        };
        json!({
            "Resources": {
                "Writer": function("Key"), "Migrate": function("MigrateKey"), "Queue": { "Type": "AWS::SQS::Queue" },
                "Inline": { "Type": "AWS::Lambda::Function", "Properties": { "Code": { "ZipFile": "x" } } },
            },
            "Outputs": { "Migration": { "Value": { "Ref": "Migrate" } } },
        })
    }

    fn present(template: Json, parameters: &[(&str, &str)]) -> Present {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let deployed = Deployed { parameters: parameters.collect(), ..Deployed::default() };
        Present { deployed, template }
    }

    #[test]
    fn code_is_what_an_asset_gives() {
        let found = code_of(&entry(), &template());
        let told: Vec<(&str, &str)> =
            found.iter().map(|code| (code.logical_id.as_str(), code.asset.as_str())).collect();
        assert_eq!(told, [("Migrate", "ledger-migrate"), ("Writer", "ledger-writer")]);
        assert_eq!(invoked(&entry(), &template()), BTreeSet::from(["Migrate".to_owned()]));
        let mut unclear = template();
        unclear["Outputs"]["Migration"]["Value"] = json!("fg-migrate");
        assert_eq!(invoked(&entry(), &unclear).len(), 2);
    }

    #[test]
    fn another_key_is_no_difference_and_everything_else_is() {
        let deployed = [("Key", "assets/old.zip"), ("Bucket", "b"), ("Topic", "events")];
        let differs = |new: &Json, old: Json, parameters: &[(&str, &str)]| {
            beside_code(&entry(), new, &present(old, parameters), &Known::default())
        };
        assert_eq!(differs(&template(), template(), &deployed), Vec::<String>::new());
        let mut new = template();
        new["Resources"]["Writer"]["Properties"]["MemorySize"] = json!(1024);
        new["Resources"]["Added"] = json!({ "Type": "AWS::SQS::Queue" });
        new["Resources"].as_object_mut().unwrap().remove("Queue");
        new["Outputs"]["More"] = json!({ "Value": "x" });
        assert_eq!(
            differs(&new, template(), &[("Topic", "others")]),
            [
                "Added is new",
                "Queue is gone",
                "ledger/Key (Properties.MemorySize) has changed",
                "its section Outputs has changed",
                "its parameter Topic has changed",
            ]
        );
        assert!(differs(&template(), template(), &[("Topic", NOT_ECHOED)]).is_empty());
    }
}
