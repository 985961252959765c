//! Deterministic bytes: JSON with sorted keys, whatever the map type of `serde_json` is built to be.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::Json;

struct Sorted<'a>(&'a Json);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Json::Object(object) => {
                let mut entries: Vec<_> = object.iter().collect();
                entries.sort_by(|a, b| a.0.cmp(b.0));
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, &Sorted(value))?;
                }
                map.end()
            }
            Json::Array(items) => {
                let mut sequence = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    sequence.serialize_element(&Sorted(item))?;
                }
                sequence.end()
            }
            other => other.serialize(serializer),
        }
    }
}

/// JSON text, indented, keys sorted, with a final newline: what is written to disk.
pub fn to_canonical_string(json: &Json) -> String {
    let mut text = serde_json::to_string_pretty(&Sorted(json)).unwrap_or_default();
    text.push('\n');
    text
}

/// JSON bytes without white space, keys sorted: what is hashed and sent.
pub fn to_canonical_bytes(json: &Json) -> Vec<u8> {
    serde_json::to_vec(&Sorted(json)).unwrap_or_default()
}
