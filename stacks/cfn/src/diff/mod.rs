//! What sets two assemblies apart: stack by stack, resource by resource, property by property, and what of it
//! wants a second look.
//!
//! Everything here is pure. [`diff`] compares two [`Side`]s; the schemas' facts tell what is replaced. A
//! [`Callout`] says where data is at risk, where CloudFormation will refuse, what is replaced, and where more is
//! allowed or let in than before. Callouts err on the side of being told: what only CloudFormation knows counts
//! as if it were so.

mod access;
mod callouts;
mod data;
mod expressions;
mod lines;
mod network;
mod renames;
mod replacement;
mod side;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use callouts::{Callout, CalloutKind};
pub use expressions::targets;
pub use lines::{FileDifference, Line};
pub use replacement::{Cause, Certainty, Replacement};
pub use side::Side;
pub use values::{Change, ValueChange, compare};

use crate::{assembly::StackEntry, schema::TypeSchema, value::Json};
use replacement::Schemas;
use side::kind;

/// A resource of an assembly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The stack's id.
    pub stack: String,
    /// The logical id.
    pub logical_id: String,
}

impl Place {
    /// From both names.
    #[must_use]
    pub fn new(stack: &str, logical_id: &str) -> Self {
        Self { stack: stack.to_owned(), logical_id: logical_id.to_owned() }
    }
}

/// What sets two assemblies apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// How much it is.
    pub counts: Counts,
    /// What wants a second look, the worst first.
    pub callouts: Vec<Callout>,
    /// The stacks that differ, in the order of deploying; stacks that are gone come last.
    pub stacks: Vec<StackDifference>,
    /// What differs in the manifest outside the stacks: workloads, Helm releases, assets, systems, account, region.
    pub manifest: Vec<ValueChange>,
    /// The text files that differ.
    pub files: Vec<FileDifference>,
}

impl Difference {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stacks.is_empty() && self.manifest.is_empty() && self.files.is_empty()
    }
}

/// How much differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Stacks that differ.
    pub stacks: usize,
    /// Resources that came, under whatever id.
    pub added: usize,
    /// Resources that are gone.
    pub removed: usize,
    /// Resources that differ, or are replaced because others are.
    pub changed: usize,
    /// Of the changed ones, those that are replaced.
    pub replaced: usize,
    /// Of the changed ones, those that may be replaced.
    pub may_be_replaced: usize,
    /// Pairs of an added and a removed resource that are one under another logical id.
    pub renamed: usize,
    /// What differs outside resources: outputs, parameters, conditions, tags, settings of stacks, the manifest.
    pub others: usize,
    /// Text files that differ.
    pub files: usize,
    /// Callouts.
    pub callouts: usize,
}

/// What sets two versions of a stack apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StackDifference {
    /// The stack's id.
    pub id: String,
    /// Its name in CloudFormation: the new one, where there is one.
    pub name: String,
    /// Whether it came, went or changed.
    pub change: Change,
    /// What differs in its entry of the manifest, the sources of its parameters included.
    pub entry: Vec<ValueChange>,
    /// What differs in its template outside the resources.
    pub template: Vec<ValueChange>,
    /// The resources that differ, by logical id.
    pub resources: Vec<ResourceDifference>,
}

/// What sets two versions of a resource apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResourceDifference {
    /// Its logical id.
    pub logical_id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its construct's path, where the template tells it.
    pub path: Option<String>,
    /// Whether it came, went or changed.
    pub change: Change,
    /// Of one that came: which one it was. Of one that went: which one it has become. For CloudFormation they
    /// are two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counterpart: Option<Place>,
    /// Whether and why it is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
    /// What differs. Of a resource that came or went that is all of it.
    pub changes: Vec<PropertyChange>,
}

/// A change within a resource; the pointer begins at the resource.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PropertyChange {
    /// What differs.
    #[serde(flatten)]
    pub value: ValueChange,
    /// How sure it is that this change replaces the resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Certainty>,
}

