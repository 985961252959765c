//! What runs in the cluster: manifests by server-side apply, Helm releases by the `helm` program, in the order
//! that they need one another; what is no longer rendered is pruned.

pub mod apply;
pub mod cluster;
pub mod eks;
pub mod helm;
pub mod install;
pub mod inventory;
pub mod job;
pub mod order;
pub mod rollout;
pub mod token;
