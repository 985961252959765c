//! L2 constructs: secure by default, with grants, connections and metrics.
