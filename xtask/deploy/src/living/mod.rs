//! Living with what exists: drift and back, taking resources in, letting them go, moving them.

pub mod change;
pub mod command;
pub mod drift;
pub mod import;
pub mod orphan;
pub mod refactor;
