//! The environments of this repository, and what is rendered for them.

#![allow(clippy::unwrap_used, dead_code)]

use std::path::PathBuf;

use cfn::Assembly;
use platform::{Environment, render};

pub(crate) fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn environment(name: &str) -> Environment {
    Environment::load(&workspace(), name).unwrap()
}

pub(crate) fn assembly(name: &str) -> Assembly {
    render(&environment(name)).unwrap()
}
