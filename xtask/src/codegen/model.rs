//! From facts to the shape of the generated Rust: modules, structs, enums, ids.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value as Json;

use super::{
    Facts, SERVICES,
    naming::{pascal, snake},
};

/// From this many required properties on, a constructor takes a struct with named fields.
const NAMED_FROM: usize = 3;

/// Everything that is generated.
#[derive(Debug, Serialize)]
pub(super) struct Model {
    pub(super) modules: Vec<Module>,
    pub(super) ids: Vec<Id>,
}

/// An id kind.
#[derive(Debug, Serialize)]
pub(super) struct Id {
    name: String,
    resource_type: String,
    attribute: String,
}

/// One service.
#[derive(Debug, Serialize)]
pub(super) struct Module {
    pub(super) name: String,
    service: String,
    resources: Vec<Resource>,
    structs: Vec<Struct>,
    enums: Vec<Enum>,
}

#[derive(Debug, Serialize)]
struct Resource {
    resource_type: String,
    link: String,
    #[serde(flatten)]
    shape: Struct,
    attributes: Vec<Attribute>,
    reference: String,
    tag_property: Option<String>,
    tag_kind: Option<&'static str>,
    stateful: bool,
}

#[derive(Debug, Serialize)]
struct Struct {
    name: String,
    of: String,
    fields: Vec<Field>,
    required: Vec<Field>,
    optional: Vec<Field>,
    /// Whether required fields come in a struct of their own.
    named: bool,
}

#[derive(Clone, Debug, Serialize)]
struct Field {
    cfn: String,
    rust: String,
    kind: String,
    required: bool,
    note: &'static str,
}

#[derive(Debug, Serialize)]
struct Attribute {
    cfn: String,
    rust: String,
    kind: String,
    list: bool,
}

#[derive(Debug, Serialize)]
struct Enum {
    name: String,
    of: String,
    variants: Vec<Variant>,
}

#[derive(Debug, Serialize)]
struct Variant {
    rust: String,
    value: String,
}

pub(super) fn build(facts: &Facts, reviewed: &Json) -> Result<Model> {
    let kinds = Kinds::new(facts, reviewed);
    let mut modules = Vec::new();
    for service in SERVICES {
        let types = facts.get(service).with_context(|| format!("no facts of {service}"))?;
        let mut module = Builder::new(&kinds);
        // Resources have their names first; what is part of one gives way.
        for name in types.keys() {
            module.taken.insert(resource_name(name));
        }
        let mut resources = Vec::new();
        for (name, facts) in types {
            resources.push(module.resource(name, facts, reviewed));
        }
        modules.push(Module {
            name: service.to_ascii_lowercase(),
            service: service.to_owned(),
            resources,
            structs: module.structs,
            enums: module.enums,
        });
    }
    Ok(Model { modules, ids: kinds.ids() })
}

fn resource_name(resource_type: &str) -> String {
    pascal(resource_type.rsplit("::").next().unwrap_or(resource_type))
}

/// Which attribute of which type a property accepts, and the Rust type of that.
struct Kinds {
    /// Canonical target, `type attribute`, to the name of its id kind.
    names: BTreeMap<String, String>,
    aliases: BTreeMap<String, String>,
    formats: BTreeMap<String, String>,
    extra: Json,
}

impl Kinds {
    fn new(facts: &Facts, reviewed: &Json) -> Self {
        let table = |key: &str| -> BTreeMap<String, String> {
            reviewed.get(key).cloned().and_then(|json| serde_json::from_value(json).ok()).unwrap_or_default()
        };
        let mut kinds = Kinds {
            names: BTreeMap::new(),
            aliases: table("aliases"),
            formats: table("formats"),
            extra: reviewed.get("references").cloned().unwrap_or_default(),
        };
        let mut targets: BTreeSet<String> = kinds.formats.values().cloned().collect();
        for (name, facts) in facts.values().flatten() {
            let parts = [facts.get("references"), kinds.extra.get(name)];
            for properties in
                parts.into_iter().flatten().filter_map(Json::as_object).flat_map(|parts| parts.values())
            {
                for accepted in properties.as_object().into_iter().flat_map(|properties| properties.values())
                {
                    targets.extend(kinds.canonical(accepted));
                }
            }
        }
        let preset = table("names");
        let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for target in targets {
            let name = preset.get(&target).cloned().unwrap_or_else(|| kind_name(&target));
            by_name.entry(name).or_default().push(target);
        }
        for (name, targets) in by_name {
            let types: BTreeSet<&str> =
                targets.iter().filter_map(|target| target.split(' ').next()).collect();
            let alone = types.len() == 1;
            for target in targets {
                let service = target.split("::").nth(1).unwrap_or_default();
                let name = if alone { name.clone() } else { format!("{}{name}", pascal(service)) };
                kinds.names.insert(target, name);
            }
        }
        kinds
    }

