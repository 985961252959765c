//! Resources that went from one logical id to another: for CloudFormation one is deleted and one created.

use std::collections::BTreeMap;

use super::{
    Place,
    expressions::renamed,
    side::{Side, kind, properties},
    values::same,
};
use crate::value::Json;

/// Which resource that is gone is which one that came, by type and properties. A resource of the same stack
/// comes before one of another.
pub(super) fn find(old: &Side, new: &Side) -> BTreeMap<Place, Place> {
    let mut gone = only_in(old, new);
    let mut came = only_in(new, old);
    let mut found = BTreeMap::new();
    // Resources that were renamed together refer to one another: each renaming may show the next one.
    loop {
        let before = gone.len();
        gone.retain(|from, resource| {
            let names = names(&found, &from.stack);
            let partner = came
                .iter()
                .find(|(to, candidate)| to.stack == from.stack && is_same(resource, candidate, &names))
                .map(|(to, _)| to.clone());
            pair(from, partner, &mut came, &mut found)
        });
        if gone.len() == before {
            break;
        }
    }
    gone.retain(|from, resource| {
        let partner = came
            .iter()
            .find(|(to, candidate)| to.stack != from.stack && is_same(resource, candidate, &BTreeMap::new()))
            .map(|(to, _)| to.clone());
        pair(from, partner, &mut came, &mut found)
    });
    found
}

/// Takes note of a pair; whether the resource that is gone goes on being looked for.
fn pair(
    from: &Place,
    partner: Option<Place>,
    came: &mut BTreeMap<Place, &Json>,
    found: &mut BTreeMap<Place, Place>,
) -> bool {
    let Some(to) = partner else { return true };
    came.remove(&to);
    found.insert(from.clone(), to);
    false
}

fn is_same(before: &Json, after: &Json, names: &BTreeMap<String, String>) -> bool {
    kind(before) == kind(after) && same(&renamed(properties(before), names), properties(after))
}

/// Old logical id -> new logical id within a stack.
pub(super) fn names(found: &BTreeMap<Place, Place>, stack: &str) -> BTreeMap<String, String> {
    found
        .iter()
        .filter(|(from, to)| from.stack == stack && to.stack == stack)
        .map(|(from, to)| (from.logical_id.clone(), to.logical_id.clone()))
        .collect()
}

fn only_in<'a>(side: &'a Side, other: &Side) -> BTreeMap<Place, &'a Json> {
    let mut found = BTreeMap::new();
    for stack in &side.manifest.stacks {
        for (logical_id, resource) in side.resources(&stack.id) {
            if other.resource(&stack.id, logical_id).is_none() {
                found.insert(Place::new(&stack.id, logical_id), resource);
            }
        }
    }
    found
}
