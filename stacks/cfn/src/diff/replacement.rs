//! Which resources are replaced, and why: by a change of their own, or because something that they are created
//! with is replaced itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    Place,
    expressions::targets,
    side::{Side, kind, properties},
    values::{same, segment},
};
use crate::{
    assembly::{LookupSource, Source},
    canonical::to_canonical_bytes,
    intrinsic::is_intrinsic,
    schema::TypeSchema,
    value::Json,
};

/// How sure a replacement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// CloudFormation decides while it deploys.
    Possible,
    /// It happens.
    Certain,
}

/// Why a resource is replaced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Cause {
    /// A property that is set only at creation changes.
    Property {
        /// The property's place in the resource.
        pointer: String,
    },
    /// A property that is set only at creation refers to a resource that is replaced.
    Reference {
        /// The property's place in the resource.
        pointer: String,
        /// The resource that it refers to, in this stack or through a parameter in an earlier one.
        to: Place,
    },
    /// A property that is set only at creation takes a parameter that changes.
    Parameter {
        /// The property's place in the resource.
        pointer: String,
        /// The parameter.
        parameter: String,
    },
    /// The type has no schema here: what replaces it is not known.
    NoSchema,
}

/// That a resource is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replacement {
    /// How sure it is.
    pub certainty: Certainty,
    /// Why.
    pub causes: BTreeSet<Cause>,
}

/// Schemas that were asked for.
pub(super) type Schemas = BTreeMap<String, Option<TypeSchema>>;

/// All replacements. `parameters` are those of each stack whose value or source changes.
pub(super) fn find(
    old: &Side,
    new: &Side,
    schemas: &Schemas,
    parameters: &BTreeMap<String, BTreeSet<String>>,
) -> BTreeMap<Place, Replacement> {
    let mut found: BTreeMap<Place, Replacement> = BTreeMap::new();
    let kept: Vec<(Place, &Json, &Json)> = new
        .manifest
        .stacks
        .iter()
        .flat_map(|stack| {
            new.resources(&stack.id).map(move |(id, resource)| (Place::new(&stack.id, id), resource))
        })
        .filter_map(|(place, after)| {
            let before = old.resource(&place.stack, &place.logical_id)?;
            (kind(before) == kind(after)).then_some((place, before, after))
        })
        .collect();
    for (place, before, after) in &kept {
        let schema = schemas.get(kind(after)).and_then(Option::as_ref);
        for (cause, certainty) in of_itself(schema, properties(before), properties(after)) {
            add(&mut found, place, cause, certainty);
        }
    }
    // A replacement may bring about others; causes only grow, so that this ends.
    loop {
        let mut grew = false;
        for (place, _, after) in &kept {
            let Some(schema) = schemas.get(kind(after)).and_then(Option::as_ref) else { continue };
            for (path, certainty) in fixed_paths(schema) {
                let names: BTreeSet<String> =
                    at(properties(after), path).into_iter().flat_map(targets).collect();
                for name in names {
                    let pointer = pointer(path);
                    let changed = parameters.get(&place.stack).is_some_and(|all| all.contains(&name));
                    if changed {
                        let cause = Cause::Parameter { pointer, parameter: name };
                        grew |= add(&mut found, place, cause, certainty);
                    } else if let Some((to, origin)) = origin(new, &place.stack, &name, &found, HOPS_MAX) {
                        let cause = Cause::Reference { pointer, to };
                        grew |= add(&mut found, place, cause, certainty.min(origin));
                    }
                }
            }
        }
        if !grew {
            return found;
        }
    }
}

/// Takes note; whether that is news.
fn add(found: &mut BTreeMap<Place, Replacement>, place: &Place, cause: Cause, certainty: Certainty) -> bool {
    let entry = found
        .entry(place.clone())
        .or_insert_with(|| Replacement { certainty: Certainty::Possible, causes: BTreeSet::new() });
    let surer = certainty > entry.certainty;
    entry.certainty = entry.certainty.max(certainty);
    entry.causes.insert(cause) || surer
}

/// Paths of properties that are fixed at creation.
fn fixed_paths(schema: &TypeSchema) -> impl Iterator<Item = (&str, Certainty)> {
    schema
        .create_only()
        .map(|path| (path, Certainty::Certain))
        .chain(schema.conditional_create_only().map(|path| (path, Certainty::Possible)))
}

