//! The record of a deployment, and what a row of them tells: what runs, since when, and what ran before. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Result, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::index::{Revision, is_digest, short};

/// The version of a record's format.
pub const SCHEMA_VERSION: u32 = 1;

/// How a deployment came to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "way", rename_all = "kebab-case")]
pub enum Way {
    /// From the sources at hand.
    Sources,
    /// Code was swapped in past the stacks.
    Hotswap,
    /// From a release.
    Release,
    /// From another environment, which ran the release.
    Promotion {
        /// That environment.
        from: String,
        /// What spoke against it and was overruled.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        overruled: Vec<String>,
    },
    /// Back to a release of before.
    Rollback,
}

impl std::fmt::Display for Way {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sources => formatter.write_str("deploy"),
            Self::Hotswap => formatter.write_str("hotswap"),
            Self::Release => formatter.write_str("release"),
            Self::Promotion { from, overruled } if overruled.is_empty() => write!(formatter, "from {from}"),
            Self::Promotion { from, .. } => write!(formatter, "from {from}, forced"),
            Self::Rollback => formatter.write_str("rollback"),
        }
    }
}

/// What was deployed, when, by whom and from where. Asset keys are in it so that a collection leaves those of
/// releases alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Counts the environment's deployments, from 1.
    pub number: u64,
    /// The environment.
    pub environment: String,
    /// When it was done.
    pub deployed_at: DateTime<Utc>,
    /// Whose credentials, as an ARN.
    pub identity: String,
    /// The name that git knows the person by, where it does.
    pub person: String,
    /// The machine.
    pub host: String,
    /// How.
    #[serde(flatten)]
    pub way: Way,
    /// The release's digest; nothing where it was none.
    pub release: Option<String>,
    /// The assembly's digest.
    pub assembly: String,
    /// What it was made from.
    pub source: Revision,
    /// The version of the program that did it.
    pub tool_version: String,
    /// The stacks, by id; all when empty.
    pub stacks: Vec<String>,
    /// Whether workloads were deployed.
    pub workloads: bool,
    /// Where the assets are: asset -> field -> value.
    pub assets: BTreeMap<String, BTreeMap<String, String>>,
}

impl Record {
    /// Whether it was all of the environment.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.stacks.is_empty() && self.workloads
    }

    /// What was deployed, for people.
    #[must_use]
    pub fn what(&self) -> String {
        match self.release.as_deref() {
            Some(release) => format!("release {}… of {}", short(release), self.source),
            None => format!("sources at {}", self.source),
        }
    }

    /// Whether this deployment, if it changed nothing, would only say again what `last` says: the same release or the
    /// same assembly with the same assets, of the same stacks and workloads. By which way it came, from which commit
    /// and by whom makes no other environment of it. What was overruled is said, and what was swapped in is told by
    /// no assembly.
    #[must_use]
    pub fn repeats(&self, last: &Self) -> bool {
        let overrules = matches!(&self.way, Way::Promotion { overruled, .. } if !overruled.is_empty());
        let content = |record: &Self| {
            let Self { environment, release, assembly, stacks, workloads, assets, .. } = record.clone();
            (environment, release, assembly, stacks, workloads, assets)
        };
        let swap = [self, last].iter().any(|record| record.way == Way::Hotswap);
        !overrules && !swap && content(self) == content(last)
    }

    /// The release that the environment ran from then on: of one that was deployed as a whole.
    #[must_use]
    pub fn whole_release(&self) -> Option<&str> {
        self.release.as_deref().filter(|_| self.is_whole())
    }
}

/// The records of an environment, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(pub Vec<Record>);

impl History {
    /// The number of the last deployment; 0 before the first.
    #[must_use]
    pub fn last_number(&self) -> u64 {
        self.0.last().map_or(0, |record| record.number)
    }

    /// The release that runs and the first of the deployments in a row that brought it.
    ///
    /// # Errors
    ///
    /// Why it is none, and what to do.
    pub fn running(&self, environment: &str) -> Result<(&str, &Record)> {
        let Some(last) = self.0.last() else {
            bail!(
                "{environment} has no record of a deployment: deploy a release to it first, `cargo xtask deploy --release BUNDLE --env {environment}`"
            );
        };
        let Some(release) = last.whole_release() else {
            let why = if last.way == Way::Hotswap {
                "swapped code in past its stacks".to_owned()
            } else if last.is_whole() {
                format!("was from sources at {}, not of a release", last.source)
            } else if last.stacks.is_empty() {
                "was of stacks without workloads".to_owned()
            } else {
                format!("was of {} alone", last.stacks.join(", "))
            };
            bail!(
                "{environment} runs no release: its last deployment, #{} by {}, {why}. Deploy a release to it, `cargo xtask deploy --release BUNDLE --env {environment}`",
                last.number,
                who(last)
            );
        };
        let since = self.0.iter().rev().take_while(|record| record.whole_release() == Some(release)).last();
        Ok((release, since.unwrap_or(last)))
    }

