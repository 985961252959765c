//! Looks at an environment for the [`super::gate`]: what its alarms said, what drifted.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use aws_sdk_cloudwatch::{
    Client,
    primitives::DateTime as Moment,
    types::{AlarmType, HistoryItemType},
};
use cfn::{Json, assembly::Manifest};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};

use super::gate::{Alarm, Change};
use crate::{
    cloudformation::{CloudFormation, StackResource},
    living::drift::{self, Drifted},
    sdk::told,
    stacks::Stacks,
};

/// CloudWatch takes this many names of alarms at a time.
const NAMES_MAX: usize = 100;

/// How many stacks are looked at at a time: CloudFormation detects drift of a few stacks at once.
const AT_ONCE: usize = 4;

/// The alarms of an environment's stacks, by name, with the topics by which stacks steer themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    names: BTreeSet<String>,
    steering: BTreeSet<String>,
}

impl Watched {
    /// Takes up a stack's resources. A topic that its own stack subscribes to steers something there (shards), and an
    /// alarm that calls it alone goes off in the course of things.
    pub fn add(&mut self, resources: &[StackResource]) {
        let of = |kinds: &[&str]| -> Vec<String> {
            let some = resources.iter().filter(|one| kinds.contains(&one.resource_type.as_str()));
            some.map(|one| one.physical_id.clone()).collect()
        };
        self.names.extend(of(&["AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm"]));
        if !of(&["AWS::SNS::Subscription"]).is_empty() {
            self.steering.extend(of(&["AWS::SNS::Topic"]));
        }
    }

    /// Whether somebody hears of an alarm with these actions.
    fn is_heard(&self, actions: &[String]) -> bool {
        actions.iter().any(|action| !self.steering.contains(action))
    }
}

/// Finds the alarms of an environment's stacks.
///
/// # Errors
///
/// What CloudFormation says.
pub async fn watched(manifest: &Manifest, stacks: &Stacks) -> Result<Watched> {
    let resources: Vec<Vec<StackResource>> =
        stream::iter(manifest.stacks.iter().map(|entry| stacks.resources(&entry.name)))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
    let mut watched = Watched::default();
    resources.iter().for_each(|resources| watched.add(resources));
    Ok(watched)
}

/// The alarms that somebody hears of, as they are.
///
/// # Errors
///
/// What CloudWatch says.
pub async fn alarms(client: &Client, watched: &Watched) -> Result<Vec<Alarm>> {
    let names: Vec<String> = watched.names.iter().cloned().collect();
    let mut found = Vec::new();
    for names in names.chunks(NAMES_MAX) {
        let answer = client
            .describe_alarms()
            .set_alarm_names(Some(names.to_vec()))
            .alarm_types(AlarmType::MetricAlarm)
            .alarm_types(AlarmType::CompositeAlarm)
            .max_records(i32::try_from(NAMES_MAX).unwrap_or(100))
            .send()
            .await
            .map_err(|error| told(error, "the alarms cannot be looked at"))?;
        let metric = answer.metric_alarms().iter().map(|alarm| {
            (alarm.alarm_name(), alarm.state_value(), alarm.state_reason(), alarm.alarm_actions())
        });
        let composite = answer.composite_alarms().iter().map(|alarm| {
            (alarm.alarm_name(), alarm.state_value(), alarm.state_reason(), alarm.alarm_actions())
        });
        found.extend(metric.chain(composite).filter(|(.., actions)| watched.is_heard(actions)).map(
            |(name, state, reason, _)| Alarm {
                name: name.unwrap_or_default().to_owned(),
                state: state.map(|state| state.as_str().to_owned()).unwrap_or_default(),
                reason: reason.unwrap_or_default().to_owned(),
            },
        ));
    }
    Ok(found)
}

