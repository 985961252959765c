//! How a workload reaches the cache of tags.

use crate::environment::{ConfigurationError, Reader, Writer};

/// `host` or `host:port` of the cache's cluster endpoint.
pub const CACHE_ENDPOINT: &str = "CACHE_ENDPOINT";

/// How the cache is told who connects: `none` or `memorydb-iam`.
pub const CACHE_AUTHENTICATION: &str = "CACHE_AUTHENTICATION";

/// The cache's name, which IAM tokens are signed for.
pub const CACHE_NAME: &str = "CACHE_NAME";

/// The cache's user, who signs in by IAM.
pub const CACHE_USER: &str = "CACHE_USER";

/// What the worker may do in the cache, as an access list has it: read and write, by a script that changes a snapshot
/// and its deltas together and in transactions that read both; ask which node has which slots. Nothing that
/// administers.
pub const CACHE_ACCESS: &str = "resetchannels -@all +@read +@write +@connection +@transaction -@dangerous +eval +evalsha +script|load +cluster|slots ~*";

const REGION: &str = "AWS_REGION";

/// Where a cache listens when its endpoint names no port.
const CACHE_PORT_DEFAULT: u16 = 6379;

/// How the cache is told who connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheAuthentication {
    /// Not at all, without TLS: a cache on the same machine.
    None,
    /// MemoryDB's IAM authentication, over TLS: a token signed with the workload's AWS credentials.
    MemoryDbIam {
        /// The cluster's region.
        region: String,
        /// The cluster's name.
        cluster: String,
        /// The user.
        user: String,
    },
}

/// How a workload reaches the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfiguration {
    /// `host` or `host:port` of the cache.
    pub endpoint: String,
    /// How the cache is told who connects.
    pub authentication: CacheAuthentication,
}

impl CacheConfiguration {
    /// Reads how to reach the cache.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or cannot be used; a cache without TLS that is not on this machine.
    pub fn read<F: Fn(&str) -> Option<String>>(reader: &Reader<F>) -> Result<Self, ConfigurationError> {
        let endpoint = reader.text(CACHE_ENDPOINT, "host:port of the cache")?;
        let invalid = |name, value: String, expected: &str| ConfigurationError::Invalid {
            name,
            value,
            expected: expected.to_owned(),
        };
        let (host, _) = parse_endpoint(&endpoint)
            .ok_or_else(|| invalid(CACHE_ENDPOINT, endpoint.clone(), "`host` or `host:port`"))?;
        let authentication = match reader.optional(CACHE_AUTHENTICATION).as_deref() {
            None | Some("none") => {
                if !["127.0.0.1", "localhost"].contains(&host) {
                    let expected = "on this machine, as a cache without authentication must be";
                    return Err(invalid(CACHE_ENDPOINT, endpoint, expected));
                }
                CacheAuthentication::None
            }
            Some("memorydb-iam") => CacheAuthentication::MemoryDbIam {
                region: reader.text(REGION, "the region of the cache")?,
                cluster: reader.text(CACHE_NAME, "the cache's name, which tokens are signed for")?,
                user: reader.text(CACHE_USER, "the cache's user")?,
            },
            Some(other) => {
                return Err(invalid(CACHE_AUTHENTICATION, other.to_owned(), "`none` or `memorydb-iam`"));
            }
        };
        Ok(Self { endpoint, authentication })
    }

    pub(crate) fn write(&self, writer: Writer) -> Writer {
        let writer = writer.set(CACHE_ENDPOINT, &self.endpoint);
        match &self.authentication {
            CacheAuthentication::None => writer.set(CACHE_AUTHENTICATION, "none"),
            CacheAuthentication::MemoryDbIam { region, cluster, user } => writer
                .set(CACHE_AUTHENTICATION, "memorydb-iam")
                .set(REGION, region)
                .set(CACHE_NAME, cluster)
                .set(CACHE_USER, user),
        }
    }

    /// The cache's host and port.
    #[must_use]
    pub fn address(&self) -> (&str, u16) {
        parse_endpoint(&self.endpoint).unwrap_or((&self.endpoint, CACHE_PORT_DEFAULT))
    }
}

fn parse_endpoint(endpoint: &str) -> Option<(&str, u16)> {
    match endpoint.rsplit_once(':') {
        None => Some((endpoint, CACHE_PORT_DEFAULT)),
        Some((host, port)) => port.parse().ok().filter(|_| !host.is_empty()).map(|port| (host, port)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(variables: &BTreeMap<String, String>) -> Result<CacheConfiguration, ConfigurationError> {
        CacheConfiguration::read(&Reader::new(|name: &str| variables.get(name).cloned()))
    }

    fn without_authentication(endpoint: &str) -> CacheConfiguration {
        CacheConfiguration { endpoint: endpoint.to_owned(), authentication: CacheAuthentication::None }
    }

    #[test]
    fn what_the_stack_writes_is_what_the_workload_reads() {
        let by_iam = CacheConfiguration {
            endpoint: "cache.example".to_owned(),
            authentication: CacheAuthentication::MemoryDbIam {
                region: "eu-west-1".to_owned(),
                cluster: "tags".to_owned(),
                user: "tags-worker".to_owned(),
            },
        };
        assert_eq!(by_iam.address(), ("cache.example", 6379));
        let local = without_authentication("127.0.0.1:7000");
        assert_eq!(local.address(), ("127.0.0.1", 7000));
        for configuration in [by_iam, local] {
            assert_eq!(read(&configuration.write(Writer::default()).finish()), Ok(configuration));
        }
    }

    #[test]
    fn a_cache_elsewhere_is_not_reached_without_tls() {
        let variables = |endpoint: &str| without_authentication(endpoint).write(Writer::default()).finish();
        let error = read(&variables("cache.example:6379")).unwrap_err().to_string();
        assert!(error.contains("on this machine"), "{error}");
        let error = read(&variables("localhost:port")).unwrap_err().to_string();
        assert!(error.contains("`host:port`"), "{error}");
    }
}
