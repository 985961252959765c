//! The ledger's writer: takes events from the buffer topic and writes them to PostgreSQL, no harder than the mode and
//! the database's own answers allow.
//!
//! What decides is pure: [`chunks`] (which records go together, and in which order), [`merge`] (which event of a
//! chunk wins), [`statement`] (the one statement that is a chunk's transaction) and [`mode_watch`] (which mode
//! holds). [`tables`] and [`writer`] carry it out.

pub mod chunks;
pub mod merge;
pub mod mode_watch;
pub mod statement;
pub mod tables;
pub mod writer;
