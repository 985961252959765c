//! What the tests of the checks share: an assembly around a template, and the committed facts of the types.

#![allow(clippy::unwrap_used, dead_code)]

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use cfn::{
    Assembly, Json, Provenance,
    assembly::{Manifest, StackEntry},
    schema::TypeSchema,
};
use serde_json::json;

/// An assembly of one stack with these resources and sections.
pub(crate) fn assembly(resources: Json, more: Json) -> Assembly {
    let mut template = json!({ "Resources": resources });
    for (key, value) in more.as_object().unwrap() {
        template[key] = value.clone();
    }
    let provenance = template["Resources"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(id, resource)| Provenance {
            stack: "s".to_owned(),
            logical_id: id.clone(),
            resource_type: resource["Type"].as_str().unwrap().to_owned(),
            path: format!("s/{id}"),
            source: "stacks/s.rs:1".to_owned(),
            waivers: Vec::new(),
        })
        .collect();
    let entry = StackEntry {
        id: "s".to_owned(),
        name: "fg-s".to_owned(),
        template: "s.template.json".to_owned(),
        template_sha256: String::new(),
        depends_on: Vec::new(),
        capabilities: Vec::new(),
        termination_protection: true,
        tags: BTreeMap::new(),
        parameters: Vec::new(),
    };
    let manifest = Manifest {
        schema_version: 1,
        environment: "test".to_owned(),
        provider: "aws".to_owned(),
        account: "111111111111".to_owned(),
        region: "eu-west-1".to_owned(),
        prefix: "fg".to_owned(),
        digest: String::new(),
        stacks: vec![entry],
        assets: Vec::new(),
        workloads: Vec::new(),
        cluster: None,
        systems: BTreeMap::new(),
    };
    Assembly {
        manifest,
        templates: BTreeMap::from([("s".to_owned(), template)]),
        files: BTreeMap::new(),
        provenance,
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
