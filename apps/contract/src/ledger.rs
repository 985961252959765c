//! The configuration of the ledger system's functions. The stack writes the variables, and a test of it reads
//! them as the functions do.

use crate::{
    database::DatabaseConfiguration,
    environment::{ConfigurationError, Reader},
    kafka::KafkaConfiguration,
};

/// What a deployment puts into the parameter before anybody has looked at the alarms: not known, and older than
/// every record.
pub const MODE_INITIAL: &str = r#"{"mode":"YELLOW","version":0,"since_ms":0,"alarm":null,"then":null}"#;

/// The topic that a function reads.
pub const SOURCE_TOPIC: &str = "SOURCE_TOPIC";

/// The topic that the transform function writes.
pub const BUFFER_TOPIC: &str = "BUFFER_TOPIC";

/// The compacted topic that carries the mode.
pub const CONTROL_TOPIC: &str = "CONTROL_TOPIC";

/// The topic for events that cannot be processed.
pub const DEAD_LETTER_TOPIC: &str = "DEAD_LETTER_TOPIC";

/// The Parameter Store parameter that holds the mode.
pub const MODE_PARAMETER: &str = "MODE_PARAMETER";

/// How long a writer goes by the mode that it read, in seconds.
pub const MODE_TTL_SECONDS: &str = "MODE_TTL_SECONDS";

/// The alarms whose states make the mode: names, separated by commas.
pub const MODE_ALARMS: &str = "MODE_ALARMS";

/// How long the alarms must be calm before the mode steps down, in seconds.
pub const MODE_HOLD_SECONDS: &str = "MODE_HOLD_SECONDS";

/// Records in a chunk, which is one transaction.
pub const CHUNK_RECORDS: &str = "CHUNK_RECORDS";

/// Chunks at once in the mode GREEN, at most.
pub const CHUNK_CONCURRENCY: &str = "CHUNK_CONCURRENCY";

/// Chunks at once in the mode YELLOW, at most.
pub const CHUNK_CONCURRENCY_YELLOW: &str = "CHUNK_CONCURRENCY_YELLOW";

/// Chunks at once in the mode RED, at most.
pub const CHUNK_CONCURRENCY_RED: &str = "CHUNK_CONCURRENCY_RED";

/// What is left of an invocation's time when no more is begun, in seconds.
pub const SAFETY_SECONDS: &str = "SAFETY_SECONDS";

/// The writer's database user, for whom the migration makes a role.
pub const WRITER_USER: &str = "WRITER_USER";

/// The connections of the writer's role, at most.
pub const WRITER_CONNECTIONS: &str = "WRITER_CONNECTIONS";

/// The secret with the writer's password, where it does not sign in by IAM.
pub const WRITER_SECRET_ARN: &str = "WRITER_SECRET_ARN";

/// The database user of the noisy neighbour, for whom the migration makes a role where one is named.
pub const NEIGHBOUR_USER: &str = "NEIGHBOUR_USER";

/// The secret with the noisy neighbour's password.
pub const NEIGHBOUR_SECRET_ARN: &str = "NEIGHBOUR_SECRET_ARN";

/// Days that the ids of applied events are remembered.
pub const EVENT_MEMORY_DAYS: &str = "EVENT_MEMORY_DAYS";

/// What the transform function gets.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformConfiguration {
    /// The cluster.
    pub kafka: KafkaConfiguration,
    /// Where events come from.
    pub source_topic: String,
    /// Where those go that are well-formed.
    pub buffer_topic: String,
    /// Where those go that are not.
    pub dead_letter_topic: String,
    /// What is left of an invocation's time when no more is begun, in seconds.
    pub safety_seconds: f64,
}

impl TransformConfiguration {
    /// Reads the configuration.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or cannot be used.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigurationError> {
        let reader = Reader::new(lookup);
        Ok(Self {
            kafka: KafkaConfiguration::read(&reader)?,
            source_topic: reader.text(SOURCE_TOPIC, "the topic that the events come from")?,
            buffer_topic: reader.text(BUFFER_TOPIC, "the topic that checked events go to")?,
            dead_letter_topic: reader.text(DEAD_LETTER_TOPIC, "the topic for what cannot be processed")?,
            safety_seconds: safety(&reader)?,
        })
    }
}

/// What the writer gets.
#[derive(Clone, Debug, PartialEq)]
pub struct WriterConfiguration {
    /// The cluster.
    pub kafka: KafkaConfiguration,
    /// Where events come from.
    pub source_topic: String,
    /// Where events go that cannot be written.
    pub dead_letter_topic: String,
    /// The parameter with the mode.
    pub mode_parameter: String,
    /// How long a mode that was read is gone by, in seconds.
    pub mode_ttl_seconds: f64,
    /// The database.
    pub database: DatabaseConfiguration,
    /// Records in a chunk, at most.
    pub chunk_records: u32,
    /// Chunks at once in GREEN, YELLOW and RED, at most.
    pub chunk_concurrency: [u32; 3],
    /// What is left of an invocation's time when no more is begun, in seconds.
    pub safety_seconds: f64,
}

