//! Brings the ledger's database to its present schema.

fn main() {}
