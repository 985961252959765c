//! `cargo xtask deploy`, `teardown`, `status`: what is done here is done without the AWS
//! SDK, the rest is the deploy engine's.

use std::{
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result};
use cfn::assembly::Manifest;

use crate::{
    check,
    consent::Consent,
    cross, hotswap,
    programs::{ask_local, build_with, local_parts, local_root, run_to_end, target_directory},
    release::{self, Hand, revision},
    synth,
};

/// How many stacks are worked on at a time, unless told otherwise.
const CONCURRENCY: u8 = 4;

/// Build, render, check and deploy an environment, and wait until it works.
///
/// Stacks go in waves: those that do not depend on one another side by side, a producer before its consumers, and a
/// consumer that stops to use something before the producer that drops it.
///
/// The same path for every environment. With `--env local` what stands behind the endpoints is set up on this
/// machine first: a real Kafka broker and an AWS API emulator, below target/local, on loopback. Running it
/// again changes nothing that is as it should be; after any failure or Ctrl-C it goes on where it stopped.
///
/// With `--release` nothing is built or rendered: what `cargo xtask release` made is deployed, the same bytes to
/// every environment, after each of them was compared with the release's index.
///
/// Examples:
///   cargo xtask deploy --env local
///   cargo xtask deploy --env dev --stack network
///   cargo xtask deploy --env prod --plan
///   cargo xtask deploy --env local --hotswap
///   cargo xtask deploy --env staging --release target/releases/DIGEST.tar
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct DeployArgs {
    /// The environment: a file in environments/.
    #[arg(long)]
    pub(crate) env: String,
    /// These stacks alone, by id (see `cargo xtask list`), without workloads.
    #[arg(long = "stack", value_name = "STACK")]
    stacks: Vec<String>,
    /// Deploy this release: its archive, its directory, or how the digest of one in target/releases begins.
    #[arg(long, value_name = "RELEASE", conflicts_with = "hotswap")]
    pub(crate) release: Option<PathBuf>,
    /// Stacks without workloads.
    #[arg(long)]
    stacks_only: bool,
    /// Print the waves with the reason of each step, and touch nothing.
    ///
    /// Nothing is built for it: code is compared as it was built last, and what was not is told.
    #[arg(long)]
    plan: bool,
    /// How many stacks are worked on at a time.
    #[arg(long, value_name = "N", default_value_t = CONCURRENCY, value_parser = clap::value_parser!(u8).range(1..))]
    concurrency: u8,
    /// Which changes want a yes: never, broadening (what puts data at risk, replaces, deletes or allows more) or any.
    ///
    /// By default broadening where data is kept, and never elsewhere. Without a terminal what wants a yes stops with
    /// exit code 4, and its change sets are deleted.
    #[arg(long, value_name = "WHEN", value_parser = ["never", "broadening", "any"])]
    require_approval: Option<String>,
    /// Do not look whether somebody has changed what will be changed.
    ///
    /// On AWS the drift of each stack that is about to change is detected and shown; what would be overwritten wants
    /// a yes as well.
    #[arg(long)]
    no_drift: bool,
    /// Delete stacks of the environment that left the manifest; without it they are left alone.
    #[arg(long)]
    prune: bool,
    /// Swap the code of functions and workloads, in seconds, and nothing else; says what it skipped.
    ///
    /// Not in prod, and not where data is kept: what runs there is what its stacks say. The next deploy without it
    /// brings what was skipped and makes functions what the stacks say.
    #[arg(long, conflicts_with_all = ["plan", "prune", "require_approval", "stacks_only"])]
    hotswap: bool,
    #[command(flatten)]
    consent: Consent,
    /// JSON lines instead of text.
    #[arg(long)]
    json: bool,
}

impl DeployArgs {
    /// One stack of an environment, with everything else as it is by default.
    pub(crate) fn of_stack(
        environment: &str,
        stack: &str,
        consent: Consent,
        require_approval: Option<String>,
    ) -> Self {
        Self { stacks: vec![stack.to_owned()], ..Self::of_all(environment, consent, require_approval, false) }
    }

    /// All of an environment, as it is by default.
    pub(crate) fn of_all(
        environment: &str,
        consent: Consent,
        require_approval: Option<String>,
        json: bool,
    ) -> Self {
        Self {
            env: environment.to_owned(),
            stacks: Vec::new(),
            release: None,
            stacks_only: false,
            plan: false,
            concurrency: CONCURRENCY,
            require_approval,
            no_drift: false,
            prune: false,
            hotswap: false,
            consent,
            json,
        }
    }
}

