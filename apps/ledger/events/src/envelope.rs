//! The envelope: one change of one row, as it travels.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    entity::{Data, Entity, Operation},
    identifiers::EventId,
};

/// The version of the envelope that is written. Others are refused: what an unknown version means is unknown.
pub const SCHEMA_VERSION: u64 = 1;

/// The longest envelope that is read, in bytes.
pub const BYTES_MAX: usize = 64 << 10;

/// The times that an event may have occurred at, in milliseconds since the epoch: the years 2000 to 2100.
const OCCURRED_MS: std::ops::Range<i64> = 946_684_800_000..4_102_444_800_000;

/// What an event changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The row gets this content.
    Upsert(Data),
    /// The row is marked as deleted.
    Delete {
        /// Its kind.
        entity: Entity,
        /// Its id.
        id: Uuid,
        /// The id of the parent whose order it follows.
        parent: Option<Uuid>,
    },
}

impl Change {
    /// The kind of row.
    #[must_use]
    pub fn entity(&self) -> Entity {
        match self {
            Change::Upsert(data) => data.entity(),
            Change::Delete { entity, .. } => *entity,
        }
    }

    /// The row's id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        match self {
            Change::Upsert(data) => data.id(),
            Change::Delete { id, .. } => *id,
        }
    }

    /// What is done.
    #[must_use]
    pub fn operation(&self) -> Operation {
        match self {
            Change::Upsert(_) => Operation::Upsert,
            Change::Delete { .. } => Operation::Delete,
        }
    }

    fn parent(&self) -> Option<Uuid> {
        match self {
            Change::Upsert(data) => data.parent(),
            Change::Delete { parent, .. } => *parent,
        }
    }
}

/// One change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Tells repetitions of the event from other events.
    pub event_id: EventId,
    /// The row's version after the change, from 1. A newer one wins, whatever the order of arrival.
    pub version: i64,
    /// When the change was made, in milliseconds since the epoch.
    pub occurred_ms: i64,
    /// The change.
    pub change: Change,
}

/// Why bytes are no envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Longer than [`BYTES_MAX`].
    #[error("{0} bytes are more than {BYTES_MAX}")]
    Oversized(usize),
    /// Not JSON, or not an object with these fields.
    #[error("{0}")]
    Malformed(String),
    /// Of a version that this program does not know.
    #[error("schema version {0}, this program reads {SCHEMA_VERSION}")]
    UnknownVersion(u64),
    /// Of an entity that this program does not know.
    #[error("entity `{0}` is none of the ledger's")]
    UnknownEntity(String),
    /// A field is out of its bounds.
    #[error("{0}")]
    Invalid(String),
}

impl EnvelopeError {
    /// A word for metrics and dead letters.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            EnvelopeError::Oversized(_) => "oversized",
            EnvelopeError::Malformed(_) => "malformed",
            EnvelopeError::UnknownVersion(_) => "unknown_version",
            EnvelopeError::UnknownEntity(_) => "unknown_entity",
            EnvelopeError::Invalid(_) => "invalid",
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    schema_version: u64,
    entity: String,
    operation: Operation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    version: i64,
    occurred_at: String,
    data: Json,
}

impl Envelope {
    /// An envelope whose event id follows from the change.
    #[must_use]
    pub fn new(version: i64, occurred_ms: i64, change: Change) -> Self {
        let event_id = EventId::of(change.entity(), change.id(), change.operation(), version, occurred_ms);
        Self { event_id, version, occurred_ms, change }
    }

