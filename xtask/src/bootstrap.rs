//! `cargo xtask bootstrap`.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result};

use crate::{
    consent::Consent,
    deploy::{self, DeployArgs},
};

/// The stack with the bucket of artifacts and the roles of the pipeline and of CloudFormation.
const STACK: &str = "delivery";

/// Make what deployments to an environment need: the artifact bucket and the roles.
///
/// It deploys the stack `delivery` alone, with the credentials of whoever runs it: those of an administrator the
/// first time, because there is no role yet. After that CloudFormation works with a role that has just the actions
/// that the rendered resource types need, and the pipeline signs in by OIDC. Run it again after a new type of
/// resource came into the stacks: it changes what has changed.
///
/// Examples:
///   cargo xtask bootstrap --env dev
///   cargo xtask bootstrap --env prod --confirm prod --require-approval never
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct BootstrapArgs {
    /// The environment: a file in environments/.
    #[arg(long)]
    env: String,
    /// Which changes want a yes, as `deploy` has it: never, broadening or any.
    #[arg(long, value_name = "WHEN", value_parser = ["never", "broadening", "any"])]
    require_approval: Option<String>,
    #[command(flatten)]
    consent: Consent,
}

pub(crate) fn run(arguments: &BootstrapArgs, root: &Path) -> Result<ExitCode> {
    let BootstrapArgs { env, require_approval, consent } = arguments;
    let deployment = DeployArgs::of_stack(env, STACK, consent.clone(), require_approval.clone());
    let code = deploy::deploy(&deployment, root)?;
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    let output = deploy::reading(root, &arguments.env, true)?.arg("outputs").output()?;
    let outputs: cfn::Json = serde_json::from_slice(&output.stdout).with_context(|| {
        format!("the outputs cannot be read: {}", String::from_utf8_lossy(&output.stderr).trim())
    })?;
    println!("{}", told(&arguments.env, &outputs[STACK]));
    Ok(ExitCode::SUCCESS)
}

/// What there is now, and what comes next.
fn told(environment: &str, outputs: &cfn::Json) -> String {
    let value = |name: &str| outputs.get(name).and_then(cfn::Json::as_str);
    let mut lines = vec![format!("\n{environment} can be deployed to. It has:")];
    let mut say = |what: &str, name: &str| {
        lines.extend(value(name).map(|value| format!("  {what:<24} {value}")));
    };
    say("bucket of artifacts", "ArtifactBucket");
    say("role of CloudFormation", "ExecutionRoleArn");
    say("role of the pipeline", "PipelineRoleArn");
    lines.push("Next:".to_owned());
    match value("PipelineRoleArn") {
        Some(role) => lines.push(format!(
            "  in the repository's settings, make the environment `{environment}` and its variable AWS_ROLE_ARN={role};\n  jobs of that environment sign in with it, and no others"
        )),
        None => lines.push(
            "  no pipeline deploys here: `[delivery] github_repository` or `gitlab_project` in the environment's file adds its roles"
                .to_owned(),
        ),
    }
    lines.push(format!("  cargo xtask deploy --env {environment}"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_tells_what_there_is_and_what_comes_next() {
        let with_roles = told(
            "dev",
            &json!({
                "ArtifactBucket": "fg-dev-artifacts",
                "PipelineRoleArn": "arn:aws:iam::111111111111:role/pipeline",
                "ExecutionRoleArn": "arn:aws:iam::111111111111:role/execution",
            }),
        );
        let without = told("local", &json!({ "ArtifactBucket": "fg-local-artifacts" }));
        insta::assert_snapshot!(format!("{with_roles}\n{without}"));
    }
}
