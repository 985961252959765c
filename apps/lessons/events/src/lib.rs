//! The lessons' domain: events in their envelope, what is known of users and subscriptions, and the enrichment
//! of a lesson by both. No I/O.

pub mod accounts;
pub mod enrichment;
pub mod event;
mod fields;

pub use accounts::{Accounts, Applied, EntityKey};
pub use enrichment::{EnrichedLesson, Missing};
pub use event::{Event, Invalid, Lesson, Operation, Received, Subscription, User};
