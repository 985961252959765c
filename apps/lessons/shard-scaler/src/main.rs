//! Follows the load with the shards of a stream.

fn main() {}
