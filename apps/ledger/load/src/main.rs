//! Makes the ledger's traffic.

fn main() {}
