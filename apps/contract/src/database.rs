//! How a workload reaches its PostgreSQL database.

use crate::environment::{ConfigurationError, Reader};

/// The database's host, or its proxy's, as `host` or `host:port`.
pub const HOST: &str = "DATABASE_HOST";

/// The database.
pub const NAME: &str = "DATABASE_NAME";

/// The user.
pub const USER: &str = "DATABASE_USER";

/// `iam` or `secret`.
pub const AUTHENTICATION: &str = "DATABASE_AUTHENTICATION";

/// The Secrets Manager secret with `username` and `password`, for the authentication `secret`.
pub const SECRET_ARN: &str = "DATABASE_SECRET_ARN";

/// Connections of a process, at most.
pub const CONNECTIONS: &str = "DATABASE_CONNECTIONS";

const REGION: &str = "AWS_REGION";

/// Where PostgreSQL listens unless it is said.
const PORT: u16 = 5432;

/// How a client proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseAuthentication {
    /// By a token, signed with the workload's AWS credentials for a user of its own name.
    Iam {
        /// The database's region.
        region: String,
    },
    /// By a password that Secrets Manager keeps.
    Secret {
        /// The secret's ARN or name.
        arn: String,
    },
}

/// How a workload reaches its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseConfiguration {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The database.
    pub database: String,
    /// The user; with a secret, the secret's user name where none is given.
    pub user: Option<String>,
    /// How the client proves who it is.
    pub authentication: DatabaseAuthentication,
    /// Connections of a process, at most.
    pub connections: u32,
}

impl DatabaseConfiguration {
    /// Reads how to reach the database.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or cannot be used.
    pub fn read<F: Fn(&str) -> Option<String>>(reader: &Reader<F>) -> Result<Self, ConfigurationError> {
        let address = reader.text(HOST, "host, or host:port, of the database or its proxy")?;
        let (host, port) = match address.rsplit_once(':') {
            None => (address.clone(), PORT),
            Some((host, port)) => match port.parse() {
                Ok(port) if !host.is_empty() => (host.to_owned(), port),
                _ => {
                    return Err(ConfigurationError::Invalid {
                        name: HOST,
                        value: address,
                        expected: "a host or host:port".to_owned(),
                    });
                }
            },
        };
        let user = reader.optional(USER);
        let authentication = match reader.optional(AUTHENTICATION).as_deref() {
            None | Some("iam") => {
                if user.is_none() {
                    return Err(ConfigurationError::Missing {
                        name: USER,
                        meaning: "the user that signs in by IAM",
                    });
                }
                DatabaseAuthentication::Iam { region: reader.text(REGION, "the database's region")? }
            }
            Some("secret") => DatabaseAuthentication::Secret {
                arn: reader.text(SECRET_ARN, "the secret with the database's user name and password")?,
            },
            Some(other) => {
                return Err(ConfigurationError::Invalid {
                    name: AUTHENTICATION,
                    value: other.to_owned(),
                    expected: "`iam` or `secret`".to_owned(),
                });
            }
        };
        Ok(Self {
            host,
            port,
            database: reader.text(NAME, "the database's name")?,
            user,
            authentication,
            connections: reader.number(CONNECTIONS, 1, 1..=100)?,
        })
    }
}
