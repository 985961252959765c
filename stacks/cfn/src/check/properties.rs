//! Properties against the facts of their types.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use super::{
    Findings, Rule, names,
    rules::{
        COMBINATION, ENUMERATION, LENGTH, MISSING_PROPERTY, NUMBER_AS_TEXT, PATTERN, RANGE, READ_ONLY,
        UNKNOWN_PROPERTY, WRONG_TYPE,
    },
    template::{Resource, texts},
};
use crate::{intrinsic::is_intrinsic, schema::TypeSchema, value::Json};

/// Compiled patterns: the same ones come again and again.
#[derive(Default)]
pub(super) struct Patterns(BTreeMap<String, Option<Regex>>);

impl Patterns {
    fn matches(&mut self, pattern: &str, text: &str) -> bool {
        self.0
            .entry(pattern.to_owned())
            .or_insert_with(|| Regex::new(pattern).ok())
            .as_ref()
            .is_none_or(|regex| regex.is_match(text))
    }
}

struct Checker<'a, 'f, 's> {
    schema: &'a TypeSchema,
    resource: &'a Resource<'a>,
    patterns: &'a mut Patterns,
    findings: &'f mut Findings<'s>,
}

pub(super) fn check(
    resource: &Resource<'_>,
    schema: &TypeSchema,
    patterns: &mut Patterns,
    findings: &mut Findings<'_>,
) {
    let empty = Json::Object(serde_json::Map::new());
    let properties = resource.json.get("Properties").unwrap_or(&empty);
    for path in schema.read_only() {
        // What can be given as well (a name) is required or create-only.
        let given = !path.contains('/') && properties.get(path).is_some();
        let settable = schema.create_only().any(|other| other == path);
        if given && !settable {
            findings.resource(READ_ONLY, resource.logical_id, format!("{path} is set by the service"));
        }
    }
    let mut checker = Checker { schema, resource, patterns, findings };
    checker.value(properties, schema.root(), "");
}

