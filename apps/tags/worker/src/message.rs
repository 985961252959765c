//! A message of the topic: a change of one object.

use serde::{Deserialize, Serialize};
use tag_store::{Channel, Position, Update};
use worker_kit::{batch::Record, dead_letters::Rejection};

/// The longest part of an object's identifier, in bytes.
const PART_BYTES_MAX: usize = 256;

/// The longest lifetime, in seconds: a year.
const LIFETIME_SECONDS_MAX: u64 = 31_536_000;

/// What is read of a message, with what it is measured by.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A longer payload is refused, in bytes.
    pub message_bytes_max: usize,
    /// The lifetime of an object that tells none, in seconds.
    pub expiry_seconds: u32,
}

/// A change of an object in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagChange {
    /// Where.
    pub channel: Channel,
    /// What.
    pub update: Update,
}

/// A message as it stands in a record's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Which object.
    pub identifier: Identifier,
    /// Whether it is gone.
    #[serde(default)]
    pub deleted: bool,
    /// How long it lives if nobody changes it, in seconds; 0 for what the workers give.
    #[serde(default)]
    pub lifetime: u64,
    /// What it is now.
    #[serde(default)]
    pub data: String,
}

/// Which object a message is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identifier {
    /// The application.
    pub app_id: String,
    /// The channel or room in it.
    pub tag: String,
    /// `system` or `application`.
    pub scope: String,
    /// The object's name in the channel.
    pub name: String,
}

/// Reads a message: `{"identifier": {"app_id", "tag", "scope", "name"}, "deleted", "lifetime", "data"}`. `now_ms`
/// stands for the time of a record that has none.
///
/// # Errors
///
/// Why it is none, now or ever.
pub fn read(record: Record<'_>, bounds: &Bounds, now_ms: u64) -> Result<TagChange, Rejection> {
    let Some(payload) = record.payload else {
        return Err(Rejection { cause: "null", error: "the record has no payload".to_owned() });
    };
    if payload.len() > bounds.message_bytes_max {
        return Err(Rejection {
            cause: "oversized",
            error: format!("{} bytes, at most {} are taken", payload.len(), bounds.message_bytes_max),
        });
    }
    let malformed = |error: String| Rejection { cause: "malformed", error };
    let message: Message = serde_json::from_slice(payload).map_err(|error| malformed(error.to_string()))?;
    let Identifier { app_id, tag, scope, name } = message.identifier;
    for (part, text) in [("app_id", &app_id), ("tag", &tag), ("scope", &scope), ("name", &name)] {
        if text.is_empty() || text.len() > PART_BYTES_MAX {
            return Err(malformed(format!(
                "identifier.{part} has {} bytes, not 1 to {PART_BYTES_MAX}",
                text.len()
            )));
        }
    }
    if !["system", "application"].contains(&scope.as_str()) {
        return Err(malformed(format!("identifier.scope is `{scope}`, not system or application")));
    }
    if message.lifetime > LIFETIME_SECONDS_MAX {
        return Err(malformed(format!(
            "lifetime is {} s, at most {LIFETIME_SECONDS_MAX} are taken",
            message.lifetime
        )));
    }
    let lifetime = if message.lifetime == 0 { u64::from(bounds.expiry_seconds) } else { message.lifetime };
    let produced_ms = record.origin.timestamp_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(now_ms);
    Ok(TagChange {
        channel: Channel { app_id, tag, scope },
        update: Update {
            name,
            data: (!message.deleted).then_some(message.data),
            expires_at_ms: produced_ms.saturating_add(lifetime * 1000),
            position: Position { partition: record.origin.partition, offset: record.origin.offset },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use worker_kit::batch::Origin;

    const BOUNDS: Bounds = Bounds { message_bytes_max: 500, expiry_seconds: 60 };

    fn of(payload: Option<&str>) -> Result<TagChange, Rejection> {
        let origin = Origin { partition: 3, offset: 17, timestamp_ms: Some(5000) };
        read(Record { origin, key: None, payload: payload.map(str::as_bytes) }, &BOUNDS, 9000)
    }

    const GOOD: &str =
        r#"{"identifier":{"app_id":"a","tag":"t","scope":"system","name":"n"},"lifetime":2,"data":"d"}"#;

    #[test]
    fn a_change_has_its_place_and_its_end() {
        let change = of(Some(GOOD)).unwrap();
        assert_eq!((change.channel.tag.as_str(), change.update.name.as_str()), ("t", "n"));
        assert_eq!((change.update.data.as_deref(), change.update.expires_at_ms), (Some("d"), 7000));
        assert_eq!(change.update.position, Position { partition: 3, offset: 17 });
        let deletion = of(Some(&GOOD.replace(r#""lifetime":2"#, r#""deleted":true"#))).unwrap();
        assert_eq!((deletion.update.data, deletion.update.expires_at_ms), (None, 65_000));
    }

    #[test]
    fn what_is_no_change_is_refused_with_its_cause() {
        let cause = |payload: Option<&str>| of(payload).unwrap_err().cause;
        assert_eq!(cause(None), "null");
        assert_eq!(cause(Some(&"x".repeat(501))), "oversized");
        for wrong in [
            "{".to_owned(),
            GOOD.replace("\"n\"", "\"\""),
            GOOD.replace("system", "mine"),
            GOOD.replace("\"lifetime\":2", "\"lifetime\":99999999999"),
            GOOD.replace("\"tag\":\"t\",", ""),
        ] {
            assert_eq!(cause(Some(&wrong)), "malformed", "{wrong}");
        }
    }
}
