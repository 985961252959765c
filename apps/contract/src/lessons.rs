//! The variables of the lessons system's functions. The stack writes them and the functions read them.

/// The stream of enriched events.
pub const OUTPUT_STREAM: &str = "OUTPUT_STREAM";

/// The stream of events that cannot be processed.
pub const FAILED_STREAM: &str = "FAILED_STREAM";

/// The table of users.
pub const USER_TABLE: &str = "USER_TABLE";

/// The table of subscriptions, by user and language.
pub const USER_SUBSCRIPTION_TABLE: &str = "USER_SUBSCRIPTION_TABLE";

/// The stream whose shards are scaled.
pub const SCALED_STREAM: &str = "SCALED_STREAM";

/// Shards, at least.
pub const SHARDS_MIN: &str = "SHARDS_MIN";

/// Shards, at most.
pub const SHARDS_MAX: &str = "SHARDS_MAX";
