//! Pure arithmetic of partitions, connections and scaling.
