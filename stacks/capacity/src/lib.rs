//! Pure arithmetic of partitions, connections and scaling: from a service level to the sizes of the
//! infrastructure. Every figure tells its formula and where the formula or limit comes from.

mod figure;
pub mod kafka;
pub mod trades;

pub use figure::{CapacityError, Figure, Sizing};
