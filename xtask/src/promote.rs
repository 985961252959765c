//! `cargo xtask promote`.

use std::{path::Path, process::ExitCode};

use anyhow::{Result, bail};
use platform::{
    Environment,
    environment::{BAKE_MINUTES, Delivery},
};

use crate::{
    consent::Consent,
    deploy::{self, DeployArgs, Target},
    release::{self, Fetched, Hand},
    synth,
};

/// Take the release that runs in one environment to the next: the same bytes, if it is healthy.
///
/// It may go on when the environment runs it as a whole and is as the release has it, when no alarm that somebody
/// hears of was in ALARM for the bake time, when nothing was changed behind CloudFormation's back, when nobody works
/// on the environment, and when the smoke check is well. Whatever speaks against it is told, all of it, with what to
/// do. The bake time is `bake_minutes` below `[delivery]` in the environment's file, or 10 minutes.
///
/// What goes on is what runs there; with `--release` it is that release or none, as a pipeline wants it.
///
/// Where a release may go from an environment is said by `promotes_to` below `[delivery]`; to prod it goes only from
/// one that says so, and there is no `--force` to prod.
///
/// Examples:
///   cargo xtask promote --from staging --to prod --wait --confirm prod
///   cargo xtask promote --from local --to second --bake 30s
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct PromoteArgs {
    /// The environment that runs the release.
    #[arg(long)]
    from: String,
    /// The environment that gets it.
    #[arg(long)]
    to: String,
    /// This release and no other, by its digest or how that begins: refused where another one runs by now.
    #[arg(long, value_name = "DIGEST", value_parser = release::digest)]
    release: Option<String>,
    /// How long it must have run without an alarm: 10m, 1h, 30s.
    #[arg(long, value_name = "TIME")]
    bake: Option<String>,
    /// Wait until the bake time is over, instead of saying how much is left; an alarm ends it at once.
    #[arg(long)]
    wait: bool,
    /// Look whether it may go on, and leave it at that.
    #[arg(long, conflicts_with = "force")]
    gate_only: bool,
    /// Tell what speaks against it, and do it all the same; the record says so. Not to prod.
    #[arg(long)]
    force: bool,
    /// The profile of the credentials for the environment that runs it.
    #[arg(long, value_name = "PROFILE")]
    from_profile: Option<String>,
    /// The profile of the credentials for the environment that gets it.
    #[arg(long, value_name = "PROFILE")]
    to_profile: Option<String>,
    /// Which changes want a yes, as `deploy` has it.
    #[arg(long, value_name = "WHEN", value_parser = ["never", "broadening", "any"])]
    require_approval: Option<String>,
    #[command(flatten)]
    consent: Consent,
    /// JSON lines instead of text.
    #[arg(long)]
    json: bool,
}

/// Whether a release may go from one environment to the other at all.
fn allowed(from: &Environment, to: &str, force: bool) -> Result<()> {
    if from.name == to {
        bail!("{to} is where the release runs; name another environment");
    }
    if force && to == "prod" {
        bail!("there is no --force to prod: repair what speaks against the release, or make another");
    }
    let next = from.delivery.as_ref().and_then(|delivery| delivery.promotes_to.as_deref());
    match next {
        Some(next) if next != to => bail!(
            "releases go from {0} to {next} (`promotes_to` in environments/{0}.toml), not to {to}",
            from.name
        ),
        None if to == "prod" => bail!(
            "releases go to prod from an environment that says so: `promotes_to = \"prod\"` below [delivery] in environments/{}.toml, once it is as like prod as can be",
            from.name
        ),
        _ => Ok(()),
    }
}

pub(crate) fn run(arguments: &PromoteArgs, root: &Path) -> Result<ExitCode> {
    let PromoteArgs { from, to, bake, wait, force, consent, json, .. } = arguments;
    let source = Environment::load(root, from)?;
    allowed(&source, to, *force)?;
    let minutes = source.delivery.as_ref().map_or(BAKE_MINUTES, Delivery::bake);
    let bake = bake.clone().unwrap_or_else(|| format!("{minutes}m"));
    synth::synth(root, from, 1)?;
    synth::synth(root, to, 1)?;

    // Whoever gets it is asked first: what cannot be reached then is said before the bake time.
    let target = Target::new(root, to)?.of_profile(arguments.to_profile.as_ref());
    if target.has_stopped(root) && !arguments.gate_only {
        // Started anew it may have records that nobody has looked at.
        bail!("{to} does not run any more; `cargo xtask deploy --env {to}` starts it, or take it down first");
    }
    let mut after = 0;
    if target.is_there(root) && !arguments.gate_only {
        let endpoint_url = target.endpoint_url(root);
        match release::last_number(root, &mut target.engine(root, endpoint_url.as_deref(), *json))? {
            Ok(number) => after = number,
            Err(code) => return Ok(code),
        }
    }
    let source = Target::new(root, from)?.of_profile(arguments.from_profile.as_ref());
    if !source.is_there(root) {
        bail!("{from} does not run; `cargo xtask deploy --env {from}` starts it");
    }
    let endpoint_url = source.endpoint_url(root);
    let mut gate = source.engine(root, endpoint_url.as_deref(), *json);
    gate.args(["releases", "gate", "--bake", &bake, "--into"]).arg(release::directory(root));
    if let Some(release) = &arguments.release {
        gate.args(["--release", release]);
    }
    if *wait {
        gate.arg("--wait");
    }
    if *force {
        gate.arg("--overrule");
    }
    let Fetched { directory, overruled, .. } = match release::answered(root, &mut gate)? {
        Ok(fetched) => fetched,
        Err(code) => return Ok(code),
    };
    // The release may have nothing for whoever gets it.
    if let Err(code) = release::unpacked(root, &directory, to, *json)? {
        return Ok(code);
    }
    if arguments.gate_only {
        return Ok(ExitCode::SUCCESS);
    }
    let deployment = DeployArgs::of_all(to, consent.clone(), arguments.require_approval.clone(), *json);
    let hand = Hand::from(from, &overruled, after, arguments.to_profile.clone());
    deploy::deploy_release(&deployment, root, &directory, &hand)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn releases_go_where_an_environment_says_and_prod_has_no_force() {
        let load = |name: &str| Environment::load(&workspace::root(), name).unwrap();
        let told = |from: &str, to: &str, force| {
            allowed(&load(from), to, force).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(told("staging", "prod", false), "");
        assert_eq!(told("dev", "staging", true), "");
        assert_eq!(told("local", "second", false), "");
        assert!(told("staging", "prod", true).contains("no --force to prod"));
        assert!(told("local", "prod", true).contains("no --force to prod"));
        assert!(told("dev", "prod", false).contains("from dev to staging"));
        assert!(told("local", "prod", false).contains("an environment that says so"));
        assert!(told("local", "local", false).contains("another environment"));
    }
}
