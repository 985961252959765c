//! Whether what was deployed on AWS works: workloads have their pods, event sources bring records to their functions,
//! and no alarm that calls somebody went off. What is seen is judged in plain functions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use anyhow::{Result, bail};
use cfn::assembly::Manifest;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use serde_json::json;

use crate::{
    cloudformation::CloudFormation,
    kubernetes::{eks::EksWorkloads, install::Running},
    report::Reporter,
    sdk::told,
    stacks::Stacks,
    wiring::Known,
};

/// How long it may take until all is well: an event source takes a minute or two to come to be.
const TIMEOUT: Duration = Duration::from_secs(300);

/// How often what should have been well for long is looked at: a pod that moves to another node is away for a minute.
const LOOKS: u32 = 20;

/// How many stacks or event sources are asked for at a time.
const READS: usize = 8;

/// CloudWatch takes this many names of alarms at a time.
const ALARM_NAMES_MAX: usize = 100;

/// What brings records to a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventSource {
    /// The function's name.
    pub function: String,
    /// Such as `Enabled`.
    pub state: String,
    /// What came of the last batch, such as `OK` or `PROBLEM: Function call failed`.
    pub result: String,
}

/// An alarm that calls somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// Its name.
    pub name: String,
    /// `OK`, `ALARM` or `INSUFFICIENT_DATA`.
    pub state: String,
    /// Why, in CloudWatch's words.
    pub reason: String,
    /// Since when, in seconds of Unix time.
    pub since: i64,
}

/// What is seen of a system, or of a stack that belongs to none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Its workloads.
    pub workloads: Vec<Running>,
    /// What brings records to its functions.
    pub event_sources: Vec<EventSource>,
    /// Its alarms.
    pub alarms: Vec<Alarm>,
}

impl Seen {
    /// What is not well. An alarm that went off before `since` (Unix time) is none: a deployment may be its repair.
    #[must_use]
    pub fn complaints(&self, since: i64) -> Vec<String> {
        let mut found = Vec::new();
        for Running { name, desired, ready, .. } in &self.workloads {
            if ready < desired {
                found.push(format!("{ready} of {desired} pods of {name} are ready"));
            }
        }
        for EventSource { function, state, result } in &self.event_sources {
            if state != "Enabled" {
                found.push(format!("the event source of {function} is {state}"));
            } else if result.starts_with("PROBLEM") {
                found.push(format!("the event source of {function} fails: {result}"));
            }
        }
        for alarm in self.ringing().filter(|alarm| alarm.since >= since) {
            found.push(format!("the alarm {} went off: {}", alarm.name, alarm.reason));
        }
        found
    }

    fn ringing(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.iter().filter(|alarm| alarm.state == "ALARM")
    }

    /// In a line, when all is well.
    #[must_use]
    pub fn summary(&self, name: &str) -> String {
        let mut parts: Vec<String> = self
            .workloads
            .iter()
            .map(|Running { name, desired, ready, .. }| format!("{ready}/{desired} {name}"))
            .collect();
        if !self.event_sources.is_empty() {
            parts.push(format!("{} event sources enabled", self.event_sources.len()));
        }
        let ringing: Vec<&str> = self.ringing().map(|alarm| alarm.name.as_str()).collect();
        if !ringing.is_empty() {
            parts.push(format!("in ALARM since before this deployment: {}", ringing.join(", ")));
        } else if !self.alarms.is_empty() {
            parts.push(format!("{} alarms quiet", self.alarms.len()));
        }
        format!("{name}: {}", parts.join(", "))
    }
}

/// Whether an alarm with these actions calls somebody. One whose actions all are topics of its own stack steers
/// something there (shards, a mode) and goes off in the course of things.
#[must_use]
pub fn calls_somebody(actions: &[String], own_topics: &BTreeSet<String>) -> bool {
    actions.iter().any(|action| !own_topics.contains(action))
}

/// A look at an environment on AWS.
pub struct Smoke<'a> {
    /// What is deployed.
    pub manifest: &'a Manifest,
    /// CloudFormation.
    pub stacks: &'a Stacks,
    /// Lambda.
    pub functions: &'a aws_sdk_lambda::Client,
    /// CloudWatch.
    pub alarms: &'a aws_sdk_cloudwatch::Client,
    /// What runs in the cluster; nothing where stacks alone were deployed.
    pub workloads: Option<&'a EksWorkloads<'a>>,
    /// What is known of the environment.
    pub known: &'a Known,
    /// What the user sees.
    pub reporter: &'a Reporter,
}

/// What a stack has that can be looked at.
struct Watched {
    stack: String,
    /// Ids of event source mappings.
    mappings: Vec<String>,
    /// Names of alarms.
    alarms: Vec<String>,
    own_topics: BTreeSet<String>,
}

