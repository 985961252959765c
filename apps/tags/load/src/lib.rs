//! Makes the load of tags: updates of objects in channels, at a rate that does not wait for anybody, and afterwards a
//! look into the cache whether it holds what was written.
//!
//! [`traffic`] makes the updates and [`expectations`] says what must come of them, both without I/O; [`run`] sends,
//! [`following`] and [`verification`] read.

pub mod expectations;
pub mod following;
pub mod run;
pub mod traffic;
pub mod verification;
