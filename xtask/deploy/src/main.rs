//! The deploy engine's command line; `cargo xtask` calls it.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    sync::atomic::AtomicBool,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use cfn::assembly::Manifest;
use clap::{Args, Parser, Subcommand};
use deploy_engine::{
    approval::{NotApproved, Policy},
    assets::{Assets, Places},
    cloudformation::CloudFormation,
    deploy::{Deployment, lock, sources},
    deployed,
    execute::Underway,
    gc::{self, Collection},
    kubernetes::token,
    living,
    local::LocalEnvironment,
    lock::{Holder, Lock, Locks},
    operation::Operations,
    plan::{Asked, render},
    report::{Format, Reporter},
    sdk::told,
    stacks::Stacks,
    status, teardown,
};

/// Deploys an assembly through CloudFormation, and shows and removes what is deployed.
#[derive(Parser)]
#[command(name = "deploy-engine")]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Common {
    /// The assembly's directory.
    #[arg(long, global = true, default_value = "target/assembly/local")]
    assembly: PathBuf,
    /// Where the AWS APIs are, instead of AWS.
    #[arg(long, global = true)]
    endpoint_url: Option<String>,
    /// The local environment's program, for the local provider.
    #[arg(long, global = true)]
    local_environment: Option<PathBuf>,
    /// The local environment's directory.
    #[arg(long, global = true, default_value = "target/local")]
    local_root: PathBuf,
    /// Where packed functions are kept.
    #[arg(long, global = true, default_value = "target/assets")]
    assets: PathBuf,
    /// JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Args)]
struct Consent {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Do not ask: the environment is named here.
    #[arg(long, value_name = "ENVIRONMENT")]
    confirm: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Deploy.
    Deploy {
        #[command(flatten)]
        consent: Consent,
        /// These stacks alone.
        #[arg(long = "stack")]
        stacks: Vec<String>,
        /// Stacks without workloads.
        #[arg(long)]
        stacks_only: bool,
        /// Print the waves with the reason of each step, and touch nothing.
        #[arg(long)]
        plan: bool,
        /// How many stacks are worked on at a time.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..))]
        concurrency: u8,
        /// Which changes want a yes; by default those that are called out where data is kept, and none elsewhere.
        #[arg(long, value_name = "WHEN")]
        require_approval: Option<Policy>,
        /// Delete stacks of the environment that left the manifest.
        #[arg(long)]
        prune: bool,
        /// Where the workers' binaries are.
        #[arg(long, default_value = "target/debug")]
        binaries: PathBuf,
    },
    /// Pack assets and say what came of it; talks to nobody.
    Pack {
        /// Where the binaries are, each by its package's name.
        #[arg(long, default_value = "target/debug")]
        binaries: PathBuf,
        /// These assets alone.
        names: Vec<String>,
    },
    /// List what is published or packed and needed by nobody, and delete it.
    Gc {
        #[command(flatten)]
        consent: Consent,
        /// How long ago it must have been written, such as 7d.
        #[arg(long, default_value = "7d", value_parser = gc::duration)]
        older_than: Duration,
        /// Delete nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Take a stack back whose update failed and whose rollback failed as well.
    Rollback {
        #[command(flatten)]
        consent: Consent,
        /// The stack, by id.
        #[arg(long)]
        stack: String,
        /// Leave this resource as it is, by logical id.
        #[arg(long = "skip-resource")]
        skip: Vec<String>,
    },
    /// Free an environment whose lock is held by a run that is dead.
    Unlock {
        #[command(flatten)]
        consent: Consent,
    },
    /// Take down.
    Teardown {
        #[command(flatten)]
        consent: Consent,
    },
    /// The stacks' outputs.
    Outputs,
    /// What is deployed and how it does.
    Status,
    /// Write what is deployed to a directory of the form of an assembly's.
    Templates {
        /// The directory.
        #[arg(long)]
        to: PathBuf,
    },
    /// What exists: drift, import, orphan, move.
    Living {
        #[command(flatten)]
        consent: Consent,
        #[command(subcommand)]
        command: living::command::Command,
    },
    /// A token for an EKS cluster, as `kubectl` and `helm` read it from a program.
    #[command(hide = true)]
    KubernetesToken {
        /// The cluster's name.
        #[arg(long)]
        cluster: String,
        /// Its region.
        #[arg(long)]
        region: String,
    },
    /// The logs of a system's workloads.
    Logs {
        /// The system.
        system: String,
        /// Go on as they grow.
        #[arg(long)]
        follow: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    // A reader that has seen enough (`| head`) ends the program, quietly, as other tools do.
    let closed = std::sync::Arc::new(AtomicBool::new(true));
    if let Err(error) =
        signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGPIPE, 141, closed)
    {
        eprintln!("cannot listen to signals: {error}");
    }
    match run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<NotApproved>() { ExitCode::from(NOT_APPROVED) } else { ExitCode::FAILURE }
        }
    }
}

