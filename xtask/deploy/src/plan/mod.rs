//! What a deployment is to do: decided from the assembly, what is deployed and what was asked for. Pure.

mod compare;
mod ending;
mod order;
#[cfg(test)]
mod properties;
pub mod status;
mod text;
mod transition;

use std::collections::{BTreeMap, BTreeSet};

use cfn::{
    Json,
    assembly::{LookupSource, Manifest, ParameterWiring, Source, StackEntry, UnknownStacks},
};
use serde::Serialize;

pub use compare::Expected;
pub use ending::ending;
pub use text::render;

use crate::{
    cloudformation::Deployed,
    wiring::{Known, WiringError, resolve_all},
};
use status::{Footing, footing};

/// The tag that says which environment a stack is of.
pub const ENVIRONMENT_TAG: &str = "floodgate:environment";

/// A stack that is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Present {
    /// What CloudFormation says of it.
    pub deployed: Deployed,
    /// The template that it was last deployed with; null where it has none.
    pub template: Json,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// These stacks alone, by id; all when empty.
    pub only: Vec<String>,
    /// Whether stacks that left the manifest are deleted.
    pub prune: bool,
}

impl Asked {
    fn selects(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == id)
    }
}

/// What the plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What should be.
    pub manifest: &'a Manifest,
    /// The rendered templates by stack id.
    pub templates: &'a BTreeMap<String, Json>,
    /// The stacks that are there by name: those of the manifest and those that carry the environment's tag.
    pub present: &'a BTreeMap<String, Present>,
    /// What is known before the deployment.
    pub known: &'a Known,
    /// What was asked for.
    pub asked: &'a Asked,
}

/// How a stack is brought back to where it takes updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recovery {
    /// It is deleted and created anew: it never came to be, or is half gone.
    Recreate,
    /// Its failed rollback is taken up again, then it is updated.
    GoBack,
}

/// What is to be done with a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// There is no stack: create it.
    Create,
    /// The stack is other than it should be: update it.
    Update,
    /// It is as it should be unless what it gets from others changes: look again when they are done.
    Follow,
    /// The stack is as it should be.
    Nothing,
    /// Bring it back, then make it what it should be.
    Recover(Recovery),
    /// Somebody's operation is under way: wait for its end, then look again.
    Wait,
    /// It left the manifest: delete it.
    Delete,
    /// It left the manifest and is left alone.
    Leave,
    /// Only a person can go on.
    Blocked {
        /// What to do.
        way_out: String,
    },
}

/// Which of a stack's steps it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Its only one.
    Whole,
    /// The first of two: it keeps outputs that others still use.
    First,
    /// The second of two, after those others.
    Last,
}

/// What is done with a stack within a wave.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// The stack's id; of one that left the manifest, its name.
    pub stack: String,
    /// Its name.
    pub name: String,
    /// What is done.
    pub action: Action,
    /// Which of its steps it is.
    pub part: Part,
    /// Why, in words.
    pub reason: String,
    /// Outputs that its new template no longer has and that it keeps, because others still use them.
    pub keeps: Vec<String>,
    /// The steps that come before it, by their number in [`Plan::steps`].
    pub needs: Vec<usize>,
    /// What it is to be; of a stack that left the manifest nothing.
    #[serde(skip)]
    pub expected: Option<Expected>,
}

/// Waves, one after another; the steps of a wave go side by side. A step needs only some of the waves before it, and
/// where nobody is asked about a wave as a whole it begins as soon as those are done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// The waves.
    pub waves: Vec<Vec<Step>>,
    /// Stacks that left the manifest and are left alone.
    pub left: Vec<Step>,
}

impl Plan {
    /// All steps in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.waves.iter().flatten()
    }

    /// Whether all is as it should be.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.steps().all(|step| step.action == Action::Nothing)
    }
}

