//! `kubernetes-token`, which `kubectl` and `helm` call.

use std::process::ExitCode;

use anyhow::{Context, Result};
use aws_sdk_sts::config::ProvideCredentials;
use deploy_engine::kubernetes::token;

/// Prints a token for an EKS cluster.
///
/// # Errors
///
/// When there are no credentials.
pub(crate) async fn run(cluster: &str, region: &str) -> Result<ExitCode> {
    let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new(region.to_owned()))
        .load()
        .await;
    let provider = config.credentials_provider().context("there are no AWS credentials")?;
    let credentials = provider.provide_credentials().await.context("there are no AWS credentials")?;
    let now = std::time::SystemTime::now();
    let token = token::token(credentials, region, cluster, now)?;
    println!("{}", token::exec_credential(&token, now));
    Ok(ExitCode::SUCCESS)
}
