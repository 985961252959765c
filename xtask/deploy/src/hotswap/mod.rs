//! Code alone, in seconds: functions get their new zip and workloads their new programs, past CloudFormation. What is
//! no code is named and left to a proper deploy, which also puts right what a swap has left otherwise than the stacks
//! say: a [`record::Record`] in the environment holds the stacks whose functions were swapped.

mod difference;
mod functions;
pub mod record;
mod run;

pub use difference::{Code, beside_code, code_of, invoked};

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use cfn::{Json, assembly::Manifest};

use record::WORKLOADS;

/// Whether code may be swapped in an environment: where data is disposable, and never in prod. What a release says
/// runs in the others is to be what runs there: promotion trusts it, and data that is kept is not the place for code
/// that no change set has announced.
///
/// # Errors
///
/// Why not, and what to do instead.
pub fn allowed(manifest: &Manifest) -> Result<()> {
    let environment = &manifest.environment;
    if environment == "prod" {
        bail!(
            "code is not swapped in prod: what runs there is what a release says. Deploy: `cargo xtask deploy --env prod`"
        );
    }
    if manifest.stacks.iter().any(|stack| stack.termination_protection) {
        bail!(
            "code is not swapped in {environment}: its data is kept, so what runs there is to be what its stacks say. Deploy: `cargo xtask deploy --env {environment}`"
        );
    }
    Ok(())
}

/// What a [`record::Record`] names, for people: a stack with its functions, the workloads each. `templates` are the
/// rendered ones by stack id.
#[must_use]
pub fn named(
    manifest: &Manifest,
    templates: &BTreeMap<String, Json>,
    recorded: &BTreeSet<String>,
) -> Vec<String> {
    let one = |id: &String| {
        let functions: Vec<String> = match (manifest.stack(id), templates.get(id)) {
            (Some(entry), Some(template)) => {
                code_of(entry, template).into_iter().map(|code| code.asset).collect()
            }
            _ if id == WORKLOADS => manifest.workloads.iter().map(|one| one.name.clone()).collect(),
            _ => Vec::new(),
        };
        if functions.is_empty() { id.clone() } else { format!("{id} ({})", functions.join(", ")) }
    };
    recorded.iter().map(one).collect()
}

/// What a swap left to a proper deploy.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// The stack's id, or `workloads`.
    pub stack: String,
    /// What differs, in words.
    pub what: Vec<String>,
}

/// What a swap did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Outcome {
    /// Functions that run new code, by asset.
    pub swapped: Vec<String>,
    /// Functions that ran this code already.
    pub unchanged: usize,
    /// Whether the workloads are what they should be.
    pub workloads: bool,
    /// Those that were not before, by name.
    pub workloads_changed: Vec<String>,
    /// What was no code.
    pub skipped: Vec<Skipped>,
}

impl Outcome {
    /// Whether anything runs otherwise than before.
    #[must_use]
    pub fn changed(&self) -> bool {
        !(self.swapped.is_empty() && self.workloads_changed.is_empty())
    }

    /// It in words.
    #[must_use]
    pub fn told(&self, environment: &str, seconds: f64) -> String {
        let functions = match (self.swapped.len(), self.unchanged) {
            (0, 0) => "no functions".to_owned(),
            (0, _) => "no function has new code".to_owned(),
            (1, _) => "1 function has new code".to_owned(),
            (count, _) => format!("{count} functions have new code"),
        };
        let workloads = match (self.workloads, self.workloads_changed.as_slice()) {
            (false, _) => String::new(),
            (true, []) => "; the workloads run what was built already".to_owned(),
            (true, changed) => {
                format!(
                    "; the workloads run what was built, and had to be changed for it: {}",
                    changed.join(", ")
                )
            }
        };
        let nothing = if self.changed() { "" } else { ". Nothing was swapped, and no record is written" };
        let mut text = format!("{seconds:>6.1}s  {functions}{workloads}{nothing}");
        for skipped in &self.skipped {
            for what in &skipped.what {
                text += &format!("\n  skipped: {}: {what}", skipped.stack);
            }
        }
        if !self.skipped.is_empty() {
            text += &format!("\n`cargo xtask deploy --env {environment}` brings what was skipped");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_reads_well() {
        let mut outcome = Outcome { unchanged: 6, workloads: true, ..Outcome::default() };
        assert_eq!(
            outcome.told("local", 0.83),
            "   0.8s  no function has new code; the workloads run what was built already. Nothing was swapped, and no record is written"
        );
        assert!(!outcome.changed());
        outcome.workloads_changed = vec!["trade-consumer".to_owned()];
        assert!(outcome.changed());
        assert_eq!(
            outcome.told("local", 0.83),
            "   0.8s  no function has new code; the workloads run what was built, and had to be changed for it: trade-consumer"
        );
        outcome.workloads_changed.clear();
        outcome.swapped = vec!["ledger-writer".to_owned()];
        outcome.skipped = vec![Skipped {
            stack: "kafka".to_owned(),
            what: vec![
                "kafka/Tx (Properties.PartitionCount) has changed".to_owned(),
                "its tags have changed".to_owned(),
            ],
        }];
        assert_eq!(
            outcome.told("local", 1.0),
            "   1.0s  1 function has new code; the workloads run what was built already\n  \
             skipped: kafka: kafka/Tx (Properties.PartitionCount) has changed\n  \
             skipped: kafka: its tags have changed\n\
             `cargo xtask deploy --env local` brings what was skipped"
        );
    }

    #[test]
    fn what_was_swapped_is_named_by_stack_and_function() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let environment = platform::Environment::load(&root, "local").unwrap();
        let assembly = platform::render(&environment).unwrap();
        let recorded = ["lessons", "gone", WORKLOADS].map(str::to_owned).into();
        let named = named(&assembly.manifest, &assembly.templates, &recorded);
        assert_eq!(named[0], "gone", "a stack that is no longer rendered is named as well");
        assert!(named[1].starts_with("lessons (") && named[1].contains("lessons-enricher"), "{named:?}");
        assert!(named[2].starts_with("workloads (") && named[2].contains("trade-consumer"), "{named:?}");
    }

    #[test]
    fn nothing_is_swapped_where_data_is_kept() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let verdict = |name: &str| {
            let environment = platform::Environment::load(&root, name).unwrap();
            allowed(&platform::render(&environment).unwrap().manifest).map_err(|error| error.to_string())
        };
        assert_eq!(verdict("local"), Ok(()));
        assert_eq!(verdict("dev"), Ok(()));
        assert!(verdict("staging").unwrap_err().contains("its data is kept"));
        assert!(verdict("prod").unwrap_err().contains("not swapped in prod"));
    }
}
