//! All that talks to AWS: change sets, workloads, status, teardown. What to do is decided in [`plan`] and
//! [`wiring`], on plain data; the rest carries it out.

pub mod assets;
pub mod deploy;
pub mod deployed;
pub mod events;
pub mod gc;
pub mod invocations;
pub mod kubernetes;
pub mod local;
pub mod plan;
pub mod report;
pub mod sdk;
pub mod stacks;
pub mod status;
pub mod teardown;
pub mod wiring;
pub mod workloads;
