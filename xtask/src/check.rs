//! `cargo xtask check`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use cfn::{
    Assembly,
    check::{Severity, check},
};
use platform::Environment;

/// Check what an environment renders, offline.
///
/// Property schemas, CloudFormation's limits, references, and the
/// platform's policies. Each finding has a code, the construct, the source and what to do; `explain` says more
/// of a code.
///
/// Example: cargo xtask check --env prod
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct CheckArgs {
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &CheckArgs, root: &Path) -> Result<ExitCode> {
    let assembly = platform::render(&Environment::load(root, &arguments.env)?)?;
    if arguments.json {
        let findings = check(&assembly, &cfn_resources::schema);
        println!("{}", serde_json::to_string_pretty(&findings)?);
        let failed =
            findings.iter().any(|finding| finding.severity == Severity::Error && finding.waived.is_none());
        return Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    report(&assembly, false)
}

/// Prints the findings; fails when there is an error that is not waived. `quiet` leaves out what is no
/// error.
pub(crate) fn report(assembly: &Assembly, quiet: bool) -> Result<ExitCode> {
    let findings = check(assembly, &cfn_resources::schema);
    let (waived, open): (Vec<_>, Vec<_>) = findings.iter().partition(|finding| finding.waived.is_some());
    let errors = open.iter().filter(|finding| finding.severity == Severity::Error).count();
    for finding in &open {
        if !quiet || finding.severity == Severity::Error {
            println!("{finding}");
        }
    }
    if !quiet {
        for finding in &waived {
            println!(
                "waived {} {}: {}",
                finding.code,
                finding.path,
                finding.waived.as_deref().unwrap_or_default()
            );
        }
        println!(
            "{}: {} stacks, {errors} errors, {} warnings, {} waived",
            assembly.manifest.environment,
            assembly.manifest.stacks.len(),
            open.len() - errors,
            waived.len()
        );
        if let Some(first) = open.first() {
            println!("`cargo xtask explain {}` says more, of this rule and of each", first.code);
        }
    }
    if errors > 0 {
        eprintln!("error: {errors} findings must be repaired first");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
