//! Writes ledger events to the database.

fn main() {}
