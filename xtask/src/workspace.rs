//! Where the workspace is.

use std::path::PathBuf;

/// The workspace's root: above this crate, as cargo knew it when it built this program.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}
