//! Objects, and how the snapshot holds one.

/// Where an update stands among those of its object: where it was read. A record that is read again, or is older than
/// what is there, changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The partition of the topic. All updates of an object are in one.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
}

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The object's name in its channel.
    pub name: String,
    /// What it is now; `None` deletes it.
    pub data: Option<String>,
    /// When it ends if nobody changes it, in milliseconds since the epoch. A deletion is remembered for as long, so
    /// that an older update that comes again does not bring the object back.
    pub expires_at_ms: u64,
    /// Where it was read.
    pub position: Position,
}

/// An object of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub data: String,
    /// The sequence number of its last change.
    pub sequence: u64,
    /// When it ends, in milliseconds since the epoch.
    pub expires_at_ms: u64,
}

/// An object as the snapshot's hash holds it, deletions included:
/// `partition|offset|sequence|expires_at_ms|deleted|data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) sequence: u64,
    pub(crate) expires_at_ms: u64,
    pub(crate) deleted: bool,
    pub(crate) data: String,
}

impl Held {
    /// Reads one; `None` for what nobody here has written.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(6, '|');
        let (_partition, _offset) = (parts.next()?, parts.next()?);
        Some(Self {
            sequence: parts.next()?.parse().ok()?,
            expires_at_ms: parts.next()?.parse().ok()?,
            deleted: parts.next()? == "1",
            data: parts.next()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_may_hold_what_separates_the_other_parts() {
        let held = Held::parse("3|17|1700000000000001|99|0|a|b|").unwrap();
        assert_eq!((held.sequence, held.expires_at_ms, held.deleted), (1_700_000_000_000_001, 99, false));
        assert_eq!(held.data, "a|b|");
        assert_eq!(Held::parse("3|17|1|99|0"), None);
        assert_eq!(Held::parse(""), None);
    }
}
