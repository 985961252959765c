//! The facts of a resource type: what its properties may be, what replaces it, who must be allowed what.
//!
//! The facts are in the registry's own form (a subset of JSON Schema with the registry's keywords), without
//! prose; `cfn-resources` carries them and looks them up by type.

use std::collections::BTreeMap;

use crate::value::Json;

/// The facts of one resource type.
#[derive(Clone, Debug)]
pub struct TypeSchema {
    facts: Json,
}

impl TypeSchema {
    /// Finds a type in a service's facts: a JSON object with one line a type. Only that line is parsed.
    #[must_use]
    pub fn find(resource_type: &str, facts: &str) -> Option<Self> {
        let key = format!("\"{resource_type}\":");
        let line = facts.lines().find_map(|line| line.strip_prefix(&key))?;
        let facts = serde_json::from_str(line.trim_end_matches(',')).ok()?;
        Some(Self { facts })
    }

    /// Facts given as JSON.
    #[must_use]
    pub fn new(facts: Json) -> Self {
        Self { facts }
    }

    /// The schema of the resource itself: `properties`, `required`, `oneOf` and so on.
    #[must_use]
    pub fn root(&self) -> &Json {
        &self.facts
    }

    /// Follows a `$ref` until the schema is one itself.
    #[must_use]
    pub fn resolve<'a>(&'a self, schema: &'a Json) -> &'a Json {
        let mut schema = schema;
        // A chain of references longer than this leads in a circle.
        for _ in 0..16 {
            let Some(reference) = schema.get("$ref").and_then(Json::as_str) else { break };
            let definition = reference.trim_start_matches("#/definitions/");
            match self.facts.get("definitions").and_then(|all| all.get(definition)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    /// The schema that a list has to fit where a property may be a list or something else.
    #[must_use]
    pub fn form_of_list<'a>(&'a self, schema: &'a Json) -> &'a Json {
        let forms = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Json::as_array);
        let mut lists = forms
            .into_iter()
            .flatten()
            .map(|form| self.resolve(form))
            .filter(|form| form.get("items").is_some());
        match (lists.next(), lists.next()) {
            (Some(only), None) if schema.get("items").is_none() => only,
            _ => schema,
        }
    }

    /// Whether an attribute exists for `Fn::GetAtt`.
    #[must_use]
    pub fn has_attribute(&self, attribute: &str) -> bool {
        let path = attribute.replace('.', "/");
        self.facts.get("attributes").and_then(|all| all.get(attribute)).is_some()
            || self
                .paths("readOnlyProperties")
                .any(|known| known == path || known.starts_with(&format!("{path}/")))
    }

    /// Whether the packages list the type for a region. A region that they do not know has every type.
    #[must_use]
    pub fn is_in_region(&self, region: &str) -> bool {
        !self.paths("absentRegions").any(|absent| absent == region)
    }

    /// Property paths whose change replaces the resource.
    pub fn create_only(&self) -> impl Iterator<Item = &str> {
        self.paths("createOnlyProperties")
    }

    /// Property paths whose change may replace the resource; on what it depends, only the service's prose tells.
    pub fn conditional_create_only(&self) -> impl Iterator<Item = &str> {
        self.paths("conditionalCreateOnlyProperties").chain(self.paths("mayReplace"))
    }

    /// Property paths that together name a resource.
    pub fn primary_identifier(&self) -> impl Iterator<Item = &str> {
        self.paths("primaryIdentifier")
    }

    /// Property paths that only the service sets.
    pub fn read_only(&self) -> impl Iterator<Item = &str> {
        self.paths("readOnlyProperties")
    }

    /// Property paths that cannot be read back.
    pub fn write_only(&self) -> impl Iterator<Item = &str> {
        self.paths("writeOnlyProperties")
    }

    /// The IAM actions that a handler (`create`, `read`, `update`, `delete`, `list`) needs.
    #[must_use]
    pub fn handler_actions(&self) -> BTreeMap<String, Vec<String>> {
        self.facts
            .get("handlers")
            .and_then(|handlers| serde_json::from_value(handlers.clone()).ok())
            .unwrap_or_default()
    }

    /// Whether deleting a resource of the type deletes data, as far as the packages know.
    #[must_use]
    pub fn is_stateful(&self) -> bool {
        self.facts.get("stateful").and_then(Json::as_bool).unwrap_or(false)
    }

    fn paths(&self, key: &str) -> impl Iterator<Item = &str> {
        self.facts.get(key).and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
    }
}
