//! Reads the fields of an object, and says which field breaks which rule.

use std::ops::RangeInclusive;

use serde_json::{Map, Value as Json};

use crate::event::Invalid;

/// An object somewhere in an event.
pub(crate) struct Fields<'a> {
    place: &'static str,
    object: &'a Map<String, Json>,
}

impl<'a> Fields<'a> {
    /// The fields of an object; `place` stands before the names of its fields in errors.
    pub(crate) fn of(place: &'static str, value: &'a Json) -> Result<Self, Invalid> {
        match value {
            Json::Object(object) => Ok(Self { place, object }),
            _ => Err(Invalid::new(if place.is_empty() { "event" } else { place }, "must be an object")),
        }
    }

    /// The value of a field.
    pub(crate) fn value(&self, name: &str) -> Result<&'a Json, Invalid> {
        self.object.get(name).ok_or_else(|| self.breaks(name, "is missing"))
    }

    /// What is wrong with a field.
    pub(crate) fn breaks(&self, name: &str, rule: impl Into<String>) -> Invalid {
        let field = if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) };
        Invalid::new(field, rule)
    }

    /// Text of some characters.
    pub(crate) fn text(&self, name: &str, characters: RangeInclusive<usize>) -> Result<&'a str, Invalid> {
        self.value(name)?.as_str().filter(|text| characters.contains(&text.chars().count())).ok_or_else(
            || {
                self.breaks(
                    name,
                    format!("must be text of {} to {} characters", characters.start(), characters.end()),
                )
            },
        )
    }

    /// A UUID in its usual form, of 36 characters.
    pub(crate) fn uuid(&self, name: &str) -> Result<&'a str, Invalid> {
        self.value(name)?
            .as_str()
            .filter(|text| is_uuid(text))
            .ok_or_else(|| self.breaks(name, "must be a UUID such as 018f3c5e-7b1a-7c3d-9e2f-0a1b2c3d4e5f"))
    }

    /// A whole number within bounds.
    pub(crate) fn integer(&self, name: &str, bounds: RangeInclusive<u64>) -> Result<u64, Invalid> {
        self.value(name)?.as_u64().filter(|number| bounds.contains(number)).ok_or_else(|| {
            self.breaks(name, format!("must be a whole number from {} to {}", bounds.start(), bounds.end()))
        })
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self, name: &str) -> Result<bool, Invalid> {
        self.value(name)?.as_bool().ok_or_else(|| self.breaks(name, "must be true or false"))
    }

    /// A language tag (BCP 47: letters, digits and hyphens, at most 35 characters).
    pub(crate) fn language(&self, name: &str) -> Result<&'a str, Invalid> {
        let is_tag = |text: &&str| {
            (1..=35).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        self.value(name)?
            .as_str()
            .filter(is_tag)
            .ok_or_else(|| self.breaks(name, "must be a language tag such as `de` or `pt-BR`"))
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(position, byte)| match position {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