impl WriterConfiguration {
    /// Reads the configuration. The defaults: chunks of 30; at once 2 in GREEN and YELLOW, 1 in RED.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or cannot be used.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigurationError> {
        let reader = Reader::new(lookup);
        let green = reader.number(CHUNK_CONCURRENCY, 2, 1..=64)?;
        Ok(Self {
            kafka: KafkaConfiguration::read(&reader)?,
            source_topic: reader.text(SOURCE_TOPIC, "the topic that the events come from")?,
            dead_letter_topic: reader.text(DEAD_LETTER_TOPIC, "the topic for what cannot be processed")?,
            mode_parameter: reader.text(MODE_PARAMETER, "the parameter that holds the mode")?,
            mode_ttl_seconds: reader.number(MODE_TTL_SECONDS, 2.0, 0.1..=60.0)?,
            database: DatabaseConfiguration::read(&reader)?,
            chunk_records: reader.number(CHUNK_RECORDS, 30, 1..=1_000)?,
            chunk_concurrency: [
                green,
                reader.number(CHUNK_CONCURRENCY_YELLOW, green.min(2), 1..=64)?,
                reader.number(CHUNK_CONCURRENCY_RED, 1, 1..=64)?,
            ],
            safety_seconds: safety(&reader)?,
        })
    }
}

/// What the mode function gets.
#[derive(Clone, Debug, PartialEq)]
pub struct ModeConfiguration {
    /// The cluster.
    pub kafka: KafkaConfiguration,
    /// Where the mode is sent.
    pub control_topic: String,
    /// The parameter with the mode.
    pub mode_parameter: String,
    /// The alarms' names.
    pub alarms: Vec<String>,
    /// How long the alarms must be calm before the mode steps down, in seconds.
    pub hold_seconds: f64,
}

impl ModeConfiguration {
    /// Reads the configuration. The default hold is 60 s.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or cannot be used.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigurationError> {
        let reader = Reader::new(lookup);
        let names = reader.text(MODE_ALARMS, "the alarms that make the mode, separated by commas")?;
        let alarms: Vec<String> =
            names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        // CloudWatch describes up to 100 alarms by name in one call.
        if alarms.is_empty() || alarms.len() > 100 {
            return Err(ConfigurationError::Invalid {
                name: MODE_ALARMS,
                value: names,
                expected: "1 to 100 names".to_owned(),
            });
        }
        Ok(Self {
            kafka: KafkaConfiguration::read(&reader)?,
            control_topic: reader.text(CONTROL_TOPIC, "the topic that carries the mode")?,
            mode_parameter: reader.text(MODE_PARAMETER, "the parameter that holds the mode")?,
            alarms,
            hold_seconds: reader.number(MODE_HOLD_SECONDS, 60.0, 0.0..=3600.0)?,
        })
    }
}

/// The role of a service that shares the database with the ledger, and none of its tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighbourConfiguration {
    /// Its user.
    pub user: String,
    /// The secret with its password.
    pub secret_arn: String,
}

/// What the migration gets.
#[derive(Clone, Debug, PartialEq)]
pub struct MigrateConfiguration {
    /// The database, as its administrator.
    pub database: DatabaseConfiguration,
    /// The writer's user.
    pub writer_user: String,
    /// The connections of the writer's role, at most.
    pub writer_connections: u32,
    /// The secret with the writer's password; without one it signs in by IAM.
    pub writer_secret_arn: Option<String>,
    /// Another service on the same database, where there is one.
    pub neighbour: Option<NeighbourConfiguration>,
    /// Days that the ids of applied events are remembered.
    pub event_memory_days: u32,
}

impl MigrateConfiguration {
    /// Reads the configuration. Events are remembered for 14 days by default, which is longer than any topic of
    /// the system keeps them.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or cannot be used.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigurationError> {
        let reader = Reader::new(lookup);
        let writer_user = role(WRITER_USER, reader.text(WRITER_USER, "the database's user of the writer")?)?;
        let neighbour = match reader.optional(NEIGHBOUR_USER) {
            None => None,
            Some(user) => Some(NeighbourConfiguration {
                user: role(NEIGHBOUR_USER, user)?,
                secret_arn: reader
                    .text(NEIGHBOUR_SECRET_ARN, "the secret with the noisy neighbour's password")?,
            }),
        };
        Ok(Self {
            database: DatabaseConfiguration::read(&reader)?,
            writer_user,
            writer_connections: reader.number(WRITER_CONNECTIONS, 10, 1..=5_000)?,
            writer_secret_arn: reader.optional(WRITER_SECRET_ARN),
            neighbour,
            event_memory_days: reader.number(EVENT_MEMORY_DAYS, 14, 1..=365)?,
        })
    }
}

/// A role's name, which becomes part of a statement.
fn role(name: &'static str, value: String) -> Result<String, ConfigurationError> {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if value.len() > 63 || !value.chars().all(valid) {
        let expected = "up to 63 small letters, digits and underscores".to_owned();
        return Err(ConfigurationError::Invalid { name, value, expected });
    }
    Ok(value)
}

