//! What is known of users and their subscriptions, as of some place in the stream: what the tables hold, and what
//! the events since have told.

use std::collections::HashMap;

use crate::{
    enrichment::{EnrichedLesson, KnownSubscription, KnownUser, Missing, enrich},
    event::{Event, Lesson, Received, Subscription},
};

/// A user or a subscription: what has versions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntityKey {
    /// A user.
    User {
        /// Who.
        user_uuid: String,
    },
    /// A subscription.
    Subscription {
        /// Whose.
        user_uuid: String,
        /// To which language, in small letters: tags that differ in case are the same (BCP 47).
        language: String,
    },
}

impl EntityKey {
    /// A user.
    #[must_use]
    pub fn user(user_uuid: &str) -> Self {
        Self::User { user_uuid: user_uuid.to_owned() }
    }

    /// A user's subscription to a language.
    #[must_use]
    pub fn subscription(user_uuid: &str, language: &str) -> Self {
        Self::Subscription { user_uuid: user_uuid.to_owned(), language: language.to_ascii_lowercase() }
    }

    /// What a lesson is enriched by.
    #[must_use]
    pub fn of_lesson(lesson: &Lesson) -> [Self; 2] {
        [Self::user(&lesson.user_uuid), Self::subscription(&lesson.user_uuid, &lesson.language)]
    }

    /// What an event tells about; a lesson tells about neither.
    #[must_use]
    pub fn told_by(event: &Event) -> Option<Self> {
        match event {
            Event::User(user) => Some(Self::user(&user.uuid)),
            Event::Subscription(subscription) => {
                Some(Self::subscription(&subscription.user_uuid, &subscription.language))
            }
            Event::Lesson(_) => None,
        }
    }
}

/// What became of an event that tells of a user or a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is newer than what was known.
    Newer,
    /// It is what was known.
    Known,
    /// Something newer was known.
    Older,
}

impl Applied {
    /// By the versions of the event and of what is known.
    #[must_use]
    pub fn by_version(event: u64, known: Option<u64>) -> Self {
        match known {
            None => Self::Newer,
            Some(known) if event > known => Self::Newer,
            Some(known) if event == known => Self::Known,
            Some(_) => Self::Older,
        }
    }
}

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    users: HashMap<String, KnownUser>,
    subscriptions: HashMap<(String, String), KnownSubscription>,
}

impl Accounts {
    /// Takes over what a table holds of a user, unless something newer is known.
    pub fn learn_user(&mut self, user_uuid: &str, user: KnownUser) -> Applied {
        let applied = Applied::by_version(user.version, self.users.get(user_uuid).map(|known| known.version));
        if applied == Applied::Newer {
            self.users.insert(user_uuid.to_owned(), user);
        }
        applied
    }

    /// Takes over what a table holds of a subscription, unless something newer is known.
    pub fn learn_subscription(
        &mut self,
        user_uuid: &str,
        language: &str,
        subscription: KnownSubscription,
    ) -> Applied {
        let key = (user_uuid.to_owned(), language.to_ascii_lowercase());
        let known = self.subscriptions.get(&key).map(|known| known.version);
        let applied = Applied::by_version(subscription.version, known);
        if applied == Applied::Newer {
            self.subscriptions.insert(key, subscription);
        }
        applied
    }

    /// Takes over what an event tells; `None` for one that tells of neither.
    pub fn apply(&mut self, received: &Received) -> Option<Applied> {
        match &received.event {
            Event::User(user) => Some(self.learn_user(
                &user.uuid,
                KnownUser { country: user.country.clone(), version: received.sequence },
            )),
            Event::Subscription(subscription) => {
                let Subscription { user_uuid, language, .. } = subscription;
                Some(self.learn_subscription(
                    user_uuid,
                    language,
                    KnownSubscription {
                        status: subscription.subscription_status.clone(),
                        kind: subscription.subscription_type.clone(),
                        ends_at: KnownSubscription::end(
                            received.occurred_at,
                            subscription.subscription_period,
                        ),
                        version: received.sequence,
                    },
                ))
            }
            Event::Lesson(_) => None,
        }
    }

