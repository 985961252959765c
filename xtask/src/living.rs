//! `cargo xtask drift`, `import`, `orphan`, `move`: what exists, and how it becomes or leaves a stack's. The deploy
//! engine does it.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use platform::Environment;
use serde_json::Value as Json;

use crate::{consent::Consent, deploy::reading, programs::run_to_end};

/// What somebody changed behind CloudFormation's back.
///
/// Each resource that is not as its stack's template says, property by
/// property. Types that CloudFormation cannot read back are not compared, and
/// what a system sets itself as it runs (the ledger's mode, shards, a table's
/// capacity) is no drift. `--revert` brings a stack back by a change set that
/// heeds drift, and that as well.
///
/// Examples:
///   cargo xtask drift --env staging --exit-code
///   cargo xtask drift --env staging --stack ledger --revert
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct DriftArgs {
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// These stacks alone, by id.
    #[arg(long = "stack", value_name = "STACK")]
    stacks: Vec<String>,
    /// Bring it back to what the templates say.
    #[arg(long)]
    revert: bool,
    /// Exit with 3 where there is drift.
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    consent: Consent,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Take resources that exist into a stack, as they are.
///
/// The stack must render them: write the construct first. They are named by
/// what CloudFormation names them by: a value, or values by property. What
/// differs from what is rendered is left as it is; `drift` shows it after the
/// next deploy.
///
/// Examples:
///   cargo xtask import --env dev --stack lessons --resource TablesUser=floodgate-dev-user
///   cargo xtask import --env dev --stack network --resource Route=RouteTableId=rtb-1,CidrBlock=10.0.0.0/16
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ImportArgs {
    /// The environment: a file in environments/.
    #[arg(long)]
    env: String,
    /// The stack, by id.
    #[arg(long)]
    stack: String,
    /// LOGICAL_ID=VALUE or LOGICAL_ID=PROPERTY=VALUE[,PROPERTY=VALUE].
    #[arg(long = "resource", value_name = "CLAIM", required = true)]
    resources: Vec<String>,
    #[command(flatten)]
    consent: Consent,
}

/// Let a resource leave its stack and stay alive.
///
/// Remove it from the stack's code first. It is retained, then it is gone
/// from the deployed stack; nothing happens to the resource itself.
///
/// Example: cargo xtask orphan --env dev --stack lessons --resource TablesUser
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct OrphanArgs {
    /// The environment: a file in environments/.
    #[arg(long)]
    env: String,
    /// The stack, by id.
    #[arg(long)]
    stack: String,
    /// The resource's logical id in the deployed stack.
    #[arg(long)]
    resource: String,
    #[command(flatten)]
    consent: Consent,
}

/// Move a resource to another logical id or stack without replacing it.
///
/// By CloudFormation's stack refactoring, on what is deployed; then change
/// the code to the same, and the next deploy finds nothing to do.
///
/// It wants an administrator's credentials: CloudFormation refactors with the
/// rights of whoever asks, not with the role of deployments, and the
/// pipeline's role has none of them.
///
/// Example: cargo xtask move --env dev --from lessons/TablesUser --to lessons/UserTable
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct MoveArgs {
    /// The environment: a file in environments/.
    #[arg(long)]
    env: String,
    /// Where it is.
    #[arg(long, value_name = "STACK/LOGICAL_ID")]
    from: String,
    /// Where it goes.
    #[arg(long, value_name = "STACK/LOGICAL_ID")]
    to: String,
    #[command(flatten)]
    consent: Consent,
}

pub(crate) fn drift(arguments: &DriftArgs, root: &Path) -> Result<ExitCode> {
    let mut more = vec!["drift"];
    for stack in &arguments.stacks {
        more.extend(["--stack", stack]);
    }
    more.extend(arguments.revert.then_some("--revert"));
    more.extend(arguments.exit_code.then_some("--exit-code"));
    run(root, &arguments.env, &arguments.consent, arguments.json, &more)
}

pub(crate) fn import(arguments: &ImportArgs, root: &Path) -> Result<ExitCode> {
    let assembly = platform::render(&Environment::load(root, &arguments.env)?)?;
    let entry = assembly.manifest.stack_named(&arguments.stack)?;
    let template = assembly.template(&entry.id).context("the stack was not rendered")?;
    let claims: Vec<String> =
        arguments.resources.iter().map(|resource| claim(template, resource)).collect::<Result<_>>()?;
    let mut more = vec!["import", "--stack", &arguments.stack];
    for claim in &claims {
        more.extend(["--resource", claim]);
    }
    run(root, &arguments.env, &arguments.consent, false, &more)
}

pub(crate) fn orphan(arguments: &OrphanArgs, root: &Path) -> Result<ExitCode> {
    let more = ["orphan", "--stack", &arguments.stack, "--resource", &arguments.resource];
    run(root, &arguments.env, &arguments.consent, false, &more)
}

pub(crate) fn move_(arguments: &MoveArgs, root: &Path) -> Result<ExitCode> {
    let more = ["move", "--from", &arguments.from, "--to", &arguments.to];
    run(root, &arguments.env, &arguments.consent, false, &more)
}

/// A claim with the properties that name resources of its type, where only a value was given.
fn claim(template: &Json, text: &str) -> Result<String> {
    let Some((logical_id, value)) = text.split_once('=') else {
        bail!("`{text}` is not LOGICAL_ID=VALUE or LOGICAL_ID=PROPERTY=VALUE[,PROPERTY=VALUE]")
    };
    let kind = template["Resources"][logical_id]["Type"].as_str().with_context(|| {
        format!("the stack renders no resource `{logical_id}`; `cargo xtask synth` writes what it renders")
    })?;
    let schema = cfn_resources::schema(kind).with_context(|| format!("{kind} has no schema here"))?;
    let names: Vec<&str> = schema.primary_identifier().collect();
    if names.iter().any(|name| value.starts_with(&format!("{name}="))) {
        return Ok(text.to_owned());
    }
    match names.as_slice() {
        [name] => Ok(format!("{logical_id}={name}={value}")),
        several => bail!(
            "{kind} is named by {}: give {logical_id}={}",
            several.join(" and "),
            several.iter().map(|name| format!("{name}=…")).collect::<Vec<_>>().join(",")
        ),
    }
}

fn run(root: &Path, environment: &str, consent: &Consent, json: bool, more: &[&str]) -> Result<ExitCode> {
    let mut command = reading(root, environment, json)?;
    command.arg("living");
    consent.pass(&mut command);
    run_to_end(command.args(more))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_given_the_property_that_names_its_type() {
        let template = json!({ "Resources": {
            "Users": { "Type": "AWS::DynamoDB::Table" }, "Route": { "Type": "AWS::EC2::Route" } } });
        let told = |text: &str| claim(&template, text).map_err(|error| error.to_string());
        assert_eq!(told("Users=floodgate-dev-user"), Ok("Users=TableName=floodgate-dev-user".to_owned()));
        assert_eq!(told("Users=TableName=u"), Ok("Users=TableName=u".to_owned()));
        assert!(told("Route=rtb-1").unwrap_err().contains("RouteTableId=…"));
        assert!(told("Nothing=x").unwrap_err().contains("renders no resource"));
        assert!(told("Users").is_err());
    }
}
