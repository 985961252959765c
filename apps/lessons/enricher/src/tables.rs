//! The tables of users and subscriptions in DynamoDB.

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::put_item::PutItemError,
    types::{AttributeValue, KeysAndAttributes, ReturnValuesOnConditionCheckFailure},
};
use chrono::{DateTime, SecondsFormat, Utc};
use lesson_events::{
    Applied, EntityKey, Event, Received,
    enrichment::{KnownSubscription, KnownUser},
};
use worker_contract::lessons::{LANGUAGE_KEY, USER_KEY};

use crate::{
    call_error::Retriable,
    ports::{CallError, Known, Read, Tables},
};

/// The attribute that holds the sequence number of the event that an item is of.
const VERSION: &str = "version";

/// Error codes of calls that may succeed later, beside those of the servers (5xx).
const RETRIABLE: Retriable = Retriable(&[
    "InternalServerError",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
    "TransactionConflictException",
]);

type Item = HashMap<String, AttributeValue>;

/// Two tables.
#[derive(Clone, Debug)]
pub struct DynamoTables {
    client: Client,
    users: String,
    subscriptions: String,
}

impl DynamoTables {
    /// The tables of these names.
    #[must_use]
    pub fn new(client: Client, users: &str, subscriptions: &str) -> Self {
        Self { client, users: users.to_owned(), subscriptions: subscriptions.to_owned() }
    }

    fn key_of(&self, table: &str, item: &Item) -> Option<EntityKey> {
        let user_uuid = text(item, USER_KEY)?;
        if table == self.users {
            return Some(EntityKey::user(user_uuid));
        }
        Some(EntityKey::subscription(user_uuid, text(item, LANGUAGE_KEY)?))
    }

    fn known(&self, table: &str, item: &Item) -> Option<Known> {
        let user_uuid = text(item, USER_KEY)?.to_owned();
        let version = version(item)?;
        if table == self.users {
            let country = text(item, "country")?.to_owned();
            return Some(Known::User(user_uuid, KnownUser { country, version }));
        }
        let ends_at = DateTime::parse_from_rfc3339(text(item, "ends_at")?).ok()?.with_timezone(&Utc);
        let subscription = KnownSubscription {
            status: text(item, "subscription_status")?.to_owned(),
            kind: text(item, "subscription_type")?.to_owned(),
            ends_at,
            version,
        };
        Some(Known::Subscription(user_uuid, text(item, LANGUAGE_KEY)?.to_owned(), subscription))
    }
}

impl Tables for DynamoTables {
    async fn read(&self, keys: &[EntityKey]) -> Result<Read, CallError> {
        let mut request: HashMap<String, Vec<Item>> = HashMap::new();
        for key in keys {
            let (table, item) = match key {
                EntityKey::User { user_uuid } => (&self.users, vec![(USER_KEY, user_uuid)]),
                EntityKey::Subscription { user_uuid, language } => {
                    (&self.subscriptions, vec![(USER_KEY, user_uuid), (LANGUAGE_KEY, language)])
                }
            };
            let item = item
                .into_iter()
                .map(|(name, value)| (name.to_owned(), AttributeValue::S(value.clone())))
                .collect();
            request.entry(table.clone()).or_default().push(item);
        }
        let mut call = self.client.batch_get_item();
        for (table, keys) in request {
            // What was written a moment ago has to be seen.
            let keys = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
            call = call.request_items(table, keys.map_err(|error| CallError::Fatal(error.to_string()))?);
        }
        let answer = call.send().await.map_err(|error| RETRIABLE.call_error(&error))?;
        let mut read = Read::default();
        for (table, items) in answer.responses.unwrap_or_default() {
            for item in items {
                match self.known(&table, &item) {
                    Some(known) => read.known.push(known),
                    // Its lessons fail with what they miss, and are kept.
                    None => tracing::error!(table, "an item of the table is of no known form"),
                }
            }
        }
        for (table, keys) in answer.unprocessed_keys.unwrap_or_default() {
            read.unprocessed.extend(keys.keys.iter().filter_map(|key| self.key_of(&table, key)));
        }
        Ok(read)
    }

    async fn write(&self, event: &Received) -> Result<Applied, CallError> {
        let table = match &event.event {
            Event::User(_) => &self.users,
            Event::Subscription(_) => &self.subscriptions,
            Event::Lesson(_) => return Err(CallError::Fatal("a lesson has no table".to_owned())),
        };
        let written = self
            .client
            .put_item()
            .table_name(table)
            .set_item(Some(item(event)))
            .condition_expression("attribute_not_exists(#version) OR #version < :version")
            .expression_attribute_names("#version", VERSION)
            .expression_attribute_values(":version", AttributeValue::N(event.sequence.to_string()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match written {
            Ok(_) => Ok(Applied::Newer),
            Err(SdkError::ServiceError(error)) if error.err().is_conditional_check_failed_exception() => {
                let PutItemError::ConditionalCheckFailedException(refusal) = error.err() else {
                    return Ok(Applied::Older);
                };
                let known = refusal.item().and_then(version);
                // Without the item it is not known which; what it told is not newer in any case.
                let applied = Applied::by_version(event.sequence, known);
                Ok(if applied == Applied::Newer { Applied::Older } else { applied })
            }
            Err(error) => Err(RETRIABLE.call_error(&error)),
        }
    }
}

/// The item that an event tells.
fn item(received: &Received) -> Item {
    let text = |value: &str| AttributeValue::S(value.to_owned());
    let time = |time: DateTime<Utc>| AttributeValue::S(time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    let mut item = match &received.event {
        Event::User(user) => vec![
            (USER_KEY, text(&user.uuid)),
            ("name", text(&user.name)),
            ("firstname", text(&user.firstname)),
            ("lastname", text(&user.lastname)),
            ("country", text(&user.country)),
            ("active", AttributeValue::Bool(user.active)),
        ],
        Event::Subscription(subscription) => vec![
            (USER_KEY, text(&subscription.user_uuid)),
            (LANGUAGE_KEY, text(&subscription.language.to_ascii_lowercase())),
            ("name", text(&subscription.name)),
            ("subscription_status", text(&subscription.subscription_status)),
            ("subscription_type", text(&subscription.subscription_type)),
            ("ends_at", time(KnownSubscription::end(received.occurred_at, subscription.subscription_period))),
        ],
        Event::Lesson(_) => Vec::new(),
    };
    item.extend([
        (VERSION, AttributeValue::N(received.sequence.to_string())),
        ("event_id", text(&received.id)),
        ("occurred_at", time(received.occurred_at)),
    ]);
    item.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

fn version(item: &Item) -> Option<u64> {
    item.get(VERSION)?.as_n().ok()?.parse().ok()
}
