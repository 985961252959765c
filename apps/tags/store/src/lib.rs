//! Tags in a cache: snapshots and deltas.
