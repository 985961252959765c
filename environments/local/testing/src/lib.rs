//! The real local parts for tests: each test starts a broker, a database, a cache, the AWS APIs or a whole environment of
//! its own, through the program `local-environment`, and has it taken down when it drops it.
//!
//! The program is the one that `FLOODGATE_LOCAL_ENVIRONMENT` names, or that beside the test; what is installed lies in
//! `FLOODGATE_LOCAL_ROOT`, or in the workspace's `target/local`. `cargo xtask test` sees to both. A part that is absent
//! or does not start fails the test that asked for it, with what it said: nothing is skipped.
//!
//! For tests alone: everything here panics where it cannot go on.

#![allow(clippy::unwrap_used)]

mod emulator;
#[cfg(feature = "environment")]
mod environment;
mod part;
mod postgresql;
mod valkey;
mod waiting;

#[cfg(feature = "kafka")]
mod broker;
#[cfg(feature = "kafka")]
mod consumer;

#[cfg(feature = "kafka")]
pub use broker::{Broker, header};
#[cfg(feature = "kafka")]
pub use consumer::{Running, settings};
pub use emulator::Emulator;
#[cfg(feature = "aws")]
pub use emulator::config;
#[cfg(feature = "environment")]
pub use environment::{A_SECRET_OF_THE_USER, Environment, kill_at_once};
pub use part::{parts, program, started};
pub use postgresql::Postgresql;
pub use valkey::Valkey;
pub use waiting::{PATIENCE, eventually, wait_for};
