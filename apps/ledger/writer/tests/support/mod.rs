//! A private PostgreSQL with the ledger's schema, writers on it, and events to feed them.

#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, unreachable_pub)]

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ledger_events::{Envelope, Mode, ModeRecord};
use ledger_migrate::schema::{self, WriterSignIn};
use ledger_writer::{
    tables::Tables,
    writer::{ModeSource, Writer},
};
use local_testing::{PATIENCE, Postgresql};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgConnection, postgres::PgConnectOptions};
use worker_contract::{
    DatabaseAuthentication, DatabaseConfiguration, KafkaAuthentication, KafkaConfiguration,
    ledger::WriterConfiguration,
};
use worker_kit::{
    batch::{Origin, Record},
    database::{Credentials, Database, SignIn, SigningIn},
    dead_letters::{DeadLetterSink, Rejection},
    kafka_event::{BatchResponse, Delivered, EventRecord, KafkaEvent},
};

/// A database server of the tests' own. It can be killed and started again on its data.
pub struct Server {
    postgresql: Mutex<Postgresql>,
    port: u16,
    superuser: PgConnectOptions,
    databases: AtomicU32,
}

static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());

impl Server {
    /// The server that tests have in common as long as one of them uses it.
    pub fn common() -> Arc<Self> {
        let mut server = SERVER.lock().unwrap();
        server.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Self::start());
            *server = Arc::downgrade(&started);
            started
        })
    }

    /// A server that a test can do to what it likes.
    pub fn start() -> Self {
        let postgresql = Postgresql::start();
        let superuser = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(postgresql.port())
            .username(&postgresql.superuser())
            .password(&postgresql.password())
            .ssl_mode(sqlx::postgres::PgSslMode::Disable);
        Self {
            port: postgresql.port(),
            superuser,
            postgresql: Mutex::new(postgresql),
            databases: AtomicU32::new(0),
        }
    }

    /// As when the machine is gone.
    pub fn kill(&self) {
        self.postgresql.lock().unwrap().kill();
    }

    pub fn start_again(&self) {
        self.postgresql.lock().unwrap().start_again();
    }

    /// A new database with the present schema and a writer's role of its own.
    pub async fn ledger(self: &Arc<Self>, connections: u32) -> Ledger {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("ledger_{number}");
        let user = format!("writer_{number}");
        let mut superuser = within_reach(self.superuser.clone().database("postgres")).await;
        superuser.execute(sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))).await.unwrap();
        let ledger = Ledger { server: self.clone(), name, user, connections };
        let mut administrator = ledger.administrator().await;
        schema::migrate(&mut administrator).await.unwrap();
        let sign_in = WriterSignIn::Password("first".to_owned());
        schema::writer_role(&mut administrator, &ledger.user, connections, &sign_in).await.unwrap();
        ledger
    }
}

async fn within_reach(options: PgConnectOptions) -> PgConnection {
    let begun = Instant::now();
    loop {
        match options.clone().connect().await {
            Ok(connection) => return connection,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "no database: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A ledger's database.
#[derive(Clone)]
pub struct Ledger {
    pub server: Arc<Server>,
    pub name: String,
    pub user: String,
    pub connections: u32,
}

impl Ledger {
    pub async fn administrator(&self) -> PgConnection {
        within_reach(self.server.superuser.clone().database(&self.name)).await
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.server.port)
    }

    pub fn configuration(&self) -> DatabaseConfiguration {
        DatabaseConfiguration {
            host: "127.0.0.1".to_owned(),
            port: self.server.port,
            database: self.name.clone(),
            user: None,
            authentication: DatabaseAuthentication::Secret { arn: "the test's own".to_owned() },
            connections: self.connections,
        }
    }

    pub fn database(&self, credentials: Arc<dyn Credentials>) -> Database {
        Database::new(&self.configuration(), credentials, "ledger-writer").unwrap()
    }

    pub fn credentials(&self) -> Arc<Passwords> {
        Arc::new(Passwords {
            user: self.user.clone(),
            password: Mutex::new("first".to_owned()),
            known: Mutex::new(None),
            reads: AtomicUsize::new(0),
        })
    }

    pub fn tables(&self) -> Tables {
        Tables::new(self.database(self.credentials()))
    }

    /// A writer as the function has it, with dead letters and a mode that the test sees.
    pub fn writer(&self, credentials: Arc<dyn Credentials>) -> TestWriter {
        let configuration = WriterConfiguration {
            kafka: KafkaConfiguration {
                bootstrap_servers: "127.0.0.1:9".to_owned(),
                authentication: KafkaAuthentication::None,
            },
            source_topic: "ledger-buffer".to_owned(),
            dead_letter_topic: "ledger-dlq".to_owned(),
            mode_parameter: "/ledger/mode".to_owned(),
            mode_ttl_seconds: 0.1,
            database: self.configuration(),
            chunk_records: 30,
            chunk_concurrency: [2, 2, 1],
            safety_seconds: 0.1,
        };
        let letters = Letters::default();
        let mode = FixedMode::new(Mode::Green);
        let tables = Tables::new(self.database(credentials));
        let writer = Writer::new(
            &configuration,
            tables,
            letters.clone(),
            mode.clone(),
            "writer",
            "test",
            |_: &str| {},
        );
        TestWriter { writer, letters, mode }
    }

    pub async fn number(&self, sql: &str) -> i64 {
        let mut administrator = self.administrator().await;
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut administrator).await.unwrap()
    }

    /// Counts what must hold after these events have come, in whatever order and however often.
    pub async fn assert_holds(&self, events: &[Envelope]) {
        let mut administrator = self.administrator().await;
        let counted: i64 =
            sqlx::query_scalar("SELECT coalesce(sum(upserts + deletes), 0)::bigint FROM totals")
                .fetch_one(&mut administrator)
                .await
                .unwrap();
        let distinct: std::collections::BTreeSet<_> = events.iter().map(|event| event.event_id).collect();
        assert_eq!(usize::try_from(counted).unwrap(), distinct.len(), "events that had their effect once");
        let merged = ledger_writer::merge::merge(events);
        for rows in merged.rows.chunk_by(|a, b| a.change.entity() == b.change.entity()) {
            let table = rows[0].change.entity().as_str();
            let ids: Vec<_> = rows.iter().map(|row| row.change.id()).collect();
            let versions: Vec<_> = rows.iter().map(|row| row.version).collect();
            let deleted: Vec<_> =
                rows.iter().map(|row| matches!(row.change, ledger_events::Change::Delete { .. })).collect();
            let as_wanted: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
                "SELECT count(*) FROM {table} t JOIN unnest($1::uuid[], $2::bigint[], $3::boolean[]) AS w(id, version, deleted)
                 USING (id) WHERE t.version = w.version AND t.deleted = w.deleted"
            )))
            .bind(ids)
            .bind(versions)
            .bind(deleted)
            .fetch_one(&mut administrator)
            .await
            .unwrap();
            assert_eq!(usize::try_from(as_wanted).unwrap(), rows.len(), "{table}: lost or regressed rows");
            let all: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
                .fetch_one(&mut administrator)
                .await
                .unwrap();
            assert_eq!(usize::try_from(all).unwrap(), rows.len(), "{table}: rows that nobody sent");
        }
    }
}

