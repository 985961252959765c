//! What a workload gets from its stack: names and types of its configuration.
