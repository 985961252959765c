//! The machine-local stand-ins for AWS, and the supervisor of local workloads.

fn main() {}
