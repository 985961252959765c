//! The record on the control topic.

use serde::{Deserialize, Serialize};

use crate::mode::ModeRecord;

/// The key of every control record: the topic is compacted, so the newest stays.
pub const KEY: &str = "db-mode";

/// What the control topic carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlMessage {
    /// The mode.
    pub control: ModeRecord,
}

impl ControlMessage {
    /// The message as it goes on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain fields always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
