//! Brings tags from a topic to the cache.

fn main() {}
