//! PostgreSQL: signing in, a bounded number of connections, and what an error means.
//!
//! Connections are kept here and not in a general pool, for three reasons. A token of IAM is valid for minutes, so each
//! new connection signs in with one of its own. A connection whose statement was given up in the middle is closed
//! and never used again. And no statement is sent beside those that are asked for: behind RDS Proxy each one is a
//! chance to pin the session.

use std::{
    fmt,
    future::Future,
    net::IpAddr,
    ops::{Deref, DerefMut},
    pin::Pin,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::config::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};
use serde::Deserialize;
use sqlx::{
    ConnectOptions, Connection, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::sync::{Semaphore, SemaphorePermit};
use worker_contract::{DatabaseAuthentication, DatabaseConfiguration};

use crate::processing::HandleError;

/// How long a token of IAM is valid (Amazon RDS user guide, "IAM database authentication").
const TOKEN_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A user and what proves that it is that user.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct SignIn {
    /// The user's name.
    #[serde(rename = "username")]
    pub user: String,
    /// A password, or a token.
    pub password: String,
}

impl fmt::Debug for SignIn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SignIn").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A sign-in that is being fetched.
pub type SigningIn<'a> = Pin<Box<dyn Future<Output = Result<SignIn, String>> + Send + 'a>>;

/// Who gives the sign-in of a new connection.
pub trait Credentials: Send + Sync {
    /// The sign-in. `refused` says that the database refused the one before: what is remembered is read again.
    fn sign_in(&self, refused: bool) -> SigningIn<'_>;
}

/// Why there is no connection, or no effect.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// Nobody gave a sign-in.
    #[error("no sign-in for the database: {0}")]
    Credentials(String),
    /// It took too long.
    #[error("no connection within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    /// The database said so, or the way to it is broken.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl DatabaseError {
    /// What it means for the work that met it.
    #[must_use]
    pub fn verdict(&self) -> HandleError {
        match self {
            DatabaseError::Configuration(error) => HandleError::Fatal(error.clone()),
            DatabaseError::Credentials(_) | DatabaseError::Timeout => {
                HandleError::Retriable(self.to_string())
            }
            DatabaseError::Database(error) => verdict(error),
        }
    }
}

/// What an error means for the work that met it: whether to try again, to look for the culprit, or to give up.
#[must_use]
pub fn verdict(error: &sqlx::Error) -> HandleError {
    match error {
        sqlx::Error::Database(told) => {
            let code = told.code().unwrap_or_default().into_owned();
            let text = format!("{code}: {}", told.message());
            if is_retriable(&code) {
                HandleError::Retriable(text)
            } else if code.starts_with("22") || code.starts_with("23") {
                HandleError::Rejected(text)
            } else {
                HandleError::Fatal(text)
            }
        }
        // The connection is lost, or what came over it makes no sense: another one may do better.
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => {
            HandleError::Retriable(error.to_string())
        }
        _ => HandleError::Fatal(error.to_string()),
    }
}

/// SQLSTATEs after which the same may succeed (PostgreSQL documentation, appendix A).
fn is_retriable(code: &str) -> bool {
    // Connection exceptions; transaction rollbacks, among them serialization failures and deadlocks; too few
    // resources, among them too many connections; operator intervention, among them shutdown and time-outs.
    ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))
        // A lock was not to be had in time; a standby that was the writer before a failover.
        || ["55P03", "25006"].contains(&code)
        || is_refused_code(code)
}

fn is_refused_code(code: &str) -> bool {
    // A wrong password; no such user or sign-in.
    ["28P01", "28000"].contains(&code)
}

fn is_refused(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(told) if told.code().is_some_and(|code| is_refused_code(&code)))
}

/// A database, with connections of which there are never more than configured.
pub struct Database {
    options: PgConnectOptions,
    credentials: Arc<dyn Credentials>,
    idle: Mutex<Vec<PgConnection>>,
    permits: Semaphore,
}

