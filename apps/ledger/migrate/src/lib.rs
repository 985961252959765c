//! Brings the ledger's database to its present schema: invoked after each deployment of the database, and once a
//! day to forget what is no longer needed. Whatever is done already is left as it is.

pub mod schema;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value as Json, json};
use worker_contract::ledger::MigrateConfiguration;
use worker_kit::database::{Database, credentials, read_secret};

use schema::WriterSignIn;

/// Migrates, makes the writer's role and, where one is named, the noisy neighbour's, and forgets old event ids.
///
/// # Errors
///
/// When the database or a secret cannot be reached, or a migration fails.
pub async fn run(configuration: &MigrateConfiguration, aws: &aws_config::SdkConfig) -> Result<Json> {
    let credentials = credentials(&configuration.database, aws)?;
    let database = Database::new(&configuration.database, credentials, "ledger-migrate")?;
    let sign_in = match &configuration.writer_secret_arn {
        None => WriterSignIn::Iam,
        Some(arn) => {
            let client = aws_sdk_secretsmanager::Client::new(aws);
            let secret = read_secret(&client, arn).await.map_err(|error| anyhow!(error))?;
            WriterSignIn::Password(secret.password)
        }
    };
    let mut session = database.session().await.context("the database cannot be reached")?;
    schema::migrate(&mut session).await?;
    schema::writer_role(&mut session, &configuration.writer_user, configuration.writer_connections, &sign_in)
        .await?;
    if let Some(neighbour) = &configuration.neighbour {
        let client = aws_sdk_secretsmanager::Client::new(aws);
        let secret = read_secret(&client, &neighbour.secret_arn).await.map_err(|error| anyhow!(error))?;
        schema::neighbour_role(&mut session, &neighbour.user, &secret.password).await?;
    }
    let forgotten = schema::forget_events(&mut session, configuration.event_memory_days).await?;
    session.keep();
    database.close().await;
    tracing::info!(
        writer = configuration.writer_user,
        connections = configuration.writer_connections,
        forgotten,
        "the database has its present schema"
    );
    Ok(json!({ "status": "present", "forgotten_events": forgotten }))
}
