//! What lets a release go on from an environment to the next: it runs there, has run for the bake time without an
//! alarm, nothing was changed behind CloudFormation's back, and it works. Pure: what was seen comes in.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::index::short;
use crate::living::drift::Drifted;

/// The bake time where the environment's file says nothing.
pub const BAKE: Duration = Duration::from_secs(600);

/// How many things of a kind a refusal names; the command that it names shows all.
const NAMED: usize = 3;

/// An alarm that somebody hears of, as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// Its name.
    pub name: String,
    /// `OK`, `ALARM` or `INSUFFICIENT_DATA`.
    pub state: String,
    /// Why, in CloudWatch's words.
    pub reason: String,
}

/// A moment at which an alarm went off or was over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The alarm's name.
    pub name: String,
    /// When.
    pub at: DateTime<Utc>,
    /// Its state before.
    pub from: String,
    /// Its state after.
    pub to: String,
}

/// What was seen of an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// What a deployment of the release would do there, where that is anything.
    pub unlike: Vec<String>,
    /// Stacks whose functions, and workloads which, may run code that was swapped in past the release, in words.
    pub swapped: Vec<String>,
    /// Its alarms that somebody hears of.
    pub alarms: Vec<Alarm>,
    /// Their changes within the bake time.
    pub changes: Vec<Change>,
    /// What was changed behind CloudFormation's back.
    pub drifted: Vec<Drifted>,
    /// What the smoke check said against it.
    pub smoke: Vec<String>,
    /// Who works on it, in words.
    pub underway: Option<String>,
    /// Why it does not run the release any more, though it did when the looking began.
    pub replaced: Option<String>,
}

/// Why a release may not go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What speaks against it.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n    {}", self.what, self.remedy)
    }
}

/// What is left of the bake time.
#[must_use]
pub fn remaining(since: DateTime<Utc>, bake: Duration, now: DateTime<Utc>) -> Duration {
    // A clock that is behind whoever deployed has seen nothing yet.
    bake.saturating_sub((now - since).to_std().unwrap_or_default())
}

/// The alarms that were in ALARM within the bake time: those that are, and those that were.
fn rang(observed: &Observed) -> Vec<String> {
    let mut told: Vec<String> = observed
        .alarms
        .iter()
        .filter(|alarm| alarm.state == "ALARM")
        .map(|alarm| format!("{} is in ALARM ({})", alarm.name, alarm.reason))
        .collect();
    for change in &observed.changes {
        let is_now = observed.alarms.iter().any(|alarm| alarm.name == change.name && alarm.state == "ALARM");
        let was = change.from == "ALARM" || change.to == "ALARM";
        let one = format!("{} was in ALARM at {}", change.name, change.at.format("%H:%M:%SZ"));
        let told_already = told.iter().any(|known| known.starts_with(&format!("{} ", change.name)));
        if was && !is_now && !told_already {
            told.push(one);
        }
    }
    told
}

