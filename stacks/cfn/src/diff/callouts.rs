//! What of a difference wants a second look.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    Change, Comparison, Place, ResourceDifference, StackDifference, access, data,
    expressions::renamed,
    network::{self, Ingress},
    path,
    renames::names,
    replacement::{Cause, Certainty, Replacement},
    side::{Side, kind, properties},
    values::same,
};
use crate::value::Json;

/// What a callout is about, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CalloutKind {
    /// Data goes, or loses what protects it.
    DataAtRisk,
    /// CloudFormation or the service will not do it.
    Refused,
    /// A resource is made anew.
    Replacement,
    /// A resource that holds data goes on under another logical id, as another one.
    Renamed,
    /// More is allowed than before.
    AccessBroadened,
    /// More of the network comes in than before.
    NetworkBroadened,
}

impl CalloutKind {
    /// As a reader wants it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            CalloutKind::DataAtRisk => "data at risk",
            CalloutKind::Refused => "will be refused",
            CalloutKind::Replacement => "replacement",
            CalloutKind::Renamed => "renamed",
            CalloutKind::AccessBroadened => "access broadened",
            CalloutKind::NetworkBroadened => "network broadened",
        }
    }
}

/// Something that wants a second look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Callout {
    /// What it is about.
    pub kind: CalloutKind,
    /// The stack's id.
    pub stack: String,
    /// The resource, where it is about one.
    pub logical_id: Option<String>,
    /// The resource's type, where it is about one.
    #[serde(rename = "type")]
    pub resource_type: Option<String>,
    /// The construct's path, where the template tells it.
    pub path: Option<String>,
    /// Of a replacement: whether it holds no data and only follows from others. Where a network is replaced,
    /// that is most of it.
    pub follows: bool,
    /// What it is, a line each.
    pub messages: Vec<String>,
}

/// All callouts, the worst first, then in the order of stacks and logical ids.
pub(super) fn find(comparison: &Comparison<'_>, stacks: &[StackDifference]) -> Vec<Callout> {
    let mut found = Vec::new();
    for stack in stacks {
        let protected =
            |side: &Side| side.manifest.stack(&stack.id).map(|entry| entry.termination_protection);
        if protected(comparison.old) == Some(true) && protected(comparison.new) == Some(false) {
            found.push(Callout {
                kind: CalloutKind::DataAtRisk,
                stack: stack.id.clone(),
                logical_id: None,
                resource_type: None,
                path: None,
                follows: false,
                messages: vec!["its termination protection is turned off".to_owned()],
            });
        }
        let ingress = old_ingress(comparison, &stack.id);
        for resource in &stack.resources {
            found.extend(of_resource(comparison, &stack.id, resource, &ingress));
        }
    }
    found.sort_by_key(|callout| callout.kind);
    found
}

/// The rules by which traffic came into a stack's groups, under the groups' new names.
fn old_ingress(comparison: &Comparison<'_>, stack: &str) -> Ingress {
    let names = names(&comparison.renames, stack);
    let mut ingress = Ingress::default();
    for (logical_id, resource) in comparison.old.resources(stack) {
        let name = names.get(logical_id).unwrap_or(logical_id);
        ingress.add(name, kind(resource), &renamed(properties(resource), &names));
    }
    ingress
}

fn of_resource(
    comparison: &Comparison<'_>,
    stack: &str,
    difference: &ResourceDifference,
    ingress: &Ingress,
) -> Vec<Callout> {
    let before = comparison.old.resource(stack, &difference.logical_id);
    let after = comparison.new.resource(stack, &difference.logical_id);
    let Some(resource) = after.or(before) else { return Vec::new() };
    let mut messages: BTreeMap<CalloutKind, Vec<String>> = BTreeMap::new();
    let mut say = |kind: CalloutKind, lines: Vec<String>| {
        if !lines.is_empty() {
            messages.entry(kind).or_default().extend(lines);
        }
    };
    let holds_data =
        data::is_stateful(before.unwrap_or(resource), comparison.schema(before.unwrap_or(resource)));
    match (before, after) {
        (Some(before), Some(after)) if kind(before) != kind(after) => {
            let lines = vec![format!(
                "its type goes from {} to {}, which CloudFormation does not do; give it another logical id",
                kind(before),
                kind(after)
            )];
            say(CalloutKind::Refused, lines);
            if holds_data {
                say(CalloutKind::DataAtRisk, data::lost_by_removal(before).into_iter().collect());
            }
        }
        (Some(before), Some(after)) => {
            if holds_data {
                say(CalloutKind::DataAtRisk, data::unprotected(before, after));
            }
            if let Some(replacement) = &difference.replacement {
                let certain = replacement.certainty == Certainty::Certain;
                if holds_data {
                    let lost = data::lost_by_replacement(before, after, certain);
                    say(CalloutKind::DataAtRisk, lost.into_iter().collect());
                }
                say(CalloutKind::Replacement, told(replacement, holds_data));
                if certain {
                    let fixed = fixed_name(comparison, before, after, &replacement.causes);
                    say(CalloutKind::Refused, fixed.into_iter().collect());
                }
            }
        }
        (Some(before), None) => {
            if holds_data {
                say(CalloutKind::DataAtRisk, data::lost_by_removal(before).into_iter().collect());
            }
            if let Some(to) = &difference.counterpart {
                if holds_data {
                    say(CalloutKind::Renamed, vec![renaming(stack, to)]);
                }
                let other = comparison.new.resource(&to.stack, &to.logical_id).unwrap_or(before);
                let fixed = fixed_name(comparison, before, other, &BTreeSet::new());
                say(CalloutKind::Refused, fixed.into_iter().collect());
            }
        }
        _ => {}
    }
    // One that only goes by another name allows what it allowed.
    let (was, is) = match (&difference.counterpart, difference.change) {
        (Some(_), Change::Removed) => (None, None),
        (Some(from), _) => (comparison.old.resource(&from.stack, &from.logical_id), after),
        _ => (before, after),
    };
    let names = names(&comparison.renames, stack);
    let was = was.map_or(Json::Null, |resource| renamed(properties(resource), &names));
    let is = is.map_or(&Json::Null, properties);
    say(CalloutKind::AccessBroadened, access::broadened(kind(resource), &was, is));
    let mut open = network::opened(&difference.logical_id, kind(resource), is, ingress);
    open.extend(network::exposed(kind(resource), &was, is));
    say(CalloutKind::NetworkBroadened, open);
    let brought_about = difference.replacement.as_ref().is_some_and(|replacement| {
        replacement.causes.iter().all(|cause| matches!(cause, Cause::Reference { .. }))
    });
    messages
        .into_iter()
        .map(|(kind, messages)| Callout {
            follows: kind == CalloutKind::Replacement && brought_about && !holds_data,
            kind,
            stack: stack.to_owned(),
            logical_id: Some(difference.logical_id.clone()),
            resource_type: Some(difference.kind.clone()),
            path: path(resource),
            messages,
        })
        .collect()
}

