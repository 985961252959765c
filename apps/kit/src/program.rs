//! A program's work from its start to its end.

use std::fmt::Display;

/// Does a program's work on threads of its own. `None` where it fails, which the log tells.
pub(crate) fn run<T, E: Display>(work: impl Future<Output = Result<T, E>>) -> Option<T> {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no threads");
            return None;
        }
    };
    runtime.block_on(work).inspect_err(|error| tracing::error!("{error:#}")).ok()
}
