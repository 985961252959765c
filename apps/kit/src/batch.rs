//! A batch of records, copied out of the client into one buffer.

/// Where a record comes from and when it was produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
    /// The record's timestamp in milliseconds since the epoch, if it has one.
    pub timestamp_ms: Option<i64>,
}

/// Where a record lies in the buffer: the key, then the payload. Small, because one is written for each record
/// that is read.
#[derive(Clone, Copy, Debug)]
struct Span {
    offset: i64,
    timestamp_ms: i64,
    partition: i32,
    start: u32,
    key: u32,
    payload: u32,
}

/// The length of a part that a record does not have. Kafka's own lengths are of 31 bits.
const ABSENT: u32 = u32::MAX;

/// The timestamp of a record that has none.
const NO_TIMESTAMP: i64 = i64::MIN;

impl Span {
    fn origin(&self) -> Origin {
        let timestamp_ms = (self.timestamp_ms != NO_TIMESTAMP).then_some(self.timestamp_ms);
        Origin { partition: self.partition, offset: self.offset, timestamp_ms }
    }
}

/// A record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it comes from.
    pub origin: Origin,
    /// Its key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Its payload; a tombstone has none.
    pub payload: Option<&'a [u8]>,
}

/// Records in the order in which they were read.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl Batch {
    /// How many records it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Keys and payloads, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Copies a record to the end.
    pub fn push(&mut self, record: Record<'_>) {
        let length =
            |part: Option<&[u8]>| part.map_or(ABSENT, |part| u32::try_from(part.len()).unwrap_or(ABSENT - 1));
        let start = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(record.key.unwrap_or_default());
        self.bytes.extend_from_slice(record.payload.unwrap_or_default());
        let Origin { partition, offset, timestamp_ms } = record.origin;
        self.spans.push(Span {
            offset,
            timestamp_ms: timestamp_ms.unwrap_or(NO_TIMESTAMP),
            partition,
            start,
            key: length(record.key),
            payload: length(record.payload),
        });
    }

    /// The record at a position.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Record<'_>> {
        let span = self.spans.get(index)?;
        let part = |start: usize, length: u32| {
            (length != ABSENT).then(|| self.bytes.get(start..start + length as usize)).flatten()
        };
        let start = span.start as usize;
        let key = part(start, span.key);
        let payload = part(start + key.map_or(0, <[u8]>::len), span.payload);
        Some(Record { origin: span.origin(), key, payload })
    }

    /// All records.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Where its records come from.
    pub fn origins(&self) -> impl Iterator<Item = Origin> {
        self.spans.iter().map(Span::origin)
    }

    /// Empties it; its memory stays for the next records.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
    }

    /// Drops the records of some partitions.
    pub fn drop_partitions(&mut self, partitions: &[i32]) {
        self.spans.retain(|span| !partitions.contains(&span.partition));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What was put in comes out, absent parts and empty ones told apart.
        #[test]
        fn records_come_out_as_they_went_in(records in proptest::collection::vec(
            (
                any::<i32>(),
                any::<i64>(),
                proptest::option::of(0..i64::MAX),
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..8)),
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64)),
            ),
            0..40,
        )) {
            let mut batch = Batch::default();
            let expected: Vec<Record<'_>> = records
                .iter()
                .map(|(partition, offset, timestamp_ms, key, payload)| Record {
                    origin: Origin { partition: *partition, offset: *offset, timestamp_ms: *timestamp_ms },
                    key: key.as_deref(),
                    payload: payload.as_deref(),
                })
                .collect();
            expected.iter().for_each(|record| batch.push(*record));
            prop_assert_eq!(batch.iter().collect::<Vec<_>>(), expected);
        }
    }
}