fn renaming(stack: &str, to: &Place) -> String {
    let to =
        if to.stack == stack { to.logical_id.clone() } else { format!("{}/{}", to.stack, to.logical_id) };
    format!(
        "it becomes {to}: under another logical id it is another resource, which begins without its data; keep the id, or import the old one"
    )
}

/// Why a resource is replaced, in words.
fn told(replacement: &Replacement, holds_data: bool) -> Vec<String> {
    let is = match replacement.certainty {
        Certainty::Certain => "it is replaced",
        Certainty::Possible => "it may be replaced",
    };
    let mut lines: Vec<String> = replacement
        .causes
        .iter()
        .map(|cause| match cause {
            Cause::Property { pointer } => format!("{is}: {} changes", property(pointer)),
            Cause::Reference { pointer, to } => {
                format!(
                    "{is}: {} comes from {}/{}, which is replaced",
                    property(pointer),
                    to.stack,
                    to.logical_id
                )
            }
            Cause::Parameter { pointer, parameter } => {
                format!("{is}: {} takes the parameter {parameter}, which changes", property(pointer))
            }
            Cause::NoSchema => format!("{is}: its type has no schema here, so that nobody can tell"),
        })
        .collect();
    if holds_data {
        lines.push(match replacement.certainty {
            Certainty::Certain => "the new one begins without the data of the old one".to_owned(),
            Certainty::Possible => "if so, the new one begins without the data of the old one".to_owned(),
        });
    }
    lines
}

fn property(pointer: &str) -> &str {
    pointer.strip_prefix("/Properties/").unwrap_or(pointer)
}

/// Whether the new one would have the name of the old one, which is still there when it is created: "CloudFormation
/// cannot update a stack when a custom-named resource requires replacing".
fn fixed_name(
    comparison: &Comparison<'_>,
    before: &Json,
    after: &Json,
    causes: &BTreeSet<Cause>,
) -> Option<String> {
    let schema = comparison.schema(after)?;
    let touched: BTreeSet<&str> = causes
        .iter()
        .filter_map(|cause| match cause {
            Cause::Property { pointer }
            | Cause::Reference { pointer, .. }
            | Cause::Parameter { pointer, .. } => Some(property(pointer)),
            Cause::NoSchema => None,
        })
        .collect();
    // What names a resource: its identifier, and where that is an ARN or an id, `TopicName` of a `Topic`. A name
    // holds within what the resource belongs to, such as a topic's cluster.
    let read_only: BTreeSet<&str> = schema.read_only().collect();
    let mut identifier: Vec<String> = schema.primary_identifier().map(str::to_owned).collect();
    if identifier.iter().any(|name| read_only.contains(name.as_str())) {
        let name = format!("{}Name", kind(after).rsplit("::").next().unwrap_or_default());
        let within = schema.create_only().filter(|path| path.ends_with("Arn") || path.ends_with("Id"));
        identifier = within.map(str::to_owned).filter(|path| properties(after).get(path).is_some()).collect();
        schema.create_only().find(|path| *path == name)?;
        identifier.push(name);
    }
    let stays = |name: &String| {
        let (was, is) = (properties(before).get(name), properties(after).get(name));
        !touched.contains(name.as_str()) && matches!((was, is), (Some(was), Some(is)) if same(was, is))
    };
    (!identifier.is_empty() && identifier.iter().all(stays)).then(|| {
        format!(
            "the new one would have the name of the old one ({}), which is still there when it is created; give it another name",
            identifier.join(", ")
        )
    })
}
