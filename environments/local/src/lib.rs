//! The machine-local stand-ins for AWS, and the supervisor of local workloads.

pub mod account;
pub mod autoscaler;
pub mod control;
pub mod emulator;
pub mod event_sources;
pub mod install;
pub mod kafka;
pub mod lag;
pub mod layout;
pub mod lifecycle;
pub mod logs;
pub mod manifest;
pub mod metrics;
pub mod postgresql;
pub mod process;
pub mod supervised;
pub mod supervisor;
pub mod valkey;