    /// Whether the release that runs is the one that somebody has in mind, by its digest or how that begins: without
    /// that, another one that was deployed meanwhile would go on in its stead.
    ///
    /// # Errors
    ///
    /// When it is another one, with who deployed it, or none.
    pub fn check_runs(&self, environment: &str, wanted: &str) -> Result<()> {
        let (release, since) = self.running(environment)?;
        if !is_digest(wanted) {
            bail!("`{wanted}` is no digest of 8 hexadecimal digits or more");
        }
        if !release.starts_with(wanted) {
            bail!(
                "{environment} does not run the release {}…, but {}…, deployed as #{} by {}: another one came in between. Promote that one, or deploy the other one there again, `cargo xtask rollback --env {environment} --to {0}`",
                short(wanted),
                short(release),
                since.number,
                who(since)
            );
        }
        Ok(())
    }

    /// The release to go back to: `previous`, or one by its digest or how that begins.
    ///
    /// # Errors
    ///
    /// When there is none, or more than one that begins so.
    pub fn find(&self, environment: &str, wanted: &str) -> Result<&Record> {
        let see = format!("`cargo xtask history --env {environment}` shows what was deployed");
        if wanted == "previous" {
            let current = self.0.last().and_then(Record::whole_release);
            let before = self
                .0
                .iter()
                .rev()
                .find(|record| record.whole_release().is_some_and(|release| Some(release) != current));
            let Some(before) = before else {
                bail!(
                    "{environment} never ran another release as a whole, so there is none to go back to; {see}"
                );
            };
            return Ok(before);
        }
        if !is_digest(wanted) {
            bail!("`{wanted}` is neither `previous` nor a digest of 8 hexadecimal digits or more; {see}");
        }
        let named =
            |record: &&Record| record.whole_release().is_some_and(|release| release.starts_with(wanted));
        let Some(found) = self.0.iter().rev().find(named) else {
            bail!("no release {wanted} was deployed to {environment} as a whole; {see}");
        };
        if self.0.iter().filter(named).any(|record| record.release != found.release) {
            bail!("more than one release begins with {wanted}: name more of it; {see}");
        }
        Ok(found)
    }

    /// A table of the last so many deployments, the newest first.
    #[must_use]
    pub fn table(&self, environment: &str, limit: usize) -> String {
        if self.0.is_empty() {
            return format!("{environment} has no record of a deployment");
        }
        let runs = self.running(environment).ok().map(|(release, _)| release);
        let mut text = format!(
            "{:>5}  {:<20}  {:<14} {:<21} {:<22} {:<8} by\n",
            "#", "deployed", "release", "revision", "how", "tool"
        );
        for record in self.0.iter().rev().take(limit) {
            let release = record.release.as_deref().map_or("-", short);
            let mark =
                if record.whole_release().is_some_and(|release| Some(release) == runs) { "*" } else { "" };
            let part = match (record.is_whole(), record.stacks.is_empty()) {
                (true, _) => String::new(),
                (false, true) if record.way == Way::Hotswap => String::new(),
                (false, true) => ", stacks only".to_owned(),
                (false, false) => format!(", {}", record.stacks.join(" ")),
            };
            // Writing to a text does not fail.
            let _ = writeln!(
                text,
                "{:>5}  {:<20}  {:<14} {:<21} {:<22} {:<8} {}",
                record.number,
                record.deployed_at.to_rfc3339_opts(SecondsFormat::Secs, true),
                format!("{release}{mark}"),
                record.source.to_string(),
                format!("{}{part}", record.way),
                record.tool_version,
                who(record)
            );
        }
        if runs.is_some() {
            text.push_str("* the release that runs now\n");
        }
        text
    }
}

