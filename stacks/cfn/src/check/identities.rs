//! Names that two resources claim.

use std::collections::BTreeMap;

use super::{
    Findings,
    rules::DUPLICATE_NAME,
    template::{Resource, Template},
};
use crate::{schema::TypeSchema, value::Json};

/// The identities that resources give themselves, over all stacks of an app: they share an account and a region.
#[derive(Default)]
pub(super) struct Taken(BTreeMap<String, String>);

impl Taken {
    pub(super) fn check(
        &mut self,
        template: &Template<'_>,
        schemas: &BTreeMap<String, Option<TypeSchema>>,
        findings: &mut Findings<'_>,
    ) {
        for resource in &template.resources {
            let schema = schemas.get(resource.kind).and_then(Option::as_ref);
            let Some(identity) = schema.and_then(|schema| identity(template, resource, schema)) else {
                continue;
            };
            let place = format!("{}/{}", template.id, resource.logical_id);
            if let Some(other) = self.0.get(&identity) {
                findings.resource(
                    DUPLICATE_NAME,
                    resource.logical_id,
                    format!("{other} is the same {}", resource.kind),
                );
            } else {
                self.0.insert(identity, place);
            }
        }
    }
}

/// The primary identifier, where the template gives all of it. Expressions are the same within a stack alone.
fn identity(template: &Template<'_>, resource: &Resource<'_>, schema: &TypeSchema) -> Option<String> {
    let paths: Vec<&str> =
        schema.root().get("primaryIdentifier")?.as_array()?.iter().filter_map(Json::as_str).collect();
    let values: Option<Vec<&Json>> = paths.iter().map(|path| resource.at(&format!("/{path}"))).collect();
    let values = values.filter(|values| !values.is_empty())?;
    // A resource under a condition may be the other branch of its namesake.
    if resource.json.get("Condition").is_some() {
        return None;
    }
    let literal = values.iter().all(|value| value.is_string());
    let home = if literal { "" } else { template.id };
    Some(format!("{} {home} {}", resource.kind, Json::from(values.into_iter().cloned().collect::<Vec<_>>())))
}