    /// The targets that a property accepts, each in one spelling.
    fn canonical(&self, accepted: &Json) -> BTreeSet<String> {
        accepted
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .map(|target| self.aliases.get(target).cloned().unwrap_or_else(|| target.to_owned()))
            .filter(|target| target.split("::").nth(1).is_some_and(|service| SERVICES.contains(&service)))
            .collect()
    }

    /// The id kind of a property, where the facts name exactly one.
    fn of_property(
        &self,
        resource_type: &str,
        facts: &Json,
        part: &str,
        property: &str,
        schema: &Json,
    ) -> Option<String> {
        let accepted = |references: Option<&Json>| references?.get(part)?.get(property).cloned();
        // A resource's own name is no reference, though the packages list what may be named alike.
        let own_name = part.is_empty() && strings(facts, "primaryIdentifier").any(|own| own == property);
        let listed = accepted(facts.get("references")).filter(|_| !own_name);
        let targets = match accepted(self.extra.get(resource_type)).or(listed) {
            Some(listed) => self.canonical(&listed),
            None => {
                let format = |schema: &Json| schema.get("format").and_then(Json::as_str).map(str::to_owned);
                let format = format(schema).or_else(|| schema.get("items").and_then(format))?;
                self.formats.get(&format).cloned().into_iter().collect()
            }
        };
        let mut targets = targets.into_iter();
        match (targets.next(), targets.next()) {
            (Some(only), None) => self.names.get(&only).map(|name| format!("ids::{name}")),
            _ => None,
        }
    }

    /// The id kind that an attribute has.
    fn of_attribute(&self, resource_type: &str, attribute: &str) -> Option<String> {
        let target = format!("{resource_type} {attribute}");
        let target = self.aliases.get(&target).unwrap_or(&target);
        self.names.get(target).map(|name| format!("ids::{name}"))
    }

    fn ids(&self) -> Vec<Id> {
        let mut ids: Vec<Id> = self
            .names
            .iter()
            .filter_map(|(target, name)| {
                let (resource_type, attribute) = target.split_once(' ')?;
                Some(Id {
                    name: name.clone(),
                    resource_type: resource_type.to_owned(),
                    attribute: attribute.to_owned(),
                })
            })
            .collect();
        // Two spellings of one type's id (`Id`, `InstanceId`) are one kind.
        ids.sort_by(|a, b| a.name.cmp(&b.name));
        ids.dedup_by(|a, b| a.name == b.name);
        ids
    }
}

fn kind_name(target: &str) -> String {
    let (resource_type, attribute) = target.split_once(' ').unwrap_or((target, ""));
    let resource = resource_name(resource_type);
    let attribute = pascal(attribute);
    if attribute.to_ascii_lowercase().starts_with(&resource.to_ascii_lowercase()) {
        attribute
    } else {
        resource + &attribute
    }
}

/// What is known of a definition while its resource is built.
#[derive(Clone)]
enum Definition {
    /// On the way: a direct reference to it would make a struct contain itself.
    Begun(String),
    Done(String),
}

struct Builder<'a> {
    kinds: &'a Kinds,
    taken: BTreeSet<String>,
    structs: Vec<Struct>,
    enums: Vec<Enum>,
}

/// The resource that is being built.
struct ResourceContext<'a> {
    resource_type: &'a str,
    name: String,
    facts: &'a Json,
    definitions: BTreeMap<String, Definition>,
}

