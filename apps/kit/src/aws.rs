//! The AWS SDK as functions use it.

use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};

/// Tries of a call by the SDK itself. What goes on after them is the function's own, inside its time.
const SDK_TRIES: u32 = 2;

/// How long one try of a call may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The settings for the clients of a function: few tries, none of them long, because an invocation's time is short and
/// what it does not manage is sent again.
pub async fn for_functions() -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(TRY_TIMEOUT)
        .build();
    aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard().with_max_attempts(SDK_TRIES))
        .timeout_config(timeouts)
        .load()
        .await
}