/// Everything that the parts of a comparison look at.
struct Comparison<'a> {
    old: &'a Side,
    new: &'a Side,
    schemas: Schemas,
    renames: BTreeMap<Place, Place>,
    replacements: BTreeMap<Place, Replacement>,
}

impl Comparison<'_> {
    fn schema(&self, resource: &Json) -> Option<&TypeSchema> {
        self.schemas.get(kind(resource)).and_then(Option::as_ref)
    }
}

/// Compares two assemblies. `schema` gives the facts of a resource type.
#[must_use]
pub fn diff(old: &Side, new: &Side, schema: &dyn Fn(&str) -> Option<TypeSchema>) -> Difference {
    let mut schemas = Schemas::new();
    for side in [old, new] {
        for stack in &side.manifest.stacks {
            for (_, resource) in side.resources(&stack.id) {
                let kind = kind(resource);
                if !schemas.contains_key(kind) {
                    schemas.insert(kind.to_owned(), schema(kind));
                }
            }
        }
    }
    let replacements = replacement::find(old, new, &schemas, &changed_parameters(old, new));
    let comparison = Comparison { old, new, renames: renames::find(old, new), schemas, replacements };
    let gone = old.manifest.stacks.iter().filter(|stack| new.manifest.stack(&stack.id).is_none());
    let stacks: Vec<StackDifference> =
        new.manifest.stacks.iter().chain(gone).filter_map(|stack| comparison.stack(&stack.id)).collect();
    let (manifest, files) = match (&old.files, &new.files) {
        (Some(before), Some(after)) => (outside_stacks(old, new), lines::compare(before, after)),
        _ => (Vec::new(), Vec::new()),
    };
    let callouts = callouts::find(&comparison, &stacks);
    let mut difference = Difference { counts: Counts::default(), callouts, stacks, manifest, files };
    difference.counts = count(&difference);
    difference
}

/// The manifest's own members, without what follows from others: digests, and the stacks.
fn outside_stacks(old: &Side, new: &Side) -> Vec<ValueChange> {
    let members = |side: &Side| {
        let mut json = serde_json::to_value(&side.manifest).unwrap_or_default();
        if let Some(object) = json.as_object_mut() {
            for derived in ["schema_version", "digest", "stacks"] {
                object.remove(derived);
            }
        }
        json
    };
    compare("", Some(&members(old)), Some(&members(new)))
}

