//! A record on its way from a source to a function.

use std::{cmp::Ordering, fmt, sync::Arc};

/// Where a record stands in its partition or shard: an offset or a sequence number, in decimal. Sequence numbers have
/// up to 56 digits, so they are compared as text, by their length first.
#[derive(Clone, Debug)]
pub struct Position(String);

impl Position {
    /// From its text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, as the source wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As an offset; `None` for what is none.
    #[must_use]
    pub fn offset(&self) -> Option<i64> {
        self.0.parse().ok()
    }

    fn magnitude(&self) -> (usize, &str) {
        let digits = self.0.trim_start_matches('0');
        (digits.len(), digits)
    }
}

impl From<i64> for Position {
    fn from(offset: i64) -> Self {
        Self(offset.to_string())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Ord for Position {
    fn cmp(&self, other: &Self) -> Ordering {
        self.magnitude().cmp(&other.magnitude())
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Position {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Position {}

/// A record as its event will carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `topic-partition` of a Kafka record, the shard's id of a Kinesis record.
    pub part: Arc<str>,
    /// Where it stands there.
    pub position: Position,
    /// When it was written, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The key of a Kafka record, to be kept when it goes to a topic of failed records.
    pub key: Option<Vec<u8>>,
    /// Its JSON in the event.
    pub json: String,
}

impl Record {
    /// Its share of an event, in bytes: itself and a comma.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.json.len() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_compared_as_the_numbers_that_they_are() {
        let long = "49601189658422359378836298521827638475320189012309704722";
        let ordered = ["0", "9", "10", "0000011", "99", long].map(Position::new);
        assert!(ordered.windows(2).all(|pair| pair[0] < pair[1]), "{ordered:?}");
        assert_eq!(Position::new("007"), Position::from(7));
        assert_eq!(Position::new("42").offset(), Some(42));
        assert_eq!(Position::new(long).offset(), None);
    }
}
