//! What the program gets that makes the load of tags.

use std::collections::BTreeMap;

use super::TOPIC;
use crate::{
    cache::{CACHE_ENDPOINT, CacheConfiguration},
    environment::{ConfigurationError, Reader, Writer},
    kafka::KafkaConfiguration,
    load::{RATE_BOUNDS, SECONDS_BOUNDS},
};

/// Objects that a run may write to, over all channels. What was sent last of each is remembered.
pub const LOAD_OBJECTS_MAX: u64 = 1_000_000;

const UPDATES_PER_SECOND: &str = "UPDATES_PER_SECOND";
const LOAD_SECONDS: &str = "LOAD_SECONDS";
const CHANNELS: &str = "CHANNELS";
const OBJECTS_PER_CHANNEL: &str = "OBJECTS_PER_CHANNEL";
const MESSAGE_BYTES: &str = "MESSAGE_BYTES";
const DELETE_SHARE: &str = "DELETE_SHARE";
const LIFETIME_SECONDS: &str = "LIFETIME_SECONDS";
const GENERATOR_SEED: &str = "GENERATOR_SEED";
const VERIFY: &str = "VERIFY";

/// Which of the pods of a run this one is; Kubernetes sets it for the pods of an indexed Job.
const JOB_COMPLETION_INDEX: &str = "JOB_COMPLETION_INDEX";

/// What is written to, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadShape {
    /// Channels that are written to.
    pub channels: u32,
    /// Objects in each of them.
    pub objects_per_channel: u32,
    /// A message, in bytes. One that cannot be so short is as short as it can be.
    pub message_bytes: u32,
    /// The share of updates that delete an object which is there, 0 to 1.
    pub delete_share: f64,
    /// How long an object lives that nobody changes, in seconds; 0 for what the workers give.
    pub lifetime_seconds: u32,
}

impl LoadShape {
    /// Whether it can be carried out.
    ///
    /// # Errors
    ///
    /// The first figure that is out of bounds, by its variable.
    pub fn check(&self) -> Result<(), ConfigurationError> {
        let invalid = |name, value: String, expected: String| {
            Err(ConfigurationError::Invalid { name, value, expected })
        };
        if !(0.0..=1.0).contains(&self.delete_share) {
            return invalid(DELETE_SHARE, self.delete_share.to_string(), "a share from 0 to 1".to_owned());
        }
        if self.objects_per_channel == 0 {
            return invalid(OBJECTS_PER_CHANNEL, "0".to_owned(), "a number from 1".to_owned());
        }
        let objects = u64::from(self.channels) * u64::from(self.objects_per_channel);
        if !(1..=LOAD_OBJECTS_MAX).contains(&objects) {
            let expected = format!(
                "1 to {LOAD_OBJECTS_MAX} objects over all channels, {} each",
                self.objects_per_channel
            );
            return invalid(CHANNELS, self.channels.to_string(), expected);
        }
        if !(1..=1 << 20).contains(&self.message_bytes) {
            let expected = format!("a number from 1 to {}", 1 << 20);
            return invalid(MESSAGE_BYTES, self.message_bytes.to_string(), expected);
        }
        Ok(())
    }
}

/// What the load of tags gets.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadConfiguration {
    /// The Kafka cluster.
    pub kafka: KafkaConfiguration,
    /// Where the updates go.
    pub topic: String,
    /// The cache that the workers bring them to, where the end is to be verified.
    pub cache: Option<CacheConfiguration>,
    /// Updates per second ([`RATE_BOUNDS`]).
    pub updates_per_second: f64,
    /// For how long, in seconds ([`SECONDS_BOUNDS`]).
    pub period_seconds: u64,
    /// What is written to, and how.
    pub shape: LoadShape,
    /// Makes the updates repeatable.
    pub generator_seed: Option<u64>,
    /// Whether the cache is read, and compared with what was written.
    pub verify: bool,
    /// Which of the pods of a run this one is; each writes to channels of its own. Kubernetes says it, not the stack.
    pub number: u32,
}

