//! Makes the ledger's mode of the alarms' states.

fn main() {}