impl Database {
    /// A database that is not connected to yet. TLS is verified against the public roots, name included; only the
    /// machine itself is spoken to without.
    ///
    /// # Errors
    ///
    /// When IAM is asked for on an address without TLS.
    pub fn new(
        configuration: &DatabaseConfiguration,
        credentials: Arc<dyn Credentials>,
        application: &str,
    ) -> Result<Self, DatabaseError> {
        let loopback = is_loopback(&configuration.host);
        let iam = matches!(configuration.authentication, DatabaseAuthentication::Iam { .. });
        if loopback && iam {
            return Err(DatabaseError::Configuration(format!(
                "{} is this machine, which is spoken to without TLS, and IAM needs TLS; set DATABASE_AUTHENTICATION to secret",
                configuration.host
            )));
        }
        let options = PgConnectOptions::new_without_pgpass()
            .host(&configuration.host)
            .port(configuration.port)
            .database(&configuration.database)
            .application_name(application)
            .ssl_mode(if loopback { PgSslMode::Disable } else { PgSslMode::VerifyFull })
            // Unnamed statements alone: a named one pins the session of a proxy.
            .statement_cache_capacity(0)
            .disable_statement_logging();
        Ok(Self {
            options,
            credentials,
            idle: Mutex::default(),
            permits: Semaphore::new(usize::try_from(configuration.connections).unwrap_or(1)),
        })
    }

    /// A connection, when there is one to be had: an idle one, or a new one. Where the database refuses the
    /// sign-in, it is read again once, because it may have been rotated.
    ///
    /// # Errors
    ///
    /// When there is no connection.
    pub async fn session(&self) -> Result<Session<'_>, DatabaseError> {
        let permit =
            self.permits.acquire().await.map_err(|error| DatabaseError::Configuration(error.to_string()))?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => tokio::time::timeout(CONNECT_TIMEOUT, self.connect())
                .await
                .map_err(|_| DatabaseError::Timeout)??,
        };
        Ok(Session { database: self, connection: Some(connection), _permit: permit })
    }

    async fn connect(&self) -> Result<PgConnection, DatabaseError> {
        match self.try_connect(false).await {
            Err(DatabaseError::Database(error)) if is_refused(&error) => {
                tracing::warn!(%error, "the database refuses the sign-in: it is read again");
                self.try_connect(true).await
            }
            result => result,
        }
    }

    async fn try_connect(&self, refused: bool) -> Result<PgConnection, DatabaseError> {
        let SignIn { user, password } =
            self.credentials.sign_in(refused).await.map_err(DatabaseError::Credentials)?;
        Ok(self.options.clone().username(&user).password(&password).connect().await?)
    }

    /// Closes the connections that nobody uses.
    pub async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in idle {
            // It ends either way.
            let _ = connection.close().await;
        }
    }
}

/// A connection in use. Dropped, it is closed: who knows in the middle of what. [`Session::keep`] gives it back.
pub struct Session<'a> {
    database: &'a Database,
    connection: Option<PgConnection>,
    _permit: SemaphorePermit<'a>,
}

impl Session<'_> {
    /// Gives the connection back for the next one: it is between statements.
    pub fn keep(mut self) {
        if let Some(connection) = self.connection.take() {
            self.database.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}

impl Deref for Session<'_> {
    type Target = PgConnection;

    #[allow(clippy::expect_used)]
    fn deref(&self) -> &PgConnection {
        // Taken by `keep` alone, which takes the session as well.
        self.connection.as_ref().expect("a session has its connection until it ends")
    }
}

impl DerefMut for Session<'_> {
    #[allow(clippy::expect_used)]
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("a session has its connection until it ends")
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || IpAddr::from_str(host).is_ok_and(|address| address.is_loopback())
}

