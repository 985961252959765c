//! Identifiers: time-ordered ones for rows, deterministic ones for events.

use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::entity::{Entity, Operation};

/// A row's id: UUID version 7 (RFC 9562), so that rows that are made together lie together in the index. The time
/// and the randomness are given.
#[must_use]
pub fn row_id(unix_ms: u64, random: [u8; 10]) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid()
}

/// An event's id: 12 bytes, written as 24 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub [u8; 12]);

impl EventId {
    /// The id that follows from what the event is: the first 12 bytes of SHA-256. So an event that is made anew
    /// from the same change, after a crash for instance, has the same id and takes effect once.
    #[must_use]
    pub fn of(entity: Entity, id: Uuid, operation: Operation, version: i64, occurred_ms: i64) -> Self {
        let digest = Sha256::new()
            .chain_update(entity.as_str())
            .chain_update([0])
            .chain_update(id.as_bytes())
            .chain_update(operation.as_str())
            .chain_update([0])
            .chain_update(version.to_be_bytes())
            .chain_update(occurred_ms.to_be_bytes())
            .finalize();
        let mut bytes = [0; 12];
        bytes.copy_from_slice(&digest[..12]);
        Self(bytes)
    }

    /// Reads 24 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 24 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 12];
        for (position, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * position..2 * position + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_event_id_reads_as_it_is_written(bytes in any::<[u8; 12]>()) {
            let id = EventId(bytes);
            prop_assert_eq!(EventId::parse(&id.to_string()), Some(id));
        }

        /// Ids of rows sort by their time.
        #[test]
        fn row_ids_follow_time(at in 0u64..1 << 47, later in 1u64..1 << 40, a in any::<[u8; 10]>(), b in any::<[u8; 10]>()) {
            prop_assert!(row_id(at, a) < row_id(at + later, b));
            prop_assert_eq!(row_id(at, a).get_version_num(), 7);
        }
    }

    #[test]
    fn the_same_change_has_the_same_id_and_another_has_another() {
        let id = row_id(1_700_000_000_000, [7; 10]);
        let of = |version| EventId::of(Entity::Order, id, Operation::Upsert, version, 5);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_ne!(of(1), EventId::of(Entity::Order, id, Operation::Delete, 1, 5));
        assert_ne!(of(1), EventId::of(Entity::Invoice, id, Operation::Upsert, 1, 5));
    }

    #[test]
    fn what_is_no_event_id_is_refused() {
        for text in ["", "abc", "zz0000000000000000000000", "é00000000000000000000000"] {
            assert_eq!(EventId::parse(text), None, "{text}");
        }
    }
}
