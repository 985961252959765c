//! An event in its envelope: what it is, whose it is, when it happened and where it stands among the events of
//! its user.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::fields::Fields;

/// The longest event that is taken, in bytes: a table's item holds 400 KB, and a failed event is kept whole, in
/// base64, in a stream's record of 1 MiB.
pub const EVENT_BYTES_MAX: usize = 256 << 10;

/// The longest text of a field, in characters.
const TEXT_MAX: usize = 1024;

/// The longest name of anything, in characters.
const NAME_MAX: usize = 256;

/// A subscription lasts a century at most, in days.
const PERIOD_DAYS_MAX: u64 = 36_500;

/// Why something is no event: the field and the rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct Invalid {
    /// The field, such as `data.user_uuid`.
    pub field: String,
    /// The rule, such as `is missing`.
    pub rule: String,
}

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { field: field.into(), rule: rule.into() }
    }
}

/// Whether something is new or changed. An update whose creation was never seen is taken all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// It is new.
    Create,
    /// It has changed.
    Update,
}

/// What a user is, as told at a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// New or changed.
    pub operation: Operation,
    /// The name that the user goes by.
    pub name: String,
    /// Who.
    pub uuid: String,
    /// The first name; may be empty.
    pub firstname: String,
    /// The last name; may be empty.
    pub lastname: String,
    /// Where the user is registered.
    pub country: String,
    /// Whether the user is active in the system.
    pub active: bool,
}

/// What a user's subscription to a language is, as told at a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subscription {
    /// New or changed.
    pub operation: Operation,
    /// The subscription's name.
    pub name: String,
    /// Whose.
    pub user_uuid: String,
    /// To which language. A user has one subscription a language.
    pub language: String,
    /// Its status.
    pub subscription_status: String,
    /// Its type.
    pub subscription_type: String,
    /// How long it lasts from this event on, in days.
    pub subscription_period: u64,
}

/// A lesson that a user has completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lesson {
    /// The release of the content in which it was completed.
    pub content_release_id: String,
    /// The lesson's title.
    pub title: String,
    /// The lesson's language.
    pub language: String,
    /// The course.
    pub course_uuid: String,
    /// The course's title.
    pub course_title: String,
    /// Lessons in the course.
    pub number_of_lessons_in_course: u64,
    /// Those of them that the user has completed, with this one.
    pub completed_lessons_in_course: u64,
    /// The share of the course that the user has completed, in percent.
    pub percentage_completed_in_course: u64,
    /// Who completed it.
    pub user_uuid: String,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// A user is new or has changed.
    User(User),
    /// A subscription is new or has changed.
    Subscription(Subscription),
    /// A lesson was completed.
    Lesson(Lesson),
}

impl Event {
    /// Its type, as the envelope names it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Subscription(_) => "subscription",
            Self::Lesson(_) => "lesson",
        }
    }

    /// The user that it is about. Streams are keyed by it, so that the events of a user keep their order.
    #[must_use]
    pub fn user_uuid(&self) -> &str {
        match self {
            Self::User(user) => &user.uuid,
            Self::Subscription(subscription) => &subscription.user_uuid,
            Self::Lesson(lesson) => &lesson.user_uuid,
        }
    }
}

/// An event with its envelope, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Tells the event from all others: the same id is the same event, sent again.
    pub id: String,
    /// When it happened.
    pub occurred_at: DateTime<Utc>,
    /// Where it stands among the events of its user: a later event has a higher number. What an event tells of a
    /// user or a subscription has this number as its version.
    pub sequence: u64,
    /// What has happened.
    pub event: Event,
}

