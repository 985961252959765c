//! `teardown`.

use std::process::ExitCode;

use anyhow::Result;
use deploy_engine::{deploy::lock, teardown};

use crate::{
    cli::Consent,
    engine::{Engine, interrupt},
};

/// Takes the environment down.
///
/// # Errors
///
/// The first resource that does not go, with its construct and reason.
pub(crate) async fn run(engine: &Engine, consent: &Consent) -> Result<ExitCode> {
    let Engine { manifest, reporter, clients, common, local, .. } = engine;
    engine.agree(consent, "teardown")?;
    let work = async {
        let run = teardown::run(&common.assembly, manifest, Some(&clients.stacks), local.as_ref(), reporter);
        run.await.map(|()| ExitCode::SUCCESS)
    };
    let left = async || "interrupted; run the teardown again to go on".to_owned();
    let runs = match local {
        Some(local) => local.ask(&["status"]).await.is_ok(),
        None => true,
    };
    if runs {
        return engine.under_lock("teardown", work, left).await;
    }
    // What does not run has no lock, and nothing to take down but itself.
    let _here = lock(&common.assembly)?;
    tokio::select! {
        outcome = work => outcome,
        signal = interrupt() => {
            signal?;
            engine.leave(None, left).await
        }
    }
}
