//! In which order all stacks of an environment are deleted. Pure.

use std::collections::BTreeSet;

use super::{
    Inputs,
    order::{leftover, users},
};

/// The names of all stacks: those of the manifest in the reverse of its order, and those that left it, each right after
/// the last that uses what it gives. What left it and nobody uses goes first.
#[must_use]
pub fn ending(inputs: &Inputs<'_>) -> Vec<String> {
    let mut order: Vec<String> =
        inputs.manifest.stacks.iter().rev().map(|entry| entry.name.clone()).collect();
    let mut waiting: Vec<(&str, BTreeSet<String>)> =
        leftover(inputs).into_iter().map(|name| (name, users_of(inputs, name))).collect();
    while !waiting.is_empty() {
        // Where those that wait use each other, one of them goes first.
        let is_free =
            |(_, users): &(&str, BTreeSet<String>)| waiting.iter().all(|(other, _)| !users.contains(*other));
        let free = waiting.iter().position(is_free).unwrap_or(0);
        let (name, users) = waiting.remove(free);
        let place = order.iter().rposition(|known| users.contains(known)).map_or(0, |last| last + 1);
        order.insert(place, name.to_owned());
    }
    order
}

/// The stacks that use an output of another one, as they are deployed.
fn users_of(inputs: &Inputs<'_>, name: &str) -> BTreeSet<String> {
    let Some(present) = inputs.present.get(name) else { return BTreeSet::new() };
    let outputs = present.deployed.outputs.keys();
    outputs.flat_map(|output| users(inputs, present, output)).map(|(user, _)| user).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cfn::{
        AppProperties,
        assembly::{Manifest, StackEntry},
    };

    use super::*;
    use crate::{
        cloudformation::Deployed,
        plan::{Asked, ENVIRONMENT_TAG, Present},
        wiring::Known,
    };

    fn entry(id: &str) -> StackEntry {
        StackEntry { id: id.to_owned(), name: format!("fg-{id}"), ..StackEntry::default() }
    }

    /// A stack of an environment that gives its id, and gets what those give.
    fn stack(id: &str, gets: &[&str], environment: &str) -> (String, Present) {
        let deployed = Deployed {
            name: format!("fg-{id}"),
            status: "CREATE_COMPLETE".to_owned(),
            outputs: BTreeMap::from([("Id".to_owned(), format!("the id of {id}"))]),
            parameters: gets.iter().map(|from| (format!("{from}Id"), format!("the id of {from}"))).collect(),
            tags: BTreeMap::from([(ENVIRONMENT_TAG.to_owned(), environment.to_owned())]),
            ..Deployed::default()
        };
        (deployed.name.clone(), Present { deployed, ..Present::default() })
    }

    #[test]
    fn what_left_the_manifest_goes_after_its_users_and_before_what_it_uses() {
        let manifest = Manifest {
            stacks: ["delivery", "network", "kafka", "trades"].map(entry).into(),
            ..AppProperties::new("dev", "111111111111", "eu-west-1", "fg").empty_manifest()
        };
        let present = BTreeMap::from([
            stack("delivery", &[], "dev"),
            stack("network", &[], "dev"),
            stack("kafka", &["network", "keys"], "dev"),
            stack("trades", &["kafka"], "dev"),
            // Used by one of the manifest, by another that left it, and by nobody; and one of another environment.
            stack("keys", &["network"], "dev"),
            stack("alarms", &["trades", "keys"], "dev"),
            stack("other", &[], "staging"),
        ]);
        let (templates, known, asked) = (BTreeMap::new(), Known::default(), Asked::default());
        let inputs = Inputs {
            manifest: &manifest,
            templates: &templates,
            present: &present,
            known: &known,
            asked: &asked,
        };
        let expected =
            ["alarms", "trades", "kafka", "keys", "network", "delivery"].map(|id| format!("fg-{id}"));
        assert_eq!(ending(&inputs), expected);
    }
}