impl Received {
    /// Reads an event.
    ///
    /// The envelope is `{"type", "id", "occurred_at", "sequence", "data"}`; fields that it does not know are left
    /// aside, so that a producer can add some before its readers know them.
    ///
    /// # Errors
    ///
    /// The first field that breaks a rule.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        if bytes.len() > EVENT_BYTES_MAX {
            let rule = format!("has {} bytes, at most {EVENT_BYTES_MAX} are taken", bytes.len());
            return Err(Invalid::new("event", rule));
        }
        let json: Json = serde_json::from_slice(bytes)
            .map_err(|error| Invalid::new("event", format!("is no JSON: {error}")))?;
        let envelope = Fields::of("", &json)?;
        let kind = envelope.text("type", 1..=NAME_MAX)?;
        let id = envelope.text("id", 1..=128)?.to_owned();
        let occurred_at = DateTime::parse_from_rfc3339(envelope.text("occurred_at", 1..=64)?)
            .map_err(|_| envelope.breaks("occurred_at", "must be a time such as 2026-01-31T12:00:00Z"))?
            .with_timezone(&Utc);
        // Versions are kept as numbers of a table, which are exact up to 38 digits; JSON's are up to 2^53.
        let sequence = envelope.integer("sequence", 0..=(1 << 53))?;
        let data = Fields::of("data", envelope.value("data")?)?;
        let event = match kind {
            "user" => Event::User(user(&data)?),
            "subscription" => Event::Subscription(subscription(&data)?),
            "lesson" => Event::Lesson(lesson(&data)?),
            _ => return Err(envelope.breaks("type", "must be user, subscription or lesson")),
        };
        Ok(Self { id, occurred_at, sequence, event })
    }

    /// The event in its envelope.
    #[must_use]
    pub fn to_json(&self) -> Json {
        json!({
            "type": self.event.kind(),
            "id": self.id,
            "occurred_at": self.occurred_at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
            "sequence": self.sequence,
            "data": self.event,
        })
    }
}

fn operation(data: &Fields<'_>) -> Result<Operation, Invalid> {
    match data.text("operation", 1..=NAME_MAX)? {
        "create" => Ok(Operation::Create),
        "update" => Ok(Operation::Update),
        _ => Err(data.breaks("operation", "must be create or update")),
    }
}

fn user(data: &Fields<'_>) -> Result<User, Invalid> {
    Ok(User {
        operation: operation(data)?,
        name: data.text("name", 1..=NAME_MAX)?.to_owned(),
        uuid: data.uuid("uuid")?.to_ascii_lowercase(),
        firstname: data.text("firstname", 0..=NAME_MAX)?.to_owned(),
        lastname: data.text("lastname", 0..=NAME_MAX)?.to_owned(),
        country: data.text("country", 1..=NAME_MAX)?.to_owned(),
        active: data.boolean("active")?,
    })
}

fn subscription(data: &Fields<'_>) -> Result<Subscription, Invalid> {
    Ok(Subscription {
        operation: operation(data)?,
        name: data.text("name", 1..=NAME_MAX)?.to_owned(),
        user_uuid: data.uuid("user_uuid")?.to_ascii_lowercase(),
        language: data.language("language")?.to_owned(),
        subscription_status: data.text("subscription_status", 1..=NAME_MAX)?.to_owned(),
        subscription_type: data.text("subscription_type", 1..=NAME_MAX)?.to_owned(),
        subscription_period: data.integer("subscription_period", 0..=PERIOD_DAYS_MAX)?,
    })
}

