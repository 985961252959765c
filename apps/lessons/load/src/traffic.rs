//! The events of a run. Repeatable: the same seed, run and times make the same events.

use chrono::{DateTime, Utc};
use lesson_events::{Event, Lesson, Operation, Received, Subscription, User};
use rand::{Rng, SeedableRng, rngs::StdRng};
use worker_contract::lessons::LoadShape;

/// The share of events that tell of users, and that of events that tell of subscriptions: of 125 records a second, 25 are
/// writes (the published figures), the others are lessons.
const SHARE_OF_EACH_WRITE: f64 = 0.1;

/// Languages that are subscribed to; which one a user has follows from the user.
const LANGUAGES: [&str; 4] = ["de", "en", "es", "pt-BR"];

/// A language that nobody has subscribed to.
const UNSUBSCRIBED: &str = "la";

const COUNTRIES: [&str; 5] = ["BR", "CH", "DE", "ES", "GB"];

/// Lessons of the only course.
const COURSE_LESSONS: u64 = 40;

/// The longest title that a lesson gets, in bytes.
const TITLE_BYTES_MAX: usize = 1000;

/// Which events are meant. Two runs with one seed are about the same users; the later one has the greater `run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId {
    /// What chance begins with.
    pub seed: u64,
    /// When it began, in milliseconds since the epoch.
    pub run: u64,
}

impl RunId {
    /// What the ids of its events begin with.
    #[must_use]
    pub fn prefix(self) -> String {
        format!("load-{:016x}-{}-", self.seed, self.run)
    }
}

/// What an event is to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It tells of a user.
    User,
    /// It tells of a subscription.
    Subscription,
    /// A lesson that can be enriched.
    Lesson,
    /// A lesson in a language that its user has no subscription to: it fails.
    Unsubscribed,
    /// No event at all: it fails.
    Malformed,
}

/// An event to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its number in the run, from 0 on.
    pub number: u64,
    /// What it is to come to.
    pub kind: Kind,
    /// Whose it is; events of a user keep their order.
    pub user: usize,
    /// The partition key.
    pub key: String,
    /// The record's data.
    pub data: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    user: bool,
    subscription: bool,
}

/// Makes events.
#[derive(Debug)]
pub struct Traffic {
    id: RunId,
    shape: LoadShape,
    random: StdRng,
    known: Vec<Known>,
    made: u64,
}

impl Traffic {
    /// Of that run and shape.
    #[must_use]
    pub fn new(id: RunId, shape: LoadShape) -> Self {
        let users = usize::try_from(shape.users).unwrap_or(usize::MAX).max(1);
        Self {
            id,
            random: StdRng::seed_from_u64(id.seed),
            known: vec![Known::default(); users],
            shape,
            made: 0,
        }
    }

    /// The next event, that happens at `now`. What a lesson needs comes before it: a user's first event tells of the user,
    /// the second of the subscription.
    pub fn event(&mut self, now: DateTime<Utc>) -> Made {
        let number = self.made;
        self.made += 1;
        let user = self.random.random_range(0..self.known.len().max(1));
        let (fate, share) = (self.random.random::<f64>(), self.random.random::<f64>());
        let known = self.known.get(user).copied().unwrap_or_default();
        let kind = if fate < self.shape.malformed_share {
            Kind::Malformed
        } else if !known.user || share < SHARE_OF_EACH_WRITE {
            Kind::User
        } else if !known.subscription || share < 2.0 * SHARE_OF_EACH_WRITE {
            Kind::Subscription
        } else if fate < self.shape.malformed_share + self.shape.unsubscribed_share {
            Kind::Unsubscribed
        } else {
            Kind::Lesson
        };
        if let Some(state) = self.known.get_mut(user) {
            state.user |= kind == Kind::User;
            state.subscription |= kind == Kind::Subscription;
        }
        let key = self.uuid(user);
        let event = match kind {
            Kind::Malformed => {
                let data = format!("no event {}{number} ", self.id.prefix()).into_bytes();
                return Made { number, kind, user, key, data };
            }
            Kind::User => self.user(user, known.user, number),
            Kind::Subscription => self.subscription(user, known.subscription, number),
            Kind::Lesson => self.lesson(user, language(user), number),
            Kind::Unsubscribed => self.lesson(user, UNSUBSCRIBED, number),
        };
        let mut received = Received {
            id: format!("{}{number}", self.id.prefix()),
            occurred_at: now,
            // Greater than all of earlier runs: a run makes fewer than 1,000 events a millisecond.
            sequence: self.id.run.saturating_mul(1000).saturating_add(number),
            event,
        };
        let mut data = received.to_json().to_string().into_bytes();
        let wanted = usize::try_from(self.shape.record_bytes).unwrap_or(usize::MAX);
        if let Event::Lesson(lesson) = &mut received.event
            && data.len() < wanted
        {
            let padding = (wanted - data.len()).min(TITLE_BYTES_MAX.saturating_sub(lesson.title.len()));
            for _ in 0..padding {
                lesson.title.push(char::from(self.random.random_range(b'a'..=b'z')));
            }
            data = received.to_json().to_string().into_bytes();
        }
        Made { number, kind, user, key, data }
    }

