//! `cargo xtask init`.

mod edits;
mod name;

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use handlebars::Handlebars;
use serde_json::json;

use edits::{Edits, Outcome};
use name::Name;

/// Make a new system or stack, which builds and passes `check` as it comes.
///
/// Written from `templates/init`, and registered where the workspace lists its
/// stacks, crates and environments. It can be run again after a failure; what
/// somebody has changed since is refused, not written over.
///
/// Examples:
///   cargo xtask init system orders
///   cargo xtask init stack audit
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct InitArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A system: a stack with a stream and a function, the function's crate, its contract and its settings.
    System {
        /// Such as `orders`: 2 to 20 lower-case letters, digits and hyphens.
        name: String,
    },
    /// A stack of every environment.
    Stack {
        /// Such as `audit`: 2 to 20 lower-case letters, digits and hyphens.
        name: String,
    },
}

pub(crate) fn run(arguments: &InitArgs, root: &Path) -> Result<ExitCode> {
    let (edits, next) = match &arguments.what {
        What::System { name } => (system(root, &Name::parse(name)?)?, "cargo xtask deploy --env local"),
        What::Stack { name } => (stack(root, &Name::parse(name)?)?, "cargo xtask diff --env local"),
    };
    let written = write(root, edits)?;
    if written.is_empty() {
        println!("nothing to do: all of it is there already");
        return Ok(ExitCode::SUCCESS);
    }
    for (path, how) in written {
        println!("{:<7} {path}", if how == Outcome::Made { "made" } else { "changed" });
    }
    println!("\nNext:\n  cargo xtask check\n  {next}");
    println!(
        "  INSTA_UPDATE=always cargo test -p platform --test environments   # agree to its golden files"
    );
    Ok(ExitCode::SUCCESS)
}

/// Writes what was planned, and formats it.
fn write(root: &Path, edits: Edits) -> Result<Vec<(String, Outcome)>> {
    let written = edits.write(root)?;
    let sources: Vec<&str> =
        written.iter().map(|(path, _)| path.as_str()).filter(|path| path.ends_with(".rs")).collect();
    if !sources.is_empty() {
        // Long names break lines elsewhere than short ones.
        let formatted =
            Command::new("rustfmt").current_dir(root).args(["--edition", "2024"]).args(&sources).status();
        if !formatted.is_ok_and(|status| status.success()) {
            eprintln!("rustfmt did not format what was written; `cargo fmt --all` does");
        }
    }
    Ok(written)
}

/// The module of the platform, its place among the stacks, and how it is called.
fn module(root: &Path, name: &Name, template: &str, condition: Option<&str>) -> Result<Edits> {
    let mut edits = Edits::default();
    let (id, module) = (&name.id, &name.module);
    edits.make(root, &format!("stacks/platform/src/{module}.rs"), render(root, template, name)?)?;
    let lib = "stacks/platform/src/lib.rs";
    edits.module(root, lib, module)?;
    edits.list(
        root,
        lib,
        "pub const STACKS: [StackDescription; ",
        &format!("    StackDescription {{ id: \"{id}\", description: {module}::DESCRIPTION }},\n"),
    )?;
    let call = match condition {
        None => format!("        {module}::add(&mut app, &id(\"{id}\"), &base);\n"),
        Some(condition) => format!(
            "        if {condition} {{\n            {module}::add(&mut app, &id(\"{id}\"), &base);\n        }}\n"
        ),
    };
    edits.before(root, lib, "        delivery::add(&mut app,", &call)?;
    Ok(edits)
}

fn stack(root: &Path, name: &Name) -> Result<Edits> {
    module(root, name, "stack.rs", None)
}

fn system(root: &Path, name: &Name) -> Result<Edits> {
    let Name { id, module: snake, variant, title } = name;
    let has = format!("environment.has(System::{variant})");
    let mut edits = module(root, name, "system.rs", Some(&has))?;
    let lib = "stacks/platform/src/lib.rs";
    edits.before(root, lib, "        _ => true,", &format!("        \"{id}\" => {has},\n"))?;

    let environment = "stacks/platform/src/environment.rs";
    edits.last_of_block(
        root,
        environment,
        "pub enum System {",
        &format!("    /// {title}: Kinesis to Lambda.\n    #[serde(rename = \"{id}\")]\n    {variant},\n"),
    )?;
    edits.last_of_block(
        root,
        environment,
        "pub struct Environment {",
        &format!(
            "    /// The {title} system.\n    #[serde(default, rename = \"{id}\")]\n    pub {snake}: crate::{snake}::Settings,\n"
        ),
    )?;

    let contract = "apps/contract/src";
    edits.make(root, &format!("{contract}/{snake}.rs"), render(root, "contract.rs", name)?)?;
    edits.module(root, &format!("{contract}/lib.rs"), snake)?;
    let worker = format!("apps/{id}/worker");
    for (file, template) in
        [("Cargo.toml", "worker.toml"), ("src/lib.rs", "worker_lib.rs"), ("src/main.rs", "worker_main.rs")]
    {
        edits.make(root, &format!("{worker}/{file}"), render(root, template, name)?)?;
    }
    edits.before(root, "Cargo.toml", "    \"environments/local\",", &format!("    \"{worker}\",\n"))?;
    edits.before(
        root,
        "xtask/src/tidy.rs",
        "    (\"local-environment\",",
        &format!("    (\"{id}-worker\", &[\"worker-contract\", \"worker-kit\"]),\n"),
    )?;

    // Where data is disposable it is there at once; the others get it when somebody says so.
    let section = render(root, "environment.toml", name)?;
    let mut joined = 0;
    for environment in platform::Environment::names(root)? {
        let file = format!("environments/{environment}.toml");
        // By its text: what a run before this one has written, this program may not know yet.
        let text =
            std::fs::read_to_string(root.join(&file)).with_context(|| format!("cannot read {file}"))?;
        if text.lines().any(|line| line.trim_end() == "data = \"disposable\"") {
            edits.word(root, &file, "systems = [", &format!("\"{id}\""))?;
            joined += 1;
        }
        edits.at_end(root, &file, &section)?;
    }
    if joined == 0 {
        bail!("no environment has disposable data: there is none in which a new system could be tried");
    }
    let row = format!(
        "| **{id}** | Kinesis to Lambda | new; `cargo xtask deploy --env local` deploys it where `systems` names it |\n"
    );
    edits.after_last(root, "README.md", "| **", &row)?;
    Ok(edits)
}

fn render(root: &Path, template: &str, name: &Name) -> Result<String> {
    let path = root.join("templates/init").join(format!("{template}.hbs"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut engine = Handlebars::new();
    engine.register_escape_fn(handlebars::no_escape);
    engine.set_strict_mode(true);
    engine
        .render_template(&text, &json!({ "name": name.id, "module": name.module, "title": name.title }))
        .with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests;
