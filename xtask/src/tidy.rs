//! `cargo xtask tidy`: the house in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

use crate::programs;

/// What the top level may hold, beside dot files.
const TOP_LEVEL: [&str; 12] = [
    "ARCHITECTURE.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "apps",
    "clippy.toml",
    "environments",
    "rustfmt.toml",
    "stacks",
    "templates",
    "xtask",
];

/// A file of more lines is no longer one concept.
const LINES_MAX: usize = 700;

/// Which of our crates each may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("capacity", &[]),
    ("cfn", &[]),
    ("cfn-resources", &["cfn"]),
    ("constructs", &["cfn", "cfn-resources"]),
    ("platform", &["capacity", "cfn", "cfn-resources", "constructs", "worker-contract"]),
    ("worker-contract", &[]),
    ("worker-kit", &["worker-contract"]),
    ("trade-producer", &["worker-contract", "worker-kit"]),
    ("trade-consumer", &["worker-contract", "worker-kit"]),
    ("ledger-events", &[]),
    ("ledger-transform", &["ledger-events", "worker-contract", "worker-kit"]),
    ("ledger-writer", &["ledger-events", "worker-contract", "worker-kit"]),
    ("ledger-mode", &["ledger-events", "worker-contract", "worker-kit"]),
    ("ledger-migrate", &["worker-contract", "worker-kit"]),
    ("ledger-load", &["ledger-events", "worker-contract", "worker-kit"]),
    ("lesson-events", &[]),
    ("lessons-enricher", &["lesson-events", "worker-contract", "worker-kit"]),
    ("lessons-shard-scaler", &["worker-contract", "worker-kit"]),
    ("lesson-load", &["lesson-events", "lessons-enricher", "worker-contract", "worker-kit"]),
    ("tag-store", &[]),
    ("tag-worker", &["tag-store", "worker-contract", "worker-kit"]),
    ("tag-load", &["tag-store", "tag-worker", "worker-contract", "worker-kit"]),
    ("local-environment", &["capacity"]),
    ("local-testing", &["worker-contract", "worker-kit"]),
    ("deploy-engine", &["cfn", "cfn-resources"]),
    ("xtask", &["capacity", "cfn", "cfn-resources", "platform", "worker-contract"]),
];

/// Crates that must not come into the command line's build: they compile for minutes.
const HEAVY: [&str; 4] = ["aws-config", "aws-sdk-cloudformation", "rdkafka", "tokio"];

pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    check(root)?;
    println!("tidy: the house is in order");
    Ok(ExitCode::SUCCESS)
}

/// Fails with everything that is out of order.
pub(crate) fn check(root: &Path) -> Result<()> {
    let complaints = complaints(root)?;
    if complaints.is_empty() { Ok(()) } else { bail!("{}", complaints.join("\n")) }
}

fn complaints(root: &Path) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    let files = tracked_files(root)?;
    top_level(&files, &mut complaints);
    crates(root, &mut complaints)?;
    for file in &files {
        source(root, file, &mut complaints)?;
    }
    Ok(complaints)
}

/// Files that git knows or would add.
fn tracked_files(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("cannot start git")?;
    anyhow::ensure!(output.status.success(), "git ls-files failed");
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(PathBuf::from)
        .filter(|file| root.join(file).is_file())
        .collect())
}

fn top_level(files: &[PathBuf], complaints: &mut Vec<String>) {
    let names: BTreeSet<String> = files
        .iter()
        .filter_map(|file| file.components().next())
        .map(|component| component.as_os_str().to_string_lossy().into_owned())
        .collect();
    for name in names.iter().filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str())) {
        complaints.push(format!("{name}: the top level holds {} and nothing else", TOP_LEVEL.join(", ")));
    }
}