    fn uuid(&self, user: usize) -> String {
        let high = self.id.seed;
        format!("{:08x}-{:04x}-7{:03x}-9e2f-{user:012x}", high >> 32, high >> 16 & 0xffff, high & 0xfff)
    }

    fn user(&self, user: usize, known: bool, number: u64) -> Event {
        let country = usize::try_from(number).unwrap_or(0) % COUNTRIES.len();
        Event::User(User {
            operation: operation(known),
            name: format!("user-{user}"),
            uuid: self.uuid(user),
            firstname: "First".to_owned(),
            lastname: "Last".to_owned(),
            country: COUNTRIES.get(country).copied().unwrap_or_default().to_owned(),
            active: true,
        })
    }

    fn subscription(&self, user: usize, known: bool, number: u64) -> Event {
        Event::Subscription(Subscription {
            operation: operation(known),
            name: "all lessons".to_owned(),
            user_uuid: self.uuid(user),
            language: language(user).to_owned(),
            subscription_status: "active".to_owned(),
            subscription_type: if number.is_multiple_of(2) { "monthly" } else { "yearly" }.to_owned(),
            subscription_period: 365,
        })
    }

    fn lesson(&self, user: usize, language: &str, number: u64) -> Event {
        let completed = number % COURSE_LESSONS + 1;
        Event::Lesson(Lesson {
            content_release_id: "release-1".to_owned(),
            title: format!("Lesson {completed} "),
            language: language.to_owned(),
            course_uuid: "018f3c5e-7b1a-7c3d-9e2f-0a1b2c3d4e5f".to_owned(),
            course_title: "A course".to_owned(),
            number_of_lessons_in_course: COURSE_LESSONS,
            completed_lessons_in_course: completed,
            percentage_completed_in_course: completed * 100 / COURSE_LESSONS,
            user_uuid: self.uuid(user),
        })
    }
}

fn operation(known: bool) -> Operation {
    if known { Operation::Update } else { Operation::Create }
}

fn language(user: usize) -> &'static str {
    LANGUAGES.get(user % LANGUAGES.len()).copied().unwrap_or("en")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use lesson_events::{Accounts, EntityKey};
    use proptest::prelude::*;

    use super::*;

    fn shape(users: u32, malformed_share: f64, unsubscribed_share: f64) -> LoadShape {
        LoadShape { users, record_bytes: 700, malformed_share, unsubscribed_share }
    }

    const ID: RunId = RunId { seed: 7, run: 1_700_000_000_000 };

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000).unwrap()
    }

    #[test]
    fn the_mix_is_that_of_the_published_load() {
        let mut traffic = Traffic::new(ID, shape(50, 0.0, 0.0));
        let events: Vec<Made> = (0..5000).map(|_| traffic.event(now())).collect();
        let share = |kind| events.iter().filter(|made| made.kind == kind).count() as f64 / 5000.0;
        assert!((share(Kind::User) - 0.1).abs() < 0.03, "{}", share(Kind::User));
        assert!((share(Kind::Subscription) - 0.1).abs() < 0.03);
        assert!((share(Kind::Lesson) - 0.8).abs() < 0.05);
        let mut again = Traffic::new(ID, shape(50, 0.0, 0.0));
        assert!(events.iter().all(|made| *made == again.event(now())), "the same seed makes the same events");
    }

    proptest! {
        /// Every event comes to what it says: it can be read, or not; what a lesson needs was told before it.
        #[test]
        fn events_come_to_what_they_say(seed in any::<u64>(), users in 1u32..30, malformed in 0.0f64..0.3, unsubscribed in 0.0f64..0.3) {
            let mut traffic = Traffic::new(RunId { seed, ..ID }, shape(users, malformed, unsubscribed));
            let mut sequences: HashMap<String, u64> = HashMap::new();
            let mut accounts = Accounts::default();
            for number in 0..300 {
                let made = traffic.event(now());
                prop_assert_eq!(made.number, number);
                let Ok(received) = Received::parse(&made.data) else {
                    prop_assert_eq!(made.kind, Kind::Malformed);
                    let text = String::from_utf8(made.data).unwrap();
                    let named = format!("{}{number} ", traffic.id.prefix());
                    prop_assert!(text.contains(&named));
                    continue;
                };
                prop_assert_eq!(received.event.user_uuid(), &made.key);
                let before = sequences.insert(made.key.clone(), received.sequence);
                prop_assert!(before.is_none_or(|before| before < received.sequence));
                match &received.event {
                    Event::Lesson(lesson) => {
                        let enriched = accounts.enrich(&received, lesson);
                        prop_assert_eq!(enriched.is_ok(), made.kind == Kind::Lesson, "{:?}", made.kind);
                        prop_assert_eq!(made.data.len(), 700);
                    }
                    told => {
                        prop_assert!(EntityKey::told_by(told).is_some());
                        accounts.apply(&received);
                    }
                }
            }
        }
    }
}