impl Checker<'_, '_, '_> {
    fn found(&mut self, rule: Rule, path: &str, message: &str) {
        let place = if path.is_empty() { "the resource" } else { path };
        self.findings.resource(rule, self.resource.logical_id, format!("{place} {message}"));
    }

    fn value(&mut self, value: &Json, schema: &Json, path: &str) {
        if let Some(branches) = value.get("Fn::If").and_then(Json::as_array).filter(|_| is_intrinsic(value)) {
            for branch in branches.iter().skip(1) {
                self.value(branch, schema, path);
            }
            return;
        }
        if is_intrinsic(value) {
            return;
        }
        let facts = self.schema;
        let schema = facts.resolve(schema);
        self.kind(value, schema, path);
        self.enumeration(value, schema, path);
        match value {
            Json::String(text) => self.text(text, schema, path),
            Json::Number(number) => self.number(number.as_f64().unwrap_or_default(), schema, path),
            Json::Array(items) => self.list(items, self.schema.form_of_list(schema), path),
            Json::Object(object) => self.object(object, schema, path),
            Json::Bool(_) | Json::Null => {}
        }
    }

    /// CloudFormation takes numbers and flags as text and the other way round; the rest must fit.
    fn kind(&mut self, value: &Json, schema: &Json, path: &str) {
        let kinds: Vec<&str> = match schema.get("type") {
            Some(Json::String(kind)) => vec![kind],
            Some(Json::Array(kinds)) => kinds.iter().filter_map(Json::as_str).collect(),
            _ => return,
        };
        let fits = kinds.iter().any(|kind| match *kind {
            "string" => value.is_string() || value.is_number() || value.is_boolean(),
            "integer" => {
                value.is_i64()
                    || value.is_u64()
                    || value.as_str().is_some_and(|text| text.parse::<i64>().is_ok())
            }
            "number" => value.is_number() || value.as_str().is_some_and(|text| text.parse::<f64>().is_ok()),
            "boolean" => value.is_boolean() || matches!(value.as_str(), Some("true" | "false")),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => true,
        });
        if !fits {
            self.found(WRONG_TYPE, path, &format!("is {value}, not a {}", kinds.join(" or ")));
        } else if value.is_string()
            && kinds.iter().all(|kind| ["integer", "number", "boolean"].contains(kind))
        {
            self.found(NUMBER_AS_TEXT, path, &format!("is the text {value}, not a {}", kinds.join(" or ")));
        }
    }

    fn enumeration(&mut self, value: &Json, schema: &Json, path: &str) {
        let sensitive = schema.get("enum").and_then(Json::as_array);
        let insensitive = schema.get("enumCaseInsensitive").and_then(Json::as_array);
        let text = |json: &Json| json.as_str().map_or_else(|| json.to_string(), str::to_owned);
        let wanted = text(value);
        let listed = match (sensitive, insensitive) {
            (Some(values), _) => values.iter().any(|known| text(known) == wanted),
            (None, Some(values)) => values.iter().any(|known| text(known).eq_ignore_ascii_case(&wanted)),
            (None, None) => match schema.get("const") {
                Some(only) if text(only) != wanted => {
                    self.found(ENUMERATION, path, &format!("is `{wanted}`; it can only be {}", text(only)));
                    return;
                }
                _ => return,
            },
        };
        if !listed {
            let known: Vec<String> =
                sensitive.or(insensitive).into_iter().flatten().map(text).take(12).collect();
            self.found(ENUMERATION, path, &format!("is `{wanted}`; known are {}", known.join(", ")));
        }
    }

    fn text(&mut self, text: &str, schema: &Json, path: &str) {
        let length = text.chars().count() as u64;
        self.length(length, schema, path, "minLength", "maxLength", "characters");
        if let Some(pattern) = schema.get("pattern").and_then(Json::as_str)
            && !self.patterns.matches(pattern, text)
        {
            self.found(PATTERN, path, &format!("is `{text}`, which does not match {pattern}"));
        }
    }

    fn length(&mut self, length: u64, schema: &Json, path: &str, least: &str, most: &str, what: &str) {
        let bound = |name: &str| schema.get(name).and_then(Json::as_u64);
        if bound(least).is_some_and(|least| length < least) || bound(most).is_some_and(|most| length > most) {
            let bounds =
                [bound(least).map(|b| format!("at least {b}")), bound(most).map(|b| format!("at most {b}"))];
            let bounds: Vec<String> = bounds.into_iter().flatten().collect();
            self.found(LENGTH, path, &format!("has {length} {what}; {} are allowed", bounds.join(" and ")));
        }
    }

    fn number(&mut self, number: f64, schema: &Json, path: &str) {
        let bound = |name: &str| schema.get(name).and_then(Json::as_f64);
        if bound("minimum").is_some_and(|least| number < least)
            || bound("maximum").is_some_and(|most| number > most)
        {
            let bounds =
                [bound("minimum").map(|b| format!("from {b}")), bound("maximum").map(|b| format!("to {b}"))];
            let bounds: Vec<String> = bounds.into_iter().flatten().collect();
            self.found(RANGE, path, &format!("is {number}; allowed is {}", bounds.join(" ")));
        }
    }

    fn list(&mut self, items: &[Json], schema: &Json, path: &str) {
        self.length(items.len() as u64, schema, path, "minItems", "maxItems", "elements");
        let unique = schema.get("uniqueItems").and_then(Json::as_bool).unwrap_or(false);
        let distinct: BTreeSet<String> = items.iter().map(Json::to_string).collect();
        if unique && distinct.len() < items.len() {
            self.found(COMBINATION, path, "has an element twice");
        }
        if let Some(element) = schema.get("items") {
            for (index, item) in items.iter().enumerate() {
                self.value(item, element, &format!("{path}[{index}]"));
            }
        }
    }

    fn object(&mut self, object: &serde_json::Map<String, Json>, schema: &Json, path: &str) {
        let properties = schema.get("properties").and_then(Json::as_object);
        let patterns = schema.get("patternProperties").and_then(Json::as_object);
        let closed = schema.get("additionalProperties") == Some(&Json::Bool(false));
        for (name, value) in object {
            let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if let Some(schema) = properties.and_then(|properties| properties.get(name)) {
                if let Some((rule, message)) = names::misplaced(name, value, self.schema.resolve(schema)) {
                    self.found(rule, &below, &message);
                }
                self.value(value, schema, &below);
            } else if let Some(schema) = patterns.and_then(|patterns| {
                patterns
                    .iter()
                    .find(|(pattern, _)| self.patterns.matches(pattern, name))
                    .map(|(_, schema)| schema)
            }) {
                self.value(value, schema, &below);
            } else if closed && (properties.is_some() || patterns.is_some()) {
                let known = properties.into_iter().flatten().map(|(known, _)| known.as_str());
                let near = names::nearest(name, known);
                let hint = near.map(|near| format!("; is {near} meant?")).unwrap_or_default();
                self.found(UNKNOWN_PROPERTY, &below, &format!("is not a property of the type{hint}"));
            } else if let Some(schema @ Json::Object(_)) = schema.get("additionalProperties") {
                self.value(value, schema, &below);
            }
        }
        let (least, most) = ("minProperties", "maxProperties");
        self.length(object.len() as u64, schema, path, least, most, "properties");
        self.combinations(object, schema, path);
    }

    fn combinations(&mut self, object: &serde_json::Map<String, Json>, schema: &Json, path: &str) {
        let names = |json: &Json| -> Vec<String> {
            json.as_array()
                .into_iter()
                .flatten()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect()
        };
        let list = |key: &str| schema.get(key).map(names).unwrap_or_default();
        for name in list("required") {
            if !object.contains_key(&name) {
                let below = if path.is_empty() { name } else { format!("{path}.{name}") };
                self.found(MISSING_PROPERTY, &below, "is required");
            }
        }
        let xor = list("requiredXor");
        let given = xor.iter().filter(|name| object.contains_key(*name)).count();
        if !xor.is_empty() && given != 1 {
            self.found(COMBINATION, path, &format!("wants exactly one of {}", xor.join(", ")));
        }
        let any = list("requiredOr");
        if !any.is_empty() && !any.iter().any(|name| object.contains_key(name)) {
            self.found(COMBINATION, path, &format!("wants at least one of {}", any.join(", ")));
        }
        let tables = [("dependentRequired", false), ("dependentExcluded", true)];
        for (key, excludes) in tables {
            for (name, others) in schema.get(key).and_then(Json::as_object).into_iter().flatten() {
                if !object.contains_key(name) {
                    continue;
                }
                for other in names(others) {
                    if object.contains_key(&other) == excludes {
                        let verb = if excludes { "excludes" } else { "requires" };
                        self.found(COMBINATION, path, &format!("has {name}, which {verb} {other}"));
                    }
                }
            }
        }
        self.alternatives(object, schema, path);
    }

    /// `oneOf` and `anyOf`. The facts leave out what they cannot say, so an alternative can be looser than
    /// AWS's: fitting none is certain, fitting several is so only for alternatives of required names alone.
    fn alternatives(&mut self, object: &serde_json::Map<String, Json>, schema: &Json, path: &str) {
        let names = |part: &Json| -> Vec<String> {
            texts(part.get("required")).into_iter().map(str::to_owned).collect()
        };
        for key in ["oneOf", "anyOf"] {
            let Some(parts) = schema.get(key).and_then(Json::as_array).filter(|parts| !parts.is_empty())
            else {
                continue;
            };
            let plain = parts.iter().all(|part| {
                part.as_object().is_some_and(|part| part.len() == 1 && part.contains_key("required"))
            });
            let met = parts.iter().filter(|part| self.fits(object, part, path)).count();
            if met > 0 && (key == "anyOf" || met == 1 || !plain) {
                continue;
            }
            if plain {
                let choices: Vec<String> = parts.iter().map(|part| names(part).join(" and ")).collect();
                self.found(COMBINATION, path, &format!("wants one of: {}", choices.join("; ")));
            } else {
                self.found(COMBINATION, path, "fits none of the forms that it can have");
            }
        }
    }

    /// Whether a value is without findings under a schema.
    fn fits(&mut self, object: &serde_json::Map<String, Json>, schema: &Json, path: &str) -> bool {
        let facts = self.schema;
        let schema = facts.resolve(schema);
        let mark = self.findings.found.len();
        if schema.get("type").and_then(Json::as_str).is_some_and(|kind| kind != "object") {
            return false;
        }
        self.object(object, schema, path);
        let clean = self.findings.found.len() == mark;
        self.findings.found.truncate(mark);
        clean
    }
}
