//! The variables of the lessons system's functions. The stack writes them and the functions read them.

use crate::environment::{ConfigurationError, Reader};

/// The stream of enriched events.
pub const OUTPUT_STREAM: &str = "OUTPUT_STREAM";

/// The stream of events that cannot be processed.
pub const FAILED_STREAM: &str = "FAILED_STREAM";

/// The table of users.
pub const USER_TABLE: &str = "USER_TABLE";

/// The table of subscriptions, by user and language.
pub const USER_SUBSCRIPTION_TABLE: &str = "USER_SUBSCRIPTION_TABLE";

/// The partition key of both tables.
pub const USER_KEY: &str = "user_uuid";

/// The sort key of the table of subscriptions.
pub const LANGUAGE_KEY: &str = "language";

/// The stream whose shards are scaled.
pub const SCALED_STREAM: &str = "SCALED_STREAM";

/// Shards, at least.
pub const SHARDS_MIN: &str = "SHARDS_MIN";

/// Shards, at most.
pub const SHARDS_MAX: &str = "SHARDS_MAX";

/// What the function that enriches gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnricherConfiguration {
    /// The stream of enriched events.
    pub output_stream: String,
    /// The stream of events that cannot be processed.
    pub failed_stream: String,
    /// The table of users.
    pub user_table: String,
    /// The table of subscriptions.
    pub user_subscription_table: String,
}

impl EnricherConfiguration {
    /// Reads the configuration.
    ///
    /// # Errors
    ///
    /// The first variable that is missing.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigurationError> {
        let reader = Reader::new(lookup);
        Ok(Self {
            output_stream: reader.text(OUTPUT_STREAM, "the stream that enriched events go to")?,
            failed_stream: reader.text(FAILED_STREAM, "the stream for events that cannot be processed")?,
            user_table: reader.text(USER_TABLE, "the table of users")?,
            user_subscription_table: reader.text(USER_SUBSCRIPTION_TABLE, "the table of subscriptions")?,
        })
    }
}