/// What speaks against a release going on from `environment`, where it runs since `since`.
#[must_use]
pub fn refusals(
    environment: &str,
    digest: &str,
    since: DateTime<Utc>,
    observed: &Observed,
    bake: Duration,
    now: DateTime<Utc>,
) -> Vec<Refusal> {
    let mut all = Vec::new();
    let mut refuse = |what: String, remedy: String| all.push(Refusal { what, remedy });
    if let Some(who) = &observed.underway {
        refuse(
            format!("somebody works on {environment}: {who}"),
            "wait until that is done, and promote again".to_owned(),
        );
    }
    if let Some(why) = &observed.replaced {
        refuse(
            format!("the release was replaced while it was looked at: {why}"),
            format!("`cargo xtask history --env {environment}` tells what runs there now; promote again"),
        );
    }
    if !observed.unlike.is_empty() {
        refuse(
            format!(
                "{environment} is not as the release {}… has it: {}",
                short(digest),
                some(&observed.unlike)
            ),
            format!(
                "deploy it there again: `cargo xtask deploy --release {} --env {environment}`",
                short(digest)
            ),
        );
    }
    if !observed.swapped.is_empty() {
        refuse(
            format!(
                "code was swapped in past the release, and may run in {environment}: {}",
                some(&observed.swapped)
            ),
            format!(
                "deploy the release there without --hotswap, which puts that right: `cargo xtask deploy --release {} --env {environment}`",
                short(digest)
            ),
        );
    }
    let left = remaining(since, bake, now);
    if !left.is_zero() {
        refuse(
            format!(
                "the release runs in {environment} since {} and the bake time is {}",
                since.format("%H:%M:%SZ"),
                span(bake)
            ),
            format!("wait {} more; `--wait` does it", span(left)),
        );
    }
    let rang = rang(observed);
    if !rang.is_empty() {
        refuse(
            format!("alarms of {environment} within the bake time of {}: {}", span(bake), some(&rang)),
            "repair what they tell; when they have been quiet for the bake time, promote again".to_owned(),
        );
    }
    if !observed.drifted.is_empty() {
        let drifted: Vec<String> = observed
            .drifted
            .iter()
            .map(|one| format!("{} is {}", one.path, one.status.to_lowercase()))
            .collect();
        refuse(
            format!("{environment} has drifted from its templates: {}", some(&drifted)),
            format!(
                "`cargo xtask drift --env {environment}` shows what was changed by hand; take it into the sources, or `--revert` it"
            ),
        );
    }
    for failure in &observed.smoke {
        refuse(
            format!("{environment} does not work: {failure}"),
            format!("`cargo xtask status --env {environment}` and `cargo xtask logs` tell more"),
        );
    }
    all
}

/// The first few, and how many more.
fn some(all: &[String]) -> String {
    let more = all.len().saturating_sub(NAMED);
    let named = all[..all.len() - more].join("; ");
    if more == 0 { named } else { format!("{named}; and {more} more") }
}

/// A time for people.
fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn alarm(name: &str, state: &str) -> Alarm {
        Alarm { name: name.to_owned(), state: state.to_owned(), reason: "3 points were over 5".to_owned() }
    }

    fn change(name: &str, from: &str, to: &str) -> Change {
        Change { name: name.to_owned(), at: at(60), from: from.to_owned(), to: to.to_owned() }
    }

    fn told(observed: &Observed, now: i64) -> Vec<Refusal> {
        refusals("staging", &"a".repeat(64), at(0), observed, BAKE, at(now))
    }

    #[test]
    fn what_has_baked_and_is_well_may_go_on() {
        let well = Observed {
            alarms: vec![alarm("lag", "OK"), alarm("disk", "INSUFFICIENT_DATA")],
            changes: vec![change("disk", "OK", "INSUFFICIENT_DATA")],
            ..Observed::default()
        };
        assert_eq!(told(&well, 600), []);
        assert_eq!(told(&well, 599).len(), 1);
        // A clock that is behind is no bake time.
        assert_eq!(remaining(at(100), BAKE, at(0)), BAKE);
    }

    #[test]
    fn each_refusal_says_what_and_what_to_do() {
        let bad = Observed {
            unlike: vec!["fg-kafka would be updated: the template differs".to_owned()],
            swapped: vec![
                "ledger (ledger-writer, ledger-mode)".to_owned(),
                "workloads (consumer)".to_owned(),
            ],
            alarms: vec![
                alarm("lag", "ALARM"),
                alarm("errors", "OK"),
                alarm("disk", "OK"),
                alarm("a", "ALARM"),
            ],
            changes: vec![
                change("errors", "OK", "ALARM"),
                change("errors", "ALARM", "OK"),
                change("lag", "OK", "ALARM"),
                change("disk", "ALARM", "OK"),
            ],
            drifted: vec![Drifted {
                stack: "ledger".to_owned(),
                logical_id: "Queue".to_owned(),
                path: "ledger/Queue".to_owned(),
                resource_type: "AWS::SQS::Queue".to_owned(),
                status: "MODIFIED".to_owned(),
                differences: Vec::new(),
            }],
            smoke: vec!["trades: no record was processed within 60 s".to_owned()],
            underway: Some("a deploy by Ada, arn:aws:iam::1:role/x (process 7 on desk), for 12 s".to_owned()),
            replaced: Some("staging runs no release".to_owned()),
        };
        let text: Vec<String> = told(&bad, 240).iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(text.join("\n"));
    }
}
