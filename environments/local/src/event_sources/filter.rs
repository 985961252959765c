//! `FilterCriteria`: which records a mapping wants.
//!
//! A pattern is JSON of the record's shape whose leaves are lists of what is taken (Lambda developer guide, "Filter rule
//! syntax"). A pattern with something that is not known here is refused: to ignore it would let the wrong records by.

use serde_json::{Map, Value as Json};

/// A pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Map<String, Json>);

impl Filter {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// What is not JSON of that shape, or not known.
    pub fn read(pattern: &str) -> Result<Self, String> {
        match serde_json::from_str(pattern) {
            Ok(Json::Object(fields)) => {
                check(&fields)?;
                Ok(Self(fields))
            }
            Ok(_) => Err(format!("the filter {pattern} is no object")),
            Err(error) => Err(format!("the filter {pattern} is no JSON: {error}")),
        }
    }

    /// Whether it takes a record.
    #[must_use]
    pub fn takes(&self, record: &Json) -> bool {
        object(&self.0, record)
    }
}

/// The part of a record that patterns are about, from its bytes: JSON if they are some, else text.
#[must_use]
pub fn content(bytes: &[u8]) -> Json {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| Json::String(String::from_utf8_lossy(bytes).into_owned()))
}

fn check(fields: &Map<String, Json>) -> Result<(), String> {
    for (key, pattern) in fields {
        match pattern {
            Json::Array(choices) if key == "$or" => {
                for choice in choices {
                    check(choice.as_object().ok_or("each choice of a filter's $or is an object")?)?;
                }
            }
            Json::Array(rules) => rules.iter().try_for_each(check_rule)?,
            Json::Object(inner) => check(inner)?,
            _ => return Err(format!("the filter's `{key}` is neither a list nor an object")),
        }
    }
    Ok(())
}

fn check_rule(rule: &Json) -> Result<(), String> {
    let Json::Object(rule) = rule else {
        return if rule.is_array() { Err("a filter's list holds a list".to_owned()) } else { Ok(()) };
    };
    for (name, operand) in rule {
        let known = match name.as_str() {
            "exists" => operand.is_boolean(),
            "prefix" | "suffix" | "equals-ignore-case" => operand.is_string(),
            "anything-but" => !operand.is_object() || operand.get("prefix").is_some_and(Json::is_string),
            "numeric" => operand.as_array().is_some_and(|parts| {
                !parts.is_empty()
                    && parts.chunks(2).all(|pair| {
                        matches!(pair, [Json::String(operator), Json::Number(_)]
                            if ["=", "<", "<=", ">", ">="].contains(&operator.as_str()))
                    })
            }),
            _ => false,
        };
        if !known {
            return Err(format!("the filter rule {{\"{name}\": {operand}}} is not known here"));
        }
    }
    Ok(())
}

fn object(fields: &Map<String, Json>, record: &Json) -> bool {
    fields.iter().all(|(key, pattern)| match pattern {
        Json::Array(choices) if key == "$or" => {
            choices.iter().any(|choice| choice.as_object().is_some_and(|choice| object(choice, record)))
        }
        Json::Array(rules) => rules.iter().any(|rule| matches_rule(rule, record.get(key))),
        Json::Object(inner) => object(inner, record.get(key).unwrap_or(&Json::Null)),
        _ => false,
    })
}

fn matches_rule(rule: &Json, value: Option<&Json>) -> bool {
    // A list in a record is taken if one of its items is.
    if let Some(Json::Array(items)) = value {
        return items.iter().any(|item| matches_rule(rule, Some(item)));
    }
    let Json::Object(rule) = rule else { return value == Some(rule) };
    rule.iter().all(|(name, operand)| {
        let text = value.and_then(Json::as_str);
        let with = |test: fn(&str, &str) -> bool| {
            text.zip(operand.as_str()).is_some_and(|(text, operand)| test(text, operand))
        };
        match name.as_str() {
            "exists" => operand.as_bool() == Some(value.is_some()),
            "prefix" => with(|text, operand| text.starts_with(operand)),
            "suffix" => with(|text, operand| text.ends_with(operand)),
            "equals-ignore-case" => with(str::eq_ignore_ascii_case),
            "anything-but" => value.is_some_and(|value| match operand {
                Json::Array(banned) => !banned.contains(value),
                Json::Object(banned) => {
                    let prefix = banned.get("prefix").and_then(Json::as_str);
                    !text.zip(prefix).is_some_and(|(text, prefix)| text.starts_with(prefix))
                }
                banned => banned != value,
            }),
            "numeric" => value.and_then(Json::as_f64).is_some_and(|value| in_range(value, operand)),
            _ => false,
        }
    })
}

fn in_range(value: f64, rule: &Json) -> bool {
    rule.as_array().into_iter().flatten().collect::<Vec<_>>().chunks(2).all(|pair| {
        let [operator, bound] = pair else { return false };
        let Some(bound) = bound.as_f64() else { return false };
        match operator.as_str() {
            Some("=") => (value - bound).abs() < f64::EPSILON,
            Some("<") => value < bound,
            Some("<=") => value <= bound,
            Some(">") => value > bound,
            Some(">=") => value >= bound,
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn records_are_taken_as_the_guide_says() {
        let record = json!({
            "topic": "trades", "partition": 3,
            "value": { "side": "buy", "price": 12.5, "tags": ["a", "b"], "account": { "id": "AB-1" }, "note": null }
        });
        for (pattern, expected) in [
            (json!({ "value": { "side": ["buy", "sell"] } }), true),
            (json!({ "value": { "side": ["sell"] } }), false),
            (json!({ "value": { "price": [{ "numeric": [">", 10, "<=", 12.5] }] } }), true),
            (json!({ "value": { "price": [{ "numeric": ["<", 10] }] } }), false),
            (json!({ "value": { "account": { "id": [{ "prefix": "AB-" }] } }, "partition": [3] }), true),
            (json!({ "value": { "tags": ["b"] } }), true),
            (json!({ "value": { "side": [{ "anything-but": ["sell"] }] } }), true),
            (json!({ "value": { "absent": [{ "exists": false }] } }), true),
            (json!({ "value": { "absent": [{ "exists": true }] } }), false),
            (json!({ "value": { "note": [null] } }), true),
            (json!({ "value": { "side": [{ "equals-ignore-case": "BUY" }] } }), true),
            (json!({ "$or": [{ "topic": ["other"] }, { "partition": [3] }] }), true),
        ] {
            let filter = Filter::read(&pattern.to_string()).unwrap();
            assert_eq!(filter.takes(&record), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for pattern in [
            r#"{"value":[{"cidr":"10.0.0.0/8"}]}"#,
            r#"{"value":"buy"}"#,
            r#"{"value":[["buy"]]}"#,
            r#"{"value":[{"numeric":["~",3]}]}"#,
            r#"{"value":[{"numeric":[">"]}]}"#,
            "[]",
            "value",
        ] {
            assert!(Filter::read(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn text_that_is_no_json_is_matched_as_text() {
        let filter = Filter::read(r#"{"data":["plain"]}"#).unwrap();
        assert!(filter.takes(&json!({ "data": content(b"plain") })));
        assert!(!filter.takes(&json!({ "data": content(b"{\"plain\":1}") })));
    }
}
