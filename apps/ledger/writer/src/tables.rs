//! Writes chunks, each in one statement.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ledger_events::{Entity, Envelope, identifiers::row_id};
use worker_kit::{
    batch::Record,
    database::{Database, DatabaseError, verdict},
    dead_letters::Rejection,
    processing::{BatchHandler, HandleError},
};

use crate::{
    merge::{Merged, merge},
    statement::{self, Effect},
};

/// What was written since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows that were inserted or changed.
    pub rows: usize,
    /// Events that had had their effect before.
    pub duplicates: usize,
    /// Events that were older than their row.
    pub regressions_refused: usize,
    /// Statements that took effect.
    pub statements: u32,
    /// How long they took together.
    pub took: Duration,
}

/// The ledger's tables.
pub struct Tables {
    database: Database,
    statements: BTreeMap<Vec<Entity>, String>,
    tally: Mutex<Tally>,
}

impl Tables {
    /// Tables of a database that has its present schema.
    #[must_use]
    pub fn new(database: Database) -> Self {
        let statements = (1u8..32)
            .map(|set| {
                let entities: Vec<Entity> = Entity::ALL
                    .into_iter()
                    .enumerate()
                    .filter(|(bit, _)| set & (1 << bit) != 0)
                    .map(|(_, entity)| entity)
                    .collect();
                let text = statement::text(&entities);
                (entities, text)
            })
            .collect();
        Self { database, statements, tally: Mutex::default() }
    }

    /// What was written since the last call.
    pub fn take_tally(&self) -> Tally {
        std::mem::take(&mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes a chunk in one transaction.
    ///
    /// # Errors
    ///
    /// What the database says; nothing of the chunk has taken effect then, or nobody knows whether it has, and
    /// writing it again is harmless.
    pub async fn write(&self, merged: &Merged<'_>) -> Result<Effect, DatabaseError> {
        let Some(text) = self.statements.get(&statement::entities(merged)) else {
            return Ok(Effect::default());
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let chunk = row_id(u64::try_from(now.as_millis()).unwrap_or_default(), rand::random());
        let mut session = self.database.session().await?;
        match statement::query(text, merged, chunk).fetch_one(&mut *session).await {
            Ok(row) => {
                session.keep();
                Ok(statement::effect(merged, &row)?)
            }
            Err(error) => {
                if is_between_statements(&error) {
                    session.keep();
                }
                Err(error.into())
            }
        }
    }

    fn count(&self, effect: Effect, took: Duration) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.rows += effect.rows;
        tally.duplicates += effect.duplicates;
        tally.regressions_refused += effect.regressions_refused;
        tally.statements += 1;
        tally.took += took;
    }
}

/// Whether the connection is as good as before: the statement failed, and nothing else.
fn is_between_statements(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(told) = error else { return false };
    let code = told.code().unwrap_or_default();
    ["22", "23", "40", "55"].iter().any(|class| code.starts_with(class)) || code == "57014"
}

impl BatchHandler for Tables {
    type Item = Envelope;

    fn decode(&self, record: Record<'_>) -> Result<Envelope, Rejection> {
        let payload = record
            .payload
            .ok_or_else(|| Rejection { cause: "null", error: "a record without a value".to_owned() })?;
        Envelope::parse(payload).map_err(|error| Rejection { cause: error.cause(), error: error.to_string() })
    }

    async fn handle(&self, items: &[Envelope]) -> Result<(), HandleError> {
        let begun = Instant::now();
        match self.write(&merge(items)).await {
            Ok(effect) => {
                self.count(effect, begun.elapsed());
                Ok(())
            }
            Err(DatabaseError::Database(error)) => Err(verdict(&error)),
            Err(error) => Err(error.verdict()),
        }
    }
}
