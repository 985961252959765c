//! Deploying an assembly: stacks in waves, then workloads, then a look at whether it works.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use cfn::{
    Json,
    assembly::{Manifest, PROVENANCE_FILE, ParameterWiring, StackEntry},
};
use tokio::sync::OnceCell;

use crate::{
    approval::{Policy, ask, render, summarise},
    assets::Assets,
    execute::{Approve, Beside, Execution, Prepared, Underway},
    hotswap::record::Record,
    invocations,
    kubernetes::eks::EksWorkloads,
    living::drift::{Looked, look},
    local::LocalEnvironment,
    lookup::look_up,
    operation::Sources,
    plan::{Asked, Plan, status::has_come_to_be},
    report::Reporter,
    signals,
    smoke::Smoke,
    stacks::Stacks,
    status,
    trial::Trials,
    wiring::Known,
    workloads,
};

/// How long a deployment waits to know a stack's drift.
const DRIFT_WITHIN: Duration = Duration::from_secs(120);

/// What the live line of drift is known by.
const DRIFT: &str = "drift";

/// How long the first record may take through a new system.
const FIRST_RECORD_TIMEOUT: Duration = Duration::from_secs(60);

/// A first figure above the producer's target by more than this is one of catching up.
const PACE_TOLERANCE: f64 = 1.1;

/// What a deployment works with.
pub struct Deployment<'a> {
    /// The assembly's directory.
    pub assembly: &'a Path,
    /// What it holds.
    pub manifest: &'a Manifest,
    /// CloudFormation.
    pub stacks: &'a Stacks,
    /// MSK.
    pub kafka: &'a aws_sdk_msk::Client,
    /// Lambda.
    pub functions: &'a aws_sdk_lambda::Client,
    /// What is packed and published.
    pub assets: &'a Assets<'a>,
    /// The local environment, for the local provider.
    pub local: Option<&'a LocalEnvironment>,
    /// The workloads' side of an environment on AWS; nothing where stacks alone are deployed.
    pub eks: Option<EksWorkloads<'a>>,
    /// CloudWatch.
    pub alarms: &'a aws_sdk_cloudwatch::Client,
    /// What tells how systems do.
    pub signals: signals::Clients,
    /// Where the workers' binaries are.
    pub binaries: PathBuf,
    /// Where the AWS APIs are, if not at AWS.
    pub endpoint_url: Option<&'a str>,
    /// What the user sees.
    pub reporter: &'a Reporter,
    /// What was asked for.
    pub asked: Asked,
    /// How many stacks are worked on at a time, at least 1.
    pub concurrency: usize,
    /// Which changes want a yes.
    pub approval: Policy,
    /// Looks for drift by this client, asking that often; nothing where nobody wants to know.
    pub drift: Option<(&'a aws_sdk_cloudformation::Client, Duration)>,
    /// What would be left by an interruption.
    pub underway: Underway,
    /// Which stacks have functions that were swapped.
    pub swapped: &'a Record,
    /// What that said when this deployment began.
    pub recorded: OnceCell<BTreeSet<String>>,
}

/// A deployment that is done.
#[derive(Clone, Debug)]
pub struct Done {
    /// What is known of the environment then.
    pub known: Known,
    /// Whether stacks were changed, or ran swapped code before. What workloads run is told by the assets.
    pub changed: bool,
}

/// One deployment at a time of an environment on this machine; held until dropped.
///
/// # Errors
///
/// When another one is under way.
pub fn lock(assembly: &Path) -> Result<File> {
    let path = assembly.join("deploy.lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot write {} (is the disk full?)", path.display()))?;
    if file.try_lock().is_err() {
        bail!(
            "another deploy or teardown of this environment is under way on this machine; wait for it or stop it"
        );
    }
    Ok(file)
}

/// The rendered templates of an assembly by stack id.
///
/// # Errors
///
/// When a file cannot be read.
pub fn templates(assembly: &Path, manifest: &Manifest) -> Result<BTreeMap<String, Json>> {
    let read = |entry: &StackEntry| {
        let path = assembly.join(&entry.template);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let template = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        Ok((entry.id.clone(), template))
    };
    manifest.stacks.iter().map(read).collect()
}

