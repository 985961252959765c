//! Waiting for what is to come about, and never for a time.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// How long a test waits for something to come about. Nothing takes that long unless it never comes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits for a condition.
///
/// # Panics
///
/// With what was waited for, when it does not come within [`PATIENCE`].
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits for a condition that is asked for asynchronously.
///
/// # Panics
///
/// With what was waited for, when it does not come within [`PATIENCE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