/// The credentials that a configuration asks for.
///
/// # Errors
///
/// When IAM is asked for and there are no AWS credentials.
pub fn credentials(
    configuration: &DatabaseConfiguration,
    aws: &SdkConfig,
) -> Result<Arc<dyn Credentials>, DatabaseError> {
    match &configuration.authentication {
        DatabaseAuthentication::Iam { region } => {
            let provider = aws.credentials_provider().ok_or_else(|| {
                DatabaseError::Configuration("no AWS credentials, which IAM sign-ins need".to_owned())
            })?;
            Ok(Arc::new(IamCredentials {
                provider,
                endpoint: format!("{}:{}", configuration.host, configuration.port),
                region: region.clone(),
                user: configuration.user.clone().unwrap_or_default(),
            }))
        }
        DatabaseAuthentication::Secret { arn } => Ok(Arc::new(SecretCredentials {
            client: aws_sdk_secretsmanager::Client::new(aws),
            arn: arn.clone(),
            known: tokio::sync::Mutex::new(None),
        })),
    }
}

/// A password that Secrets Manager keeps, remembered until the database refuses it.
struct SecretCredentials {
    client: aws_sdk_secretsmanager::Client,
    arn: String,
    known: tokio::sync::Mutex<Option<SignIn>>,
}

impl Credentials for SecretCredentials {
    fn sign_in(&self, refused: bool) -> SigningIn<'_> {
        Box::pin(async move {
            let mut known = self.known.lock().await;
            if let Some(sign_in) = known.as_ref().filter(|_| !refused) {
                return Ok(sign_in.clone());
            }
            let sign_in = read_secret(&self.client, &self.arn).await?;
            *known = Some(sign_in.clone());
            Ok(sign_in)
        })
    }
}

/// Reads a secret with `username` and `password`.
///
/// # Errors
///
/// When it cannot be read or holds something else. The error never tells what it holds.
pub async fn read_secret(client: &aws_sdk_secretsmanager::Client, arn: &str) -> Result<SignIn, String> {
    let answer = client.get_secret_value().secret_id(arn).send().await.map_err(|error| {
        format!("the secret {arn}: {}", aws_sdk_secretsmanager::error::DisplayErrorContext(error))
    })?;
    serde_json::from_str(answer.secret_string().unwrap_or_default())
        .map_err(|_| format!("the secret {arn} is no JSON with username and password"))
}

/// A token, signed for each connection.
struct IamCredentials {
    provider: SharedCredentialsProvider,
    endpoint: String,
    region: String,
    user: String,
}

impl Credentials for IamCredentials {
    fn sign_in(&self, _refused: bool) -> SigningIn<'_> {
        Box::pin(async move {
            let credentials = self.provider.provide_credentials().await.map_err(|error| error.to_string())?;
            let identity = credentials.into();
            let mut settings = SigningSettings::default();
            settings.expires_in = Some(TOKEN_LIFETIME);
            settings.signature_location = SignatureLocation::QueryParams;
            let parameters = v4::SigningParams::builder()
                .identity(&identity)
                .region(&self.region)
                .name("rds-db")
                .time(SystemTime::now())
                .settings(settings)
                .build()
                .map_err(|error| error.to_string())?;
            token(&self.endpoint, &self.user, &parameters.into())
                .map(|password| SignIn { user: self.user.clone(), password })
        })
    }
}

/// The token: a signed request to connect, without its scheme (Amazon RDS user guide, "Connecting using IAM
/// authentication").
fn token(
    endpoint: &str,
    user: &str,
    parameters: &aws_sigv4::http_request::SigningParams<'_>,
) -> Result<String, String> {
    let url = format!("https://{endpoint}/?Action=connect&DBUser={user}");
    let host = [("host", endpoint)];
    let request = SignableRequest::new("GET", &url, host.into_iter(), SignableBody::empty())
        .map_err(|error| error.to_string())?;
    let (instructions, _) = sign(request, parameters).map_err(|error| error.to_string())?.into_parts();
    let mut token = url.trim_start_matches("https://").to_owned();
    for (name, value) in instructions.params() {
        token.push('&');
        token.push_str(name);
        token.push('=');
        token.extend(percent_encoded(value));
    }
    Ok(token)
}

