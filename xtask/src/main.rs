//! The command line of Floodgate.

fn main() {}
