//! What sets a whole stack apart from what it should be.

use std::collections::{BTreeMap, BTreeSet};

use cfn::{Json, assembly::StackEntry, to_canonical_bytes};

use super::{Action, Present};
use crate::{
    cloudformation::NOT_ECHOED,
    wiring::{Known, WiringError, resolve},
};

/// What a stack is to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// Its template.
    pub template: Json,
    /// Parameters that only what it keeps for others still has, with their values.
    pub kept_parameters: BTreeMap<String, String>,
}

/// The action and why. `later` are the parameters whose values come later, with the stacks that give them.
pub(super) fn compare(
    entry: &StackEntry,
    expected: &Expected,
    present: &Present,
    known: &Known,
    later: &BTreeMap<String, BTreeSet<String>>,
) -> (Action, String) {
    let deployed = &present.deployed;
    let mut reasons = Vec::new();
    if to_canonical_bytes(&expected.template) != to_canonical_bytes(&present.template) {
        reasons.push("its template has changed".to_owned());
    }
    let wanted = wanted(entry, expected, known, later);
    let mut unseen = Vec::new();
    let mut changed: BTreeSet<&str> =
        deployed.parameters.keys().filter(|name| !wanted.contains_key(*name)).map(String::as_str).collect();
    for (name, value) in &wanted {
        match (deployed.parameters.get(name), value) {
            (None, _) => {
                changed.insert(name);
            }
            (Some(now), _) if now == NOT_ECHOED => unseen.push(name.as_str()),
            (Some(now), Some(value)) if now != value => {
                changed.insert(name);
            }
            (Some(_), Some(_) | None) => {}
        }
    }
    if !changed.is_empty() {
        let names: Vec<&str> = changed.into_iter().collect();
        reasons.push(match names.as_slice() {
            [one] => format!("its parameter {one} has changed"),
            many => format!("its parameters {} have changed", many.join(", ")),
        });
    }
    if deployed.tags != entry.tags {
        reasons.push("its tags have changed".to_owned());
    }
    if !reasons.is_empty() {
        return (Action::Update, reasons.join(" and "));
    }
    let waits: BTreeSet<&str> = later.values().flatten().map(String::as_str).collect();
    if !waits.is_empty() {
        let waits: Vec<&str> = waits.into_iter().collect();
        return (
            Action::Follow,
            format!("it is as it should be, unless {} come to give it other values", waits.join(", ")),
        );
    }
    if wanted.iter().any(|(name, value)| value.is_none() && !unseen.contains(&name.as_str())) {
        return (Action::Follow, "it is as it should be, unless what it gets is published anew".to_owned());
    }
    if !unseen.is_empty() {
        return (
            Action::Follow,
            format!(
                "CloudFormation does not show {}: only it can tell whether that changed",
                unseen.join(", ")
            ),
        );
    }
    let reason = match (deployed.protected, entry.termination_protection) {
        (false, true) => "it is as it should be, but not yet protected against deletion",
        (true, false) => "it is as it should be, but still protected against deletion",
        _ => "it is as it should be",
    };
    (Action::Nothing, reason.to_owned())
}

/// The parameters that the stack is to have; without a value where that is not known yet.
fn wanted(
    entry: &StackEntry,
    expected: &Expected,
    known: &Known,
    later: &BTreeMap<String, BTreeSet<String>>,
) -> BTreeMap<String, Option<String>> {
    let mut wanted: BTreeMap<String, Option<String>> = expected
        .template
        .get("Parameters")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, parameter)| {
            let value = match parameter.get("Default")? {
                Json::String(text) => text.clone(),
                other => other.to_string(),
            };
            Some((name.clone(), Some(value)))
        })
        .collect();
    for (name, value) in &expected.kept_parameters {
        wanted.insert(name.clone(), Some(value.clone()));
    }
    for parameter in &entry.parameters {
        let value = match resolve(&parameter.source, known) {
            _ if later.contains_key(&parameter.name) => None,
            Ok(value) => Some(value),
            Err(
                WiringError::NotLookedUp { .. }
                | WiringError::NoAsset { .. }
                | WiringError::NoBrokerHost { .. }
                | WiringError::NoOutput { .. }
                | WiringError::NoValue { .. },
            ) => None,
        };
        wanted.insert(parameter.name.clone(), value);
    }
    wanted
}