/// A password that can be rotated, remembered until it is refused, as the one of Secrets Manager is.
pub struct Passwords {
    user: String,
    pub password: Mutex<String>,
    known: Mutex<Option<String>>,
    pub reads: AtomicUsize,
}

impl Credentials for Passwords {
    fn sign_in(&self, refused: bool) -> SigningIn<'_> {
        Box::pin(async move {
            let mut known = self.known.lock().unwrap();
            if known.is_none() || refused {
                self.reads.fetch_add(1, Ordering::Relaxed);
                *known = Some(self.password.lock().unwrap().clone());
            }
            Ok(SignIn { user: self.user.clone(), password: known.clone().unwrap() })
        })
    }
}

/// Offset, cause and payload.
pub type Letter = (i64, String, Vec<u8>);

#[derive(Clone, Default)]
pub struct Letters(pub Arc<Mutex<Vec<Letter>>>);

impl DeadLetterSink for Letters {
    async fn put(&self, record: Record<'_>, rejection: &Rejection) -> Result<(), String> {
        let payload = record.payload.unwrap_or_default().to_vec();
        self.0.lock().unwrap().push((record.origin.offset, rejection.cause.to_owned(), payload));
        Ok(())
    }
}

#[derive(Clone)]
pub struct FixedMode(pub Arc<Mutex<ModeRecord>>);

impl FixedMode {
    fn new(mode: Mode) -> Self {
        Self(Arc::new(Mutex::new(record(mode, 1))))
    }

    pub fn set(&self, mode: Mode, version: i64) {
        *self.0.lock().unwrap() = record(mode, version);
    }
}

pub fn record(mode: Mode, version: i64) -> ModeRecord {
    ModeRecord { mode, version, since_ms: 0, alarm: None, then: None }
}

impl ModeSource for FixedMode {
    async fn read(&self) -> Result<Option<String>, String> {
        Ok(Some(self.0.lock().unwrap().to_text()))
    }
}

pub struct TestWriter {
    pub writer: Writer<FixedMode, Letters>,
    pub letters: Letters,
    pub mode: FixedMode,
}

/// The events as an event source mapping hands them over: partitioned by key, offsets from `first`.
pub fn delivery(records: &[Delivered]) -> KafkaEvent {
    let mut event = KafkaEvent::default();
    for record in records {
        event.records.entry(record.topic_partition.clone()).or_default().push(EventRecord {
            partition: record.origin.partition,
            offset: record.origin.offset,
            timestamp: record.origin.timestamp_ms,
            key: record.key.as_deref().map(base64),
            value: record.payload.as_deref().map(base64),
        });
    }
    event
}

pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

pub fn delivered(offset: i64, key: &[u8], payload: &[u8]) -> Delivered {
    Delivered {
        topic_partition: "ledger-buffer-0".to_owned(),
        origin: Origin { partition: 0, offset, timestamp_ms: Some(1_700_000_000_000) },
        key: Some(key.to_vec()),
        payload: Some(payload.to_vec()),
    }
}

pub fn deliver_all(events: &[Envelope]) -> Vec<Delivered> {
    (0..)
        .zip(events)
        .map(|(offset, event)| delivered(offset, event.key().as_bytes(), &event.to_bytes()))
        .collect()
}

/// Whether a response lets a record be committed: Lambda delivers again what is named, and need not deliver more.
pub fn is_done(response: &BatchResponse, record: &Delivered) -> bool {
    response.batch_item_failures.iter().all(|failure| {
        failure.item_identifier.partition != record.topic_partition
            || record.origin.offset != failure.item_identifier.offset
    })
}

pub fn in_seconds(seconds: f64) -> Instant {
    Instant::now() + Duration::from_secs_f64(seconds)
}
