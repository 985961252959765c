//! From the schema packages to facts: names, types, constraints, identifiers, references, IAM actions. No
//! prose is kept.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use regex::Regex;
use serde_json::{Map, Value as Json, json};

use super::{Facts, SERVICES, sources::Packages};

/// Keywords of a schema that are kept as they are.
const SCALARS: [&str; 22] = [
    "$ref",
    "additionalProperties",
    "const",
    "default",
    "dependentExcluded",
    "dependentRequired",
    "enum",
    "enumCaseInsensitive",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "required",
    "requiredOr",
    "requiredXor",
    "type",
    "uniqueItems",
];

/// Lists of property paths, kept without their `/properties/`.
const PATHS: [&str; 5] = [
    "conditionalCreateOnlyProperties",
    "createOnlyProperties",
    "primaryIdentifier",
    "readOnlyProperties",
    "writeOnlyProperties",
];

/// The facts of all services, and the patterns that were left out as `type pattern`.
pub(super) fn extract(packages: &Packages) -> Result<(Facts, Vec<String>)> {
    let regions = regions(packages)?;
    let index: BTreeMap<String, String> =
        serde_json::from_str(&fs::read_to_string(packages.schemas.join("providers/us-east-1.json"))?)
            .context("the package's list of types for us-east-1")?;
    let overlay = Overlay::new(&packages.service_spec)?;
    let mut facts = Facts::new();
    let mut dropped = Vec::new();
    for (name, file) in &index {
        let Some(service) = name.split("::").nth(1).filter(|service| SERVICES.contains(service)) else {
            continue;
        };
        let path = packages.schemas.join("resources").join(format!("{file}.json"));
        let schema: Json = serde_json::from_str(&fs::read_to_string(&path).with_context(|| name.clone())?)?;
        let mut kept = resource(name, &schema, &mut dropped);
        overlay.apply(name, &mut kept);
        let absent: Vec<&str> = regions
            .iter()
            .filter(|(_, types)| !types.contains_key(name))
            .map(|(region, _)| region.as_str())
            .collect();
        if !absent.is_empty() {
            kept.insert("absentRegions".to_owned(), absent.into());
        }
        facts.entry(service.to_owned()).or_default().insert(name.clone(), Json::Object(kept));
    }
    dropped.sort();
    dropped.dedup();
    Ok((facts, dropped))
}

/// The regions and the types that each has.
fn regions(packages: &Packages) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut regions = BTreeMap::new();
    for entry in fs::read_dir(packages.schemas.join("providers"))? {
        let path = entry?.path();
        let Some(region) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        // `sam` is a dialect, no region.
        if path.extension().is_some_and(|extension| extension == "json") && region.contains('-') {
            let types = serde_json::from_str(&fs::read_to_string(&path)?)
                .with_context(|| path.display().to_string())?;
            regions.insert(region.to_owned(), types);
        }
    }
    anyhow::ensure!(regions.len() > 20, "the package lists {} regions only", regions.len());
    Ok(regions)
}

fn resource(name: &str, schema: &Json, dropped: &mut Vec<String>) -> Map<String, Json> {
    let mut kept = node(name, schema, dropped);
    for key in PATHS {
        let paths: Vec<Json> = schema
            .get(key)
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .map(|path| path.trim_start_matches("/properties/").replace("/properties/", "/").into())
            .collect();
        if !paths.is_empty() {
            kept.insert(key.to_owned(), paths.into());
        }
    }
    let handlers: Map<String, Json> = schema
        .get("handlers")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(handler, facts)| Some((handler.clone(), facts.get("permissions")?.clone())))
        .collect();
    if !handlers.is_empty() {
        kept.insert("handlers".to_owned(), handlers.into());
    }
    if let Some(definitions) = schema.get("definitions").and_then(Json::as_object) {
        let definitions: Map<String, Json> =
            definitions.iter().map(|(key, value)| (key.clone(), node(name, value, dropped).into())).collect();
        kept.insert("definitions".to_owned(), definitions.into());
    }
    kept
}

/// One schema, with its parts.
fn node(name: &str, schema: &Json, dropped: &mut Vec<String>) -> Map<String, Json> {
    let mut kept = Map::new();
    let Some(object) = schema.as_object() else { return kept };
    for (key, value) in object {
        match key.as_str() {
            key if SCALARS.contains(&key) => {
                kept.insert(key.to_owned(), value.clone());
            }
            "properties" | "patternProperties" => {
                let parts: Map<String, Json> = value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(key, value)| (key.clone(), node(name, value, dropped).into()))
                    .collect();
                kept.insert(key.clone(), parts.into());
            }
            "items" => {
                kept.insert(key.clone(), node(name, value, dropped).into());
            }
            "oneOf" | "anyOf" | "allOf" => {
                let parts: Vec<Json> = value
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|part| node(name, part, dropped).into())
                    .collect();
                kept.insert(key.clone(), parts.into());
            }
            "format" if value.as_str().is_some_and(|format| format.starts_with("AWS::")) => {
                kept.insert(key.clone(), value.clone());
            }
            "pattern" => {
                let Some(pattern) = value.as_str() else { continue };
                // The package writes Python's end of text; Rust's is `\z`.
                let pattern = pattern.replace("\\Z", "\\z");
                if Regex::new(&pattern).is_ok() {
                    kept.insert(key.clone(), pattern.into());
                } else {
                    dropped.push(format!("{name} {pattern}"));
                }
            }
            _ => {}
        }
    }
    // `additionalProperties` may itself be a schema.
    if let Some(value @ Json::Object(_)) = object.get("additionalProperties") {
        kept.insert("additionalProperties".to_owned(), node(name, value, dropped).into());
    }
    kept
}