fn safety<F: Fn(&str) -> Option<String>>(reader: &Reader<F>) -> Result<f64, ConfigurationError> {
    reader.number(SAFETY_SECONDS, 2.5, 0.1..=60.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::database::DatabaseAuthentication;

    fn variables(change: &[(&'static str, &'static str)]) -> BTreeMap<&'static str, &'static str> {
        let mut variables = BTreeMap::from([
            ("KAFKA_BOOTSTRAP_SERVERS", "b-1:9098"),
            ("SOURCE_TOPIC", "buffer"),
            ("DEAD_LETTER_TOPIC", "dead"),
            ("CONTROL_TOPIC", "control"),
            ("MODE_PARAMETER", "/ledger/mode"),
            ("MODE_ALARMS", "a, b,"),
            ("DATABASE_HOST", "proxy.example"),
            ("DATABASE_NAME", "ledger"),
            ("DATABASE_USER", "ledger_writer"),
            ("AWS_REGION", "eu-west-1"),
            ("WRITER_USER", "ledger_writer"),
        ]);
        variables.extend(change.iter().copied());
        variables
    }

    fn writer(change: &[(&'static str, &'static str)]) -> Result<WriterConfiguration, ConfigurationError> {
        let variables = variables(change);
        WriterConfiguration::from_environment(|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn a_database_is_named_with_or_without_its_port() {
        let plain = writer(&[]).unwrap().database;
        assert_eq!((plain.host.as_str(), plain.port), ("proxy.example", 5432));
        assert_eq!(plain.authentication, DatabaseAuthentication::Iam { region: "eu-west-1".to_owned() });
        let local = writer(&[("DATABASE_HOST", "127.0.0.1:6000")]).unwrap().database;
        assert_eq!((local.host.as_str(), local.port), ("127.0.0.1", 6000));
        for wrong in ["host:port", ":5432", "host:99999"] {
            let error = writer(&[("DATABASE_HOST", wrong)]).unwrap_err();
            assert!(error.to_string().contains("DATABASE_HOST"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_named_where_it_is_used() {
        let error = writer(&[("DATABASE_AUTHENTICATION", "secret")]).unwrap_err();
        assert!(error.to_string().contains("DATABASE_SECRET_ARN"), "{error}");
        let error = writer(&[("DATABASE_AUTHENTICATION", "trust")]).unwrap_err();
        assert!(error.to_string().contains("`iam` or `secret`"), "{error}");
        let error = writer(&[("DATABASE_USER", "")]).unwrap_err();
        assert!(error.to_string().contains("DATABASE_USER"), "{error}");
    }

    #[test]
    fn ceilings_follow_the_mode() {
        assert_eq!(writer(&[]).unwrap().chunk_concurrency, [2, 2, 1]);
        assert_eq!(writer(&[("CHUNK_CONCURRENCY", "8")]).unwrap().chunk_concurrency, [8, 2, 1]);
        assert_eq!(writer(&[("CHUNK_CONCURRENCY", "1")]).unwrap().chunk_concurrency, [1, 1, 1]);
    }

    #[test]
    fn alarms_are_named_and_a_role_is_no_sql() {
        let read = |change: &[(&'static str, &'static str)]| {
            let variables = variables(change);
            ModeConfiguration::from_environment(|name| variables.get(name).map(|value| (*value).to_owned()))
        };
        assert_eq!(read(&[]).unwrap().alarms, ["a", "b"]);
        assert!(read(&[("MODE_ALARMS", " , ")]).is_err());
        let variables = variables(&[("WRITER_USER", "w; DROP TABLE x")]);
        let migrate = MigrateConfiguration::from_environment(|name| {
            variables.get(name).map(|value| (*value).to_owned())
        });
        assert!(migrate.unwrap_err().to_string().contains("WRITER_USER"));
    }

    #[test]
    fn a_neighbour_is_named_with_its_secret_or_not_at_all() {
        let read = |change: &[(&'static str, &'static str)]| {
            let variables = variables(change);
            MigrateConfiguration::from_environment(|name| {
                variables.get(name).map(|value| (*value).to_owned())
            })
        };
        assert_eq!(read(&[]).unwrap().neighbour, None);
        let error = read(&[("NEIGHBOUR_USER", "noisy")]).unwrap_err();
        assert!(error.to_string().contains("NEIGHBOUR_SECRET_ARN"), "{error}");
        let error = read(&[("NEIGHBOUR_USER", "Noisy"), ("NEIGHBOUR_SECRET_ARN", "s")]).unwrap_err();
        assert!(error.to_string().contains("NEIGHBOUR_USER"), "{error}");
        let named = read(&[("NEIGHBOUR_USER", "noisy"), ("NEIGHBOUR_SECRET_ARN", "s")]).unwrap();
        assert_eq!(named.neighbour.map(|neighbour| neighbour.user), Some("noisy".to_owned()));
    }
}