/// Where the resources of an assembly are declared, by stack id; nothing where the assembly does not tell.
#[must_use]
pub fn sources(assembly: &Path) -> BTreeMap<String, Sources> {
    fs::read(assembly.join(PROVENANCE_FILE))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// What is read from an assembly before it is deployed.
pub(crate) struct Rendered {
    pub(crate) templates: BTreeMap<String, Json>,
    sources: BTreeMap<String, Sources>,
}

impl Deployment<'_> {
    /// Does it all.
    ///
    /// # Errors
    ///
    /// What failed first, where and why; the next deployment goes on from there.
    pub async fn run(&self) -> Result<Done> {
        let began = SystemTime::now();
        let mut known = Known::default();
        let rendered = self.rendered()?;
        let eks = self.eks.as_ref().filter(|_| self.asked.only.is_empty());
        if let Some(eks) = eks {
            // What would stop the workloads is said before the first stack is touched, not an hour later.
            eks.check().await?;
            self.assets.prepare(&self.values_of_workloads()).await?;
        }
        let changed = self.deploy_stacks(&rendered, &mut known).await?;
        let what = if changed == 0 {
            "all stacks are as they should be".to_owned()
        } else {
            format!("{changed} stacks changed")
        };
        self.reporter.say(&format!("{:>6.1}s  {what}", self.reporter.elapsed().as_secs_f64()));
        if let Some(local) = self.local.filter(|_| self.asked.only.is_empty()) {
            self.apply_workloads(local, &mut known).await?;
            self.workloads_are_right().await?;
            self.smoke(local, false).await?;
        }
        if let Some(eks) = eks {
            self.install_workloads(eks, &mut known).await?;
            self.workloads_are_right().await?;
        }
        if self.manifest.provider == "aws" && self.asked.only.is_empty() {
            self.smoke_on_aws(eks, &known).check(began).await?;
        }
        let swapped = self.recorded.get().is_some_and(|recorded| !recorded.is_empty());
        Ok(Done { known, changed: changed > 0 || swapped })
    }

    fn smoke_on_aws<'s>(&'s self, workloads: Option<&'s EksWorkloads<'s>>, known: &'s Known) -> Smoke<'s> {
        let Self { manifest, stacks, functions, alarms, reporter, .. } = self;
        Smoke { manifest, stacks, functions, alarms, workloads, known, reporter }
    }

    /// What of an environment on AWS does not work now, alarms apart; and what cannot be looked at from here, because
    /// then nobody knows.
    ///
    /// # Errors
    ///
    /// When the assembly cannot be read.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        let mut known = Known::default();
        let rendered = self.rendered()?;
        let learnt = async {
            self.execution(&rendered).plan(&mut known).await?;
            self.look_up(&self.values_of_workloads(), &mut known).await?;
            self.assets.named(&mut known).await
        };
        if let Err(error) = learnt.await {
            return Ok(vec![format!("what is deployed cannot be looked at from here: {error:#}")]);
        }
        Ok(self.smoke_on_aws(self.eks.as_ref(), &known).complaints().await)
    }

    /// Looks whether the systems of a local environment work. One that cannot be tried is passed over, unless `all` are
    /// to be known to work.
    ///
    /// # Errors
    ///
    /// What does not.
    pub async fn smoke(&self, local: &LocalEnvironment, all: bool) -> Result<()> {
        let watched = async {
            for (name, system) in &self.manifest.systems {
                self.smoke_check(local, name, system).await?;
            }
            anyhow::Ok(())
        };
        let Self { manifest, stacks, kafka, binaries, signals, reporter, .. } = self;
        let tried = async {
            // On AWS nobody sends anything unasked: there the event sources, the pods and the alarms tell.
            let Some(endpoint_url) = self.endpoint_url else { return Ok(()) };
            Trials { manifest, stacks, kafka, binaries, endpoint_url, signals, reporter, all }.run().await
        };
        tokio::try_join!(watched, tried).map(|((), ())| ())
    }

    /// The values that manifests wait for.
    fn values_of_workloads(&self) -> Vec<ParameterWiring> {
        let Manifest { workloads, cluster_manifests, .. } = self.manifest;
        let of_workloads = workloads.iter().flat_map(|workload| &workload.values);
        of_workloads.chain(cluster_manifests.iter().flat_map(|manifest| &manifest.values)).cloned().collect()
    }

    /// Pushes images, then installs what the cluster gets.
    async fn install_workloads(&self, eks: &EksWorkloads<'_>, known: &mut Known) -> Result<()> {
        let values = self.values_of_workloads();
        self.look_up(&values, known).await?;
        self.assets.ready(&values, known).await?;
        self.reporter.stack("workloads", "installing", "and waiting until they run");
        eks.install(known).await
    }

    /// Deploys the stacks while functions are packed and published; gives how many changed.
    async fn deploy_stacks(&self, rendered: &Rendered, known: &mut Known) -> Result<usize> {
        let execution = self.execution(rendered);
        let deployed = execution.run(known);
        tokio::pin!(deployed);
        tokio::select! {
            changed = &mut deployed => return changed,
            () = self.assets.publish_ahead() => {}
        }
        deployed.await
    }

    /// What would be done with the stacks. Touches nothing.
    ///
    /// # Errors
    ///
    /// What CloudFormation says, or that no plan can be made.
    pub async fn plan(&self) -> Result<Plan> {
        let mut known = Known::default();
        let rendered = self.rendered()?;
        let execution = self.execution(&rendered);
        // What is deployed comes first: what is looked up, and where code lies, follows from it.
        execution.plan(&mut known).await?;
        for entry in &self.manifest.stacks {
            self.look_up(&entry.parameters, &mut known).await?;
        }
        for (function, why) in self.assets.named_as_built(&mut known).await {
            self.reporter.say(&format!("whether the code of {function} has changed is not known: {why:#}"));
        }
        Ok(execution.plan(&mut known).await?.0)
    }

    pub(crate) fn rendered(&self) -> Result<Rendered> {
        Ok(Rendered { templates: templates(self.assembly, self.manifest)?, sources: sources(self.assembly) })
    }

    pub(crate) fn execution<'e>(&'e self, rendered: &'e Rendered) -> Execution<'e, Stacks, Self, Self> {
        Execution {
            cloud: self.stacks,
            beside: self,
            approver: self,
            manifest: self.manifest,
            templates: &rendered.templates,
            sources: &rendered.sources,
            asked: &self.asked,
            concurrency: self.concurrency,
            reporter: self.reporter,
            underway: &self.underway,
        }
    }

    /// Looks up what CloudFormation cannot tell.
    pub(crate) async fn look_up(&self, wired: &[ParameterWiring], known: &mut Known) -> Result<()> {
        look_up(self.kafka, wired, known, self.reporter).await
    }

    /// Makes the workloads of this machine what they should be, and waits until they are ready; gives the names of
    /// those that were not.
    pub(crate) async fn apply_workloads(
        &self,
        local: &LocalEnvironment,
        known: &mut Known,
    ) -> Result<Vec<String>> {
        for workload in &self.manifest.workloads {
            self.look_up(&workload.values, known).await?;
            self.assets.ready(&workload.values, known).await?;
        }
        let directory = workloads::write_resolved(self.manifest, self.assembly, known)?;
        self.reporter.stack("workloads", "starting", "and waiting until they are ready");
        let changed = local.apply(&directory, &self.binaries).await?;
        self.reporter.stack("workloads", "ready", "");
        Ok(changed)
    }

    /// Waits for records to flow, where the producer makes any, and says so with figures.
    async fn smoke_check(
        &self,
        local: &LocalEnvironment,
        name: &str,
        system: &cfn::assembly::SystemEntry,
    ) -> Result<()> {
        let deadline = tokio::time::Instant::now() + FIRST_RECORD_TIMEOUT;
        let mut observations = 0;
        loop {
            let seen = status::system(local, system, Duration::from_secs(2)).await?;
            let idle = seen.target_per_second == Some(0.0);
            let flows = seen.processed_per_second > 0.0 && seen.processed_total > 0;
            observations += u32::from(flows);
            // What waited for the first consumer comes in a burst; one more look shows the pace.
            let at_pace = seen
                .target_per_second
                .is_none_or(|target| seen.processed_per_second <= target * PACE_TOLERANCE)
                || observations > 1;
            if idle || (flows && at_pace) {
                let lag_seconds = seen.lag_seconds.map(|lag| format!(" ({lag:.1} s)")).unwrap_or_default();
                let text = format!(
                    "{name}: {:.1} messages/s flow through {} ({} partitions) into {}/{} {}; {} processed, {} dead letters, lag {}{lag_seconds}",
                    seen.processed_per_second,
                    seen.topic,
                    seen.partitions,
                    seen.replicas.ready,
                    seen.replicas.desired,
                    system.consumer,
                    seen.processed_total,
                    seen.dead_letters_total,
                    seen.lag_records
                );
                self.reporter
                    .result(&text, &serde_json::json!({ "event": "system", "system": name, "status": seen }));
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                bail!(
                    "{name}: the workloads are ready but no record was processed within {} s; see `cargo xtask logs {name} --env {}`",
                    FIRST_RECORD_TIMEOUT.as_secs(),
                    self.manifest.environment
                );
            }
        }
    }

    /// What an interruption leaves, in words; change sets that were not executed are deleted.
    pub async fn interrupted(&self) -> String {
        let executing: Vec<String> = self.underway.executing().iter().cloned().collect();
        let rendered = Rendered { templates: BTreeMap::new(), sources: BTreeMap::new() };
        let discarded = self.execution(&rendered).discard().await;
        let mut left = vec!["interrupted".to_owned()];
        if !discarded.is_empty() {
            left.push(format!("; change sets that were not executed are deleted: {}", discarded.join(", ")));
        }
        if executing.is_empty() {
            left.push(". Deploy again to go on".to_owned());
        } else {
            left.push(format!(
                "; CloudFormation goes on with {}. Deploy again: it waits for that and goes on",
                executing.join(", ")
            ));
        }
        left.concat()
    }
}