/// Why no plan can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A stack that there is not.
    #[error(transparent)]
    Unknown(#[from] UnknownStacks),
    /// A parameter has no source: a stack that it comes from is neither deployed nor to be.
    #[error("the stack `{stack}` cannot be deployed: {cause}")]
    NoValue {
        /// The stack.
        stack: String,
        /// What is missing.
        cause: WiringError,
    },
    /// Stacks that wait for each other.
    #[error("the stacks {} depend on one another in a circle; render the environment again", stacks.join(", "))]
    Circle {
        /// The stacks.
        stacks: Vec<String>,
    },
}

/// Makes the plan.
///
/// # Errors
///
/// When a stack is unknown, waits for itself, or has a parameter that nothing will give.
pub fn plan(inputs: &Inputs<'_>) -> Result<Plan, PlanError> {
    let Inputs { manifest, asked, .. } = inputs;
    manifest.check_named(&asked.only)?;
    let order = order::order(inputs)?;
    // Stacks whose outputs may come to be others than they are.
    let mut moving = BTreeSet::new();
    let mut waves = Vec::new();
    for wave in order.waves {
        let mut steps = Vec::new();
        for order::Placed { place, needs } in wave {
            let step = match place {
                order::Place::Deploy { id, part, keeps } => {
                    let entry = manifest.stack_named(&id)?;
                    deploy_step(inputs, entry, part, keeps, &moving)?
                }
                order::Place::Delete { name } => delete_step(inputs, &name),
            };
            steps.push(Step { needs, ..step });
        }
        for step in &steps {
            if step.action != Action::Nothing {
                moving.insert(step.stack.clone());
            }
        }
        waves.push(steps);
    }
    let left = order
        .left
        .into_iter()
        .map(|name| Step {
            stack: name.clone(),
            reason: "it left the manifest; `--prune` deletes it".to_owned(),
            action: Action::Leave,
            name,
            part: Part::Whole,
            keeps: Vec::new(),
            needs: Vec::new(),
            expected: None,
        })
        .collect();
    Ok(Plan { waves, left })
}

fn deploy_step(
    inputs: &Inputs<'_>,
    entry: &StackEntry,
    part: Part,
    keeps: Vec<String>,
    moving: &BTreeSet<String>,
) -> Result<Step, PlanError> {
    let present = inputs.present.get(&entry.name);
    let expected = expected(inputs, entry, &keeps);
    let (action, mut reason) = decide(entry, &expected, present, inputs.known, moving)?;
    if part == Part::Last && action == Action::Nothing {
        // As it is deployed now it is as it should be: the first step did nothing either.
        reason = "it is as it should be".to_owned();
    }
    if !keeps.is_empty() {
        reason = format!("{reason}; it keeps {}, which others still use", keeps.join(", "));
    }
    Ok(Step {
        stack: entry.id.clone(),
        name: entry.name.clone(),
        action,
        part,
        reason,
        keeps,
        needs: Vec::new(),
        expected: Some(expected),
    })
}

fn expected(inputs: &Inputs<'_>, entry: &StackEntry, keeps: &[String]) -> Expected {
    let new = inputs.templates.get(&entry.id).cloned().unwrap_or_default();
    match inputs.present.get(&entry.name) {
        Some(present) if !keeps.is_empty() => {
            let (template, kept) = transition::keep(&new, &present.template, keeps);
            let parameters = present.deployed.parameters.iter();
            let parameters = parameters.filter(|(name, _)| kept.contains(*name));
            Expected {
                template,
                kept_parameters: parameters.map(|(name, value)| (name.clone(), value.clone())).collect(),
            }
        }
        _ => Expected { template: new, kept_parameters: BTreeMap::new() },
    }
}