impl<'a> Builder<'a> {
    fn new(kinds: &'a Kinds) -> Self {
        Self { kinds, taken: BTreeSet::new(), structs: Vec::new(), enums: Vec::new() }
    }

    fn unique(&mut self, name: String) -> String {
        let mut candidate = name;
        // Generated companions of other names must stay free as well.
        while self.taken.contains(&candidate)
            || candidate.ends_with("Attributes")
            || candidate.ends_with("Required")
        {
            candidate.push_str("Property");
        }
        self.taken.insert(candidate.clone());
        candidate
    }

    fn resource(&mut self, resource_type: &str, facts: &Json, reviewed: &Json) -> Resource {
        let name = resource_name(resource_type);
        let mut context =
            ResourceContext { resource_type, name: name.clone(), facts, definitions: BTreeMap::new() };
        let read_only: BTreeSet<&str> = strings(facts, "readOnlyProperties").collect();
        let fields = self.fields(&mut context, facts, "", &name, &read_only);
        let shape = structure(name, resource_type.to_owned(), fields);
        let (tag_property, tag_kind) = tags(facts);
        let stateful = facts.get("stateful").and_then(Json::as_bool) == Some(true)
            || strings(reviewed, "stateful").any(|known| known == resource_type);
        Resource {
            resource_type: resource_type.to_owned(),
            link: link(resource_type),
            attributes: self.attributes(resource_type, facts),
            reference: self.reference(resource_type, facts),
            shape,
            tag_property,
            tag_kind,
            stateful,
        }
    }

    fn reference(&self, resource_type: &str, facts: &Json) -> String {
        let identifier: Vec<&str> = match facts.get("refIdentifier") {
            Some(_) => strings(facts, "refIdentifier").collect(),
            None => strings(facts, "primaryIdentifier").collect(),
        };
        match identifier.as_slice() {
            [only] => self.kinds.of_attribute(resource_type, only),
            _ => None,
        }
        .unwrap_or_else(|| "String".to_owned())
    }

    fn attributes(&self, resource_type: &str, facts: &Json) -> Vec<Attribute> {
        let mut found: BTreeMap<String, String> = facts
            .get("attributes")
            .and_then(|json| serde_json::from_value(json.clone()).ok())
            .unwrap_or_default();
        for path in strings(facts, "readOnlyProperties").filter(|path| !path.contains('*')) {
            if let Some(kind) = scalar_at(facts, path) {
                found.entry(path.replace('/', ".")).or_insert(kind);
            }
        }
        let mut names = BTreeSet::new();
        found
            .into_iter()
            .filter_map(|(cfn, kind)| {
                let mut rust = snake(&cfn);
                if rust == "reference" {
                    rust.push('_');
                }
                while !names.insert(rust.clone()) {
                    rust.push_str("_nested");
                }
                let list = kind == "array";
                let kind = match kind.as_str() {
                    "string" | "array" => {
                        self.kinds.of_attribute(resource_type, &cfn).unwrap_or_else(|| "String".to_owned())
                    }
                    "integer" => "i64".to_owned(),
                    "number" => "f64".to_owned(),
                    "boolean" => "bool".to_owned(),
                    "json" => "Json".to_owned(),
                    _ => return None,
                };
                Some(Attribute { cfn, rust, kind, list })
            })
            .collect()
    }

