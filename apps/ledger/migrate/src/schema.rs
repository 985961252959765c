//! The schema: migrations, the roles, and what is forgotten after a while.

use std::borrow::Cow;

use anyhow::{Context, Result};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// The migrations in order: number, name, statements. What is here once is never changed; the next one changes it.
const MIGRATIONS: [(i64, &str, &str); 1] = [(1, "ledger", include_str!("../migrations/0001_ledger.sql"))];

/// What the writer may do, table by table.
const WRITER_TABLES: [&str; 5] =
    ["orders_ops", "shipments_ops", "shipment_events_ops", "invoices_ops", "invoice_items_ops"];

/// How long a statement of the writer may take, in milliseconds: longer than any should, shorter than what an
/// invocation has, so that what was given up does not go on for long.
const STATEMENT_TIMEOUT_MS: u32 = 10_000;

/// How long a statement of the noisy neighbour may take, in milliseconds: one that lost its client does not burn on.
const NEIGHBOUR_TIMEOUT_MS: u32 = 5_000;

/// How long a statement of the writer waits for a lock, in milliseconds.
const LOCK_TIMEOUT_MS: u32 = 2_000;

/// Event ids that are forgotten in one statement: so many, that locks stay short.
const FORGOTTEN_AT_ONCE: i64 = 10_000;

/// How the writer signs in.
pub enum WriterSignIn {
    /// By IAM: the role gets `rds_iam`, which RDS makes.
    Iam,
    /// By a password.
    Password(String),
}

/// Brings the database to its present schema. Two at once wait for each other.
///
/// # Errors
///
/// When a migration fails, or one that was applied has been changed since.
pub async fn migrate(connection: &mut PgConnection) -> Result<()> {
    let migrations = MIGRATIONS
        .into_iter()
        .map(|(version, name, sql)| {
            Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql.into_sql_str(), false)
        })
        .collect();
    Migrator::with_migrations(migrations)
        .run_direct(None, connection, false)
        .await
        .context("a migration failed")
}

/// Makes the writer's role, or brings it to what it should be: no more connections than derived, no more rights
/// than it uses, and time-outs that are the role's, because a `SET` would pin a proxy's session.
///
/// # Errors
///
/// When the administrator may not do that.
pub async fn writer_role(
    connection: &mut PgConnection,
    user: &str,
    connections: u32,
    sign_in: &WriterSignIn,
) -> Result<()> {
    let role = identifier(user);
    let mut statements = vec![format!("ALTER ROLE {role} LOGIN CONNECTION LIMIT {connections}")];
    match sign_in {
        WriterSignIn::Iam => statements.push(format!("GRANT rds_iam TO {role}")),
        WriterSignIn::Password(password) => {
            statements.push(format!("ALTER ROLE {role} PASSWORD {}", literal(password)));
        }
    }
    statements.push(format!("ALTER ROLE {role} SET statement_timeout = {STATEMENT_TIMEOUT_MS}"));
    statements.push(format!("ALTER ROLE {role} SET lock_timeout = {LOCK_TIMEOUT_MS}"));
    statements.push(format!("GRANT USAGE ON SCHEMA public TO {role}"));
    for table in WRITER_TABLES {
        statements.push(format!("GRANT SELECT, INSERT, UPDATE ON {table} TO {role}"));
    }
    statements.push(format!("GRANT SELECT, INSERT ON applied_events TO {role}"));
    statements.push(format!("GRANT INSERT ON chunk_totals TO {role}"));
    shape_role(connection, user, statements).await
}

/// Makes the role of a service that shares the database: it may sign in and compute, and touch nothing that is the
/// ledger's. It has no connection limit, because roles that have one are those whose sessions count as the proxy's.
///
/// # Errors
///
/// When the administrator may not do that.
pub async fn neighbour_role(connection: &mut PgConnection, user: &str, password: &str) -> Result<()> {
    let role = identifier(user);
    let statements = vec![
        format!("ALTER ROLE {role} LOGIN NOINHERIT PASSWORD {}", literal(password)),
        format!("ALTER ROLE {role} SET statement_timeout = {NEIGHBOUR_TIMEOUT_MS}"),
    ];
    shape_role(connection, user, statements).await
}

/// Makes a role if there is none, and has the statements make it what it should be, all or none.
async fn shape_role(connection: &mut PgConnection, user: &str, statements: Vec<String>) -> Result<()> {
    let mut transaction = connection.begin().await?;
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)")
        .bind(user)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    let creation = (!exists).then(|| format!("CREATE ROLE {} LOGIN", identifier(user)));
    for statement in creation.into_iter().chain(statements) {
        // Identifiers and literals are quoted; the error is told without the statement, which may hold a password.
        transaction
            .execute(sqlx::raw_sql(AssertSqlSafe(statement)))
            .await
            .with_context(|| format!("the role {user} cannot be made what it should be"))?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Forgets the ids of events that can no longer come again, a part at a time. Tells how many.
///
/// # Errors
///
/// When the database does.
pub async fn forget_events(connection: &mut PgConnection, days: u32) -> Result<u64> {
    let mut forgotten = 0;
    loop {
        let part = sqlx::query(
            "DELETE FROM applied_events WHERE event_id IN (
                 SELECT event_id FROM applied_events WHERE applied_at < now() - make_interval(days => $1) LIMIT $2)",
        )
        .bind(i32::try_from(days).unwrap_or(i32::MAX))
        .bind(FORGOTTEN_AT_ONCE)
        .persistent(false)
        .execute(&mut *connection)
        .await?
        .rows_affected();
        forgotten += part;
        if part == 0 {
            return Ok(forgotten);
        }
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    // E'' takes backslashes whatever the server's settings are.
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_stays_what_it_is() {
        assert_eq!(identifier("a\"; DROP"), "\"a\"\"; DROP\"");
        assert_eq!(literal(r"it's \ there"), r"E'it''s \\ there'");
    }

    #[test]
    fn migrations_are_numbered_from_one() {
        let numbers: Vec<i64> = MIGRATIONS.iter().map(|(number, _, _)| *number).collect();
        assert_eq!(numbers, (1..).take(MIGRATIONS.len()).collect::<Vec<_>>());
    }
}
