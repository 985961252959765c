//! The token of MemoryDB's IAM authentication: a request that is signed and never sent, in place of a password.

use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use aws_config::SdkConfig;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};
use tag_store::connection::Credentials;

/// How long a token is good for connecting. MemoryDB takes no more than this; what is connected stays so for twelve
/// hours.
pub const LIFETIME: Duration = Duration::from_secs(900);

/// Who signs in where.
#[derive(Clone, Debug)]
pub struct TokenRequest<'a> {
    /// The cluster's region.
    pub region: &'a str,
    /// The cluster's name.
    pub cluster: &'a str,
    /// The user.
    pub user: &'a str,
}

/// A token, signed with the credentials of the workload, as of `now`.
///
/// # Errors
///
/// When there are no AWS credentials.
pub async fn credentials(
    aws: &SdkConfig,
    request: &TokenRequest<'_>,
    now: SystemTime,
) -> Result<Credentials> {
    let provider = aws.credentials_provider().context("there are no AWS credentials")?;
    let signer = provider
        .as_ref()
        .provide_credentials()
        .await
        .context("the AWS credentials that sign the cache's token are not to be had")?;
    let identity = signer.into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(LIFETIME);
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(request.region)
        .name("memorydb")
        .time(now)
        .settings(settings)
        .build()?
        .into();
    let url = format!("http://{}/?Action=connect&User={}", request.cluster, encoded(request.user));
    let unsigned = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(&[]))?;
    let (instructions, _) = sign(unsigned, &parameters)?.into_parts();
    let mut token = url.trim_start_matches("http://").to_owned();
    for (name, value) in instructions.params() {
        write!(token, "&{name}={}", encoded(value))?;
    }
    Ok(Credentials { user: request.user.to_owned(), password: token })
}

/// Percent-encoded, as in a signed query: everything but letters, digits, `-`, `_`, `.` and `~` (RFC 3986).
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a text does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The signature is that which botocore's `SigV4QueryAuth` makes of the same request.
    #[tokio::test]
    async fn a_token_is_the_signed_request_and_its_secret_is_not_shown() {
        let keys = aws_sdk_sts::config::Credentials::new(
            "AKIDEXAMPLE",
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            Some("a/session+token=".to_owned()),
            None,
            "test",
        );
        let aws = SdkConfig::builder()
            .credentials_provider(aws_sdk_sts::config::SharedCredentialsProvider::new(keys))
            .build();
        let request = TokenRequest { region: "eu-west-1", cluster: "tags-cache", user: "tags-worker" };
        // 2026-01-02T03:04:05Z
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        let credentials = credentials(&aws, &request, now).await.unwrap();
        let (place, query) = credentials.password.split_once('?').unwrap();
        assert_eq!(place, "tags-cache/");
        let mut parameters: Vec<&str> = query.split('&').collect();
        parameters.sort_unstable();
        assert_eq!(
            parameters,
            [
                "Action=connect",
                "User=tags-worker",
                "X-Amz-Algorithm=AWS4-HMAC-SHA256",
                "X-Amz-Credential=AKIDEXAMPLE%2F20260102%2Feu-west-1%2Fmemorydb%2Faws4_request",
                "X-Amz-Date=20260102T030405Z",
                "X-Amz-Expires=900",
                "X-Amz-Security-Token=a%2Fsession%2Btoken%3D",
                "X-Amz-Signature=7fb1ecf8e81dc37a22efb52173482e41e08b57181b41e5054b98219e8711a06b",
                "X-Amz-SignedHeaders=host",
            ]
        );
        assert!(!format!("{credentials:?}").contains("Signature"));
    }
}
