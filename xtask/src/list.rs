//! `cargo xtask list`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use platform::Environment;

/// The stacks of an environment, in the order of deploying.
///
/// Example: cargo xtask list --env dev
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ListArgs {
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &ListArgs, root: &Path) -> Result<ExitCode> {
    let environment = Environment::load(root, &arguments.env)?;
    if arguments.json {
        let stacks: Vec<_> = platform::stacks(&environment)
            .map(|stack| serde_json::json!({ "id": stack.id, "name": format!("{}-{}", environment.prefix, stack.id), "description": stack.description }))
            .collect();
        println!("{}", serde_json::to_string_pretty(&stacks)?);
    } else {
        for stack in platform::stacks(&environment) {
            println!(
                "{:<14} {:<32} {}",
                stack.id,
                format!("{}-{}", environment.prefix, stack.id),
                stack.description
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
