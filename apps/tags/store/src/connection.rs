//! Reaching a cluster, with a password that may change.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use redis::{
    ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    ServerErrorKind, cluster::ClusterClient, cluster_async::ClusterConnection,
};

/// How long a connection to a node may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Tries of the client itself, which follows slots that move.
const CLIENT_RETRIES: u32 = 3;

/// Why the cache did not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It may later: a node is away, busy, or hands its slots over.
    #[error("the cache is busy or away: {0}")]
    Busy(#[source] RedisError),
    /// It will not: permissions, a wrong password, or a script that it does not take.
    #[error("the cache refuses: {0}")]
    Refused(#[source] RedisError),
    /// It holds what nobody here has written.
    #[error("the cache holds something of another form: {0}")]
    Form(String),
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        let busy = error.is_io_error()
            || error.is_cluster_error()
            || error.is_timeout()
            || error.is_connection_dropped()
            || error.is_connection_refusal()
            || matches!(
                error.kind(),
                ErrorKind::ClusterConnectionNotFound
                    | ErrorKind::Server(
                        ServerErrorKind::BusyLoading
                            | ServerErrorKind::TryAgain
                            | ServerErrorKind::MasterDown
                    )
            )
            || matches!(error.code(), Some("OOM" | "BUSY" | "MISCONF" | "NOREPLICAS"));
        if busy { Self::Busy(error) } else { Self::Refused(error) }
    }
}

/// Where a cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A host of the cluster, or the name that stands for all.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether by TLS. Without it only this machine is reached.
    pub tls: bool,
}

/// Who connects.
#[derive(Clone)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password, or a token that stands for it for a while.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A cluster. Copies share its connections.
#[derive(Clone)]
pub struct Store {
    connection: Arc<RwLock<ClusterConnection>>,
    endpoint: Endpoint,
}

impl Store {
    /// Connects.
    ///
    /// # Errors
    ///
    /// When no node answers, or the credentials are refused.
    pub async fn connect(endpoint: Endpoint, credentials: Option<Credentials>) -> Result<Self, StoreError> {
        let connection = connect(&endpoint, credentials).await?;
        Ok(Self { connection: Arc::new(RwLock::new(connection)), endpoint })
    }

    /// Connects anew, for all copies: a token is good for connecting for minutes, and a connection that was made with
    /// it for hours, while nodes come and go at any time. What is under way ends on the old connections.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`]; the old connections stay then.
    pub async fn renew(&self, credentials: Option<Credentials>) -> Result<(), StoreError> {
        let connection = connect(&self.endpoint, credentials).await?;
        *self.connection.write().unwrap_or_else(PoisonError::into_inner) = connection;
        Ok(())
    }

    pub(crate) fn connection(&self) -> ClusterConnection {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn connect(
    endpoint: &Endpoint,
    credentials: Option<Credentials>,
) -> Result<ClusterConnection, StoreError> {
    let Endpoint { host, port, tls } = endpoint.clone();
    let address = if tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let mut settings = RedisConnectionInfo::default();
    if let Some(Credentials { user, password }) = credentials {
        settings = settings.set_username(user).set_password(password);
    }
    let node: ConnectionInfo = address.into_connection_info()?.set_redis_settings(settings);
    let client = ClusterClient::builder([node])
        .retries(CLIENT_RETRIES)
        .connection_timeout(CONNECT_TIMEOUT)
        .response_timeout(ANSWER_TIMEOUT)
        .build()?;
    Ok(client.get_async_connection().await?)
}
