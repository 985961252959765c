//! `teardown`.

use std::process::ExitCode;

use anyhow::Result;
use deploy_engine::{
    deploy::lock,
    teardown::{Aws, Teardown},
};

use crate::{
    cli::Consent,
    engine::{Engine, interrupt},
};

/// Takes the environment down.
///
/// # Errors
///
/// The first resource that does not go, with its construct and reason.
pub(crate) async fn run(
    engine: &Engine,
    consent: &Consent,
    purge: bool,
    stacks_only: bool,
) -> Result<ExitCode> {
    let Engine { manifest, reporter, clients, common, local, .. } = engine;
    let what = if purge { "teardown, with what is in its buckets, of" } else { "teardown of" };
    engine.agree(consent, what)?;
    let teardown = Teardown {
        assembly: &common.assembly,
        manifest,
        stacks: &clients.stacks,
        local: local.as_ref(),
        aws: (!engine.is_local()).then(|| Aws {
            eks: (!stacks_only).then(|| engine.eks()),
            objects: &clients.objects,
            tags: &clients.tags,
            locks: &clients.locks,
            swapped: &clients.swapped,
            purge,
        }),
        reporter,
    };
    let work = async || teardown.run().await.map(|()| ExitCode::SUCCESS);
    let left = async || "interrupted; run the teardown again to go on".to_owned();
    let runs = async || match local {
        Some(local) => local.runs().await,
        None => true,
    };
    if runs().await {
        let outcome = engine.under_lock("teardown", work(), left).await;
        // An environment that goes while it is looked at is being taken down by what a killed teardown left behind.
        if outcome.is_ok() || runs().await {
            return outcome;
        }
    }
    // What does not run has no lock, and nothing to take down but itself.
    let _here = lock(&common.assembly)?;
    tokio::select! {
        outcome = work() => outcome,
        signal = interrupt() => {
            signal?;
            engine.leave(None, left).await
        }
    }
}
