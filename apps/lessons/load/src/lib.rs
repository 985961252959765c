//! Makes the lessons' traffic: events of users, subscriptions and lessons into the input stream, at a rate that does not
//! wait for anybody, and counts what comes out.
//!
//! [`traffic`] makes events, [`outbox`] decides which go together in a request; both without I/O. [`run`] sends, [`reading`]
//! reads the streams behind the enricher.

pub mod outbox;
pub mod reading;
pub mod run;
pub mod traffic;
