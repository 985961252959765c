//! The second opinion on `check`: slips put into what is rendered, one at a time, and who finds them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};
use cfn::{Assembly, Json, assembly::StackEntry, check::check, is_intrinsic};
use serde_json::json;

/// Slips that are put into one resource, at most: long lists of like properties tell nothing new.
const SLIPS_PER_RESOURCE: usize = 40;

/// How deep below a resource's properties slips are made.
const DEPTH_MAX: usize = 4;

/// A template with one slip.
struct Mutant {
    /// What was done, and where.
    slip: String,
    /// The stack that the resource is from.
    stack: String,
    template: Json,
}

/// Puts slips into a resource of each type that an environment renders, and fails where cfn-lint finds one that
/// `check` does not. Prints how many each finds.
pub(crate) fn tally(root: &Path, cfn_lint: &Path, assembly: &Assembly, directory: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut mutants = Vec::new();
    for (stack, id) in one_of_each_type(assembly) {
        let whole = alone(&assembly.templates[&stack], &id);
        mutants.push(Mutant { slip: format!("{stack}/{id}"), stack: stack.clone(), template: whole.clone() });
        let mut slips = Vec::new();
        let path = format!("/Resources/{id}/Properties");
        if let Some(properties) = whole.pointer(&path) {
            collect(properties, &path, 0, &mut slips);
        }
        // Spread over the properties, where there are more than are made.
        let step = slips.len().div_ceil(SLIPS_PER_RESOURCE).max(1);
        for (what, at, value) in slips.into_iter().step_by(step) {
            let mut template = whole.clone();
            apply(&mut template, &at, value);
            mutants.push(Mutant { slip: format!("{what} {at}"), stack: stack.clone(), template });
        }
    }
    for (number, mutant) in mutants.iter().enumerate() {
        fs::write(directory.join(format!("{number:04}.json")), serde_json::to_vec(&mutant.template)?)?;
    }
    let theirs = findings_of_cfn_lint(root, cfn_lint, directory)?;
    let mut counts = BTreeMap::from([("both", 0), ("check alone", 0), ("cfn-lint alone", 0), ("nobody", 0)]);
    let mut missed = Vec::new();
    let (mut our_base, mut their_base) = (BTreeSet::new(), BTreeSet::new());
    for (number, mutant) in mutants.iter().enumerate() {
        let ours = findings_of_check(assembly, mutant);
        let theirs = theirs.get(&number).cloned().unwrap_or_default();
        // The first of a resource is the one without a slip.
        if !mutant.slip.contains(' ') {
            (our_base, their_base) = (ours, theirs);
            continue;
        }
        let new: Vec<&(String, String)> = theirs.difference(&their_base).collect();
        let found = ours.difference(&our_base).next().is_some();
        let who = match (found, new.is_empty()) {
            (true, false) => "both",
            (true, true) => "check alone",
            (false, false) => "cfn-lint alone",
            (false, true) => "nobody",
        };
        *counts.entry(who).or_default() += 1;
        if !found && !new.is_empty() {
            missed.push(format!("{}: {new:?}", mutant.slip));
        }
    }
    let slips: usize = counts.values().sum();
    println!(
        "slips: {slips}, found by both {}, by check alone {}, by cfn-lint alone {}, by nobody {}",
        counts["both"], counts["check alone"], counts["cfn-lint alone"], counts["nobody"]
    );
    if !missed.is_empty() {
        bail!("cfn-lint finds what check does not, in {}:\n{}", directory.display(), missed.join("\n"));
    }
    Ok(())
}

/// The first resource of each type.
fn one_of_each_type(assembly: &Assembly) -> Vec<(String, String)> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (stack, template) in &assembly.templates {
        for (id, resource) in template["Resources"].as_object().into_iter().flatten() {
            if resource["Type"].as_str().is_some_and(|kind| seen.insert(kind.to_owned())) {
                found.push((stack.clone(), id.clone()));
            }
        }
    }
    found
}

/// A template of one resource; what it refers to becomes parameters.
fn alone(template: &Json, id: &str) -> Json {
    let mut resource = template["Resources"][id].clone();
    if let Some(resource) = resource.as_object_mut() {
        resource.remove("DependsOn");
        resource.remove("Metadata");
    }
    let mut parameters = serde_json::Map::new();
    unbind(&mut resource, &mut parameters);
    json!({ "Parameters": parameters, "Resources": { id: resource } })
}

/// Turns references into those to parameters of text.
fn unbind(json: &mut Json, parameters: &mut serde_json::Map<String, Json>) {
    let name = match json.as_object() {
        Some(object) if object.len() == 1 => match object.iter().next() {
            Some((key, Json::String(name))) if key == "Ref" && !name.starts_with("AWS::") => {
                Some(name.clone())
            }
            Some((key, arguments)) if key == "Fn::GetAtt" => {
                let parts: Vec<&str> =
                    arguments.as_array().into_iter().flatten().filter_map(Json::as_str).collect();
                Some(parts.concat().replace('.', ""))
            }
            _ => None,
        },
        _ => None,
    };
    if let Some(name) = name {
        parameters.insert(name.clone(), json!({ "Type": "String" }));
        *json = json!({ "Ref": name });
        return;
    }
    match json {
        Json::Object(object) => object.values_mut().for_each(|value| unbind(value, parameters)),
        Json::Array(items) => items.iter_mut().for_each(|value| unbind(value, parameters)),
        _ => {}
    }
}

