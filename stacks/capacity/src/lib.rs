//! Pure arithmetic of partitions, connections and scaling: from a service level to the sizes of the
//! infrastructure. Every figure tells its formula and where the formula or limit comes from.

pub mod database;
mod figure;
pub mod kafka;
pub mod ledger;
pub mod lessons;
pub mod tags;
pub mod trades;

pub use figure::{BreakingPoint, CapacityError, Figure, Load, PEAK_FACTOR, Sizing};
