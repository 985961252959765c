//! L2 constructs: secure by default, with grants, connections and metrics.

pub mod addresses;
pub mod alarm;
pub mod bucket;
pub mod cache;
pub mod cluster;
pub mod connections;
pub mod database;
pub mod encryption;
pub mod function;
pub mod iam;
pub mod kafka;
pub mod logs;
pub mod needs;
pub mod network;
pub mod queue;
pub mod repository;
pub mod stream;
pub mod table;

pub use cfn::Removal;

/// What happens to the data of an environment's resources when they leave their stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPolicy {
    /// Data goes with its stack: environments that come and go.
    Disposable,
    /// Data stays, unless the very creation failed.
    Kept,
}

impl DataPolicy {
    /// As a removal policy.
    #[must_use]
    pub fn removal(self) -> Removal {
        match self {
            DataPolicy::Disposable => Removal::Delete,
            DataPolicy::Kept => Removal::RetainExceptOnCreate,
        }
    }
}