/// Who it was, for people.
fn who(record: &Record) -> String {
    let role = record.identity.rsplit(':').next().unwrap_or_default();
    if record.person.is_empty() { role.to_owned() } else { format!("{} ({role})", record.person) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(number: u64, release: Option<&str>) -> Record {
        let at = 1_800_000_000 + i64::try_from(number).unwrap() * 3600;
        Record {
            schema_version: SCHEMA_VERSION,
            number,
            environment: "staging".to_owned(),
            deployed_at: DateTime::from_timestamp(at, 0).unwrap(),
            identity: "arn:aws:sts::222222222222:assumed-role/pipeline/run-7".to_owned(),
            person: "Ada".to_owned(),
            host: "runner".to_owned(),
            way: if release.is_some() { Way::Release } else { Way::Sources },
            release: release.map(|digit| digit.repeat(64)),
            assembly: "e".repeat(64),
            source: Revision { revision: "0123456789abcdef".to_owned(), clean: release.is_some() },
            tool_version: "0.1.0".to_owned(),
            stacks: Vec::new(),
            workloads: true,
            assets: BTreeMap::new(),
        }
    }

    fn history() -> History {
        let mut records = vec![
            record(1, None),
            record(2, Some("a")),
            record(3, Some("b")),
            record(4, Some("b")),
            record(5, Some("c")),
            record(6, Some("b")),
            record(7, Some("b")),
        ];
        records[5].way = Way::Rollback;
        records[6].way = Way::Promotion { from: "dev".to_owned(), overruled: Vec::new() };
        History(records)
    }

    #[test]
    fn only_what_says_the_same_is_not_said_again() {
        let last = record(3, Some("b"));
        let again = Record { way: Way::Rollback, person: "Grace".to_owned(), ..record(4, Some("b")) };
        assert!(again.repeats(&last));
        let promotion = |overruled: &[&str]| Way::Promotion {
            from: "dev".to_owned(),
            overruled: overruled.iter().map(ToString::to_string).collect(),
        };
        assert!(Record { way: promotion(&[]), ..again.clone() }.repeats(&last));
        let asset = BTreeMap::from([("s3_key".to_owned(), "assets/other.zip".to_owned())]);
        for other in [
            Record { way: promotion(&["an alarm"]), ..again.clone() },
            Record { release: None, ..again.clone() },
            Record { release: Some("c".repeat(64)), ..again.clone() },
            Record { assembly: "f".repeat(64), ..again.clone() },
            Record { stacks: vec!["kafka".to_owned()], ..again.clone() },
            Record { workloads: false, ..again.clone() },
            Record { assets: BTreeMap::from([("writer".to_owned(), asset)]), ..again.clone() },
        ] {
            assert!(!other.repeats(&last), "{other:?}");
        }
        // The stacks alone, after a swap, which is written down likewise.
        let swap = Record { way: Way::Hotswap, workloads: false, ..record(4, None) };
        let stacks_only = Record { workloads: false, ..record(5, None) };
        assert!(!stacks_only.repeats(&swap) && !swap.repeats(&stacks_only));
        // From sources of another commit that render and pack the same.
        let commit = Revision { revision: "fedcba".to_owned(), clean: true };
        assert!(Record { source: commit, ..record(5, None) }.repeats(&record(4, None)));
    }

    #[test]
    fn what_runs_is_there_since_the_first_of_its_row() {
        let history = history();
        let (release, since) = history.running("staging").unwrap();
        assert_eq!((release, since.number), ("b".repeat(64).as_str(), 6));
    }

    #[test]
    fn an_environment_that_was_touched_otherwise_runs_no_release() {
        let told = |last: Record| {
            let mut history = history();
            history.0.push(last);
            history.running("staging").unwrap_err().to_string()
        };
        assert!(told(record(8, None)).contains("from sources at 0123456789ab+changes"));
        let part = Record { stacks: vec!["kafka".to_owned()], ..record(8, Some("b")) };
        assert!(told(part).contains("#8 by Ada (assumed-role/pipeline/run-7), was of kafka alone"));
        let part = Record { workloads: false, ..record(8, Some("b")) };
        assert!(told(part).contains("stacks without workloads"));
        let swap = Record { workloads: false, way: Way::Hotswap, ..record(8, None) };
        assert!(told(swap).contains("swapped code in"));
        assert!(History::default().running("staging").unwrap_err().to_string().contains("no record"));
    }

    #[test]
    fn another_release_than_the_one_in_mind_is_none() {
        let history = history();
        history.check_runs("staging", "bbbbbbbb").unwrap();
        history.check_runs("staging", &"b".repeat(64)).unwrap();
        let told = |wanted: &str| history.check_runs("staging", wanted).unwrap_err().to_string();
        let other = told("cccccccc");
        assert!(
            other.contains("the release cccccccc…, but bbbbbbbbbbbb…, deployed as #6 by Ada")
                && other.contains("--to cccccccc`"),
            "{other}"
        );
        assert!(told("bbbb").contains("no digest"));
        assert!(History::default().check_runs("staging", "bbbbbbbb").is_err());
    }

    #[test]
    fn the_way_back_is_found() {
        let history = history();
        assert_eq!(history.find("staging", "previous").unwrap().number, 5);
        assert_eq!(history.find("staging", "aaaaaaaa").unwrap().number, 2);
        assert_eq!(history.find("staging", &"b".repeat(64)).unwrap().number, 7);
        let told = |wanted: &str| history.find("staging", wanted).unwrap_err().to_string();
        assert!(told("dddddddd").contains("no release dddddddd"));
        assert!(told("yesterday").contains("neither"));
        assert!(told("aaaa").contains("8 hexadecimal"));
        // After a deployment from sources, the release that ran before it.
        let mut sources = history.clone();
        sources.0.push(record(8, None));
        assert_eq!(sources.find("staging", "previous").unwrap().number, 7);
        let one = History(vec![record(1, Some("a")), record(2, Some("a"))]);
        assert!(one.find("staging", "previous").unwrap_err().to_string().contains("never ran another"));
        let mut like = record(8, Some("a"));
        like.release = Some(format!("aaaaaaaa{}", "0".repeat(56)));
        sources.0.push(like);
        let error = sources.find("staging", "aaaaaaaa").unwrap_err().to_string();
        assert!(error.contains("more than one"), "{error}");
    }

    #[test]
    fn the_table_reads_well() {
        let mut history = history();
        history.0[3].stacks = vec!["kafka".to_owned()];
        insta::assert_snapshot!(history.table("staging", 6));
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let mut forced = record(1, Some("a"));
        forced.way = Way::Promotion { from: "dev".to_owned(), overruled: vec!["an alarm".to_owned()] };
        for record in [forced, record(2, None)] {
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        }
    }
}
