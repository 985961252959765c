//! Produces simulated trades at a rate that can change while it runs.

fn main() {}