impl LoadConfiguration {
    /// Reads the configuration. The defaults: 500 updates of 512 bytes a second for a minute, to 16 objects in each of
    /// 100 channels.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or cannot be used.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigurationError> {
        let reader = Reader::new(lookup);
        let shape = LoadShape {
            channels: reader.number(CHANNELS, 100, 1..=u32::MAX)?,
            objects_per_channel: reader.number(OBJECTS_PER_CHANNEL, 16, 1..=u32::MAX)?,
            message_bytes: reader.number(MESSAGE_BYTES, 512, 1..=u32::MAX)?,
            delete_share: reader.number(DELETE_SHARE, 0.0, 0.0..=1.0)?,
            lifetime_seconds: reader.number(LIFETIME_SECONDS, 0, 0..=31_536_000)?,
        };
        shape.check()?;
        Ok(Self {
            kafka: KafkaConfiguration::read(&reader)?,
            topic: reader.text(TOPIC, "the topic that the updates go to")?,
            cache: match reader.optional(CACHE_ENDPOINT) {
                None => None,
                Some(_) => Some(CacheConfiguration::read(&reader)?),
            },
            updates_per_second: reader.number(UPDATES_PER_SECOND, 500.0, RATE_BOUNDS)?,
            period_seconds: reader.number(LOAD_SECONDS, 60, SECONDS_BOUNDS)?,
            shape,
            generator_seed: reader.optional_number(GENERATOR_SEED, 0..=u64::MAX)?,
            verify: reader.flag(VERIFY)?,
            number: reader.number(JOB_COMPLETION_INDEX, 0, 0..=u32::MAX)?,
        })
    }

    /// The variables that give this configuration, its number left out.
    #[must_use]
    pub fn to_environment(&self) -> BTreeMap<String, String> {
        let mut writer = self
            .kafka
            .write(Writer::default())
            .set(TOPIC, &self.topic)
            .set(UPDATES_PER_SECOND, self.updates_per_second)
            .set(LOAD_SECONDS, self.period_seconds)
            .set(CHANNELS, self.shape.channels)
            .set(OBJECTS_PER_CHANNEL, self.shape.objects_per_channel)
            .set(MESSAGE_BYTES, self.shape.message_bytes)
            .set(DELETE_SHARE, self.shape.delete_share)
            .set(LIFETIME_SECONDS, self.shape.lifetime_seconds)
            .set(VERIFY, self.verify);
        if let Some(cache) = &self.cache {
            writer = cache.write(writer);
        }
        if let Some(seed) = self.generator_seed {
            writer = writer.set(GENERATOR_SEED, seed);
        }
        writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{cache::CacheAuthentication, kafka::KafkaAuthentication};

    proptest! {
        #[test]
        fn what_the_stack_writes_is_what_the_load_reads(
            updates_per_second in RATE_BOUNDS, period_seconds in SECONDS_BOUNDS,
            channels in 1u32..1000, objects_per_channel in 1u32..1000, delete_share in 0.0f64..=1.0,
            generator_seed in proptest::option::of(any::<u64>()), verify in any::<bool>(), with_cache in any::<bool>(),
        ) {
            let cache = CacheConfiguration {
                endpoint: "localhost:7000".to_owned(),
                authentication: CacheAuthentication::None,
            };
            let configuration = LoadConfiguration {
                kafka: KafkaConfiguration {
                    bootstrap_servers: "localhost:9092".to_owned(),
                    authentication: KafkaAuthentication::None,
                },
                topic: "tag-data".to_owned(),
                cache: with_cache.then_some(cache),
                updates_per_second,
                period_seconds,
                shape: LoadShape {
                    channels, objects_per_channel, message_bytes: 700, delete_share, lifetime_seconds: 60,
                },
                generator_seed,
                verify,
                number: 3,
            };
            let variables = configuration.to_environment();
            let read = LoadConfiguration::from_environment(|name| match name {
                "JOB_COMPLETION_INDEX" => Some("3".to_owned()),
                _ => variables.get(name).cloned(),
            });
            prop_assert_eq!(read, Ok(configuration));
        }
    }

    #[test]
    fn more_objects_than_can_be_remembered_are_refused() {
        let shape = |channels, objects_per_channel, delete_share| LoadShape {
            channels,
            objects_per_channel,
            message_bytes: 512,
            delete_share,
            lifetime_seconds: 0,
        };
        assert_eq!(shape(62_500, 16, 0.1).check(), Ok(()));
        let error = shape(62_501, 16, 0.1).check().unwrap_err().to_string();
        assert!(error.contains("CHANNELS is `62501`") && error.contains("1000000 objects"), "{error}");
        assert!(shape(u32::MAX, u32::MAX, 0.1).check().is_err());
        assert!(shape(1, 0, 0.1).check().is_err());
        assert!(shape(1, 1, f64::NAN).check().is_err());
    }
}
