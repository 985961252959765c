//! What the program gets that makes the lessons' traffic.

use super::{FAILED_STREAM, INPUT_STREAM, OUTPUT_STREAM};
use crate::{
    environment::{ConfigurationError, Reader},
    load::{RATE_BOUNDS, SECONDS_BOUNDS},
};

/// Users that a run may be about.
const USERS_MAX: u32 = 10_000_000;

const EVENTS_PER_SECOND: &str = "EVENTS_PER_SECOND";
const LOAD_SECONDS: &str = "LOAD_SECONDS";
const USERS: &str = "USERS";
const RECORD_BYTES: &str = "RECORD_BYTES";
const MALFORMED_SHARE: &str = "MALFORMED_SHARE";
const UNSUBSCRIBED_SHARE: &str = "UNSUBSCRIBED_SHARE";
const GENERATOR_SEED: &str = "GENERATOR_SEED";
const VERIFY: &str = "VERIFY";

/// What the events are.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadShape {
    /// Users that they are about.
    pub users: u32,
    /// A lesson's record, in bytes. One that cannot be so short or so long is as near as it can be.
    pub record_bytes: u32,
    /// The share of records that are no events, 0 to 1.
    pub malformed_share: f64,
    /// The share of events that are lessons of a language to which there is no subscription, 0 to 1.
    pub unsubscribed_share: f64,
}

impl LoadShape {
    /// Whether it can be carried out.
    ///
    /// # Errors
    ///
    /// The first figure that is out of bounds, by its variable.
    pub fn check(&self) -> Result<(), ConfigurationError> {
        for (name, share) in
            [(MALFORMED_SHARE, self.malformed_share), (UNSUBSCRIBED_SHARE, self.unsubscribed_share)]
        {
            if !(0.0..=1.0).contains(&share) {
                let expected = "a share from 0 to 1".to_owned();
                return Err(ConfigurationError::Invalid { name, value: share.to_string(), expected });
            }
        }
        if !(1..=USERS_MAX).contains(&self.users) {
            let expected = format!("a number from 1 to {USERS_MAX}");
            return Err(ConfigurationError::Invalid { name: USERS, value: self.users.to_string(), expected });
        }
        Ok(())
    }
}

/// The streams behind the enricher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streams {
    /// Of enriched events.
    pub output: String,
    /// Of events that cannot be processed.
    pub failed: String,
}

/// What the lessons' traffic gets.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadConfiguration {
    /// The stream that the events go to.
    pub input_stream: String,
    /// The streams behind the enricher, where what comes out is to be counted.
    pub streams: Option<Streams>,
    /// Events per second ([`RATE_BOUNDS`]).
    pub events_per_second: f64,
    /// For how long, in seconds ([`SECONDS_BOUNDS`]).
    pub period_seconds: u64,
    /// What the events are.
    pub shape: LoadShape,
    /// Makes the events repeatable.
    pub generator_seed: Option<u64>,
    /// Whether what comes out is counted.
    pub verify: bool,
}

impl LoadConfiguration {
    /// Reads the configuration. The defaults are the published load: 125 events of 1 KiB a second.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or cannot be used.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigurationError> {
        let reader = Reader::new(lookup);
        Ok(Self {
            input_stream: reader.text(INPUT_STREAM, "the stream that events go to")?,
            streams: match reader.optional(OUTPUT_STREAM) {
                None => None,
                Some(output) => Some(Streams {
                    output,
                    failed: reader.text(FAILED_STREAM, "the stream for events that cannot be processed")?,
                }),
            },
            events_per_second: reader.number(EVENTS_PER_SECOND, 125.0, RATE_BOUNDS)?,
            period_seconds: reader.number(LOAD_SECONDS, 60, SECONDS_BOUNDS)?,
            shape: LoadShape {
                users: reader.number(USERS, 1000, 1..=USERS_MAX)?,
                record_bytes: reader.number(RECORD_BYTES, 1024, 1..=1 << 20)?,
                malformed_share: reader.number(MALFORMED_SHARE, 0.0, 0.0..=1.0)?,
                unsubscribed_share: reader.number(UNSUBSCRIBED_SHARE, 0.0, 0.0..=1.0)?,
            },
            generator_seed: reader.optional_number(GENERATOR_SEED, 0..=u64::MAX)?,
            verify: reader.flag(VERIFY)?,
        })
    }

    /// The streams that are to be read, where that was asked.
    #[must_use]
    pub fn verified_streams(&self) -> Option<&Streams> {
        self.streams.as_ref().filter(|_| self.verify)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<LoadConfiguration, ConfigurationError> {
        LoadConfiguration::from_environment(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_published_load_is_the_default_and_streams_are_read_when_asked() {
        let least = read(&[(INPUT_STREAM, "in")]).unwrap();
        assert_eq!(
            (least.events_per_second, least.shape.record_bytes, least.streams.clone()),
            (125.0, 1024, None)
        );
        assert_eq!(least.shape.check(), Ok(()));
        let all = [(INPUT_STREAM, "in"), (OUTPUT_STREAM, "out"), (FAILED_STREAM, "bad"), (VERIFY, "true")];
        assert_eq!(read(&all).unwrap().verified_streams().unwrap().failed, "bad");
        assert_eq!(read(&all[..3]).unwrap().verified_streams(), None);
        assert!(read(&[(INPUT_STREAM, "in"), (OUTPUT_STREAM, "out")]).is_err(), "one without the other");
        assert!(read(&[]).unwrap_err().to_string().contains("INPUT_STREAM"));
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let shape = read(&[(INPUT_STREAM, "in")]).unwrap().shape;
        let error = LoadShape { users: 0, ..shape.clone() }.check().unwrap_err().to_string();
        assert!(error.contains("USERS is `0`"), "{error}");
        assert!(LoadShape { malformed_share: f64::NAN, ..shape }.check().is_err());
    }
}