    fn fields(
        &mut self,
        context: &mut ResourceContext<'_>,
        schema: &Json,
        part: &str,
        owner: &str,
        read_only: &BTreeSet<&str>,
    ) -> Vec<Field> {
        let required: BTreeSet<&str> = strings(schema, "required").collect();
        let create_only: BTreeSet<&str> = if part.is_empty() {
            strings(context.facts, "createOnlyProperties").collect()
        } else {
            BTreeSet::new()
        };
        let mut names = BTreeSet::new();
        let mut fields = Vec::new();
        for (cfn, property) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
            if read_only.contains(cfn.as_str()) && !required.contains(cfn.as_str()) {
                continue;
            }
            let mut rust = snake(cfn);
            while !names.insert(rust.clone()) {
                rust.push('_');
            }
            let kind = self.kind(context, property, part, owner, cfn, true);
            fields.push(Field {
                cfn: cfn.clone(),
                rust,
                kind,
                required: required.contains(cfn.as_str()),
                note: if create_only.contains(cfn.as_str()) {
                    " A change replaces the resource."
                } else {
                    ""
                },
            });
        }
        fields
    }

    /// The Rust type of a property. `direct` says that nothing (a list, a map) stands between the struct and
    /// the property, so that a struct must not contain itself.
    fn kind(
        &mut self,
        context: &mut ResourceContext<'_>,
        schema: &Json,
        part: &str,
        owner: &str,
        property: &str,
        direct: bool,
    ) -> String {
        if let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
            let definition = reference.trim_start_matches("#/definitions/");
            let facts = context.facts;
            let Some(target) = facts.get("definitions").and_then(|all| all.get(definition)) else {
                return "Json".to_owned();
            };
            let id = self.kinds.of_property(context.resource_type, facts, part, property, target);
            if let (Some(id), Some("string")) = (id, target.get("type").and_then(Json::as_str)) {
                return id;
            }
            return self.definition(context, definition, target, direct);
        }
        if let Some(kind) = self.enumeration(context, schema, &format!("{owner}{}", pascal(property))) {
            return kind;
        }
        let id = self.kinds.of_property(context.resource_type, context.facts, part, property, schema);
        match schema.get("type") {
            Some(Json::String(kind)) => match kind.as_str() {
                "string" => id.unwrap_or_else(|| "String".to_owned()),
                "integer" => "i64".to_owned(),
                "number" => "f64".to_owned(),
                "boolean" => "bool".to_owned(),
                "array" => {
                    let items = schema.get("items");
                    let textual = items.and_then(|items| items.get("type")).and_then(Json::as_str)
                        == Some("string")
                        && items.is_some_and(|items| items.get("enum").is_none());
                    let element = match (id, items) {
                        (Some(id), Some(_)) if textual => id,
                        (_, Some(items)) => self.kind(context, items, part, owner, property, false),
                        (_, None) => "Json".to_owned(),
                    };
                    format!("Vec<Value<{element}>>")
                }
                "object" => self.object(context, schema, owner, property),
                _ => "Json".to_owned(),
            },
            Some(Json::Array(kinds)) => {
                let has = |kind: &str| kinds.iter().any(|known| known == kind);
                if has("object") || has("array") || !has("string") {
                    "Json".to_owned()
                } else {
                    "String".to_owned()
                }
            }
            _ if schema.get("properties").is_some() => self.object(context, schema, owner, property),
            _ => "Json".to_owned(),
        }
    }

    fn object(
        &mut self,
        context: &mut ResourceContext<'_>,
        schema: &Json,
        owner: &str,
        property: &str,
    ) -> String {
        let has_properties = schema
            .get("properties")
            .and_then(Json::as_object)
            .is_some_and(|properties| !properties.is_empty());
        if has_properties {
            let name = self.unique(format!("{owner}{}", pascal(property)));
            return self.structure(context, schema, property, name);
        }
        let element = schema
            .get("patternProperties")
            .and_then(Json::as_object)
            .filter(|patterns| patterns.len() == 1)
            .and_then(|patterns| patterns.values().next())
            .or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()));
        match element {
            Some(element) => {
                let element = self.kind(context, element, "", owner, &format!("{property}Value"), false);
                format!("BTreeMap<String, Value<{element}>>")
            }
            None => "Json".to_owned(),
        }
    }

    fn structure(
        &mut self,
        context: &mut ResourceContext<'_>,
        schema: &Json,
        part: &str,
        name: String,
    ) -> String {
        let fields = self.fields(context, schema, part, &name, &BTreeSet::new());
        self.structs.push(structure(name.clone(), context.resource_type.to_owned(), fields));
        name
    }

    fn definition(
        &mut self,
        context: &mut ResourceContext<'_>,
        definition: &str,
        target: &Json,
        direct: bool,
    ) -> String {
        if is_tag(definition, target) {
            return "Tag".to_owned();
        }
        match context.definitions.get(definition) {
            Some(Definition::Done(kind)) => return kind.clone(),
            Some(Definition::Begun(_)) if direct => return "Json".to_owned(),
            Some(Definition::Begun(name)) => return name.clone(),
            None => {}
        }
        let has_properties = target
            .get("properties")
            .and_then(Json::as_object)
            .is_some_and(|properties| !properties.is_empty());
        let kind = if has_properties {
            let name = self.unique(format!("{}{}", context.name, pascal(definition)));
            context.definitions.insert(definition.to_owned(), Definition::Begun(name.clone()));
            self.structure(context, target, definition, name)
        } else {
            // A definition of a list or map that leads back to itself stays free JSON.
            context.definitions.insert(definition.to_owned(), Definition::Begun("Json".to_owned()));
            let owner = context.name.clone();
            self.kind(context, target, definition, &owner, definition, direct)
        };
        context.definitions.insert(definition.to_owned(), Definition::Done(kind.clone()));
        kind
    }

    /// The enum of a schema that lists texts.
    fn enumeration(&mut self, context: &ResourceContext<'_>, schema: &Json, name: &str) -> Option<String> {
        let values = schema.get("enum")?.as_array()?;
        let texts: Vec<&str> = values.iter().filter_map(Json::as_str).collect();
        if texts.is_empty() || texts.len() != values.len() {
            return None;
        }
        let mut taken = BTreeSet::from(["Other".to_owned()]);
        let mut variants = Vec::new();
        for value in texts {
            let mut rust = pascal(value);
            // Values that differ in case or punctuation alone are all kept.
            while !taken.insert(rust.clone()) {
                rust.push_str("Alt");
            }
            variants.push(Variant { rust, value: value.to_owned() });
        }
        let name = self.unique(name.to_owned());
        self.enums.push(Enum { name: name.clone(), of: context.resource_type.to_owned(), variants });
        Some(name)
    }
}

