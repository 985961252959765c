//! Tags: what AWS refuses of them. Source: "Tag naming limits and requirements" of the tagging user guide.

use std::collections::BTreeSet;

use super::{Findings, rules::TAG, template::Template};
use crate::{intrinsic::is_intrinsic, value::Json};

const KEY_CHARACTERS_MAX: usize = 128;

const VALUE_CHARACTERS_MAX: usize = 256;

/// Services that take letters, digits, spaces and these signs alone.
const STRICT: [&str; 1] = ["AWS::MemoryDB::"];

const SIGNS: &str = " _.:/=+-@";

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    for resource in &template.resources {
        let mut keys = BTreeSet::new();
        let strict = STRICT.iter().any(|prefix| resource.kind.starts_with(prefix));
        for tag in resource.list("/Tags") {
            if tag.is_object() && !is_intrinsic(tag) && tag.get("Key").is_none() {
                findings.resource(TAG, resource.logical_id, "a tag has no Key".to_owned());
            }
            let Some(key) = tag.get("Key").and_then(Json::as_str) else { continue };
            let value = tag.get("Value").and_then(Json::as_str).unwrap_or_default();
            let length = key.chars().count();
            let odd = |text: &str| !text.chars().all(|c| c.is_alphanumeric() || SIGNS.contains(c));
            let wrong = if !keys.insert(key) {
                Some("is there twice")
            } else if length == 0 || length > KEY_CHARACTERS_MAX {
                Some("has not 1 to 128 characters")
            } else if key.to_ascii_lowercase().starts_with("aws:") {
                Some("begins with `aws:`, which is AWS's own")
            } else if value.chars().count() > VALUE_CHARACTERS_MAX {
                Some("has a value of more than 256 characters")
            } else if strict && (odd(key) || odd(value)) {
                Some("has other signs than letters, digits, spaces and _.:/=+-@")
            } else {
                None
            };
            if let Some(wrong) = wrong {
                findings.resource(TAG, resource.logical_id, format!("the tag `{key}` {wrong}"));
            }
        }
    }
}
