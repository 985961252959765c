//! All that talks to AWS: change sets, workloads, status, teardown. What to do is decided in [`plan`] and
//! [`wiring`], on plain data; [`execute`] carries it out, through the calls that [`cloudformation`] names.

pub mod approval;
pub mod assets;
pub mod cache_system;
pub mod cloudformation;
pub mod deploy;
pub mod deployed;
pub mod events;
pub mod execute;
pub mod flow;
pub mod gc;
pub mod hotswap;
pub mod invocations;
pub mod kubernetes;
pub mod living;
pub mod local;
pub mod lock;
pub mod logs;
pub mod lookup;
pub mod loopback;
pub mod operation;
pub mod outputs;
pub mod plan;
pub mod release;
pub mod report;
pub mod role;
pub mod sdk;
pub mod signals;
#[cfg(test)]
mod simulation;
pub mod smoke;
pub mod stacks;
pub mod status;
pub mod stream_system;
pub mod teardown;
pub mod traffic;
pub mod trial;
pub mod validation;
pub mod wiring;
pub mod workloads;
