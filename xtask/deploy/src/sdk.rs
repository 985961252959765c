//! What the SDK's errors say, for people.

use aws_sdk_cloudformation::error::ProvideErrorMetadata;

/// An SDK error: what AWS says, with its code, or, where AWS was not reached, the whole chain of causes.
pub fn told<E>(error: E, what: &str) -> anyhow::Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match (error.code(), error.message()) {
        (Some(code), message) if is_expired(code) => anyhow::anyhow!(
            "{what}: {} ({code}).\n  The credentials have run out or are not valid: log in again (`aws sso login`, or a new session token), then run the same command again. CloudFormation goes on with what it has begun, and nothing has to be undone",
            message.unwrap_or("the credentials are not accepted")
        ),
        (Some(code), message) if is_throttled(code) => anyhow::anyhow!(
            "{what}: {} ({code}).\n  AWS wants it slower, and eight attempts were not enough: run the same command again in a minute, with a lower --concurrency. What was begun goes on",
            message.unwrap_or("too many requests")
        ),
        (Some(code), Some(message)) => anyhow::anyhow!("{what}: {message} ({code})"),
        (Some(code), None) => anyhow::anyhow!("{what}: {code}"),
        _ => unreached(what, &causes(&error)),
    }
}

/// AWS was not reached, or not even asked, because there is nothing to sign with.
fn unreached(what: &str, causes: &str) -> anyhow::Error {
    let lower = causes.to_lowercase();
    if lower.contains("credentials") || lower.contains("identity") {
        return anyhow::anyhow!(
            "{what}: there are no AWS credentials ({causes}).\n  Sign in (`aws sso login`, AWS_PROFILE, or a token in the environment); `cargo xtask doctor --env ENV` tells whose they are"
        );
    }
    anyhow::anyhow!("{what}: {causes}")
}

/// Whether AWS refuses the credentials themselves.
fn is_expired(code: &str) -> bool {
    matches!(
        code,
        "ExpiredToken"
            | "ExpiredTokenException"
            | "RequestExpired"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
    )
}

/// Whether AWS has answered too much of late.
fn is_throttled(code: &str) -> bool {
    matches!(
        code,
        "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException"
            | "SlowDown"
    )
}

/// The chain of causes, without the structures that the SDK prints as well.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Many layers repeat what they wrap.
        if texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn who_is_not_signed_in_is_told_how() {
        let told =
            unreached("cannot list", "the credential provider was not enabled: no credentials in the chain");
        assert!(told.to_string().contains("aws sso login"), "{told}");
        assert_eq!(
            unreached("cannot list", "connection refused").to_string(),
            "cannot list: connection refused"
        );
    }

    #[test]
    fn causes_are_told_once_each() {
        let inner = Layer("connection refused", None);
        let middle = Layer("dispatch failure: connection refused", Some(Box::new(inner)));
        let outer = Layer("cannot send", Some(Box::new(middle)));
        assert_eq!(causes(&outer), "cannot send: dispatch failure: connection refused");
    }
}