/// When those alarms changed their state since a moment.
///
/// # Errors
///
/// What CloudWatch says.
pub async fn changes(client: &Client, alarms: &[Alarm], since: DateTime<Utc>) -> Result<Vec<Change>> {
    // All of the account, because asking for each alarm would be as many requests as there are alarms.
    let mut pages = client
        .describe_alarm_history()
        .alarm_types(AlarmType::MetricAlarm)
        .alarm_types(AlarmType::CompositeAlarm)
        .history_item_type(HistoryItemType::StateUpdate)
        .start_date(Moment::from_secs(since.timestamp()))
        .into_paginator()
        .items()
        .send();
    let mut found = Vec::new();
    while let Some(item) = pages.next().await {
        let item = item.map_err(|error| told(error, "what the alarms were cannot be looked at"))?;
        let name = item.alarm_name().unwrap_or_default();
        if !alarms.iter().any(|alarm| alarm.name == name) {
            continue;
        }
        let data = item.history_data().unwrap_or_default();
        let (from, to) = states(data, item.history_summary().unwrap_or_default());
        let at = item.timestamp().map_or(0, Moment::secs);
        found.push(Change {
            name: name.to_owned(),
            at: DateTime::from_timestamp(at, 0).unwrap_or_default(),
            from,
            to,
        });
    }
    Ok(found)
}

/// The states before and after, from what CloudWatch tells of a change: in data, or in words
/// (`Alarm updated from OK to ALARM`).
fn states(data: &str, summary: &str) -> (String, String) {
    let data: Json = serde_json::from_str(data).unwrap_or_default();
    let state = |pointer: &str| data.pointer(pointer).and_then(Json::as_str);
    if let (Some(from), Some(to)) = (state("/oldState/stateValue"), state("/newState/stateValue")) {
        return (from.to_owned(), to.to_owned());
    }
    let words: Vec<&str> = summary.split_whitespace().collect();
    let after = |word: &str| {
        let place = words.iter().position(|one| *one == word);
        place.and_then(|place| words.get(place + 1)).copied().unwrap_or_default().to_owned()
    };
    (after("from"), after("to"))
}

/// What was changed behind CloudFormation's back in the stacks of an environment.
///
/// # Errors
///
/// What CloudFormation says.
pub async fn drifted(
    manifest: &Manifest,
    client: &aws_sdk_cloudformation::Client,
    stacks: &Stacks,
    poll: Duration,
) -> Result<Vec<Drifted>> {
    let look = |entry| async move {
        let entry: &cfn::assembly::StackEntry = entry;
        let template = stacks.template(&entry.name).await?;
        drift::detect(client, poll, entry, &template).await
    };
    let found: Vec<Vec<Drifted>> =
        stream::iter(manifest.stacks.iter().map(look)).buffered(AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(kind: &str, id: &str) -> StackResource {
        StackResource {
            logical_id: id.to_owned(),
            resource_type: kind.to_owned(),
            status: "CREATE_COMPLETE".to_owned(),
            physical_id: id.to_owned(),
        }
    }

    #[test]
    fn an_alarm_that_steers_is_none_that_somebody_hears_of() {
        let mut watched = Watched::default();
        watched.add(&[resource("AWS::SNS::Topic", "people"), resource("AWS::CloudWatch::Alarm", "disk")]);
        watched.add(&[
            resource("AWS::SNS::Topic", "scaling"),
            resource("AWS::SNS::Subscription", "scaler"),
            resource("AWS::CloudWatch::Alarm", "shards"),
        ]);
        assert_eq!(watched.names, BTreeSet::from(["disk".to_owned(), "shards".to_owned()]));
        let heard =
            |actions: &[&str]| watched.is_heard(&actions.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert!(heard(&["people"]) && heard(&["scaling", "people"]));
        assert!(!heard(&["scaling"]) && !heard(&[]));
    }

    #[test]
    fn a_change_is_read_from_data_or_from_words() {
        let data = r#"{"version":"1.0","oldState":{"stateValue":"OK"},"newState":{"stateValue":"ALARM"}}"#;
        let expected = ("OK".to_owned(), "ALARM".to_owned());
        assert_eq!(states(data, ""), expected);
        assert_eq!(states("", "Alarm updated from OK to ALARM"), expected);
        assert_eq!(states("{", "Alarm created"), (String::new(), String::new()));
    }
}
