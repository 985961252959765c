//! Assets and the bucket that they go to.

use std::collections::BTreeMap;

use super::{SynthError, Wiring};
use crate::{
    app::Asset,
    assembly::{AssetEntry, INLINE_TEMPLATE_BYTES_MAX, Source, StackEntry},
    canonical::to_canonical_bytes,
    stack::Stack,
    value::Json,
};

pub(super) fn render(assets: &[Asset], wiring: &mut Wiring) -> Vec<AssetEntry> {
    assets
        .iter()
        .map(|asset| AssetEntry {
            name: asset.name.clone(),
            kind: asset.kind,
            package: asset.package.clone(),
            repository: asset
                .repository
                .as_ref()
                .map(|value| wiring.deploy_value(&format!("asset {}", asset.name), value)),
        })
        .collect()
}

/// The bucket, if the output that names it is there.
pub(super) fn bucket(
    named: Option<(String, String)>,
    stacks: &[Stack],
    wiring: &mut Wiring,
) -> Option<Source> {
    let (stack, output) = named?;
    let is_there = |candidate: &Stack| *candidate.id == *stack && candidate.outputs.contains_key(&output);
    if stacks.iter().any(is_there) {
        return Some(Source::Output { stack, output });
    }
    wiring.errors.push(SynthError::NoArtifactBucket { stack, output });
    None
}

/// Stacks whose code or template is read from the bucket come after the stack that has it.
pub(super) fn await_bucket(
    entries: &mut [StackEntry],
    templates: &BTreeMap<String, Json>,
    bucket: Option<&Source>,
) {
    let Some(Source::Output { stack: owner, .. }) = bucket else { return };
    let order: BTreeMap<String, usize> =
        entries.iter().enumerate().map(|(position, entry)| (entry.id.clone(), position)).collect();
    for entry in entries {
        let reads_code = entry.parameters.iter().any(
            |parameter| matches!(&parameter.source, Source::Asset { field, .. } if field.starts_with("s3_")),
        );
        let is_large = templates
            .get(&entry.id)
            .is_some_and(|template| to_canonical_bytes(template).len() > INLINE_TEMPLATE_BYTES_MAX);
        if (reads_code || is_large) && entry.id != *owner && !entry.depends_on.contains(owner) {
            entry.depends_on.push(owner.clone());
            entry.depends_on.sort_by_key(|id| order.get(id).copied());
        }
    }
}
