//! Secrets that stand in a template in plain text.

use super::{Findings, rules::LITERAL_SECRET, template::Template};
use crate::value::Json;

/// Endings of names that hold secrets, as properties and as environment variables.
const ENDINGS: [&str; 8] =
    ["password", "passwd", "secretstring", "authtoken", "secretkey", "secret_key", "_token", "apikey"];

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    for resource in &template.resources {
        walk(resource.properties(), &mut |name| {
            findings.resource(LITERAL_SECRET, resource.logical_id, format!("{name} is given in plain text"));
        });
    }
}

fn walk(json: &Json, found: &mut impl FnMut(&str)) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| walk(item, found)),
        Json::Object(object) => {
            for (name, value) in object {
                let lower = name.to_lowercase();
                match value {
                    // A dynamic reference is resolved by CloudFormation and stands in no template.
                    Json::String(text)
                        if ENDINGS.iter().any(|ending| lower.ends_with(ending))
                            && !text.is_empty()
                            && !text.starts_with("{{resolve:") =>
                    {
                        found(name);
                    }
                    value => walk(value, found),
                }
            }
        }
        _ => {}
    }
}