/// A stack's entry without what follows from others, its parameters by name.
fn entry(stack: &StackEntry) -> Json {
    let mut json = serde_json::to_value(stack).unwrap_or_default();
    if let Some(object) = json.as_object_mut() {
        for derived in ["id", "template", "template_sha256"] {
            object.remove(derived);
        }
    }
    json["parameters"] = stack
        .parameters
        .iter()
        .map(|wired| (wired.name.clone(), serde_json::to_value(&wired.source).unwrap_or_default()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    json
}

/// Parameters that both sides have and whose source, value or default changes, by stack.
fn changed_parameters(old: &Side, new: &Side) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (before, after) in
        new.manifest.stacks.iter().filter_map(|after| Some((old.manifest.stack(&after.id)?, after)))
    {
        let mut changed = BTreeSet::new();
        for wired in &after.parameters {
            let was = before.parameters.iter().find(|parameter| parameter.name == wired.name);
            if was.is_some_and(|was| was.source != wired.source) {
                changed.insert(wired.name.clone());
            }
        }
        let defaults = |side: &Side| {
            let parameters = side.templates.get(&after.id).and_then(|template| template.get("Parameters"));
            parameters.and_then(Json::as_object).cloned().unwrap_or_default()
        };
        let old_defaults = defaults(old);
        for (name, parameter) in defaults(new) {
            let wired = after.parameters.iter().any(|wired| wired.name == name);
            let was = old_defaults.get(&name);
            if !wired && was.is_some_and(|was| was.get("Default") != parameter.get("Default")) {
                changed.insert(name);
            }
        }
        found.insert(after.id.clone(), changed);
    }
    found
}

impl Comparison<'_> {
    fn stack(&self, id: &str) -> Option<StackDifference> {
        let (before, after) = (self.old.manifest.stack(id), self.new.manifest.stack(id));
        let change = match (before, after) {
            (Some(_), Some(_)) => Change::Changed,
            (None, Some(_)) => Change::Added,
            (Some(_), None) => Change::Removed,
            (None, None) => return None,
        };
        // Of a stack that came or went its resources tell enough.
        let entry = match (before, after) {
            (Some(before), Some(after)) => compare("", Some(&entry(before)), Some(&entry(after))),
            _ => Vec::new(),
        };
        let sections = |side: &Side| {
            let mut template = side.templates.get(id)?.clone();
            template.as_object_mut()?.remove("Resources");
            Some(template)
        };
        let (old_sections, new_sections) = (sections(self.old), sections(self.new));
        let template = match change {
            Change::Changed => compare("", old_sections.as_ref(), new_sections.as_ref()),
            _ => Vec::new(),
        };
        let names: BTreeSet<&String> =
            self.old.resources(id).chain(self.new.resources(id)).map(|(name, _)| name).collect();
        let resources: Vec<ResourceDifference> =
            names.into_iter().filter_map(|name| self.resource(&Place::new(id, name))).collect();
        if change == Change::Changed && entry.is_empty() && template.is_empty() && resources.is_empty() {
            return None;
        }
        let name = after.or(before).map(|stack| stack.name.clone()).unwrap_or_default();
        Some(StackDifference { id: id.to_owned(), name, change, entry, template, resources })
    }

    fn resource(&self, place: &Place) -> Option<ResourceDifference> {
        let before = self.old.resource(&place.stack, &place.logical_id);
        let after = self.new.resource(&place.stack, &place.logical_id);
        let resource = after.or(before)?;
        let schema = self.schema(resource);
        let replacement = self.replacements.get(place).cloned();
        let changes: Vec<PropertyChange> = compare("", before, after)
            .into_iter()
            .map(|value| PropertyChange {
                replacement: replacement
                    .as_ref()
                    .and_then(|replacement| replacement::by(&value.pointer, schema, replacement)),
                value,
            })
            .collect();
        if changes.is_empty() && replacement.is_none() {
            return None;
        }
        let (change, counterpart) = match (before, after) {
            (None, _) => (
                Change::Added,
                self.renames.iter().find(|(_, to)| *to == place).map(|(from, _)| from.clone()),
            ),
            (_, None) => (Change::Removed, self.renames.get(place).cloned()),
            _ => (Change::Changed, None),
        };
        Some(ResourceDifference {
            logical_id: place.logical_id.clone(),
            kind: kind(resource).to_owned(),
            path: path(resource),
            change,
            counterpart,
            replacement,
            changes,
        })
    }
}

/// The construct's path, as rendering leaves it in the template.
fn path(resource: &Json) -> Option<String> {
    Some(resource.get("Metadata")?.get("floodgate:path")?.as_str()?.to_owned())
}

fn count(difference: &Difference) -> Counts {
    let resources = || difference.stacks.iter().flat_map(|stack| &stack.resources);
    let of = |change: Change| resources().filter(|resource| resource.change == change).count();
    let replaced = |certainty: Certainty| {
        resources()
            .filter_map(|resource| resource.replacement.as_ref())
            .filter(|replacement| replacement.certainty == certainty)
            .count()
    };
    let others: usize = difference.stacks.iter().map(|stack| stack.entry.len() + stack.template.len()).sum();
    Counts {
        stacks: difference.stacks.len(),
        added: of(Change::Added),
        removed: of(Change::Removed),
        changed: of(Change::Changed),
        replaced: replaced(Certainty::Certain),
        may_be_replaced: replaced(Certainty::Possible),
        renamed: resources()
            .filter(|resource| resource.change == Change::Added && resource.counterpart.is_some())
            .count(),
        others: others + difference.manifest.len(),
        files: difference.files.len(),
        callouts: difference.callouts.len(),
    }
}
