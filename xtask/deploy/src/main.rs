//! All that talks to AWS: change sets, assets, workloads, status, teardown.

fn main() {}