/// Go back: deploy a release of before again, or take a stack back whose rollback failed.
///
/// With `--to` the environment gets a release that it ran before as a whole, from its own bucket and byte for byte;
/// `cargo xtask history` shows which there are. What a release of after did to data stays done: migrations are not
/// undone, so a release must work with what the one before it migrates.
///
/// With `--stack` a stack is taken back whose update failed and whose rollback failed as well. A deploy tries that by
/// itself. What it cannot take back can be left out here, with a warning: the stack then says of that resource what
/// is not so.
///
/// Examples:
///   cargo xtask rollback --env staging --to previous
///   cargo xtask rollback --env prod --to 3f9a1c0be2d4 --confirm prod
///   cargo xtask rollback --env dev --stack kafka --skip-resource Topic
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct RollbackArgs {
    /// The environment: a file in environments/.
    #[arg(long)]
    env: String,
    /// The release to go back to: previous, or its digest or how that begins.
    #[arg(long, value_name = "DIGEST|previous", conflicts_with = "stack", required_unless_present = "stack")]
    to: Option<String>,
    /// The stack to take back, by id (see `cargo xtask list`).
    #[arg(long)]
    stack: Option<String>,
    /// Leave this resource of the stack as it is, by logical id.
    #[arg(long = "skip-resource", value_name = "LOGICAL_ID", requires = "stack")]
    skip: Vec<String>,
    /// Which changes of a release want a yes, as `deploy` has it.
    #[arg(long, value_name = "WHEN", value_parser = ["never", "broadening", "any"], requires = "to")]
    require_approval: Option<String>,
    #[command(flatten)]
    consent: Consent,
    /// JSON lines instead of text.
    #[arg(long)]
    json: bool,
}

/// Free an environment whose lock is held by a run that is dead.
///
/// A deploy, teardown or rollback writes down in the environment who works on it. A run of this machine that ended, and
/// one that has not been heard of for two minutes, lose the lock by themselves.
///
/// Example: cargo xtask unlock --env dev
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct UnlockArgs {
    /// The environment: a file in environments/.
    #[arg(long)]
    env: String,
    #[command(flatten)]
    consent: Consent,
    /// JSON lines instead of text.
    #[arg(long)]
    json: bool,
}

/// Take an environment down: workloads first, then stacks in reverse.
///
/// On AWS the load balancers and volumes that Kubernetes made go before the network. What holds data and is kept is
/// listed, each with the command that removes it, and so is what is left over and carries the environment's tags.
///
/// It can be run again after any failure. With `--env local` nothing of it is left running.
///
/// Examples:
///   cargo xtask teardown --env local
///   cargo xtask teardown --env dev --confirm dev --purge
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct TeardownArgs {
    /// The environment: a file in environments/.
    #[arg(long)]
    env: String,
    /// Empty the buckets that go with their stacks; without it those that hold something are kept.
    #[arg(long)]
    purge: bool,
    /// Leave the workloads, with their load balancers and volumes: for a cluster that cannot be reached any more.
    #[arg(long)]
    stacks_only: bool,
    #[command(flatten)]
    consent: Consent,
    /// JSON lines instead of text.
    #[arg(long)]
    json: bool,
}

/// Shows something of a deployed environment.
///
/// Example: cargo xtask status --env local --json
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// How long an endpoint of this machine may take to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether somebody listens at a URL of this machine.
fn answers(url: &str) -> bool {
    let address = url.split("://").nth(1).and_then(|rest| rest.split('/').next()?.parse::<SocketAddr>().ok());
    address.is_some_and(|address| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok())
}

/// An environment with the programs that deploy it.
pub(crate) struct Target {
    environment: String,
    is_local: bool,
    region: String,
    assembly: PathBuf,
    binaries: PathBuf,
    /// The profile of the credentials, where they are not those at hand.
    profile: Option<String>,
}

impl Target {
    /// Builds the programs.
    pub(crate) fn new(root: &Path, name: &str) -> Result<Self> {
        Self::with(root, name, &[])
    }