/// As signing wants it: all but letters, digits and `-._~` (RFC 3986).
fn percent_encoded(text: &str) -> impl Iterator<Item = char> + '_ {
    text.bytes().flat_map(|byte| {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let text = if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        text.chars().collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_secretsmanager::config::Credentials as AwsCredentials;

    use super::*;

    fn configuration(host: &str, authentication: DatabaseAuthentication) -> DatabaseConfiguration {
        DatabaseConfiguration {
            host: host.to_owned(),
            port: 5432,
            database: "ledger".to_owned(),
            user: Some("ledger_writer".to_owned()),
            authentication,
            connections: 2,
        }
    }

    fn iam() -> DatabaseAuthentication {
        DatabaseAuthentication::Iam { region: "eu-west-1".to_owned() }
    }

    #[tokio::test]
    async fn a_token_is_a_signed_request_of_fifteen_minutes() {
        let provider = SharedCredentialsProvider::new(AwsCredentials::new(
            "AKIDEXAMPLE",
            "secret",
            Some("session/token=".to_owned()),
            None,
            "test",
        ));
        let credentials = IamCredentials {
            provider,
            endpoint: "proxy.example:5432".to_owned(),
            region: "eu-west-1".to_owned(),
            user: "ledger_writer".to_owned(),
        };
        let SignIn { user, password } = credentials.sign_in(false).await.unwrap();
        assert_eq!(user, "ledger_writer");
        assert!(
            password.starts_with("proxy.example:5432/?Action=connect&DBUser=ledger_writer&"),
            "{password}"
        );
        for part in [
            "X-Amz-Algorithm=AWS4-HMAC-SHA256",
            "X-Amz-Expires=900",
            "X-Amz-SignedHeaders=host",
            "%2Feu-west-1%2Frds-db%2Faws4_request",
            "X-Amz-Security-Token=session%2Ftoken%3D",
            "X-Amz-Signature=",
        ] {
            assert!(password.contains(part), "{part} in {password}");
        }
    }

    #[test]
    fn only_the_machine_itself_is_spoken_to_without_tls() {
        struct Nobody;
        impl Credentials for Nobody {
            fn sign_in(&self, _refused: bool) -> SigningIn<'_> {
                Box::pin(async { Err("nobody".to_owned()) })
            }
        }
        let mode = |host: &str, authentication| {
            Database::new(&configuration(host, authentication), Arc::new(Nobody), "test")
                .map(|database| database.options.get_ssl_mode())
        };
        let secret = || DatabaseAuthentication::Secret { arn: "arn".to_owned() };
        for host in ["127.0.0.1", "::1", "localhost"] {
            assert!(matches!(mode(host, secret()), Ok(PgSslMode::Disable)), "{host}");
        }
        for host in ["10.0.0.1", "proxy.example", "127.0.0.1.example", "0.0.0.0"] {
            assert!(matches!(mode(host, secret()), Ok(PgSslMode::VerifyFull)), "{host}");
            assert!(matches!(mode(host, iam()), Ok(PgSslMode::VerifyFull)), "{host}");
        }
        assert!(mode("127.0.0.1", iam()).unwrap_err().to_string().contains("secret"));
    }

    #[test]
    fn a_sign_in_does_not_show_its_password() {
        let sign_in: SignIn =
            serde_json::from_str(r#"{"username":"u","password":"hidden","host":"h"}"#).unwrap();
        assert!(!format!("{sign_in:?}").contains("hidden"));
    }

    #[test]
    fn codes_mean_what_they_say() {
        for code in ["40001", "40P01", "55P03", "57P01", "57P03", "53300", "08006", "57014", "28P01", "25006"]
        {
            assert!(is_retriable(code), "{code}");
        }
        for code in ["23505", "23514", "22001", "42P01", "42501", "3D000", ""] {
            assert!(!is_retriable(code), "{code}");
        }
        let lost = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(matches!(verdict(&lost), HandleError::Retriable(_)));
        assert!(matches!(verdict(&sqlx::Error::RowNotFound), HandleError::Fatal(_)));
    }
}
