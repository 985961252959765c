//! What the tests of the checks share: an assembly around a template, and the committed facts of the types.

#![allow(clippy::unwrap_used, dead_code)]

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use cfn::{
    AppProperties, Assembly, Json, Provenance,
    assembly::{Manifest, ParameterWiring, Source, StackEntry},
    schema::TypeSchema,
};
use serde_json::json;

/// An assembly of one stack, `s`, with these resources and sections.
pub(crate) fn assembly(resources: Json, more: Json) -> Assembly {
    let mut template = json!({ "Resources": resources });
    for (key, value) in more.as_object().unwrap() {
        template[key] = value.clone();
    }
    app(vec![("s", template, Vec::new())])
}

/// A parameter, and the stack and output that it comes from.
pub(crate) type Wire<'a> = (&'a str, &'a str, &'a str);

/// An assembly of stacks: id, template, and wires.
pub(crate) fn app(stacks: Vec<(&str, Json, Vec<Wire<'_>>)>) -> Assembly {
    let mut entries = Vec::new();
    let mut templates = BTreeMap::new();
    let mut provenance = Vec::new();
    for (stack, template, parameters) in stacks {
        entries.push(entry(stack, &parameters));
        provenance.extend(template["Resources"].as_object().unwrap().iter().map(|(id, resource)| {
            Provenance {
                stack: stack.to_owned(),
                logical_id: id.clone(),
                resource_type: resource["Type"].as_str().unwrap().to_owned(),
                path: format!("{stack}/{id}"),
                source: format!("stacks/{stack}.rs:1"),
                waivers: Vec::new(),
            }
        }));
        templates.insert(stack.to_owned(), template);
    }
    Assembly { manifest: manifest(entries), templates, files: BTreeMap::new(), provenance }
}

/// The manifest of an environment with these stacks.
pub(crate) fn manifest(stacks: Vec<StackEntry>) -> Manifest {
    let properties = AppProperties::new("test", "111111111111", "eu-west-1", "fg");
    Manifest { stacks, ..properties.empty_manifest() }
}

/// A stack and its wires.
pub(crate) fn entry(stack: &str, parameters: &[Wire<'_>]) -> StackEntry {
    let parameters = parameters.iter().map(|(name, stack, output)| ParameterWiring {
        name: (*name).to_owned(),
        source: Source::Output { stack: (*stack).to_owned(), output: (*output).to_owned() },
    });
    StackEntry {
        id: stack.to_owned(),
        name: format!("fg-{stack}"),
        template: format!("{stack}.template.json"),
        termination_protection: true,
        parameters: parameters.collect(),
        ..StackEntry::default()
    }
}

/// The facts that `cfn-resources` carries, read from its files: the language depends on no vocabulary, not even
/// in its tests.
#[derive(Default)]
pub(crate) struct Facts(RefCell<BTreeMap<String, Option<String>>>);

impl Facts {
    pub(crate) fn schema(&self, kind: &str) -> Option<TypeSchema> {
        let service = kind.split("::").nth(1)?.to_lowercase();
        let mut files = self.0.borrow_mut();
        let facts = files.entry(service).or_insert_with_key(|service| {
            fs::read_to_string(here().join(format!("../resources/schemas/{service}.json"))).ok()
        });
        TypeSchema::find(kind, facts.as_ref()?)
    }
}

/// This crate's directory.
pub(crate) fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The templates in a directory beside the tests, by file name.
pub(crate) fn templates(directory: &str) -> BTreeMap<String, Json> {
    let entries = fs::read_dir(here().join("tests").join(directory)).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let json = serde_json::from_str(&fs::read_to_string(&path).unwrap())
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, json)
        })
        .collect()
}
