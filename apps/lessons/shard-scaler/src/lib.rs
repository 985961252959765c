//! Follows the load with the shards of a stream: alarms call, [`decision`] says how many shards there should be,
//! [`scaler`] changes them.

pub mod decision;
pub mod notification;
pub mod scaler;
