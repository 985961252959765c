//! Releases: one bundle for all environments, the records of what was deployed where, and what lets a release go on.
//! An [`index`] names every file by its content; a [`bundle`] is the index with the files; a [`shelf`] is where an
//! environment keeps releases and [`record`]s, in its bucket; the [`gate`] stands between two environments.

pub mod bundle;
pub mod gate;
pub mod index;
pub mod make;
pub mod observe;
pub mod record;
pub mod shelf;
