//! The token by which EKS knows a caller: a signed request to STS that says who it is.
//! Source: the `aws-iam-authenticator` project, "API Authorization from Outside a Cluster".

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use aws_sdk_sts::config::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value as Json, json};

/// The header that binds a token to one cluster.
const CLUSTER_HEADER: &str = "x-k8s-aws-id";

/// How long the signed request is good for. EKS takes the token for 15 minutes, whatever stands here.
const SIGNED_FOR: Duration = Duration::from_secs(60);

/// After this a new token is asked for: EKS takes one for 15 minutes.
const VALID_FOR: Duration = Duration::from_secs(14 * 60);

/// A token for a cluster.
///
/// # Errors
///
/// When the request cannot be signed.
pub fn token(credentials: Credentials, region: &str, cluster: &str, now: SystemTime) -> Result<String> {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let host = format!("sts.{region}.{domain}");
    let mut url = format!("https://{host}/?Action=GetCallerIdentity&Version=2011-06-15");
    let identity = credentials.into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(SIGNED_FOR);
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(now)
        .settings(settings)
        .build()
        .context("the request for a token has no credentials or region")?
        .into();
    let headers = [("host", host.as_str()), (CLUSTER_HEADER, cluster)];
    let request = SignableRequest::new("GET", &url, headers.into_iter(), SignableBody::Bytes(&[]))?;
    let (instructions, _) = sign(request, &parameters)?.into_parts();
    for (name, value) in instructions.params() {
        url.push('&');
        url.push_str(name);
        url.push('=');
        url.push_str(&escaped(value));
    }
    Ok(format!("k8s-aws-v1.{}", URL_SAFE_NO_PAD.encode(url)))
}

/// What `kubectl`, `helm` and this program's own client read from a program that gives credentials.
#[must_use]
pub fn exec_credential(token: &str, now: SystemTime) -> Json {
    let expires = chrono::DateTime::<chrono::Utc>::from(now + VALID_FOR);
    json!({
        "kind": "ExecCredential",
        "apiVersion": "client.authentication.k8s.io/v1",
        "spec": { "interactive": false },
        "status": {
            "expirationTimestamp": expires.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            "token": token,
        }
    })
}

/// Percent-encoded, all but RFC 3986's unreserved characters.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(token: &str) -> String {
        let encoded = token.strip_prefix("k8s-aws-v1.").expect("the prefix");
        String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).expect("base64")).expect("text")
    }

    #[test]
    fn a_token_is_a_signed_request_bound_to_the_cluster() {
        let credentials =
            || Credentials::new("AKIDEXAMPLE", "secret", Some("session/token+1=".into()), None, "test");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        let made = |cluster| url(&token(credentials(), "eu-west-1", cluster, now).expect("signed"));
        let one = made("floodgate-dev");
        assert!(one.starts_with("https://sts.eu-west-1.amazonaws.com/?Action=GetCallerIdentity"), "{one}");
        for part in [
            "X-Amz-Algorithm=AWS4-HMAC-SHA256",
            "X-Amz-Date=20150830T123600Z",
            "X-Amz-Expires=60",
            "X-Amz-SignedHeaders=host%3Bx-k8s-aws-id",
            "X-Amz-Security-Token=session%2Ftoken%2B1%3D",
        ] {
            assert!(one.contains(part), "{part} is not in {one}");
        }
        let signature = |url: &str| {
            let (_, rest) = url.split_once("X-Amz-Signature=")?;
            rest.split('&').next().map(str::to_owned)
        };
        assert!(signature(&one).is_some_and(|signature| signature.len() == 64));
        assert_ne!(signature(&one), signature(&made("floodgate-prod")), "another cluster, another signature");
        assert!(!one.contains("secret"));
    }

    #[test]
    fn a_credential_ends_before_eks_stops_to_take_it() {
        let now = SystemTime::UNIX_EPOCH;
        let credential = exec_credential("t", now);
        assert_eq!(credential["status"]["expirationTimestamp"], "1970-01-01T00:14:00Z");
        assert_eq!(credential["status"]["token"], "t");
    }
}