/// Decides of one stack: the action and why. `moving` are stacks whose outputs may come to be others.
///
/// # Errors
///
/// When a parameter has a source that nothing gives and nothing will.
pub fn decide(
    entry: &StackEntry,
    expected: &Expected,
    present: Option<&Present>,
    known: &Known,
    moving: &BTreeSet<String>,
) -> Result<(Action, String), PlanError> {
    let comes = comes_later(&entry.parameters, known, moving)
        .map_err(|cause| PlanError::NoValue { stack: entry.id.clone(), cause })?;
    let status = present.map(|present| present.deployed.status.as_str());
    let is = format!("it is {}", status.unwrap_or("absent"));
    Ok(match (footing(status), present) {
        (Footing::Stillborn, _) => (
            Action::Recover(Recovery::Recreate),
            format!("{is}, which takes no update: it is deleted and created anew"),
        ),
        (Footing::Stuck, _) => (
            Action::Recover(Recovery::GoBack),
            format!("{is}: its rollback is taken up again, then it is updated"),
        ),
        (Footing::Busy, _) => (Action::Wait, format!("{is}: somebody else's operation, which is waited for")),
        (Footing::Lost, _) => (
            Action::Blocked {
                way_out: format!(
                    "the stack {} is {}, from which CloudFormation knows no way on: see its events, repair what they name, delete the stack (`cargo xtask teardown` does that too), and deploy again",
                    entry.name,
                    status.unwrap_or_default()
                ),
            },
            is,
        ),
        (Footing::Halfway, _) => (Action::Update, is),
        (Footing::Absent, _) | (Footing::Whole, None) => (Action::Create, "it is not there".to_owned()),
        (Footing::Whole, Some(present)) => compare::compare(entry, expected, present, known, &comes),
    })
}

/// The parameters whose values are not known before other stacks are done, with those stacks.
fn comes_later(
    wired: &[ParameterWiring],
    known: &Known,
    moving: &BTreeSet<String>,
) -> Result<BTreeMap<String, BTreeSet<String>>, WiringError> {
    let mut found = BTreeMap::new();
    for parameter in wired {
        let from: BTreeSet<String> = producer(&parameter.source).into_iter().map(str::to_owned).collect();
        let from: BTreeSet<String> = from.intersection(moving).cloned().collect();
        if !from.is_empty() {
            found.insert(parameter.name.clone(), from);
            continue;
        }
        match resolve_all(std::slice::from_ref(parameter), known) {
            // What is looked up or published is so before its wave.
            Ok(_)
            | Err(
                WiringError::NotLookedUp { .. }
                | WiringError::NoAsset { .. }
                | WiringError::NoBrokerHost { .. },
            ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The stack that a value comes from.
#[must_use]
pub fn producer(source: &Source) -> Option<&str> {
    match source {
        Source::Output { stack, .. } => Some(stack),
        Source::Lookup(
            LookupSource::MskBootstrapBrokers { cluster_arn, .. }
            | LookupSource::MskBrokerHost { cluster_arn, .. },
        ) => producer(cluster_arn),
        Source::Literal(_) | Source::Asset { .. } => None,
    }
}

fn delete_step(inputs: &Inputs<'_>, name: &str) -> Step {
    let deployed = inputs.present.get(name).map(|present| &present.deployed);
    let (action, reason) = match deployed {
        Some(deployed) if footing(Some(&deployed.status)) == Footing::Busy => {
            (Action::Wait, format!("it left the manifest and is {}, which is waited for", deployed.status))
        }
        Some(deployed) if deployed.protected => (
            Action::Blocked {
                way_out: format!(
                    "the stack {name} left the manifest and is protected against deletion: take its protection away (`aws cloudformation update-termination-protection --no-enable-termination-protection --stack-name {name}`) or deploy without `--prune`"
                ),
            },
            "it left the manifest and is protected against deletion".to_owned(),
        ),
        _ => (Action::Delete, "it left the manifest".to_owned()),
    };
    Step {
        stack: name.to_owned(),
        name: name.to_owned(),
        action,
        part: Part::Whole,
        reason,
        keeps: Vec::new(),
        needs: Vec::new(),
        expected: None,
    }
}
