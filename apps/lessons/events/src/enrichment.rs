//! Enrichment: a lesson with its user's country and its subscription's status and type.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::event::{Lesson, Received};

/// What is known of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownUser {
    /// Where the user is registered.
    pub country: String,
    /// The sequence number of the event that told it.
    pub version: u64,
}

/// What is known of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownSubscription {
    /// Its status.
    pub status: String,
    /// Its type.
    pub kind: String,
    /// When it ends: its period after the event that told it.
    pub ends_at: DateTime<Utc>,
    /// The sequence number of the event that told it.
    pub version: u64,
}

impl KnownSubscription {
    /// When a subscription ends whose event happened then. Where the calendar ends, it never does.
    #[must_use]
    pub fn end(occurred_at: DateTime<Utc>, period_days: u64) -> DateTime<Utc> {
        i64::try_from(period_days)
            .ok()
            .and_then(TimeDelta::try_days)
            .and_then(|period| occurred_at.checked_add_signed(period))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

/// Why a lesson cannot be enriched. Trying again would not help: by the order of a user's events, what it needs
/// should have come before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// No event has told of the user.
    #[error("the user is not known")]
    UserUnknown,
    /// No event has told of a subscription of that user to that language.
    #[error("the user has no subscription to the lesson's language")]
    SubscriptionUnknown,
    /// The subscription had ended when the lesson was completed.
    #[error("the user's subscription to the lesson's language had ended at {0}")]
    SubscriptionExpired(DateTime<Utc>),
}

impl Missing {
    /// A word for metrics and for what sorts failed events.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::UserUnknown => "user_unknown",
            Self::SubscriptionUnknown => "subscription_unknown",
            Self::SubscriptionExpired(_) => "subscription_expired",
        }
    }
}

/// A lesson with what is known of its user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EnrichedLesson {
    /// The lesson.
    #[serde(flatten)]
    pub lesson: Lesson,
    /// Where the user is registered.
    pub country: String,
    /// The status of the user's subscription to the lesson's language.
    pub subscription_status: String,
    /// Its type.
    pub subscription_type: String,
}

impl EnrichedLesson {
    /// The lesson that was received, in the envelope in which it goes out. Its id follows from the received one's:
    /// whoever reads the same event twice knows it.
    #[must_use]
    pub fn to_json(&self, received: &Received) -> Json {
        json!({
            "type": "enriched_lesson",
            "id": format!("{}:enriched", received.id),
            "occurred_at": received.occurred_at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
            "sequence": received.sequence,
            "data": self,
        })
    }
}

/// Enriches a lesson that was completed at some time by what is known.
///
/// # Errors
///
/// See [`Missing`].
pub fn enrich(
    lesson: &Lesson,
    completed_at: DateTime<Utc>,
    user: Option<&KnownUser>,
    subscription: Option<&KnownSubscription>,
) -> Result<EnrichedLesson, Missing> {
    let user = user.ok_or(Missing::UserUnknown)?;
    let subscription = subscription.ok_or(Missing::SubscriptionUnknown)?;
    if completed_at > subscription.ends_at {
        return Err(Missing::SubscriptionExpired(subscription.ends_at));
    }
    Ok(EnrichedLesson {
        lesson: lesson.clone(),
        country: user.country.clone(),
        subscription_status: subscription.status.clone(),
        subscription_type: subscription.kind.clone(),
    })
}