struct Clients {
    stacks: Stacks,
    cloudformation: aws_sdk_cloudformation::Client,
    functions: aws_sdk_lambda::Client,
    objects: aws_sdk_s3::Client,
    repositories: aws_sdk_ecr::Client,
    kafka: aws_sdk_msk::Client,
    identity: aws_sdk_sts::Client,
    locks: Locks,
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let common = cli.common;
    if let Command::KubernetesToken { cluster, region } = &cli.command {
        return kubernetes_token(cluster, region).await;
    }
    let manifest = Manifest::read(&common.assembly)?;
    let reporter = Reporter::new(if common.json { Format::Json } else { Format::Human });
    let is_local = manifest.provider == "local";
    let local = match (is_local, &common.local_environment) {
        (true, Some(program)) => Some(LocalEnvironment::new(program.clone(), common.local_root.clone())),
        (true, None) => bail!("the local provider needs --local-environment; `cargo xtask` gives it"),
        (false, _) => None,
    };
    let clients = clients(&manifest, common.endpoint_url.as_deref()).await?;
    let places = |binaries| Places {
        assembly: &common.assembly,
        binaries,
        store: common.assets.clone(),
        s3: clients.objects.clone(),
        ecr: clients.repositories.clone(),
        endpoint_url: common.endpoint_url.clone(),
    };
    match cli.command {
        Command::Deploy {
            consent,
            stacks,
            stacks_only,
            plan,
            concurrency,
            require_approval,
            prune,
            binaries,
        } => {
            let assets = Assets::new(&manifest, places(binaries.clone()), &reporter, stacks.clone())?;
            let deployment = Deployment {
                assembly: &common.assembly,
                manifest: &manifest,
                stacks: &clients.stacks,
                kafka: &clients.kafka,
                functions: &clients.functions,
                assets: &assets,
                local: local.as_ref().filter(|_| !stacks_only),
                binaries,
                reporter: &reporter,
                asked: Asked { only: stacks, prune },
                concurrency: usize::from(concurrency),
                approval: require_approval.unwrap_or_else(|| Policy::of(&manifest)),
                underway: Underway::default(),
            };
            if plan {
                let plan = deployment.plan().await?;
                let json = serde_json::to_value(&plan)?;
                reporter.result(render(&plan, &manifest.environment).trim_end(), &json);
                return Ok(ExitCode::SUCCESS);
            }
            if !is_local && !stacks_only && !manifest.workloads.is_empty() {
                bail!(
                    "workloads cannot be deployed to EKS yet: images are not pushed and manifests not applied. Nothing was touched. `--stacks-only` deploys the stacks of {} without them",
                    manifest.environment
                );
            }
            agree(&manifest, &consent, "deploy")?;
            let identity = check_account(&manifest, &clients).await?;
            let _here = lock(&common.assembly)?;
            let held = clients.locks.acquire(Holder::this("deploy", &identity), &reporter).await?;
            let outcome = tokio::select! {
                outcome = deployment.run() => outcome.map(|()| ExitCode::SUCCESS),
                lost = held.keep() => {
                    reporter.settle_all();
                    eprintln!("{}", deployment.interrupted().await);
                    return Err(lost);
                }
                signal = interrupt() => {
                    signal?;
                    reporter.settle_all();
                    tokio::select! {
                        left = deployment.interrupted() => eprintln!("{left}"),
                        again = interrupt() => again?,
                    }
                    give_back(&held).await;
                    // Who was asked may still be: nobody waits for that answer.
                    std::process::exit(INTERRUPTED.into());
                }
            };
            reporter.settle_all();
            give_back(&held).await;
            outcome
        }
        Command::Rollback { consent, stack, skip } => {
            let Some(entry) = manifest.stack(&stack) else {
                let all: Vec<&str> = manifest.stacks.iter().map(|stack| stack.id.as_str()).collect();
                bail!("there is no stack {stack}; there are: {}", all.join(", "));
            };
            agree(&manifest, &consent, "rollback of a stack in")?;
            let identity = check_account(&manifest, &clients).await?;
            let _here = lock(&common.assembly)?;
            let held = clients.locks.acquire(Holder::this("rollback", &identity), &reporter).await?;
            for resource in &skip {
                eprintln!(
                    "warning: {resource} stays as it is while the stack says that it is as before; bring it in line by hand, or the next update of it may fail"
                );
            }
            let template = clients.stacks.template(&entry.name).await?;
            let of_stack = sources(&common.assembly).remove(&entry.id).unwrap_or_default();
            let operations = Operations { cloud: &clients.stacks, reporter: &reporter };
            reporter.stack(&entry.name, "going back", "");
            let outcome = tokio::select! {
                outcome = operations.go_back(&entry.name, &skip, &template, &of_stack, None) => outcome.map(|()| {
                    reporter.stack(&entry.name, "back", "it is as it was before; deploy again");
                    ExitCode::SUCCESS
                }),
                lost = held.keep() => Err(lost),
                signal = interrupt() => signal.map(|()| {
                    eprintln!("interrupted; CloudFormation goes on with {}", entry.name);
                    ExitCode::from(INTERRUPTED)
                }),
            };
            reporter.settle_all();
            give_back(&held).await;
            outcome
        }
        Command::Unlock { consent } => {
            agree(&manifest, &consent, "free")?;
            match clients.locks.unlock().await? {
                Some(holder) => {
                    reporter.say(&format!("{} is free; it was held by {holder}", manifest.environment))
                }
                None => reporter.say(&format!("{} was free already", manifest.environment)),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Teardown { consent } => {
            agree(&manifest, &consent, "teardown")?;
            let _here = lock(&common.assembly)?;
            // What does not run has no lock, and nothing to take down but itself.
            let runs = match &local {
                Some(local) => local.ask(&["status"]).await.is_ok(),
                None => true,
            };
            let held = if runs {
                let identity = check_account(&manifest, &clients).await?;
                Some(clients.locks.acquire(Holder::this("teardown", &identity), &reporter).await?)
            } else {
                None
            };
            let lost = async {
                match &held {
                    Some(held) => held.keep().await,
                    None => std::future::pending().await,
                }
            };
            let run =
                teardown::run(&common.assembly, &manifest, Some(&clients.stacks), local.as_ref(), &reporter);
            let outcome = tokio::select! {
                outcome = run => outcome.map(|()| ExitCode::SUCCESS),
                lost = lost => Err(lost),
                signal = interrupt() => {
                    signal?;
                    reporter.settle_all();
                    eprintln!("interrupted; run the teardown again to go on");
                    Ok(ExitCode::from(INTERRUPTED))
                }
            };
            reporter.settle_all();
            // The lock of a local environment went with it.
            if let Some(held) = held.as_ref().filter(|_| !(is_local && outcome.is_ok())) {
                give_back(held).await;
            }
            outcome
        }
        Command::Gc { consent, older_than, dry_run } => {
            check_account(&manifest, &clients).await?;
            let collection = Collection {
                manifest: &manifest,
                stacks: &clients.cloudformation,
                s3: clients.objects.clone(),
                store: &common.assets,
                older_than,
                reporter: &reporter,
            };
            let found = collection.find(SystemTime::now()).await?;
            if !dry_run && !found.is_empty() {
                agree(&manifest, &consent, "delete these of")?;
                collection.delete(&found).await?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Pack { binaries, names } => {
            let all = Assets::new(&manifest, places(binaries), &reporter, Vec::new())?;
            for packed in all.packed(&names).await? {
                reporter.result(&packed.to_string(), &serde_json::to_value(&packed)?);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Outputs => outputs(&manifest, &clients.stacks, common.json).await,
        Command::Status => {
            let status = status::gather(&manifest, &clients.stacks, local.as_ref()).await?;
            if common.json {
                println!("{}", serde_json::to_string(&status)?);
            } else {
                println!("{}", status::table(&status));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Templates { to } => {
            deployed::write(&manifest, &clients.stacks, &to).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Living { consent, command } => {
            let changes = command.changes();
            if let Some(what) = changes {
                agree(&manifest, &consent, what)?;
                check_account(&manifest, &clients).await?;
            }
            let _lock = changes.map(|_| lock(&common.assembly)).transpose()?;
            let scene = living::command::Scene {
                assembly: &common.assembly,
                manifest: &manifest,
                client: &clients.cloudformation,
                operations: Operations { cloud: &clients.stacks, reporter: &reporter },
                poll: poll_of(&manifest),
                json: common.json,
            };
            scene.run(&command).await
        }
        // Answered above: it knows no assembly.
        Command::KubernetesToken { .. } => Ok(ExitCode::SUCCESS),
        Command::Logs { system, follow } => logs(&manifest, local.as_ref(), &system, follow).await,
    }
}

async fn kubernetes_token(cluster: &str, region: &str) -> Result<ExitCode> {
    use aws_sdk_sts::config::ProvideCredentials;
    let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new(region.to_owned()))
        .load()
        .await;
    let provider = config.credentials_provider().context("there are no AWS credentials")?;
    let credentials = provider.provide_credentials().await.context("there are no AWS credentials")?;
    let now = std::time::SystemTime::now();
    let token = token::token(credentials, region, cluster, now)?;
    println!("{}", token::exec_credential(&token, now));
    Ok(ExitCode::SUCCESS)
}

/// The exit code where changes want a yes and nobody gave it.
const NOT_APPROVED: u8 = 4;

/// The exit code of an interrupted run, as shells have it.
const INTERRUPTED: u8 = 130;

/// A lock that cannot be given back goes stale by itself.
async fn give_back(held: &Lock<'_>) {
    if let Err(error) = held.release().await {
        eprintln!("the lock could not be given back; it is nobody's in two minutes: {error:#}");
    }
}

async fn interrupt() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        signal = tokio::signal::ctrl_c() => signal?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn clients(manifest: &Manifest, endpoint_url: Option<&str>) -> Result<Clients> {
    if manifest.provider == "local" && endpoint_url.is_none() {
        // Without it the SDK would talk to AWS.
        bail!("the local provider needs --endpoint-url; `cargo xtask` gives it");
    }
    let mut loader = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new(manifest.region.clone()));
    if let Some(url) = endpoint_url {
        loader = loader.endpoint_url(url);
    }
    // Throttling is waited out: with these attempts, and a wait that doubles up to 20 s, for a minute and more.
    let retries = aws_config::retry::RetryConfig::standard().with_max_attempts(8);
    let config = loader.retry_config(retries).load().await;
    let cloudformation = aws_sdk_cloudformation::Client::new(&config);
    Ok(Clients {
        stacks: Stacks::new(cloudformation.clone(), poll_of(manifest)),
        cloudformation,
        kafka: aws_sdk_msk::Client::new(&config),
        functions: aws_sdk_lambda::Client::new(&config),
        repositories: aws_sdk_ecr::Client::new(&config),
        objects: aws_sdk_s3::Client::from_conf(
            // Names of buckets as host names are AWS's alone.
            aws_sdk_s3::config::Builder::from(&config).force_path_style(endpoint_url.is_some()).build(),
        ),
        identity: aws_sdk_sts::Client::new(&config),
        locks: Locks::new(aws_sdk_ssm::Client::new(&config), &manifest.environment, &manifest.prefix),
    })
}

/// How often AWS is asked how far it is.
fn poll_of(manifest: &Manifest) -> Duration {
    if manifest.provider == "local" { Duration::from_millis(100) } else { Duration::from_secs(3) }
}

/// The credentials must be of the environment's account: an environment deployed into another would be
/// found by nobody.
///
/// Gives whose they are.
async fn check_account(manifest: &Manifest, clients: &Clients) -> Result<String> {
    let identity = clients
        .identity
        .get_caller_identity()
        .send()
        .await
        .map_err(|error| told(error, "AWS does not tell whose credentials these are"))?;
    let account = identity.account().unwrap_or_default();
    if account != manifest.account {
        bail!(
            "the credentials are of the account {account}, the environment {} is in {}; choose others (AWS_PROFILE) or change environments/{}.toml",
            manifest.environment,
            manifest.account,
            manifest.environment
        );
    }
    Ok(identity.arn().unwrap_or_default().to_owned())
}

/// Asks, unless told not to. The local environment is this user's own: nobody is asked.
fn agree(manifest: &Manifest, consent: &Consent, what: &str) -> Result<()> {
    let environment = &manifest.environment;
    if manifest.provider == "local" || consent.confirm.as_ref() == Some(environment) {
        return Ok(());
    }
    if let Some(other) = &consent.confirm {
        bail!("--confirm names `{other}`, the environment is `{environment}`");
    }
    if consent.yes && environment != "prod" {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!(
            "{what} of {environment} wants to be confirmed and there is no terminal: add `--confirm {environment}`"
        );
    }
    print!(
        "{what} the environment {environment} in the account {}? Type its name to go on: ",
        manifest.account
    );
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() != environment {
        bail!("not confirmed; nothing was touched");
    }
    Ok(())
}

async fn outputs(manifest: &Manifest, stacks: &Stacks, json: bool) -> Result<ExitCode> {
    let mut all = serde_json::Map::new();
    for entry in &manifest.stacks {
        let outputs =
            stacks.describe(&entry.name).await?.map(|deployed| deployed.outputs).unwrap_or_default();
        if json {
            all.insert(entry.id.clone(), serde_json::to_value(&outputs)?);
        } else {
            for (name, value) in outputs {
                println!("{:<10} {name:<44} {value}", entry.id);
            }
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(ExitCode::SUCCESS)
}

async fn logs(
    manifest: &Manifest,
    local: Option<&LocalEnvironment>,
    system: &str,
    follow: bool,
) -> Result<ExitCode> {
    let workloads: Vec<&str> = manifest
        .workloads
        .iter()
        .filter(|workload| workload.system == system || workload.name == system)
        .map(|workload| workload.name.as_str())
        .collect();
    if workloads.is_empty() {
        let known: Vec<&str> = manifest.systems.keys().map(String::as_str).collect();
        bail!("there is no system or workload `{system}`; there are: {}", known.join(", "));
    }
    let local = local.context("logs of workloads in EKS are in CloudWatch Logs; they are not fetched yet")?;
    if follow {
        let following: Vec<_> = workloads.iter().map(|name| ["logs", name, "--follow"]).collect();
        tokio::select! {
            results = futures::future::try_join_all(following.iter().map(|arguments| local.run(arguments))) => {
                results?;
            }
            signal = interrupt() => signal?,
        }
    } else {
        for name in workloads {
            local.run(&["logs", name]).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