fn crates(root: &Path, complaints: &mut Vec<String>) -> Result<()> {
    let output = Command::new(programs::cargo())
        .current_dir(root)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .context("cannot start cargo")?;
    anyhow::ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Json = serde_json::from_slice(&output.stdout)?;
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let text = |json: &Json, key: &str| json.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
    for package in metadata.get("packages").and_then(Json::as_array).into_iter().flatten() {
        let name = text(package, "name");
        let Some(allowed) = arrows.get(name.as_str()) else {
            complaints.push(format!("{name}: a crate that xtask/src/tidy.rs does not know"));
            continue;
        };
        for dependency in package.get("dependencies").and_then(Json::as_array).into_iter().flatten() {
            let target = text(dependency, "name");
            let ours = arrows.contains_key(target.as_str());
            let for_tests = dependency.get("kind").and_then(Json::as_str) == Some("dev");
            if ours && !for_tests && !allowed.contains(&target.as_str()) {
                complaints.push(format!(
                    "{name} -> {target}: dependencies point one way; {name} may use: {}",
                    allowed.join(", ")
                ));
            }
            if name == "xtask" && HEAVY.contains(&target.as_str()) {
                complaints.push(format!("xtask -> {target}: the command line stays lean"));
            }
        }
        let manifest = text(package, "manifest_path");
        let manifest_text = std::fs::read_to_string(&manifest)?;
        for wanted in [
            "[lints]\nworkspace = true",
            "version.workspace = true",
            "edition.workspace = true",
            "rust-version.workspace = true",
        ] {
            if !manifest_text.contains(wanted) {
                complaints.push(format!("{name}: Cargo.toml wants `{}`", wanted.replace('\n', " ")));
            }
        }
        for line in dependency_lines(&manifest_text) {
            if !line.contains("workspace = true") {
                complaints.push(format!("{name}: `{line}`: versions stand in the workspace's Cargo.toml"));
            }
        }
    }
    Ok(())
}

fn dependency_lines(manifest: &str) -> Vec<&str> {
    let mut inside = false;
    manifest
        .lines()
        .filter(|line| {
            if line.starts_with('[') {
                inside = line.contains("dependencies]");
                return false;
            }
            inside && line.contains('=')
        })
        .collect()
}

fn source(root: &Path, file: &Path, complaints: &mut Vec<String>) -> Result<()> {
    let name = file.to_string_lossy();
    let generated = name.starts_with("stacks/resources/src/");
    let checked = ["rs", "md", "toml", "py", "hbs", "yml", "sh"];
    if generated
        || !file.extension().is_some_and(|extension| checked.contains(&extension.to_string_lossy().as_ref()))
    {
        return Ok(());
    }
    let text = std::fs::read_to_string(root.join(file)).with_context(|| name.clone().into_owned())?;
    let is_rust = name.ends_with(".rs");
    if is_rust && text.lines().count() > LINES_MAX {
        complaints.push(format!("{name}: more than {LINES_MAX} lines; is it still one concept?"));
    }
    // Spelt in two parts, so that this file is not its own finding.
    let unfinished = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("#[ign", "ore]"),
        concat!("FIX", "ME"),
    ];
    for (index, line) in text.lines().enumerate() {
        for word in unfinished.iter().filter(|word| is_rust && line.contains(**word)) {
            complaints.push(format!("{name}:{}: `{word}`", index + 1));
        }
        let of_one_machine = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];
        for path in of_one_machine.iter().filter(|path| line.contains(**path)) {
            complaints.push(format!("{name}:{}: a path of one machine: {path}", index + 1));
        }
        if line.starts_with(concat!("<<<<", "<<< ")) || line.starts_with(concat!(">>>>", ">>> ")) {
            complaints.push(format!("{name}:{}: what is left of a merge", index + 1));
        }
        if line.ends_with(' ') || line.ends_with('\t') {
            complaints.push(format!("{name}:{}: white space at the end", index + 1));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn the_house_is_in_order() {
        assert_eq!(complaints(&workspace::root()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_does_not_belong_is_seen() {
        let mut found = Vec::new();
        top_level(
            &[PathBuf::from("utils/x.rs"), PathBuf::from(".gitignore"), PathBuf::from("apps/x")],
            &mut found,
        );
        assert_eq!(found.len(), 1);
        let manifest = "[dependencies]\nserde.workspace = true\nanyhow = \"1\"\n[lints]\nworkspace = true\n";
        assert_eq!(dependency_lines(manifest), ["serde.workspace = true", "anyhow = \"1\""]);
    }
}