fn structure(name: String, of: String, fields: Vec<Field>) -> Struct {
    let (required, optional): (Vec<_>, Vec<_>) = fields.iter().cloned().partition(|field| field.required);
    Struct { name, of, named: required.len() >= NAMED_FROM, fields, required, optional }
}

fn strings<'a>(json: &'a Json, key: &str) -> impl Iterator<Item = &'a str> {
    json.get(key).and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
}

/// Whether a definition is the tag that all types share.
fn is_tag(name: &str, schema: &Json) -> bool {
    let keys: BTreeSet<&str> = schema
        .get("properties")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    name == "Tag" && keys == BTreeSet::from(["Key", "Value"])
}

fn tags(facts: &Json) -> (Option<String>, Option<&'static str>) {
    let pair = facts.get("tags").and_then(Json::as_array);
    let text = |index: usize| pair.and_then(|pair| pair.get(index)).and_then(Json::as_str);
    let Some(property) = text(0) else { return (None, None) };
    // A name that the schema does not have would be refused.
    if facts.get("properties").and_then(|all| all.get(property)).is_none() {
        return (None, None);
    }
    match text(1) {
        Some("standard") => (Some(property.to_owned()), Some("List")),
        Some("map") => (Some(property.to_owned()), Some("Map")),
        Some("asg") => (Some(property.to_owned()), Some("AutoScalingList")),
        _ => (None, None),
    }
}

/// The type at a path of a schema, when it is one that `Fn::GetAtt` gives.
fn scalar_at(facts: &Json, path: &str) -> Option<String> {
    let mut schema = facts;
    for segment in path.split('/') {
        schema = schema.get("properties")?.get(segment)?;
        while let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
            schema = facts.get("definitions")?.get(reference.trim_start_matches("#/definitions/"))?;
        }
    }
    let kind = schema.get("type")?.as_str()?;
    let textual_list = || schema.get("items")?.get("type")?.as_str().filter(|kind| *kind == "string");
    match kind {
        "string" | "integer" | "number" | "boolean" => Some(kind.to_owned()),
        "array" if textual_list().is_some() => Some(kind.to_owned()),
        _ => None,
    }
}

/// The page of the public documentation.
fn link(resource_type: &str) -> String {
    let page = resource_type.trim_start_matches("AWS::").to_ascii_lowercase().replace("::", "-");
    format!("https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-{page}.html")
}