impl Smoke<'_> {
    /// Waits until all is well after a deployment that began then, and says so of each system.
    ///
    /// # Errors
    ///
    /// What is not well, in time.
    pub async fn check(self, began: SystemTime) -> Result<()> {
        let since = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        let watched = self.watched().await?;
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        let mut told = Vec::new();
        let mut looks = 0;
        loop {
            let mut seen = self.pods().await?;
            self.look(&watched, &mut seen).await?;
            let complaints: Vec<String> = seen
                .iter()
                .flat_map(|(name, seen)| {
                    seen.complaints(since).into_iter().map(move |complaint| format!("{name}: {complaint}"))
                })
                .collect();
            if complaints.is_empty() {
                for (name, seen) in &seen {
                    let json = json!({ "event": "system", "system": name, "seen": seen });
                    self.reporter.result(&seen.summary(name), &json);
                }
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                bail!(
                    "it is deployed, but not all is well after {} s:\n  {}\nThe logs tell more (`cargo xtask logs`). Repair it and deploy again",
                    TIMEOUT.as_secs(),
                    complaints.join("\n  ")
                );
            }
            if told != complaints {
                self.reporter.stack("smoke check", "waiting", &complaints.join("; "));
                told = complaints;
            }
            self.stacks.pause(looks).await;
            looks = looks.saturating_add(1);
        }
    }

    /// What is not well of an environment that runs, and says of each system that it is. Alarms are left to whoever
    /// asks. What cannot be looked at from here is not well: nobody knows whether it is.
    pub async fn complaints(self) -> Vec<String> {
        let watched = match self.watched().await {
            Ok(watched) => watched,
            Err(error) => return vec![format!("its stacks cannot be looked at from here: {error:#}")],
        };
        let watched: Vec<Watched> =
            watched.into_iter().map(|one| Watched { alarms: Vec::new(), ..one }).collect();
        for looks in 0.. {
            let mut unseen = Vec::new();
            let mut seen = self.pods().await.unwrap_or_else(|error| {
                unseen.push(format!("its workloads cannot be looked at from here: {error:#}"));
                BTreeMap::new()
            });
            if let Err(error) = self.look(&watched, &mut seen).await {
                unseen.push(format!("{error:#}"));
            }
            let complaints: Vec<String> = seen
                .iter()
                .flat_map(|(name, seen)| {
                    seen.complaints(0).into_iter().map(move |one| format!("{name}: {one}"))
                })
                .collect();
            if complaints.is_empty() && unseen.is_empty() {
                for (name, seen) in &seen {
                    let json = json!({ "event": "system", "system": name, "seen": seen });
                    self.reporter.result(&seen.summary(name), &json);
                }
                return Vec::new();
            }
            // What cannot be seen now is not seen a minute later.
            if looks >= LOOKS || !unseen.is_empty() {
                unseen.extend(complaints);
                return unseen;
            }
            self.stacks.pause(looks).await;
        }
        Vec::new()
    }

    async fn watched(&self) -> Result<Vec<Watched>> {
        let look = |entry: &cfn::assembly::StackEntry| {
            let (id, name) = (entry.id.clone(), entry.name.clone());
            async move {
                let resources = self.stacks.resources(&name).await?;
                let of = |kinds: &[&str]| -> Vec<String> {
                    let some = resources.iter().filter(|one| kinds.contains(&one.resource_type.as_str()));
                    some.map(|one| one.physical_id.clone()).collect()
                };
                anyhow::Ok(Watched {
                    stack: id,
                    mappings: of(&["AWS::Lambda::EventSourceMapping"]),
                    alarms: of(&["AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm"]),
                    own_topics: of(&["AWS::SNS::Topic"]).into_iter().collect(),
                })
            }
        };
        stream::iter(self.manifest.stacks.iter().map(look)).buffered(READS).try_collect().await
    }

    /// The workloads' pods, by system.
    async fn pods(&self) -> Result<BTreeMap<String, Seen>> {
        let mut all: BTreeMap<String, Seen> = BTreeMap::new();
        if let Some(workloads) = self.workloads {
            for running in workloads.running(self.known).await? {
                all.entry(running.system.clone()).or_default().workloads.push(running);
            }
        }
        Ok(all)
    }

    /// Event sources and alarms.
    async fn look(&self, watched: &[Watched], all: &mut BTreeMap<String, Seen>) -> Result<()> {
        for Watched { stack, mappings, alarms, own_topics } in watched {
            if mappings.is_empty() && alarms.is_empty() {
                continue;
            }
            let seen = all.entry(stack.clone()).or_default();
            seen.event_sources = stream::iter(mappings.iter().map(|id| self.event_source(id)))
                .buffered(READS)
                .try_collect()
                .await?;
            seen.alarms = self.alarms(alarms, own_topics).await?;
        }
        Ok(())
    }

    async fn event_source(&self, id: &str) -> Result<EventSource> {
        let answer = self
            .functions
            .get_event_source_mapping()
            .uuid(id)
            .send()
            .await
            .map_err(|error| told(error, &format!("the event source {id} cannot be looked at")))?;
        let function = answer.function_arn().unwrap_or(id);
        Ok(EventSource {
            // arn:aws:lambda:REGION:ACCOUNT:function:NAME[:ALIAS]
            function: function.split(':').nth(6).unwrap_or(function).to_owned(),
            state: answer.state().unwrap_or_default().to_owned(),
            result: answer.last_processing_result().unwrap_or_default().to_owned(),
        })
    }

    async fn alarms(&self, names: &[String], own_topics: &BTreeSet<String>) -> Result<Vec<Alarm>> {
        use aws_sdk_cloudwatch::{
            primitives::DateTime,
            types::{AlarmType, StateValue},
        };
        let mut found = Vec::new();
        // Of metrics and of other alarms: two types of the SDK, with the same in them.
        let seen = |name: Option<&str>,
                    state: Option<&StateValue>,
                    reason: Option<&str>,
                    since: Option<&DateTime>| Alarm {
            name: name.unwrap_or_default().to_owned(),
            state: state.map(|state| state.as_str().to_owned()).unwrap_or_default(),
            reason: reason.unwrap_or_default().to_owned(),
            since: since.map_or(0, DateTime::secs),
        };
        for names in names.chunks(ALARM_NAMES_MAX) {
            let answer = self
                .alarms
                .describe_alarms()
                .set_alarm_names(Some(names.to_vec()))
                .alarm_types(AlarmType::MetricAlarm)
                .alarm_types(AlarmType::CompositeAlarm)
                .max_records(ALARM_NAMES_MAX as i32)
                .send()
                .await
                .map_err(|error| told(error, "the alarms cannot be looked at"))?;
            for alarm in answer.metric_alarms() {
                if calls_somebody(alarm.alarm_actions(), own_topics) {
                    let since = alarm.state_transitioned_timestamp().or(alarm.state_updated_timestamp());
                    found.push(seen(alarm.alarm_name(), alarm.state_value(), alarm.state_reason(), since));
                }
            }
            for alarm in answer.composite_alarms() {
                if calls_somebody(alarm.alarm_actions(), own_topics) {
                    let since = alarm.state_transitioned_timestamp().or(alarm.state_updated_timestamp());
                    found.push(seen(alarm.alarm_name(), alarm.state_value(), alarm.state_reason(), since));
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            workloads: vec![Running {
                system: "trades".to_owned(),
                name: "trade-consumer".to_owned(),
                desired: 2,
                ready: 2,
            }],
            event_sources: vec![EventSource {
                function: "ledger-writer".to_owned(),
                state: "Enabled".to_owned(),
                result: "OK".to_owned(),
            }],
            alarms: vec![Alarm {
                name: "lag".to_owned(),
                state: "OK".to_owned(),
                reason: "1 datapoint".to_owned(),
                since: 100,
            }],
        }
    }

    #[test]
    fn what_is_well_is_told_in_a_line() {
        assert!(seen().complaints(0).is_empty());
        assert_eq!(
            seen().summary("trades"),
            "trades: 2/2 trade-consumer, 1 event sources enabled, 1 alarms quiet"
        );
    }

    #[test]
    fn each_thing_that_is_not_well_is_told() {
        let mut bad = seen();
        bad.workloads[0].ready = 1;
        bad.event_sources[0].state = "Creating".to_owned();
        bad.alarms[0].state = "ALARM".to_owned();
        let complaints = bad.complaints(50);
        assert_eq!(
            complaints,
            [
                "1 of 2 pods of trade-consumer are ready",
                "the event source of ledger-writer is Creating",
                "the alarm lag went off: 1 datapoint"
            ]
        );
        bad.event_sources[0] = EventSource {
            state: "Enabled".to_owned(),
            result: "PROBLEM: Function call failed".to_owned(),
            ..bad.event_sources[0].clone()
        };
        assert!(bad.complaints(50)[1].contains("fails: PROBLEM"));
    }

    #[test]
    fn an_alarm_of_before_does_not_stop_what_may_repair_it() {
        let mut old = seen();
        old.alarms[0].state = "ALARM".to_owned();
        assert!(old.complaints(101).is_empty());
        assert!(old.summary("trades").ends_with("in ALARM since before this deployment: lag"));
    }

    #[test]
    fn an_alarm_that_steers_its_own_stack_calls_nobody() {
        let own = BTreeSet::from(["arn:scaling".to_owned()]);
        assert!(!calls_somebody(&["arn:scaling".to_owned()], &own));
        assert!(!calls_somebody(&[], &own));
        assert!(calls_somebody(&["arn:scaling".to_owned(), "arn:alarms".to_owned()], &own));
    }
}
