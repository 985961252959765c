//! The Kafka client: connection settings and the token of MSK's IAM authentication.

use rdkafka::{
    ClientContext,
    client::OAuthToken,
    config::{ClientConfig, RDKafkaLogLevel},
    error::KafkaError,
};
use worker_contract::{KafkaAuthentication, KafkaConfiguration};

/// The settings that every client of the cluster shares.
#[must_use]
pub fn client_config(kafka: &KafkaConfiguration, client_id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        .set("client.id", client_id)
        .set("socket.keepalive.enable", "true")
        // Brokers close idle connections after ten minutes; go first, without an error in the log.
        .set("connections.max.idle.ms", "540000")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "2000")
        .set_log_level(RDKafkaLogLevel::Warning);
    if let KafkaAuthentication::MskIam { .. } = kafka.authentication {
        config.set("security.protocol", "SASL_SSL").set("sasl.mechanism", "OAUTHBEARER");
    }
    config
}

/// The settings of a producer that neither loses nor repeats what it has accepted: acknowledged by all
/// in-sync replicas, numbered, so that the broker drops repetitions.
#[must_use]
pub fn producer_config(kafka: &KafkaConfiguration, client_id: &str) -> ClientConfig {
    let mut config = client_config(kafka, client_id);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("compression.type", "gzip")
        .set("delivery.timeout.ms", "120000")
        .set("queue.buffering.max.kbytes", "65536");
    config
}

/// Makes the tokens of MSK's IAM authentication. The client asks for one from within its poll, and for a new
/// one before the old expires.
#[derive(Clone, Debug)]
pub struct TokenSource {
    authentication: KafkaAuthentication,
    runtime: tokio::runtime::Handle,
}

impl TokenSource {
    /// A source for clients of that cluster. The runtime signs the tokens; the asking thread is the client's
    /// own and must not be one of the runtime's.
    #[must_use]
    pub fn new(kafka: &KafkaConfiguration, runtime: tokio::runtime::Handle) -> Self {
        Self { authentication: kafka.authentication.clone(), runtime }
    }

    /// A token, with the time of its expiry in ms since the epoch.
    ///
    /// # Errors
    ///
    /// When there are no AWS credentials, or the cluster wants no token.
    pub fn token(&self) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let KafkaAuthentication::MskIam { region } = &self.authentication else {
            return Err("the cluster is not configured for IAM authentication".into());
        };
        let region = aws_types::region::Region::new(region.clone());
        let (token, lifetime_ms) =
            self.runtime.block_on(aws_msk_iam_sasl_signer::generate_auth_token(region))?;
        Ok(OAuthToken { token, principal_name: String::new(), lifetime_ms })
    }
}

/// The context of a client that is not a consumer.
#[derive(Clone, Debug)]
pub struct ProducerContext {
    tokens: TokenSource,
}

impl ProducerContext {
    /// With a source of tokens.
    #[must_use]
    pub fn new(tokens: TokenSource) -> Self {
        Self { tokens }
    }
}

impl ClientContext for ProducerContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client");
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.tokens.token()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kafka(authentication: KafkaAuthentication) -> KafkaConfiguration {
        KafkaConfiguration { bootstrap_servers: "b-1:9098".to_owned(), authentication }
    }

    #[test]
    fn a_producer_is_idempotent_and_waits_for_all_replicas() {
        let config = producer_config(&kafka(KafkaAuthentication::None), "t");
        assert_eq!(config.get("acks"), Some("all"));
        assert_eq!(config.get("enable.idempotence"), Some("true"));
        assert_eq!(config.get("security.protocol"), None);
    }

    #[test]
    fn iam_means_tls_and_a_token() {
        let config =
            client_config(&kafka(KafkaAuthentication::MskIam { region: "eu-west-1".to_owned() }), "t");
        assert_eq!(config.get("security.protocol"), Some("SASL_SSL"));
        assert_eq!(config.get("sasl.mechanism"), Some("OAUTHBEARER"));
    }
}
