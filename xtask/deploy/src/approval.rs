//! What a wave's change sets would do, and who says yes to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    io::{IsTerminal, Write as _},
};

use anyhow::{Context, Result};
use cfn::{
    assembly::{Manifest, ParameterWiring, Source, StackEntry},
    diff::{Callout, Side, diff},
};
use clap::ValueEnum;
use serde::Serialize;

use crate::{
    cloudformation::{ChangeSet, Deployed, ResourceChange},
    execute::Prepared,
    living::drift::{Detected, Drifted, Looked},
    plan::status::has_come_to_be,
};

/// More resources than this are counted and not named.
const NAMED_MAX: usize = 20;

/// Which changes want a yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// None.
    Never,
    /// Those that put data at risk, replace, delete, allow more than before, or overwrite what somebody has changed.
    Broadening,
    /// All.
    Any,
}

impl Policy {
    /// The policy of an environment that was given none: where stacks are protected, data is kept, and what is called
    /// out wants a yes.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        let kept = manifest.stacks.iter().any(|entry| entry.termination_protection);
        if kept && manifest.provider != "local" { Policy::Broadening } else { Policy::Never }
    }

    /// Whether such changes want a yes.
    #[must_use]
    pub fn wants(self, summary: &Summary) -> bool {
        match self {
            Policy::Never => false,
            Policy::Broadening => {
                !summary.callouts.is_empty()
                    || summary.stacks.iter().any(StackSummary::destroys)
                    || summary.drift.iter().any(|drift| drift.overwritten)
            }
            Policy::Any => true,
        }
    }
}

/// Nobody said yes.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the changes above want to be approved: {why}. Nothing of this wave was executed, and its change sets are deleted. Approve on a terminal, or deploy with `--require-approval never` once they have been looked at"
)]
pub struct NotApproved {
    why: String,
}

/// What a wave would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Stack by stack.
    pub stacks: Vec<StackSummary>,
    /// What somebody has changed behind CloudFormation's back in the stacks that will change.
    pub drift: Vec<Drift>,
    /// Stacks of which that is not known, each with the reason.
    pub drift_unknown: Vec<(String, String)>,
    /// What wants a second look, the worst first.
    pub callouts: Vec<Callout>,
}

/// A resource that is not as its stack says, in a stack that will change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// The resource and what differs.
    pub drifted: Drifted,
    /// Whether the change set touches it: what somebody has changed may be gone afterwards.
    pub overwritten: bool,
}

/// What would happen to a stack.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StackSummary {
    /// Its name.
    pub name: String,
    /// Whether the stack goes away.
    pub deleted: bool,
    /// Resources that come.
    pub added: Vec<ResourceChange>,
    /// Resources that change in place.
    pub changed: Vec<ResourceChange>,
    /// Resources that are made anew, for certain or maybe.
    pub replaced: Vec<ResourceChange>,
    /// Resources that go.
    pub removed: Vec<ResourceChange>,
}

impl StackSummary {
    fn destroys(&self) -> bool {
        self.deleted || !self.removed.is_empty() || !self.replaced.is_empty()
    }
}

