//! What a call that failed tells: whether the same may succeed later.

use aws_sdk_kinesis::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::ports::CallError;

/// Error codes of a service's calls that may succeed later, beside those of its servers (5xx).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retriable(pub(crate) &'static [&'static str]);

impl Retriable {
    /// What an error of the SDK means: what never reached the service, or was never answered, may succeed later.
    pub(crate) fn call_error<E>(self, error: &SdkError<E>) -> CallError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let text = DisplayErrorContext(error).to_string();
        match error {
            SdkError::ServiceError(service) => {
                let code = service.err().code().unwrap_or_default();
                if self.0.contains(&code) || service.raw().status().is_server_error() {
                    CallError::Retriable(text)
                } else {
                    CallError::Fatal(text)
                }
            }
            SdkError::ConstructionFailure(_) => CallError::Fatal(text),
            _ => CallError::Retriable(text),
        }
    }
}