    /// Builds the programs and these packages, for this machine. The environment is rendered already.
    pub(crate) fn with(root: &Path, name: &str, packages: &[&str]) -> Result<Self> {
        Self::at(root, synth::directory(root, name), packages)
    }

    /// Builds the programs and these packages for the environment of an assembly.
    pub(crate) fn at(root: &Path, assembly: PathBuf, packages: &[&str]) -> Result<Self> {
        let Manifest { environment, provider, region, .. } = Manifest::read(&assembly)?;
        let binaries = build_with(root, false, packages)?;
        Ok(Self { environment, is_local: provider == "local", region, assembly, binaries, profile: None })
    }

    /// With the credentials of a profile.
    pub(crate) fn of_profile(self, profile: Option<&String>) -> Self {
        Self { profile: profile.cloned(), ..self }
    }

    fn local_program(&self) -> PathBuf {
        self.binaries.join("local-environment")
    }

    /// The engine's command, up to the subcommand. `endpoint_url` is that of a running local environment.
    pub(crate) fn engine(&self, root: &Path, endpoint_url: Option<&str>, json: bool) -> Command {
        let mut command = Command::new(self.binaries.join("deploy-engine"));
        command.current_dir(root).arg("--assembly").arg(&self.assembly);
        if let Some(profile) = &self.profile {
            // Credentials in variables would come before a profile.
            command
                .env("AWS_PROFILE", profile)
                .env_remove("AWS_ACCESS_KEY_ID")
                .env_remove("AWS_SECRET_ACCESS_KEY")
                .env_remove("AWS_SESSION_TOKEN");
        }
        if self.is_local {
            command
                .arg("--local-environment")
                .arg(self.local_program())
                .arg("--local-root")
                .arg(local_root(root, &self.environment))
                .arg("--local-parts")
                .arg(local_parts(root))
                // Port 9 is for discarding: what does not run must not be found elsewhere.
                .args(["--endpoint-url", endpoint_url.unwrap_or("http://127.0.0.1:9")])
                .env_remove("AWS_PROFILE")
                .env("AWS_ACCESS_KEY_ID", "test")
                .env("AWS_SECRET_ACCESS_KEY", "test")
                .env_remove("AWS_SESSION_TOKEN");
        }
        if json {
            command.arg("--json");
        }
        command
    }

    /// Where the AWS APIs of the local environment are, if it runs.
    pub(crate) fn endpoint_url(&self, root: &Path) -> Option<String> {
        if !self.is_local {
            return None;
        }
        let state = local_root(root, &self.environment).join("state.json");
        let state: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(state).ok()?).ok()?;
        // What is written there outlives what was killed, and a machine that was started anew.
        state.pointer("/aws/endpoint_url")?.as_str().filter(|url| answers(url)).map(str::to_owned)
    }

    /// Whether it is a local environment that ran, was not taken down, and runs no more.
    pub(crate) fn has_stopped(&self, root: &Path) -> bool {
        self.is_local
            && local_root(root, &self.environment).join("state.json").is_file()
            && self.endpoint_url(root).is_none()
    }

    /// The same, which for the local provider must be there.
    fn running_endpoint_url(&self, root: &Path) -> Result<Option<String>> {
        let endpoint_url = self.endpoint_url(root);
        if self.is_local && endpoint_url.is_none() {
            anyhow::bail!(
                "the local environment does not run; `cargo xtask deploy --env {}` starts it",
                self.environment
            );
        }
        Ok(endpoint_url)
    }

    /// Whether there is anything to talk to: a local environment may not run.
    pub(crate) fn is_there(&self, root: &Path) -> bool {
        !self.is_local || self.endpoint_url(root).is_some()
    }

    /// Has the parts of a local environment run, and gives where its AWS APIs are.
    fn up(&self, root: &Path, quiet: bool) -> Result<Option<String>> {
        if !self.is_local {
            return Ok(None);
        }
        let state =
            ask_local(root, &self.environment, &self.local_program(), &["up", "--region", &self.region])?;
        let text =
            |pointer: &str| state.pointer(pointer).and_then(serde_json::Value::as_str).map(str::to_owned);
        if !quiet {
            println!(
                "local parts run: {} at {}, AWS APIs at {}",
                text("/kafka/implementation").unwrap_or_default(),
                text("/kafka/bootstrap_servers").unwrap_or_default(),
                text("/aws/endpoint_url").unwrap_or_default()
            );
        }
        text("/aws/endpoint_url").context("the local environment has no AWS endpoint").map(Some)
    }
}

