//! The ledger's domain: entities, envelope, identifiers, modes, traffic. No I/O.

pub mod control;
pub mod entity;
pub mod envelope;
pub mod identifiers;
pub mod mode;
pub mod traffic;

pub use entity::{Data, Entity, Operation};
pub use envelope::{Change, Envelope, EnvelopeError};
pub use identifiers::EventId;
pub use mode::{AlarmReading, AlarmState, Mode, ModeRecord};
