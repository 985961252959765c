//! The variables of the lessons system's functions. The stack writes them and the functions read them.

mod load;

pub use load::{LoadConfiguration, LoadShape, Streams};

use crate::environment::{ConfigurationError, Reader};

/// The stream that events come in at.
pub const INPUT_STREAM: &str = "INPUT_STREAM";

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

/// The alarms that go off when the load is above what some shards should carry: names, separated by commas, first that
/// of [`SHARDS_MIN`] shards, then that of twice as many, and so on.
pub const ALARMS_ABOVE: &str = "ALARMS_ABOVE";

/// The alarms that are over when the load has long been so small that half the shards carry it: names, separated by
/// commas, first that of [`SHARDS_MIN`] shards being enough, then that of twice as many, and so on.
pub const ALARMS_USED: &str = "ALARMS_USED";

/// The most shards that a stream is scaled to.
const SHARDS_LIMIT: u32 = 10_000;

/// What the function that scales gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalerConfiguration {
    /// The stream.
    pub stream: String,
    /// Shards, at least.
    pub shards_min: u32,
    /// Shards, at most.
    pub shards_max: u32,
    /// See [`ALARMS_ABOVE`].
    pub alarms_above: Vec<String>,
    /// See [`ALARMS_USED`].
    pub alarms_used: Vec<String>,
}

impl ScalerConfiguration {
    /// Reads the configuration.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or cannot be used.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigurationError> {
        let reader = Reader::new(lookup);
        let names = |text: String| text.split(',').map(|name| name.trim().to_owned()).collect();
        let stream = reader.text(SCALED_STREAM, "the stream whose shards are scaled")?;
        // Bounds that nobody told are no bounds: the function must not scale by a default.
        for (name, meaning) in [(SHARDS_MIN, "shards, at least"), (SHARDS_MAX, "shards, at most")] {
            reader.text(name, meaning)?;
        }
        let shards_min = reader.number(SHARDS_MIN, 1, 1..=SHARDS_LIMIT)?;
        Ok(Self {
            stream,
            shards_min,
            shards_max: reader.number(SHARDS_MAX, shards_min, shards_min..=SHARDS_LIMIT)?,
            alarms_above: names(reader.text(ALARMS_ABOVE, "the alarms that ask for more shards")?),
            alarms_used: names(reader.text(ALARMS_USED, "the alarms that are over when fewer shards do")?),
        })
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaler_knows_its_bounds_and_alarms_or_says_what_it_lacks() {
        let variables = |maximum: &'static str| {
            move |name: &str| {
                Some(match name {
                    SCALED_STREAM => "input".to_owned(),
                    SHARDS_MIN => "2".to_owned(),
                    SHARDS_MAX => maximum.to_owned(),
                    ALARMS_ABOVE => "a0,a1".to_owned(),
                    ALARMS_USED => "u0, u1".to_owned(),
                    _ => return None,
                })
            }
        };
        let read = ScalerConfiguration::from_environment(variables("8")).unwrap();
        assert_eq!(
            (read.shards_min, read.shards_max, read.alarms_used),
            (2, 8, vec!["u0".to_owned(), "u1".to_owned()])
        );
        let inverted = ScalerConfiguration::from_environment(variables("1")).unwrap_err().to_string();
        assert!(inverted.contains("SHARDS_MAX is `1`, which is not a number from 2"), "{inverted}");
        let missing = EnricherConfiguration::from_environment(|_| None).unwrap_err().to_string();
        assert!(missing.contains("OUTPUT_STREAM is not set"), "{missing}");
    }
}