pub(crate) fn deploy(arguments: &DeployArgs, root: &Path) -> Result<ExitCode> {
    if let Some(given) = &arguments.release {
        return match release::unpacked(root, given, &arguments.env, arguments.json)? {
            Ok(directory) => deploy_release(arguments, root, &directory, &Hand::default()),
            Err(code) => Ok(code),
        };
    }
    // What is wrong with the environment is said before anything is built.
    let assembly = synth::synth(root, &arguments.env, 1)?;
    let code = check::report(&assembly, true)?;
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    // A stack that there is not is told before anything is built or started for it.
    assembly.manifest.check_named(&arguments.stacks)?;
    if arguments.plan {
        let mut command = reading(root, &arguments.env, arguments.json)?;
        let binaries = match assembly.manifest.provider.as_str() {
            "local" => target_directory(root).join("debug"),
            _ => cross::place(root, &arguments.env),
        };
        command.args(["deploy", "--plan", "--binaries"]).arg(binaries);
        stacks(&mut command, arguments);
        return run_to_end(&mut command);
    }
    if arguments.hotswap {
        hotswap::refuse(&assembly.manifest)?;
    }
    let packages = cross::packages(&assembly, &arguments.stacks, !arguments.stacks_only);
    let is_local = assembly.manifest.provider == "local";
    let mut here: Vec<&str> = packages.iter().filter(|_| is_local).map(String::as_str).collect();
    if is_local && arguments.stacks.is_empty() && !arguments.stacks_only && !arguments.hotswap {
        let trials = assembly.manifest.trials().map(|(_, load)| load.package.as_str());
        here.extend(trials.filter(|package| !packages.contains(*package)));
    }
    let target = Target::with(root, &arguments.env, &here)?;
    let binaries = if is_local { target.binaries.clone() } else { cross::build(root, &assembly, &packages)? };
    let endpoint_url = if arguments.hotswap {
        target.running_endpoint_url(root)?
    } else {
        target.up(root, arguments.json)?
    };
    let mut command = target.engine(root, endpoint_url.as_deref(), arguments.json);
    command.arg("deploy").arg("--binaries").arg(&binaries);
    let (revision, clean) = revision(root);
    command.args(["--revision", &revision]);
    if !clean {
        command.arg("--dirty");
    }
    if arguments.hotswap {
        command.arg("--hotswap");
    }
    hand_over(arguments, &mut command, target.is_local)
}

/// Deploys an unpacked release, which comes by that hand.
pub(crate) fn deploy_release(
    arguments: &DeployArgs,
    root: &Path,
    directory: &Path,
    hand: &Hand,
) -> Result<ExitCode> {
    let assembly = directory.join("assemblies").join(&arguments.env);
    let target = Target::at(root, assembly, &[])?.of_profile(hand.profile.as_ref());
    let endpoint_url =
        if arguments.plan { target.endpoint_url(root) } else { target.up(root, arguments.json)? };
    let mut command = target.engine(root, endpoint_url.as_deref(), arguments.json);
    command.arg("deploy").arg("--release").arg(directory);
    hand.pass(&mut command);
    if arguments.plan {
        command.arg("--plan");
        stacks(&mut command, arguments);
        return run_to_end(&mut command);
    }
    hand_over(arguments, &mut command, target.is_local)
}

/// Has the engine deploy, and tells what comes next.
fn hand_over(arguments: &DeployArgs, command: &mut Command, is_local: bool) -> Result<ExitCode> {
    arguments.consent.pass(command);
    if arguments.stacks_only {
        command.arg("--stacks-only");
    }
    stacks(command, arguments);
    command.args(["--concurrency", &arguments.concurrency.to_string()]);
    if let Some(when) = &arguments.require_approval {
        command.args(["--require-approval", when]);
    }
    if arguments.no_drift {
        command.arg("--no-drift");
    }
    let code = run_to_end(command)?;
    if code == ExitCode::SUCCESS && !arguments.json && arguments.stacks.is_empty() && !arguments.hotswap {
        let environment = &arguments.env;
        println!(
            "\n{environment} is deployed. Next:\n  cargo xtask status --env {environment}\n  cargo xtask logs trades --env {environment} --follow"
        );
        if is_local {
            println!(
                "  cargo xtask load trades --env {environment} --rate 1000 --for 60s\n  cargo xtask teardown --env {environment}"
            );
        }
    }
    Ok(code)
}