impl Deployment<'_> {
    /// What somebody has changed in the stacks of a wave that will change. On this machine nobody but the engine
    /// changes anything.
    async fn drift(&self, wave: &[Prepared<'_>]) -> Vec<Looked> {
        let Some((client, poll)) = self.drift else { return Vec::new() };
        let there: Vec<(&StackEntry, &Json)> = wave
            .iter()
            .filter_map(|one| {
                let before = one.before.as_ref().filter(|before| has_come_to_be(&before.deployed.status))?;
                Some((one.after.as_ref()?.0, &before.template))
            })
            .collect();
        if there.is_empty() {
            return Vec::new();
        }
        let names: Vec<&str> = there.iter().map(|(entry, _)| entry.name.as_str()).collect();
        self.reporter.progress(DRIFT, &format!("looking for drift of {}", names.join(", ")));
        let looked = look(client, poll, &there, DRIFT_WITHIN).await;
        self.reporter.settle(DRIFT);
        looked
    }
}

impl Beside for Deployment<'_> {
    async fn before(&self, entry: &StackEntry, known: &mut Known) -> Result<()> {
        self.look_up(&entry.parameters, known).await?;
        self.assets.ready(&entry.parameters, known).await
    }

    async fn template_url(&self, entry: &StackEntry, body: &str, known: &Known) -> Result<String> {
        self.assets.template_url(entry, body, known).await
    }

    async fn after(&self, entry: &StackEntry, known: &Known) -> Result<()> {
        self.put_right(entry, known).await?;
        invocations::run(self.functions, entry, known, self.reporter).await
    }
}

impl Approve for Deployment<'_> {
    fn by_wave(&self) -> bool {
        self.approval != Policy::Never
    }

    async fn approve(&self, together: &[Prepared<'_>]) -> Result<()> {
        let summary = summarise(self.manifest, together, self.drift(together).await);
        let json = serde_json::json!({ "event": "change-sets", "changes": summary });
        self.reporter.result(render(&summary).trim_end(), &json);
        if self.approval.wants(&summary) { ask(&summary).await } else { Ok(()) }
    }
}