fn lesson(data: &Fields<'_>) -> Result<Lesson, Invalid> {
    let number_of_lessons_in_course = data.integer("number_of_lessons_in_course", 1..=100_000)?;
    Ok(Lesson {
        content_release_id: data.text("content_release_id", 1..=NAME_MAX)?.to_owned(),
        title: data.text("title", 1..=TEXT_MAX)?.to_owned(),
        language: data.language("language")?.to_owned(),
        course_uuid: data.uuid("course_uuid")?.to_ascii_lowercase(),
        course_title: data.text("course_title", 1..=TEXT_MAX)?.to_owned(),
        number_of_lessons_in_course,
        completed_lessons_in_course: data
            .integer("completed_lessons_in_course", 0..=number_of_lessons_in_course)?,
        percentage_completed_in_course: data.integer("percentage_completed_in_course", 0..=100)?,
        user_uuid: data.uuid("user_uuid")?.to_ascii_lowercase(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USER: &str = "018f3c5e-7b1a-7c3d-9e2f-0a1b2c3d4e5f";

    fn lesson_json() -> Json {
        json!({
            "type": "lesson", "id": "l-1", "occurred_at": "2026-03-01T12:00:00.5+01:00", "sequence": 7,
            "data": {
                "content_release_id": "r1", "title": "Greetings", "language": "pt-BR",
                "course_uuid": USER, "course_title": "First steps", "number_of_lessons_in_course": 10,
                "completed_lessons_in_course": 3, "percentage_completed_in_course": 30, "user_uuid": USER,
                "a_later_field": [1]
            }
        })
    }

    fn refusal(json: &Json) -> String {
        Received::parse(json.to_string().as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_lesson_is_read_and_its_time_is_utc() {
        let received = Received::parse(lesson_json().to_string().as_bytes()).unwrap();
        assert_eq!(received.event.kind(), "lesson");
        assert_eq!(received.event.user_uuid(), USER);
        assert_eq!(received.to_json()["occurred_at"], "2026-03-01T11:00:00.500Z");
    }

    #[test]
    fn what_is_no_event_is_refused_with_field_and_rule() {
        let with = |pointer: &str, value: Json| {
            let mut json = lesson_json();
            *json.pointer_mut(pointer).unwrap() = value;
            refusal(&json)
        };
        assert_eq!(with("/type", json!("quiz")), "type: must be user, subscription or lesson");
        assert_eq!(with("/data", json!([])), "data: must be an object");
        assert_eq!(
            with("/sequence", json!(-1)),
            "sequence: must be a whole number from 0 to 9007199254740992"
        );
        assert_eq!(
            with("/occurred_at", json!("yesterday")),
            "occurred_at: must be a time such as 2026-01-31T12:00:00Z"
        );
        assert_eq!(
            with("/data/language", json!("d e")),
            "data.language: must be a language tag such as `de` or `pt-BR`"
        );
        assert_eq!(
            with("/data/completed_lessons_in_course", json!(11)),
            "data.completed_lessons_in_course: must be a whole number from 0 to 10"
        );
        assert_eq!(with("/data/title", json!("")), "data.title: must be text of 1 to 1024 characters");
        assert!(with("/data/user_uuid", json!("me")).starts_with("data.user_uuid: must be a UUID"));
        let mut json = lesson_json();
        json["data"].as_object_mut().unwrap().remove("title");
        assert_eq!(refusal(&json), "data.title: is missing");
        assert_eq!(refusal(&json!("lesson")), "event: must be an object");
        assert!(Received::parse(b"{").unwrap_err().to_string().starts_with("event: is no JSON"));
        assert!(Received::parse(&vec![b' '; EVENT_BYTES_MAX + 1]).unwrap_err().rule.contains("at most"));
    }

    /// Text with anything in it, quotes and control characters too.
    fn text(most: usize) -> impl Strategy<Value = String> {
        proptest::collection::vec(any::<char>(), 1..most)
            .prop_map(|characters| characters.into_iter().collect())
    }

    proptest! {
        /// What is written is what is read.
        #[test]
        fn events_survive_their_envelope(
            id in text(64), sequence in 0u64..1 << 53, millis in 0i64..4_102_444_800_000,
            name in text(100), country in text(50), active: bool, period in 0u64..=36_500, which in 0u8..3,
        ) {
            let event = match which {
                0 => Event::User(User {
                    operation: Operation::Create, name, uuid: USER.to_owned(), firstname: String::new(),
                    lastname: country.clone(), country, active,
                }),
                1 => Event::Subscription(Subscription {
                    operation: Operation::Update, name, user_uuid: USER.to_owned(), language: "de".to_owned(),
                    subscription_status: country, subscription_type: "yearly".to_owned(),
                    subscription_period: period,
                }),
                _ => Event::Lesson(Lesson {
                    content_release_id: "r".to_owned(), title: name, language: "de".to_owned(),
                    course_uuid: USER.to_owned(), course_title: country, number_of_lessons_in_course: period + 1,
                    completed_lessons_in_course: period, percentage_completed_in_course: 99,
                    user_uuid: USER.to_owned(),
                }),
            };
            let occurred_at = DateTime::from_timestamp_millis(millis).unwrap();
            let received = Received { id, occurred_at, sequence, event };
            prop_assert_eq!(Received::parse(received.to_json().to_string().as_bytes()), Ok(received));
        }

        /// Nothing makes it panic.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Received::parse(&bytes);
        }
    }
}