    /// Enriches a lesson by what is known now.
    ///
    /// # Errors
    ///
    /// See [`Missing`].
    pub fn enrich(&self, received: &Received, lesson: &Lesson) -> Result<EnrichedLesson, Missing> {
        let key = (lesson.user_uuid.clone(), lesson.language.to_ascii_lowercase());
        enrich(lesson, received.occurred_at, self.users.get(&lesson.user_uuid), self.subscriptions.get(&key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Operation, User};
    use chrono::DateTime;
    use proptest::prelude::*;

    const USER: &str = "018f3c5e-7b1a-7c3d-9e2f-0a1b2c3d4e5f";
    const DAY_MS: i64 = 86_400_000;

    fn received(sequence: u64, at_ms: i64, event: Event) -> Received {
        let occurred_at = DateTime::from_timestamp_millis(at_ms).unwrap();
        Received { id: format!("e-{sequence}"), occurred_at, sequence, event }
    }

    fn user(sequence: u64, country: &str) -> Received {
        let user = User {
            operation: Operation::Create,
            name: "n".to_owned(),
            uuid: USER.to_owned(),
            firstname: String::new(),
            lastname: String::new(),
            country: country.to_owned(),
            active: true,
        };
        received(sequence, 0, Event::User(user))
    }

    fn subscription(sequence: u64, language: &str, period_days: u64) -> Received {
        let subscription = Subscription {
            operation: Operation::Create,
            name: "n".to_owned(),
            user_uuid: USER.to_owned(),
            language: language.to_owned(),
            subscription_status: format!("status-{sequence}"),
            subscription_type: "yearly".to_owned(),
            subscription_period: period_days,
        };
        received(sequence, 0, Event::Subscription(subscription))
    }

    fn lesson(sequence: u64, at_ms: i64, language: &str) -> (Received, Lesson) {
        let lesson = Lesson {
            content_release_id: "r".to_owned(),
            title: "t".to_owned(),
            language: language.to_owned(),
            course_uuid: USER.to_owned(),
            course_title: "c".to_owned(),
            number_of_lessons_in_course: 2,
            completed_lessons_in_course: 1,
            percentage_completed_in_course: 50,
            user_uuid: USER.to_owned(),
        };
        (received(sequence, at_ms, Event::Lesson(lesson.clone())), lesson)
    }

    fn outcome(accounts: &Accounts, at_ms: i64, language: &str) -> Result<EnrichedLesson, Missing> {
        let (received, lesson) = lesson(9, at_ms, language);
        accounts.enrich(&received, &lesson)
    }

    #[test]
    fn what_is_missing_is_named_and_what_is_there_comes_in() {
        let mut accounts = Accounts::default();
        assert_eq!(outcome(&accounts, 0, "de"), Err(Missing::UserUnknown));
        accounts.apply(&user(1, "Chile"));
        assert_eq!(outcome(&accounts, 0, "de"), Err(Missing::SubscriptionUnknown));
        accounts.apply(&subscription(2, "de-AT", 30));
        assert_eq!(outcome(&accounts, 0, "de"), Err(Missing::SubscriptionUnknown));
        let enriched = outcome(&accounts, 30 * DAY_MS, "de-at").unwrap();
        assert_eq!((enriched.country.as_str(), enriched.subscription_status.as_str()), ("Chile", "status-2"));
        let ended = DateTime::from_timestamp_millis(30 * DAY_MS).unwrap();
        assert_eq!(outcome(&accounts, 30 * DAY_MS + 1, "de-AT"), Err(Missing::SubscriptionExpired(ended)));
    }

    #[test]
    fn an_enriched_lesson_keeps_the_envelope_and_names_itself_after_its_event() {
        let mut accounts = Accounts::default();
        accounts.apply(&user(1, "Chile"));
        accounts.apply(&subscription(2, "de", 30));
        let (received, lesson) = lesson(3, DAY_MS, "de");
        let json = accounts.enrich(&received, &lesson).unwrap().to_json(&received);
        assert_eq!(json["id"], "e-3:enriched");
        assert_eq!(json["sequence"], 3);
        assert_eq!(json["data"]["title"], "t");
        assert_eq!(json["data"]["country"], "Chile");
        assert_eq!(json["data"]["subscription_type"], "yearly");
    }

    proptest! {
        /// In whatever order, and however often, events come: the newest is what is known.
        #[test]
        fn the_newest_wins(sequences in proptest::collection::vec(0u64..20, 1..60)) {
            let mut accounts = Accounts::default();
            let mut newest = None;
            for sequence in &sequences {
                let applied = accounts.apply(&user(*sequence, &format!("country-{sequence}")));
                prop_assert_eq!(applied, Some(Applied::by_version(*sequence, newest)));
                newest = newest.max(Some(*sequence));
                accounts.apply(&subscription(*sequence, "de", 1));
            }
            let enriched = outcome(&accounts, 0, "de").unwrap();
            let newest = sequences.iter().max().unwrap();
            prop_assert_eq!(enriched.country, format!("country-{newest}"));
            prop_assert_eq!(enriched.subscription_status, format!("status-{newest}"));
        }
    }
}
