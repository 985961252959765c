//! What every command works with: the assembly, the clients, the lock of the environment, and what ends a run early.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, bail};
use cfn::assembly::Manifest;
use deploy_engine::{
    assets::Places,
    deploy::lock,
    hotswap::record::Record,
    kubernetes::eks::EksWorkloads,
    living,
    local::LocalEnvironment,
    lock::{Holder, Lock, Locks},
    loopback::{is_loopback, is_private},
    operation::Operations,
    release::shelf::{self, Shelf},
    report::{Format, Reporter},
    sdk::told,
    signals,
    stacks::Stacks,
};

use crate::cli::{Common, Consent};

/// Within this after an interruption another one is the same: a terminal and a program above may both tell of it.
const SAME_INTERRUPTION: Duration = Duration::from_secs(1);

/// The exit code of an interrupted run, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// The AWS APIs.
pub(crate) struct Clients {
    /// CloudFormation, as plans are carried out through it.
    pub(crate) stacks: Stacks,
    /// CloudFormation itself.
    pub(crate) cloudformation: aws_sdk_cloudformation::Client,
    /// Lambda.
    pub(crate) functions: aws_sdk_lambda::Client,
    /// S3.
    pub(crate) objects: aws_sdk_s3::Client,
    /// ECR.
    pub(crate) repositories: aws_sdk_ecr::Client,
    /// MSK.
    pub(crate) kafka: aws_sdk_msk::Client,
    /// EKS.
    pub(crate) clusters: aws_sdk_eks::Client,
    /// CloudWatch.
    pub(crate) alarms: aws_sdk_cloudwatch::Client,
    /// Finds resources by their tags.
    pub(crate) tags: aws_sdk_resourcegroupstagging::Client,
    /// Whose the credentials are.
    pub(crate) identity: aws_sdk_sts::Client,
    /// The environment's lock.
    pub(crate) locks: Locks,
    /// Which stacks have functions that were swapped.
    pub(crate) swapped: Record,
    /// CloudWatch Logs.
    pub(crate) logs: aws_sdk_cloudwatchlogs::Client,
    /// Parameter Store.
    pub(crate) parameters: aws_sdk_ssm::Client,
    /// Kinesis.
    pub(crate) streams: aws_sdk_kinesis::Client,
}

impl Clients {
    /// Those that tell how a system does.
    pub(crate) fn signals(&self) -> signals::Clients {
        signals::Clients {
            parameters: self.parameters.clone(),
            metrics: self.alarms.clone(),
            logs: self.logs.clone(),
            functions: self.functions.clone(),
            streams: self.streams.clone(),
        }
    }
}

/// An assembly and all that is needed to work on its environment.
pub(crate) struct Engine {
    /// The options of all commands.
    pub(crate) common: Common,
    /// What the assembly holds.
    pub(crate) manifest: Manifest,
    /// What the user sees.
    pub(crate) reporter: Reporter,
    /// The local environment, for the local provider.
    pub(crate) local: Option<LocalEnvironment>,
    /// The AWS APIs.
    pub(crate) clients: Clients,
}

impl Engine {
    /// Reads the assembly and makes the clients.
    ///
    /// # Errors
    ///
    /// When there is no assembly, or what the local provider needs is not named.
    pub(crate) async fn new(common: Common) -> Result<Self> {
        let manifest = Manifest::read(&common.assembly)?;
        let reporter = Reporter::new(if common.json { Format::Json } else { Format::Human });
        let local = match (manifest.provider == "local", &common.local_environment) {
            (true, Some(program)) => Some(LocalEnvironment::new(
                program.clone(),
                common.local_root.clone(),
                common.local_parts.clone(),
            )),
            (true, None) => {
                bail!("the local provider needs --local-environment; `cargo xtask` gives it")
            }
            (false, _) => None,
        };
        let clients = clients(&manifest, common.endpoint_url.as_deref()).await?;
        Ok(Self { common, manifest, reporter, local, clients })
    }