/// What the service specification adds: references between types, what `Ref` returns, tags, data.
struct Overlay<'a> {
    resources: BTreeMap<&'a str, &'a Json>,
    definitions: BTreeMap<&'a str, &'a Json>,
    uses: &'a Map<String, Json>,
}

impl<'a> Overlay<'a> {
    fn new(database: &'a Json) -> Result<Self> {
        let schema = database.get("schema").context("the service specification has no `schema`")?;
        let entities = |kind: &str| {
            schema
                .get(kind)
                .and_then(|kind| kind.get("entities"))
                .and_then(Json::as_array)
                .into_iter()
                .flatten()
        };
        let text = |json: &'a Json, key: &str| json.get(key).and_then(Json::as_str);
        Ok(Self {
            resources: entities("resource")
                .filter_map(|r| Some((text(r, "cloudFormationType")?, r)))
                .collect(),
            definitions: entities("typeDefinition").filter_map(|d| Some((text(d, "$id")?, d))).collect(),
            uses: schema
                .get("usesType")
                .and_then(|uses| uses.get("forward"))
                .and_then(Json::as_object)
                .context("the service specification has no `usesType`")?,
        })
    }

    fn apply(&self, name: &str, kept: &mut Map<String, Json>) {
        let Some(resource) = self.resources.get(name) else { return };
        let mut references = Map::new();
        let root = relationships(resource);
        if !root.is_empty() {
            references.insert(String::new(), root.into());
        }
        let id = resource.get("$id").and_then(Json::as_str).unwrap_or_default();
        for used in self.uses.get(id).and_then(Json::as_array).into_iter().flatten() {
            let used = used.get("$id").and_then(Json::as_str).unwrap_or_default();
            let Some(definition) = self.definitions.get(used) else { continue };
            let found = relationships(definition);
            if let Some(definition) =
                definition.get("name").and_then(Json::as_str).filter(|_| !found.is_empty())
            {
                references.insert(definition.to_owned(), found.into());
            }
        }
        if !references.is_empty() {
            kept.insert("references".to_owned(), references.into());
        }
        if let Some(reference) = resource.get("cfnRefIdentifier") {
            kept.insert("refIdentifier".to_owned(), reference.clone());
        }
        if resource.get("isStateful").and_then(Json::as_bool) == Some(true) {
            kept.insert("stateful".to_owned(), true.into());
        }
        if let Some(tags) = resource.get("tagInformation") {
            kept.insert("tags".to_owned(), json!([tags.get("tagPropertyName"), tags.get("variant")]));
        }
        let attributes: Map<String, Json> = resource
            .get("attributes")
            .and_then(Json::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(name, attribute)| {
                let kind = attribute.get("type")?.get("type")?.as_str()?;
                matches!(kind, "string" | "integer" | "number" | "boolean" | "array" | "json")
                    .then(|| (name.clone(), kind.into()))
            })
            .collect();
        if !attributes.is_empty() {
            kept.insert("attributes".to_owned(), attributes.into());
        }
        let conditional: Vec<Json> = resource
            .get("properties")
            .and_then(Json::as_object)
            .into_iter()
            .flatten()
            .filter(|(_, property)| property.get("causesReplacement").and_then(Json::as_str) == Some("maybe"))
            .map(|(name, _)| name.clone().into())
            .collect();
        if !conditional.is_empty() {
            kept.insert("mayReplace".to_owned(), conditional.into());
        }
    }
}

/// Property -> the attributes of other types that it accepts, as `type attribute`.
fn relationships(entity: &Json) -> Map<String, Json> {
    entity
        .get("properties")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, property)| {
            let mut targets: Vec<String> = property
                .get("relationshipRefs")?
                .as_array()?
                .iter()
                .filter_map(|target| {
                    Some(format!(
                        "{} {}",
                        target.get("cloudFormationType")?.as_str()?,
                        target.get("propertyName")?.as_str()?.replace('/', ".")
                    ))
                })
                .collect();
            targets.sort();
            targets.dedup();
            (!targets.is_empty()).then(|| (name.clone(), targets.into()))
        })
        .collect()
}