fn of_itself(schema: Option<&TypeSchema>, before: &Json, after: &Json) -> Vec<(Cause, Certainty)> {
    let Some(schema) = schema else {
        let unknown = !same(before, after);
        return unknown.then_some((Cause::NoSchema, Certainty::Possible)).into_iter().collect();
    };
    fixed_paths(schema)
        .filter_map(|(path, certainty)| {
            let (was, is) = (at(before, path), at(after, path));
            let equal = was.len() == is.len() && was.iter().zip(&is).all(|(was, is)| same(was, is));
            // In another order a list may or may not be another list to the service.
            let certainty = if sorted(&was) == sorted(&is) { Certainty::Possible } else { certainty };
            (!equal).then(|| (Cause::Property { pointer: pointer(path) }, certainty))
        })
        .collect()
}

fn sorted(values: &[&Json]) -> Vec<Vec<u8>> {
    let mut flat: Vec<Vec<u8>> = values
        .iter()
        .flat_map(|value| match value {
            Json::Array(items) => items.iter().map(to_canonical_bytes).collect(),
            other => vec![to_canonical_bytes(other)],
        })
        .collect();
    flat.sort();
    flat
}

/// The place of a schema's path in a resource.
fn pointer(path: &str) -> String {
    path.split('/').fold("/Properties".to_owned(), |pointer, name| format!("{pointer}/{}", segment(name)))
}

/// The values at a path of a schema, in which `*` stands for every element; an intrinsic on the way stands for
/// all that is below it.
pub(super) fn at<'a>(json: &'a Json, path: &str) -> Vec<&'a Json> {
    let mut values = vec![json];
    for name in path.split('/') {
        values = values
            .into_iter()
            .flat_map(|value| match value {
                value if is_intrinsic(value) => vec![value],
                Json::Array(items) if name == "*" => items.iter().collect(),
                Json::Array(items) => items.iter().filter_map(|item| item.get(name)).collect(),
                Json::Object(object) if name == "*" => object.values().collect(),
                value => value.get(name).into_iter().collect(),
            })
            .collect();
    }
    values
}

/// A value that went through more stacks than this goes in a circle, which only a manifest that nobody rendered
/// does.
const HOPS_MAX: usize = 32;

/// The replaced resource behind a name: the resource itself, or what feeds the parameter.
fn origin(
    new: &Side,
    stack: &str,
    name: &str,
    found: &BTreeMap<Place, Replacement>,
    hops: usize,
) -> Option<(Place, Certainty)> {
    let place = Place::new(stack, name);
    if let Some(replacement) = found.get(&place) {
        return Some((place, replacement.certainty));
    }
    let wired = new.manifest.stack(stack)?.parameters.iter().find(|parameter| parameter.name == name)?;
    fed_by(new, &wired.source, found, hops.checked_sub(1)?)
}

fn fed_by(
    new: &Side,
    source: &Source,
    found: &BTreeMap<Place, Replacement>,
    hops: usize,
) -> Option<(Place, Certainty)> {
    match source {
        Source::Output { stack, output } => {
            let value = new.templates.get(stack)?.get("Outputs")?.get(output)?.get("Value")?;
            targets(value).iter().find_map(|name| origin(new, stack, name, found, hops))
        }
        Source::Lookup(
            LookupSource::MskBootstrapBrokers { cluster_arn, .. }
            | LookupSource::MskBrokerHost { cluster_arn, .. },
        ) => fed_by(new, cluster_arn, found, hops.checked_sub(1)?),
        Source::Literal(_) | Source::Asset { .. } => None,
    }
}

/// How sure it is that a change at this place of the resource replaces it.
pub(super) fn by(pointer: &str, schema: Option<&TypeSchema>, replacement: &Replacement) -> Option<Certainty> {
    let schema = schema?;
    let place: Vec<&str> = pointer.strip_prefix("/Properties")?.split('/').skip(1).collect();
    fixed_paths(schema)
        .filter(|(path, _)| {
            let cause = Cause::Property { pointer: self::pointer(path) };
            replacement.causes.contains(&cause) && overlap(&place, path)
        })
        .map(|(_, certainty)| certainty.min(replacement.certainty))
        .max()
}

/// Whether one place holds the other, or the other way round.
fn overlap(place: &[&str], path: &str) -> bool {
    let mut place = place.iter().peekable();
    for name in path.split('/') {
        // Schemas leave out some of the elements' `*`.
        while name != "*" && place.peek().is_some_and(|at| at.parse::<usize>().is_ok()) {
            place.next();
        }
        match place.next() {
            None => return true,
            Some(at) if name == "*" || *at == segment(name) => {}
            Some(_) => return false,
        }
    }
    true
}
