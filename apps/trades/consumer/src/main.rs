//! Consumes trades in microbatches.

fn main() {}