    /// Reads and normalises an envelope. One without an event id gets the one that follows from the change.
    ///
    /// # Errors
    ///
    /// See [`EnvelopeError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > BYTES_MAX {
            return Err(EnvelopeError::Oversized(bytes.len()));
        }
        let json: Json =
            serde_json::from_slice(bytes).map_err(|error| EnvelopeError::Malformed(error.to_string()))?;
        // The version first: of another version, no field is known.
        match json.get("schema_version").and_then(Json::as_u64) {
            Some(SCHEMA_VERSION) => {}
            Some(other) => return Err(EnvelopeError::UnknownVersion(other)),
            None => return Err(EnvelopeError::Malformed("no schema_version".to_owned())),
        }
        let wire: Wire =
            serde_json::from_value(json).map_err(|error| EnvelopeError::Malformed(error.to_string()))?;
        let entity =
            Entity::named(&wire.entity).ok_or_else(|| EnvelopeError::UnknownEntity(wire.entity.clone()))?;
        if wire.version < 1 {
            return Err(EnvelopeError::Invalid(format!("version: {} is less than 1", wire.version)));
        }
        let occurred_ms = DateTime::parse_from_rfc3339(&wire.occurred_at)
            .map_err(|error| EnvelopeError::Invalid(format!("occurred_at: {error}")))?
            .timestamp_millis();
        if !OCCURRED_MS.contains(&occurred_ms) {
            return Err(EnvelopeError::Invalid("occurred_at: not of the years 2000 to 2099".to_owned()));
        }
        let change = match wire.operation {
            Operation::Upsert => {
                Change::Upsert(Data::read(entity, wire.data).map_err(EnvelopeError::Invalid)?)
            }
            Operation::Delete => {
                let id = |field: &str| {
                    wire.data
                        .get(field)
                        .and_then(Json::as_str)
                        .and_then(|text| Uuid::parse_str(text).ok())
                        .ok_or_else(|| EnvelopeError::Invalid(format!("data.{field}: not a UUID")))
                };
                let parent = entity.parent_field().map(id).transpose()?;
                Change::Delete { entity, id: id("id")?, parent }
            }
        };
        let mut envelope = Self::new(wire.version, occurred_ms, change);
        if let Some(text) = wire.event_id {
            envelope.event_id = EventId::parse(&text)
                .ok_or_else(|| EnvelopeError::Invalid("event_id: not 24 hexadecimal digits".to_owned()))?;
        }
        Ok(envelope)
    }

    /// The envelope as it goes on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let data = match &self.change {
            Change::Upsert(data) => data.to_json(),
            Change::Delete { entity, id, parent } => {
                let mut data = serde_json::Map::new();
                data.insert("id".to_owned(), id.to_string().into());
                if let (Some(field), Some(parent)) = (entity.parent_field(), parent) {
                    data.insert(field.to_owned(), parent.to_string().into());
                }
                Json::Object(data)
            }
        };
        let wire = Wire {
            schema_version: SCHEMA_VERSION,
            entity: self.change.entity().as_str().to_owned(),
            operation: self.change.operation(),
            event_id: Some(self.event_id.to_string()),
            version: self.version,
            occurred_at: DateTime::<Utc>::from_timestamp_millis(self.occurred_ms)
                .unwrap_or_default()
                .to_rfc3339_opts(SecondsFormat::Millis, true),
            data,
        };
        // Plain fields always serialise.
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// The record's key: the row's id, or its parent's where order is the parent's.
    #[must_use]
    pub fn key(&self) -> Uuid {
        self.change.parent().unwrap_or_else(|| self.change.id())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::traffic::{Mix, Traffic};

    fn order() -> Json {
        json!({
            "schema_version": 1, "entity": "orders_ops", "operation": "upsert", "version": 3,
            "occurred_at": "2026-11-21T10:00:00.5+01:00",
            "data": {
                "id": "01890a5d-ac96-774b-bcce-b302099a8057",
                "customer_id": "01890a5d-ac96-774b-bcce-b302099a8058",
                "status": "  Placed ", "currency": "eur", "total_cents": 1999
            }
        })
    }

    fn refusal(change: impl FnOnce(&mut Json)) -> EnvelopeError {
        let mut json = order();
        change(&mut json);
        Envelope::parse(json.to_string().as_bytes()).unwrap_err()
    }

    proptest! {
        /// What is written is read again, the same, and is normal already.
        #[test]
        fn an_envelope_survives_the_wire(seed in any::<u64>(), deletes in 0.0f64..0.5) {
            let mut traffic = Traffic::new(seed, Mix { deletes });
            for envelope in (0..20).flat_map(|step| traffic.next(1_700_000_000_000 + step)) {
                let bytes = envelope.to_bytes();
                let read = Envelope::parse(&bytes).unwrap();
                prop_assert_eq!(&read, &envelope);
                prop_assert_eq!(read.to_bytes(), bytes);
            }
        }

        /// No bytes make it panic.
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,80}") {
            let _ = Envelope::parse(&bytes);
            let _ = Envelope::parse(text.as_bytes());
            let mut json = order();
            json["data"]["status"] = text.into();
            let _ = Envelope::parse(json.to_string().as_bytes());
        }
    }

    #[test]
    fn an_envelope_is_normalised_and_gets_its_event_id() {
        let envelope = Envelope::parse(order().to_string().as_bytes()).unwrap();
        let Change::Upsert(Data::Order(order)) = &envelope.change else { panic!("{envelope:?}") };
        assert_eq!((order.status.as_str(), order.currency.as_str()), ("placed", "EUR"));
        assert_eq!(envelope.occurred_ms, 1_795_251_600_500);
        assert_eq!(envelope, Envelope::new(3, envelope.occurred_ms, envelope.change.clone()));
    }

    #[test]
    fn each_kind_of_bad_input_has_its_word() {
        for (error, cause) in [
            (refusal(|json| json["schema_version"] = 2.into()), "unknown_version"),
            (refusal(|json| json["schema_version"] = "1".into()), "malformed"),
            (refusal(|json| json["entity"] = "payments_ops".into()), "unknown_entity"),
            (refusal(|json| json["operation"] = "drop".into()), "malformed"),
            (refusal(|json| json["version"] = 0.into()), "invalid"),
            (refusal(|json| json["occurred_at"] = "yesterday".into()), "invalid"),
            (refusal(|json| json["occurred_at"] = "0001-01-01T00:00:00Z".into()), "invalid"),
            (refusal(|json| json["event_id"] = "xyz".into()), "invalid"),
            (refusal(|json| json["data"]["total_cents"] = (-1).into()), "invalid"),
            (refusal(|json| json["data"]["currency"] = "euro".into()), "invalid"),
            (refusal(|json| json["data"]["status"] = " ".into()), "invalid"),
            (refusal(|json| json["data"]["more"] = 1.into()), "invalid"),
            (refusal(|json| json["data"] = Json::Null), "invalid"),
            (refusal(|json| *json = json!([1])), "malformed"),
        ] {
            assert_eq!(error.cause(), cause, "{error}");
        }
        assert_eq!(Envelope::parse(&[b' '; BYTES_MAX + 1]).unwrap_err().cause(), "oversized");
    }

    #[test]
    fn children_are_keyed_by_their_parent_also_when_they_are_deleted() {
        let (id, parent) = (crate::identifiers::row_id(1, [1; 10]), crate::identifiers::row_id(1, [2; 10]));
        let delete =
            |entity, parent| Envelope::new(2, OCCURRED_MS.start, Change::Delete { entity, id, parent });
        let read = Envelope::parse(&delete(Entity::InvoiceItem, Some(parent)).to_bytes()).unwrap();
        assert_eq!(read.key(), parent);
        assert_eq!(Envelope::parse(&delete(Entity::Order, None).to_bytes()).unwrap().key(), id);
    }
}
