//! The commands, a module each.

pub(crate) mod bundle;
pub(crate) mod deploy;
pub(crate) mod gc;
pub(crate) mod logs;
pub(crate) mod observe;
pub(crate) mod origin;
pub(crate) mod outputs;
pub(crate) mod releases;
pub(crate) mod rollback;
pub(crate) mod teardown;
pub(crate) mod token;
pub(crate) mod traffic;
pub(crate) mod whoami;