/// Has the engine pack assets and tell what came of it.
pub(crate) fn pack(
    root: &Path,
    environment: &str,
    binaries: &Path,
    assets: &[String],
    json: bool,
) -> Result<ExitCode> {
    let target = Target::new(root, environment)?;
    let mut command = target.engine(root, None, json);
    command.arg("pack").arg("--binaries").arg(binaries).args(assets);
    run_to_end(&mut command)
}

/// Which stacks are meant.
fn stacks(command: &mut Command, arguments: &DeployArgs) {
    for stack in &arguments.stacks {
        command.args(["--stack", stack]);
    }
    if arguments.prune {
        command.arg("--prune");
    }
}

pub(crate) fn teardown(arguments: &TeardownArgs, root: &Path) -> Result<ExitCode> {
    // Stacks that were deployed from an assembly that is gone have the names that rendering gives.
    synth::synth(root, &arguments.env, 1)?;
    let target = Target::new(root, &arguments.env)?;
    let mut command = target.engine(root, target.endpoint_url(root).as_deref(), arguments.json);
    command.arg("teardown");
    if arguments.purge {
        command.arg("--purge");
    }
    if arguments.stacks_only {
        command.arg("--stacks-only");
    }
    arguments.consent.pass(&mut command);
    run_to_end(&mut command)
}

pub(crate) fn rollback(arguments: &RollbackArgs, root: &Path) -> Result<ExitCode> {
    let RollbackArgs { env, to, stack, require_approval, consent, json, .. } = arguments;
    if let Some(to) = to {
        let fetched = match release::fetched(root, env, to, *json)? {
            Ok(fetched) => fetched,
            Err(code) => return Ok(code),
        };
        let deployment = DeployArgs::of_all(env, consent.clone(), require_approval.clone(), *json);
        return deploy_release(&deployment, root, &fetched.directory, &Hand::back(fetched.number));
    }
    let mut command = reading(root, env, *json)?;
    command.args(["rollback", "--stack", stack.as_deref().unwrap_or_default()]);
    for resource in &arguments.skip {
        command.args(["--skip-resource", resource]);
    }
    arguments.consent.pass(&mut command);
    run_to_end(&mut command)
}

pub(crate) fn unlock(arguments: &UnlockArgs, root: &Path) -> Result<ExitCode> {
    let mut command = reading(root, &arguments.env, arguments.json)?;
    command.arg("unlock");
    arguments.consent.pass(&mut command);
    run_to_end(&mut command)
}

pub(crate) fn status(arguments: &ShowArgs, root: &Path) -> Result<ExitCode> {
    let mut command = reading(root, &arguments.env, arguments.json)?;
    run_to_end(command.arg("status"))
}

/// The engine's command for something that reads what is deployed.
pub(crate) fn reading(root: &Path, environment: &str, json: bool) -> Result<Command> {
    synth::synth(root, environment, 1)?;
    let target = Target::new(root, environment)?;
    let endpoint_url = target.running_endpoint_url(root)?;
    Ok(target.engine(root, endpoint_url.as_deref(), json))
}

/// The engine's command for something that can be read when nothing runs any more.
pub(crate) fn reading_remains(root: &Path, environment: &str) -> Result<Command> {
    synth::synth(root, environment, 1)?;
    let target = Target::new(root, environment)?;
    Ok(target.engine(root, target.endpoint_url(root).as_deref(), false))
}

/// Has the engine write the deployed templates and parameters to a directory of the form of an assembly's,
/// and gives that.
pub(crate) fn templates(root: &Path, environment: &str) -> Result<PathBuf> {
    let directory = root.join("target/deployed").join(environment);
    let mut command = reading(root, environment, false)?;
    let code = run_to_end(command.arg("templates").arg("--to").arg(&directory))?;
    anyhow::ensure!(
        code == ExitCode::SUCCESS,
        "what is deployed of {environment} could not be read; the reason is above"
    );
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was killed leaves its state behind: who is asked then says nothing, and not what to do.
    #[test]
    fn what_nobody_listens_at_does_not_answer() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        assert!(answers(&url) && answers(&format!("{url}/path")));
        drop(listener);
        assert!(!answers(&url) && !answers("http://") && !answers("nowhere"));
    }
}