/// A slip: what it is, where, and what comes there; nothing for a property that goes.
type Slip = (&'static str, String, Option<Json>);

/// The slips that can be made in a value.
fn collect(json: &Json, at: &str, depth: usize, slips: &mut Vec<Slip>) {
    if depth > DEPTH_MAX || is_intrinsic(json) {
        return;
    }
    match json {
        Json::Object(object) => {
            for (key, value) in object {
                let place = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                slips.push(("without", place.clone(), None));
                slips.push(("misspelt", place.clone(), Some(value.clone())));
                collect(value, &place, depth + 1, slips);
            }
        }
        Json::Array(items) => {
            slips.push(("a text for a list at", at.to_owned(), Some(json!("list"))));
            if let Some(first) = items.first() {
                slips.push(("twice", at.to_owned(), Some(json!([first, first]))));
                collect(first, &format!("{at}/0"), depth + 1, slips);
            }
            slips.push(("nothing in", at.to_owned(), Some(json!([]))));
        }
        Json::String(_) => {
            slips.push(("an object for a text at", at.to_owned(), Some(json!({ "Text": "x" }))));
            slips.push(("other text at", at.to_owned(), Some(json!("¿no such thing? /"))));
            slips.push(("empty text at", at.to_owned(), Some(json!(""))));
            slips.push(("a reference to nothing at", at.to_owned(), Some(json!({ "Ref": "Nothing" }))));
        }
        Json::Number(_) => {
            slips.push(("a word for a number at", at.to_owned(), Some(json!("many"))));
            slips.push(("less than nothing at", at.to_owned(), Some(json!(-1))));
            slips.push(("too much at", at.to_owned(), Some(json!(1_000_000_000))));
        }
        Json::Bool(_) => slips.push(("a word for a truth at", at.to_owned(), Some(json!("perhaps")))),
        Json::Null => {}
    }
}

/// Makes a slip.
fn apply(template: &mut Json, at: &str, value: Option<Json>) {
    let Some((parent, key)) = at.rsplit_once('/') else { return };
    let key = key.replace("~1", "/").replace("~0", "~");
    match (template.pointer_mut(parent), value) {
        (Some(Json::Object(object)), None) => {
            object.remove(&key);
        }
        (Some(Json::Object(object)), Some(value)) => {
            // The same value again is the one under a misspelt name.
            if object.get(&key) == Some(&value) {
                object.remove(&key);
                object.insert(format!("{key}s"), value);
            } else {
                object.insert(key, value);
            }
        }
        (Some(Json::Array(items)), Some(value)) => {
            if let Some(item) = key.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                *item = value;
            }
        }
        _ => {}
    }
}

/// (code, message) of what `check` finds in a mutant.
fn findings_of_check(assembly: &Assembly, mutant: &Mutant) -> BTreeSet<(String, String)> {
    let mut single = Assembly {
        manifest: assembly.manifest.clone(),
        templates: BTreeMap::from([(mutant.stack.clone(), mutant.template.clone())]),
        files: BTreeMap::new(),
        provenance: assembly.provenance.iter().filter(|one| one.stack == mutant.stack).cloned().collect(),
    };
    single.manifest.stacks.retain(|stack: &StackEntry| stack.id == mutant.stack);
    single.manifest.stacks.iter_mut().for_each(|stack| stack.parameters.clear());
    let findings = check(&single, &cfn_resources::schema);
    findings.into_iter().map(|finding| (finding.code.to_owned(), finding.message)).collect()
}

/// (rule, message) of what cfn-lint finds, errors and warnings, by the number of the file.
fn findings_of_cfn_lint(
    root: &Path,
    cfn_lint: &Path,
    directory: &Path,
) -> Result<BTreeMap<usize, BTreeSet<(String, String)>>> {
    let output = Command::new(cfn_lint)
        .current_dir(root)
        .args(["--format", "json", "--regions", "eu-west-1", "--template"])
        .arg(format!("{}/*.json", directory.display()))
        .output()?;
    let told: Vec<Json> = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("cfn-lint printed no JSON: {}", String::from_utf8_lossy(&output.stderr)))?;
    let mut found: BTreeMap<usize, BTreeSet<(String, String)>> = BTreeMap::new();
    for finding in &told {
        let text = |pointer: &str| finding.pointer(pointer).and_then(Json::as_str).unwrap_or_default();
        let number = Path::new(text("/Filename")).file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        let number: usize = number.with_context(|| format!("cfn-lint names no file: {finding}"))?;
        found.entry(number).or_default().insert((text("/Rule/Id").to_owned(), text("/Message").to_owned()));
    }
    Ok(found)
}
