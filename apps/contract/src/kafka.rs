//! How a workload reaches its Kafka cluster.

use crate::environment::{ConfigurationError, Reader, Writer};

/// Bytes of messages that a consumer's client fetches ahead: it is asked for more below that, so an answer of each broker
/// comes on top. Sizes of pods are derived from these.
pub const FETCH_QUEUE_BYTES: u64 = 8 << 20;

/// The same, in messages: of small ones their bookkeeping takes more than their bytes.
pub const FETCH_QUEUE_MESSAGES: u64 = 20_000;

/// Bytes of a broker's answer, at most, as they are sent: compressed messages are unpacked all at once, whatever room there is
/// for them. A single larger batch of messages comes alone.
pub const FETCH_RESPONSE_BYTES: u64 = 256 << 10;

/// How a client proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KafkaAuthentication {
    /// Not at all, over plaintext: a broker on the same machine.
    None,
    /// MSK IAM: TLS with SASL/OAUTHBEARER, the token signed with the workload's AWS credentials (port 9098).
    MskIam {
        /// The cluster's region.
        region: String,
    },
}

/// How a workload reaches its Kafka cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaConfiguration {
    /// `host:port` of one or more brokers, separated by commas.
    pub bootstrap_servers: String,
    /// How the client proves who it is.
    pub authentication: KafkaAuthentication,
}

/// The brokers.
pub const BOOTSTRAP_SERVERS: &str = "KAFKA_BOOTSTRAP_SERVERS";

/// `none` or `msk-iam`.
pub const AUTHENTICATION: &str = "KAFKA_AUTHENTICATION";
const REGION: &str = "AWS_REGION";

impl KafkaConfiguration {
    /// Reads how to reach the cluster.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or cannot be used.
    pub fn read<F: Fn(&str) -> Option<String>>(reader: &Reader<F>) -> Result<Self, ConfigurationError> {
        let bootstrap_servers = reader.text(BOOTSTRAP_SERVERS, "host:port of the Kafka brokers")?;
        let authentication = match reader.optional(AUTHENTICATION).as_deref() {
            None | Some("none") => KafkaAuthentication::None,
            Some("msk-iam") => {
                KafkaAuthentication::MskIam { region: reader.text(REGION, "the region of the MSK cluster")? }
            }
            Some(other) => {
                return Err(ConfigurationError::Invalid {
                    name: AUTHENTICATION,
                    value: other.to_owned(),
                    expected: "`none` or `msk-iam`".to_owned(),
                });
            }
        };
        Ok(Self { bootstrap_servers, authentication })
    }

    pub(crate) fn write(&self, writer: Writer) -> Writer {
        let writer = writer.set(BOOTSTRAP_SERVERS, &self.bootstrap_servers);
        match &self.authentication {
            KafkaAuthentication::None => writer.set(AUTHENTICATION, "none"),
            KafkaAuthentication::MskIam { region } => {
                writer.set(AUTHENTICATION, "msk-iam").set(REGION, region)
            }
        }
    }
}
