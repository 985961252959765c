//! `cargo xtask synth`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use cfn::Assembly;
use platform::Environment;

/// Render an environment to target/assembly/ENV.
///
/// That is templates, manifests, and the manifest that wires them.
///
/// Rendering is pure: no network, no clock, no account. The same sources give the same bytes.
///
/// Example: cargo xtask synth --env prod && cat target/assembly/prod/kafka.template.json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct SynthArgs {
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// Check what was rendered as well.
    #[arg(long)]
    check: bool,
    /// Render all stacks this many times over, to measure how rendering grows.
    #[arg(long, default_value_t = 1, hide = true)]
    copies: usize,
}

/// Where an environment's assembly is.
pub(crate) fn directory(root: &Path, environment: &str) -> PathBuf {
    root.join("target/assembly").join(environment)
}

/// Renders an environment and writes it.
pub(crate) fn synth(root: &Path, name: &str, copies: usize) -> Result<Assembly> {
    let environment = Environment::load(root, name)?;
    let assembly = platform::render_copies(&environment, copies)?;
    let place = if copies == 1 { name.to_owned() } else { format!("{name}-{copies}-copies") };
    assembly.write(&directory(root, &place))?;
    Ok(assembly)
}

pub(crate) fn run(arguments: &SynthArgs, root: &Path) -> Result<ExitCode> {
    let assembly = synth(root, &arguments.env, arguments.copies)?;
    for stack in &assembly.manifest.stacks {
        let template = assembly.template(&stack.id);
        let resources = template
            .and_then(|template| template.get("Resources"))
            .and_then(cfn::Json::as_object)
            .map_or(0, serde_json::Map::len);
        println!(
            "{:<28} {resources:>3} resources  target/assembly/{}/{}",
            stack.name, arguments.env, stack.template
        );
    }
    println!("{}", assembly.manifest.digest);
    if arguments.check {
        return crate::check::report(&assembly, false);
    }
    Ok(ExitCode::SUCCESS)
}
