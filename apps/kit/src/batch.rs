//! A batch of records, copied out of the client into one buffer.

use std::ops::Range;

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

#[derive(Clone, Debug)]
struct Span {
    origin: Origin,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
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
        let mut copy = |part: Option<&[u8]>| {
            part.map(|part| {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(part);
                start..self.bytes.len()
            })
        };
        let (key, payload) = (copy(record.key), copy(record.payload));
        self.spans.push(Span { origin: record.origin, key, payload });
    }

    /// The record at a position.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Record<'_>> {
        self.spans.get(index).map(|span| Record {
            origin: span.origin,
            key: span.key.clone().and_then(|range| self.bytes.get(range)),
            payload: span.payload.clone().and_then(|range| self.bytes.get(range)),
        })
    }

    /// All records.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Where its records come from.
    pub fn origins(&self) -> impl Iterator<Item = Origin> {
        self.spans.iter().map(|span| span.origin)
    }

    /// Empties it; its memory stays for the next records.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
    }

    /// Drops the records of some partitions.
    pub fn drop_partitions(&mut self, partitions: &[i32]) {
        self.spans.retain(|span| !partitions.contains(&span.origin.partition));
    }
}