    /// The same environment by another rendering of it, such as a release's.
    ///
    /// # Errors
    ///
    /// As [`Engine::new`].
    pub(crate) async fn by(&self, assembly: std::path::PathBuf) -> Result<Self> {
        Self::new(Common { assembly, ..self.common.clone() }).await
    }

    /// Where the environment keeps releases and records; `None` before its bucket is there.
    ///
    /// # Errors
    ///
    /// What CloudFormation says.
    pub(crate) async fn shelf(&self) -> Result<Option<Shelf>> {
        let Self { manifest, clients, common, .. } = self;
        let (s3, endpoint) = (clients.objects.clone(), common.endpoint_url.clone());
        let bucket = shelf::bucket(manifest, &clients.stacks, s3, endpoint).await?;
        Ok(bucket.map(|bucket| Shelf::new(bucket, &manifest.environment)))
    }

    /// Whether the environment is this machine's.
    #[must_use]
    pub(crate) fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// Where assets come from and go to.
    #[must_use]
    pub(crate) fn places(&self, binaries: std::path::PathBuf) -> Places<'_> {
        Places {
            assembly: &self.common.assembly,
            binaries,
            store: self.common.assets.clone(),
            released: None,
            s3: self.clients.objects.clone(),
            ecr: self.clients.repositories.clone(),
            endpoint_url: self.common.endpoint_url.clone(),
        }
    }

    /// The workloads' side of an environment on AWS.
    #[must_use]
    pub(crate) fn eks(&self) -> EksWorkloads<'_> {
        EksWorkloads {
            eks: &self.clients.clusters,
            assembly: &self.common.assembly,
            manifest: &self.manifest,
            helm: "helm".into(),
            on_loopback: self.common.endpoint_url.as_deref().is_some_and(is_loopback),
            reporter: &self.reporter,
        }
    }

    /// How often AWS is asked how far it is.
    #[must_use]
    pub(crate) fn poll(&self) -> Duration {
        poll_of(&self.manifest, self.common.endpoint_url.as_deref())
    }

    /// Operations on stacks.
    #[must_use]
    pub(crate) fn operations(&self) -> Operations<'_, Stacks> {
        Operations { cloud: &self.clients.stacks, reporter: &self.reporter }
    }

    /// What commands on what exists work with.
    #[must_use]
    pub(crate) fn scene(&self) -> living::command::Scene<'_> {
        living::command::Scene {
            assembly: &self.common.assembly,
            manifest: &self.manifest,
            client: &self.clients.cloudformation,
            operations: self.operations(),
            poll: self.poll(),
            json: self.common.json,
        }
    }

    /// The credentials must be of the environment's account: an environment deployed into another would be
    /// found by nobody. Gives whose they are.
    ///
    /// # Errors
    ///
    /// When they are of another account, or there are none.
    pub(crate) async fn check_account(&self) -> Result<String> {
        let Self { manifest, clients, .. } = self;
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
    ///
    /// # Errors
    ///
    /// When nobody agrees.
    pub(crate) fn agree(&self, consent: &Consent, what: &str) -> Result<()> {
        let manifest = &self.manifest;
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

    /// Does `work` while nobody else works on this environment, on this machine or elsewhere. An interruption
    /// ends it, and the program, once `left` has tidied up and told what is left; a second one does not wait
    /// for that.
    ///
    /// # Errors
    ///
    /// When the environment is held by somebody else or the lock is lost on the way, and what `work` says.
    pub(crate) async fn under_lock(
        &self,
        what: &str,
        work: impl Future<Output = Result<ExitCode>>,
        left: impl AsyncFn() -> String,
    ) -> Result<ExitCode> {
        let identity = self.check_account().await?;
        let _here = match lock(&self.common.assembly) {
            Ok(here) => here,
            Err(error) => match self.clients.locks.holder().await {
                Some(who) => bail!("{error:#}: {who}"),
                None => return Err(error),
            },
        };
        let held = self.clients.locks.acquire(Holder::this(what, &identity), &self.reporter).await?;
        let outcome = tokio::select! {
            outcome = work => outcome,
            lost = held.keep() => {
                self.reporter.settle_all();
                eprintln!("{}", left().await);
                return Err(lost);
            }
            signal = interrupt() => {
                signal?;
                self.leave(Some(&held), left).await
            }
        };
        self.reporter.settle_all();
        if !(what == "teardown" && self.is_local() && outcome.is_ok()) {
            // The lock of a local environment goes with it.
            give_back(&held).await;
        }
        outcome
    }

    /// Ends an interrupted run.
    pub(crate) async fn leave(&self, held: Option<&Lock<'_>>, left: impl AsyncFn() -> String) -> ! {
        self.reporter.settle_all();
        let again = async {
            tokio::time::sleep(SAME_INTERRUPTION).await;
            interrupt().await
        };
        tokio::select! {
            left = left() => eprintln!("{left}"),
            _ = again => {}
        }
        if let Some(held) = held {
            give_back(held).await;
        }
        // Who was asked may still be: nobody waits for that answer.
        std::process::exit(INTERRUPTED.into());
    }
}

/// A lock that cannot be given back goes stale by itself.
async fn give_back(held: &Lock<'_>) {
    if let Err(error) = held.release().await {
        eprintln!("the lock could not be given back; it is nobody's in two minutes: {error:#}");
    }
}

/// Waits for Ctrl-C or SIGTERM.
///
/// # Errors
///
/// When signals cannot be listened to.
pub(crate) async fn interrupt() -> Result<()> {
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
    if manifest.provider != "local" {
        let overridden = std::env::vars().filter(|(name, _)| name.starts_with("AWS_ENDPOINT_URL"));
        let given = endpoint_url.map(|url| ("--endpoint-url".to_owned(), url.to_owned()));
        for (name, url) in overridden.chain(given) {
            // A place of its own (a VPC endpoint) is well, one that others can listen to is not.
            if !is_private(&url) {
                bail!("{name} is {url}: AWS is asked by TLS alone; unset it, or give an address with https");
            }
        }
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
    let parameters = aws_sdk_ssm::Client::new(&config);
    Ok(Clients {
        stacks: Stacks::new(cloudformation.clone(), poll_of(manifest, endpoint_url)),
        cloudformation,
        kafka: aws_sdk_msk::Client::new(&config),
        clusters: aws_sdk_eks::Client::new(&config),
        alarms: aws_sdk_cloudwatch::Client::new(&config),
        tags: aws_sdk_resourcegroupstagging::Client::new(&config),
        functions: aws_sdk_lambda::Client::new(&config),
        repositories: aws_sdk_ecr::Client::new(&config),
        objects: aws_sdk_s3::Client::from_conf(
            // Names of buckets as host names are AWS's alone.
            aws_sdk_s3::config::Builder::from(&config).force_path_style(endpoint_url.is_some()).build(),
        ),
        identity: aws_sdk_sts::Client::new(&config),
        swapped: Record::new(parameters.clone(), &manifest.prefix),
        locks: Locks::new(parameters.clone(), &manifest.environment, &manifest.prefix),
        logs: aws_sdk_cloudwatchlogs::Client::new(&config),
        parameters,
        streams: aws_sdk_kinesis::Client::new(&config),
    })
}

/// How often AWS is asked how far it is; what is on this machine answers at once and throttles nobody.
pub(crate) fn poll_of(manifest: &Manifest, endpoint_url: Option<&str>) -> Duration {
    let here = manifest.provider == "local" || endpoint_url.is_some_and(is_loopback);
    if here { Duration::from_millis(100) } else { Duration::from_secs(3) }
}