/// Summarises the change sets of a wave, and what is known of drift.
#[must_use]
pub fn summarise(manifest: &Manifest, wave: &[Prepared<'_>], looked: Vec<Looked>) -> Summary {
    let stacks = wave.iter().map(stack_summary).collect();
    let side = |entries: Vec<(StackEntry, cfn::Json)>| Side {
        templates: entries.iter().map(|(entry, template)| (entry.id.clone(), template.clone())).collect(),
        manifest: Manifest {
            stacks: entries.into_iter().map(|(entry, _)| entry).collect(),
            ..manifest.clone()
        },
        files: None,
    };
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for one in wave {
        if let Some(before) = one.before.as_ref().filter(|before| has_come_to_be(&before.deployed.status)) {
            let entry = was(&one.step.stack, one.after.as_ref().map(|(entry, _)| *entry), &before.deployed);
            old.push((entry, before.template.clone()));
        }
        if let Some((entry, target)) = &one.after {
            let entry = StackEntry { parameters: literal(&target.parameters), ..(*entry).clone() };
            new.push((entry, target.template.clone()));
        }
    }
    let callouts = diff(&side(old), &side(new), &cfn_resources::schema).callouts;
    let (drift, drift_unknown) = drift(wave, looked);
    Summary { stacks, drift, drift_unknown, callouts }
}

/// What has drifted, with whether its change set touches it.
fn drift(wave: &[Prepared<'_>], looked: Vec<Looked>) -> (Vec<Drift>, Vec<(String, String)>) {
    let (mut drift, mut unknown) = (Vec::new(), Vec::new());
    for Looked { stack, found: Detected { drifted, unread } } in looked {
        let changes = wave.iter().filter(|one| one.step.name == stack);
        let touched: BTreeSet<&str> = changes
            .flat_map(|one| &one.change_set.changes)
            .map(|change| change.logical_id.as_str())
            .collect();
        drift.extend(
            drifted
                .into_iter()
                .map(|one| Drift { overwritten: touched.contains(one.logical_id.as_str()), drifted: one }),
        );
        unknown.extend(unread.map(|why| (stack, why)));
    }
    (drift, unknown)
}

/// The entry of a stack as it is deployed.
fn was(id: &str, wanted: Option<&StackEntry>, deployed: &Deployed) -> StackEntry {
    StackEntry {
        id: id.to_owned(),
        name: deployed.name.clone(),
        template: String::new(),
        template_sha256: String::new(),
        termination_protection: deployed.protected,
        tags: deployed.tags.clone(),
        parameters: literal(&deployed.parameters),
        ..wanted.cloned().unwrap_or_default()
    }
}

fn literal(parameters: &BTreeMap<String, String>) -> Vec<ParameterWiring> {
    let wired = |(name, value): (&String, &String)| ParameterWiring {
        name: name.clone(),
        source: Source::Literal(value.clone()),
    };
    parameters.iter().map(wired).collect()
}

fn stack_summary(one: &Prepared<'_>) -> StackSummary {
    StackSummary { deleted: one.after.is_none(), ..changes(&one.step.name, &one.change_set) }
}

/// What a change set does to a stack, where nothing else of the environment is looked at.
#[must_use]
pub fn shown(stack: &str, change_set: &ChangeSet) -> String {
    let stacks = vec![changes(stack, change_set)];
    let summary = Summary { stacks, drift: Vec::new(), drift_unknown: Vec::new(), callouts: Vec::new() };
    render(&summary).trim_end().to_owned()
}

fn changes(stack: &str, change_set: &ChangeSet) -> StackSummary {
    let mut summary = StackSummary { name: stack.to_owned(), ..StackSummary::default() };
    for change in &change_set.changes {
        let list = match (change.action.as_str(), change.replacement.as_str()) {
            ("Add" | "Import", _) => &mut summary.added,
            ("Remove", _) => &mut summary.removed,
            (_, "True" | "Conditional") => &mut summary.replaced,
            _ => &mut summary.changed,
        };
        list.push(change.clone());
    }
    summary
}

/// The summary as text. Of a wave that only makes stacks the counts are enough.
#[must_use]
pub fn render(summary: &Summary) -> String {
    let mut text = String::new();
    // Writing to a text does not fail.
    let _ = write(&mut text, summary);
    text
}

fn write(out: &mut String, summary: &Summary) -> fmt::Result {
    for stack in &summary.stacks {
        if stack.deleted {
            writeln!(out, "{}: the stack is deleted", stack.name)?;
            continue;
        }
        writeln!(
            out,
            "{}: {} added, {} changed, {} replaced, {} removed",
            stack.name,
            stack.added.len(),
            stack.changed.len(),
            stack.replaced.len(),
            stack.removed.len()
        )?;
        let only_added = stack.changed.is_empty() && !stack.destroys();
        for (sign, list) in
            [("+", &stack.added), ("~", &stack.changed), ("±", &stack.replaced), ("-", &stack.removed)]
        {
            let named = if only_added { 0 } else { NAMED_MAX };
            for change in list.iter().take(named) {
                let maybe = if change.replacement == "Conditional" { " (maybe replaced)" } else { "" };
                writeln!(out, "  {sign} {} {}{maybe}", change.logical_id, change.resource_type)?;
            }
            if named > 0 && list.len() > named {
                writeln!(out, "  {sign} and {} more", list.len() - named)?;
            }
        }
    }
    if !summary.drift.is_empty() {
        writeln!(out, "! changed behind CloudFormation's back since the last deployment")?;
    }
    for Drift { drifted, overwritten } in &summary.drift {
        let end = if *overwritten { "this deployment overwrites it" } else { "this deployment leaves it" };
        let text = drifted.to_string();
        let (first, rest) = text.split_once('\n').map_or((text.as_str(), ""), |(first, rest)| (first, rest));
        writeln!(out, "  {first}; {end}")?;
        for line in rest.lines() {
            writeln!(out, "  {line}")?;
        }
    }
    for (stack, why) in &summary.drift_unknown {
        writeln!(out, "  {stack}: whether somebody has changed it is not known: {why}")?;
    }
    let mut kind = None;
    for callout in &summary.callouts {
        if kind != Some(callout.kind) {
            writeln!(out, "! {}", callout.kind.words())?;
            kind = Some(callout.kind);
        }
        let place = callout.path.as_ref().or(callout.logical_id.as_ref()).unwrap_or(&callout.stack);
        writeln!(out, "  {place}: {}", callout.messages.join("; "))?;
    }
    Ok(())
}

/// Asks on the terminal, where there is one.
///
/// # Errors
///
/// [`NotApproved`], or when the terminal cannot be read.
pub async fn ask(summary: &Summary) -> Result<()> {
    let refused = |why: &str| NotApproved { why: why.to_owned() }.into();
    if !std::io::stdin().is_terminal() {
        return Err(refused("there is no terminal to ask on"));
    }
    print!("execute these changes of {} stacks? [y/N] ", summary.stacks.len());
    std::io::stdout().flush()?;
    // A thread of its own, so that Ctrl-C is heard meanwhile.
    let read = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = read.await.context("the terminal cannot be read")??;
    if matches!(answer.trim(), "y" | "yes") { Ok(()) } else { Err(refused("the answer was no")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(changes: &[(&str, &str)]) -> Summary {
        let changes: Vec<ResourceChange> = changes
            .iter()
            .map(|(action, replacement)| ResourceChange {
                action: (*action).to_owned(),
                logical_id: "Topic".to_owned(),
                resource_type: "AWS::MSK::Topic".to_owned(),
                replacement: (*replacement).to_owned(),
                scope: Vec::new(),
            })
            .collect();
        let of = |action: &str, replaced: bool| {
            let picked = changes.iter().filter(|change| {
                change.action == action
                    && (change.replacement != "False" && !change.replacement.is_empty()) == replaced
            });
            picked.cloned().collect::<Vec<_>>()
        };
        let stack = StackSummary {
            name: "fg-kafka".to_owned(),
            deleted: false,
            added: of("Add", false),
            changed: of("Modify", false),
            replaced: of("Modify", true),
            removed: of("Remove", false),
        };
        Summary { stacks: vec![stack], drift: Vec::new(), drift_unknown: Vec::new(), callouts: Vec::new() }
    }

    fn drifted(overwritten: bool) -> Drift {
        use crate::living::drift::Difference;
        let difference = Difference {
            property: "/PartitionCount".to_owned(),
            expected: "24".to_owned(),
            actual: "30".to_owned(),
        };
        Drift {
            drifted: Drifted {
                stack: "kafka".to_owned(),
                logical_id: "Topic".to_owned(),
                path: "kafka/Topic".to_owned(),
                resource_type: "AWS::MSK::Topic".to_owned(),
                status: "MODIFIED".to_owned(),
                differences: vec![difference],
            },
            overwritten,
        }
    }

    #[test]
    fn what_somebody_has_changed_is_not_overwritten_without_a_yes() {
        let mut summary = summary(&[("Modify", "False")]);
        summary.drift = vec![drifted(false)];
        assert!(!Policy::Broadening.wants(&summary));
        assert!(
            render(&summary)
                .contains("kafka/Topic (AWS::MSK::Topic) is modified; this deployment leaves it\n")
        );
        summary.drift = vec![drifted(true)];
        assert!(Policy::Broadening.wants(&summary) && !Policy::Never.wants(&summary));
        summary.drift_unknown = vec![("fg-cluster".to_owned(), "it was not known within 120 s".to_owned())];
        let text = render(&summary);
        for part in ["this deployment overwrites it", "/PartitionCount: 24 -> 30", "fg-cluster: whether"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_destroys_wants_a_yes_and_what_adds_does_not() {
        let harmless = summary(&[("Add", ""), ("Modify", "False")]);
        assert!(!Policy::Broadening.wants(&harmless) && Policy::Any.wants(&harmless));
        for change in [("Remove", ""), ("Modify", "True"), ("Modify", "Conditional")] {
            let summary = summary(&[change]);
            assert!(Policy::Broadening.wants(&summary), "{change:?}");
            assert!(!Policy::Never.wants(&summary));
        }
    }

    #[test]
    fn a_change_set_reads_well() {
        insta::assert_snapshot!(render(&summary(&[("Add", ""), ("Modify", "Conditional"), ("Remove", "")])));
    }
}
