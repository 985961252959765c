//! `gc`.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use deploy_engine::gc::Collection;

use crate::{cli::Consent, engine::Engine};

/// Lists what nobody needs, and deletes it where somebody agrees.
///
/// # Errors
///
/// What S3 or CloudFormation says.
pub(crate) async fn run(
    engine: &Engine,
    consent: &Consent,
    older_than: Duration,
    dry_run: bool,
) -> Result<ExitCode> {
    let Engine { manifest, reporter, clients, common, .. } = engine;
    engine.check_account().await?;
    let collection = Collection {
        manifest,
        stacks: &clients.cloudformation,
        s3: clients.objects.clone(),
        store: &common.assets,
        older_than,
        reporter,
    };
    let found = collection.find(SystemTime::now()).await?;
    if dry_run || found.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    engine.agree(consent, "delete these of")?;
    // A deployment that is under way may be about to use what nobody named a moment ago.
    let work = async {
        collection.delete(&collection.still(found, SystemTime::now()).await?).await?;
        Ok(ExitCode::SUCCESS)
    };
    let left = async || "interrupted; what is deleted is deleted. Run it again to go on".to_owned();
    engine.under_lock("gc", work, left).await
}
