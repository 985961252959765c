//! Pure arithmetic of partitions, connections and scaling: from a service level to the sizes of the
//! infrastructure and what they cost. Every figure tells its formula and where the formula or limit comes from.

pub mod cost;
pub mod database;
mod figure;
pub mod kafka;
pub mod ledger;
pub mod lessons;
pub mod memory;
pub mod prices;
pub mod scaling;
pub mod simulation;
pub mod tags;
pub mod trades;

pub use figure::{BreakingPoint, CapacityError, Figure, Load, PEAK_FACTOR, Sizing};
