//! Checks, normalises and keys ledger events.

fn main() {}
