//! Enriches lessons by user and subscription.

fn main() {}
