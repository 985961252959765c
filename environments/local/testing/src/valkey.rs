//! A Valkey cluster.

use crate::part::Part;

/// A cluster of a test's own.
pub struct Valkey {
    part: Part,
}

impl Valkey {
    /// Starts one with so many shards, and waits until it is whole.
    #[track_caller]
    #[must_use]
    pub fn start(shards: u32) -> Self {
        Self { part: Part::start("valkey", &["--shards", &shards.to_string()]) }
    }

    /// Where its nodes are.
    #[must_use]
    pub fn host(&self) -> String {
        self.part.told["host"].as_str().unwrap().to_owned()
    }

    /// The port of the first node, by which a client finds the others.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.part.port()
    }

    /// The ports of all nodes.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        let ports = self.part.told["ports"].as_array().unwrap().iter();
        ports.map(|port| u16::try_from(port.as_u64().unwrap()).unwrap()).collect()
    }
}
