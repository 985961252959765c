//! Functions' code, through Lambda itself.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_sdk_lambda::{Client, error::ProvideErrorMetadata, types::LastUpdateStatus};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::time::Instant;

use crate::sdk::told;

/// How long Lambda may take to take new code.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long another change of the function may be under way.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether a function runs the zip that lies at a key. Zips are named by their content, and Lambda tells the digest of
/// what it runs.
///
/// # Errors
///
/// When Lambda does not say, or the key is of no zip of ours.
pub(super) async fn runs(client: &Client, function: &str, key: &str) -> Result<bool> {
    let wanted = digest(key)?;
    let answer = client
        .get_function_configuration()
        .function_name(function)
        .send()
        .await
        .map_err(|error| told(error, &format!("Lambda does not say what {function} runs")))?;
    Ok(answer.code_sha256() == Some(wanted.as_str()))
}

/// The digest that Lambda knows a zip by, from its key.
fn digest(key: &str) -> Result<String> {
    let name = key.rsplit('/').next().unwrap_or(key).trim_end_matches(".zip");
    let bytes: Option<Vec<u8>> = (name.len() == 64 && name.is_ascii())
        .then(|| (0..64).step_by(2).map(|at| u8::from_str_radix(&name[at..at + 2], 16).ok()).collect())
        .flatten();
    Ok(STANDARD.encode(bytes.with_context(|| format!("`{key}` is not named by its content"))?))
}

/// Has a function take a zip, and waits until it runs it. `poll` is how often it is asked.
///
/// # Errors
///
/// What Lambda says, or that it takes too long.
pub(super) async fn put(
    client: &Client,
    function: &str,
    (bucket, key): (&str, &str),
    poll: Duration,
) -> Result<()> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let update =
            client.update_function_code().function_name(function).s3_bucket(bucket).s3_key(key).send().await;
        match update {
            Ok(_) => break,
            // Somebody else's change of it: one at a time.
            Err(error) if error.code() == Some("ResourceConflictException") && Instant::now() < deadline => {
                tokio::time::sleep(poll).await;
            }
            Err(error) => return Err(told(error, &format!("{function} does not take its new code"))),
        }
    }
    let deadline = Instant::now() + UPDATE_TIMEOUT;
    loop {
        let answer = client
            .get_function_configuration()
            .function_name(function)
            .send()
            .await
            .map_err(|error| told(error, &format!("Lambda does not say how far {function} is")))?;
        match answer.last_update_status() {
            Some(LastUpdateStatus::Failed) => bail!(
                "{function} did not take its new code: {}",
                answer.last_update_status_reason().unwrap_or("Lambda gives no reason")
            ),
            Some(LastUpdateStatus::InProgress) if Instant::now() < deadline => {
                tokio::time::sleep(poll).await;
            }
            Some(LastUpdateStatus::InProgress) => {
                bail!("{function} has not taken its new code within {} s", UPDATE_TIMEOUT.as_secs())
            }
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_the_digest_that_lambda_has() {
        let key = format!("assets/{}.zip", "00".repeat(31) + "ff");
        assert_eq!(digest(&key).unwrap(), STANDARD.encode([[0; 31].as_slice(), &[255]].concat()));
        for other in ["assets/x.zip", &format!("assets/{}.zip", "é".repeat(32)), &"0g".repeat(32)] {
            assert!(digest(other).is_err(), "{other}");
        }
    }
}
