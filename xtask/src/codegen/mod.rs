//! `cargo xtask codegen`: from CloudFormation's resource schemas to the crate `cfn-resources`.
//!
//! Two steps. `--update-schemas` fetches the pinned schema packages and keeps their facts in
//! `stacks/resources/schemas`; generation turns those facts into Rust through `templates/codegen` and needs
//! no network. `--check` compares instead of writing.

mod difference;
mod extract;
mod model;
mod naming;
mod render;
mod sources;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

/// The services whose resources are generated, by the middle part of their type names. The Rust module and
/// the cargo feature have the same name in lower case.
pub(crate) const SERVICES: [&str; 26] = [
    "APS",
    "ApplicationAutoScaling",
    "AutoScaling",
    "CloudFormation",
    "CloudWatch",
    "DynamoDB",
    "EC2",
    "ECR",
    "EKS",
    "Events",
    "Grafana",
    "IAM",
    "KMS",
    "Kinesis",
    "Lambda",
    "Logs",
    "MSK",
    "MemoryDB",
    "Pipes",
    "RDS",
    "S3",
    "SNS",
    "SQS",
    "SSM",
    "Scheduler",
    "SecretsManager",
];

/// Where everything is, relative to the workspace.
const SCHEMAS: &str = "stacks/resources/schemas";
const TEMPLATES: &str = "templates/codegen";
const GENERATED: &str = "stacks/resources/src";

/// Generate the typed CloudFormation vocabulary from the resource schemas.
///
/// Generate the typed CloudFormation vocabulary (stacks/resources) from the resource schemas.
///
/// Without options: reads the facts in stacks/resources/schemas and writes stacks/resources/src through
/// templates/codegen. Needs no network.
///
/// Example: a newer schema version.
///   cargo xtask codegen --update-schemas --cfn-lint 1.59.0
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct CodegenArgs {
    /// Compare with what is committed instead of writing; fails and lists the files when something is stale.
    #[arg(long)]
    check: bool,
    /// Fetch the schema packages, rewrite the facts, print what changed, and generate.
    #[arg(long, conflicts_with = "check")]
    update_schemas: bool,
    /// The version of the PyPI package cfn-lint to take (recorded with its hash).
    #[arg(long, requires = "update_schemas", value_name = "VERSION")]
    cfn_lint: Option<String>,
    /// The version of the npm package @aws-cdk/aws-service-spec to take (recorded with its hash).
    #[arg(long, requires = "update_schemas", value_name = "VERSION")]
    service_spec: Option<String>,
}

/// The facts of every service: service -> resource type -> facts.
pub(crate) type Facts = BTreeMap<String, BTreeMap<String, Json>>;

pub(crate) fn run(args: &CodegenArgs, workspace: &Path) -> Result<()> {
    if args.update_schemas {
        update(args, workspace)?;
    }
    if args.check {
        return check(workspace);
    }
    let generated = generate(workspace)?;
    let mut written = 0;
    for (file, text) in &generated {
        let path = workspace.join(file);
        if fs::read_to_string(&path).is_ok_and(|old| old == *text) {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        written += 1;
    }
    println!("codegen: {} files, {written} changed", generated.len());
    Ok(())
}

/// Fails when what is committed is not what the facts give.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    let generated = generate(workspace)?;
    let stale = stale_files(workspace, &generated)?;
    if stale.is_empty() {
        println!("codegen: {} files are up to date", generated.len());
        return Ok(());
    }
    bail!("stale: {}; run `cargo xtask codegen` and commit what it writes", stale.join(", "));
}

/// Everything that is generated, by path relative to the workspace.
pub(crate) fn generate(workspace: &Path) -> Result<BTreeMap<String, String>> {
    let facts = read_facts(workspace)?;
    let reviewed: Json = serde_json::from_str(&read(&workspace.join(SCHEMAS).join("reviewed.json"))?)
        .context("stacks/resources/schemas/reviewed.json")?;
    let model = model::build(&facts, &reviewed)?;
    render::render(&model, &workspace.join(TEMPLATES), GENERATED)
}

fn stale_files(workspace: &Path, generated: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut stale: Vec<String> = generated
        .iter()
        .filter(|(file, text)| !fs::read_to_string(workspace.join(file)).is_ok_and(|old| old == **text))
        .map(|(file, _)| file.clone())
        .collect();
    for entry in fs::read_dir(workspace.join(GENERATED))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let file = format!("{GENERATED}/{name}");
        if name.ends_with(".rs") && name != "lib.rs" && !generated.contains_key(&file) {
            stale.push(format!("{file} (no longer generated)"));
        }
    }
    Ok(stale)
}

fn update(args: &CodegenArgs, workspace: &Path) -> Result<()> {
    let pins = workspace.join(SCHEMAS).join("sources.json");
    let packages = sources::fetch(
        &pins,
        &workspace.join("target/schemas"),
        args.cfn_lint.as_deref(),
        args.service_spec.as_deref(),
    )?;
    let before = read_facts(workspace).unwrap_or_default();
    let (facts, dropped) = extract::extract(&packages)?;
    for (service, types) in &facts {
        write_facts(workspace, service, types)?;
    }
    packages.record(&pins)?;
    let dropped_file = workspace.join(SCHEMAS).join("dropped-patterns.txt");
    fs::write(dropped_file, dropped.join("\n") + "\n")?;
    println!("codegen: {} patterns that the regex crate cannot compile are left out", dropped.len());
    difference::print(&before, &facts);
    Ok(())
}

/// One line a type, sorted, so that a change reads as a change of that type.
fn write_facts(workspace: &Path, service: &str, types: &BTreeMap<String, Json>) -> Result<()> {
    let lines: Vec<String> = types
        .iter()
        .map(|(name, facts)| {
            format!(
                "{}:{}",
                Json::from(name.as_str()),
                String::from_utf8_lossy(&cfn::to_canonical_bytes(facts))
            )
        })
        .collect();
    let path = workspace.join(SCHEMAS).join(format!("{}.json", service.to_ascii_lowercase()));
    fs::write(&path, format!("{{\n{}\n}}\n", lines.join(",\n")))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn read_facts(workspace: &Path) -> Result<Facts> {
    SERVICES
        .iter()
        .map(|service| {
            let path = workspace.join(SCHEMAS).join(format!("{}.json", service.to_ascii_lowercase()));
            let types = serde_json::from_str(&read(&path)?).with_context(|| path.display().to_string())?;
            Ok(((*service).to_owned(), types))
        })
        .collect()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| {
        format!("cannot read {}; `cargo xtask codegen --update-schemas` fetches the schemas", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn the_committed_vocabulary_is_what_the_schemas_give() {
        let generated = generate(&workspace::root()).unwrap();
        assert_eq!(stale_files(&workspace::root(), &generated).unwrap(), Vec::<String>::new());
    }
}
