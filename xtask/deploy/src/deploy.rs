//! Deploying an assembly: stacks in order, then workloads, then a look at whether it works.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use cfn::{
    Json,
    assembly::{INLINE_TEMPLATE_BYTES_MAX, Manifest, StackEntry},
    to_canonical_bytes,
};

use crate::{
    assets::Assets,
    invocations,
    local::LocalEnvironment,
    plan::{Action, decide, reason},
    report::Reporter,
    sdk::told,
    stacks::{Stacks, TemplateBody},
    status,
    wiring::{Known, lookups, resolve_all},
    workloads,
};

/// How long the brokers of a new cluster may be unknown.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(600);

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
    /// Where the workers' binaries are.
    pub binaries: PathBuf,
    /// What the user sees.
    pub reporter: &'a Reporter,
    /// Stacks to deploy; all when empty.
    pub only: Vec<String>,
    /// A change set that is there and not executed, for who is interrupted.
    pub pending: Mutex<Option<String>>,
    /// Whether a stack is being changed, for who is interrupted.
    pub executing: AtomicBool,
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

impl Deployment<'_> {
    /// Does it all.
    ///
    /// # Errors
    ///
    /// What failed first, where and why; the next deployment goes on from there.
    pub async fn run(&self) -> Result<()> {
        let mut known = Known::default();
        let unknown: Vec<&str> =
            self.only.iter().filter(|id| self.manifest.stack(id).is_none()).map(String::as_str).collect();
        if !unknown.is_empty() {
            let all: Vec<&str> = self.manifest.stacks.iter().map(|stack| stack.id.as_str()).collect();
            bail!("there is no stack {}; there are: {}", unknown.join(", "), all.join(", "));
        }
        let mut changed = 0;
        for entry in &self.manifest.stacks {
            if self.only.is_empty() || self.only.contains(&entry.id) {
                changed += usize::from(self.deploy_stack(entry, &mut known).await?);
            } else if let Some(deployed) = self.stacks.describe(&entry.name).await? {
                known.outputs.insert(entry.id.clone(), deployed.outputs);
            }
        }
        let what = if changed == 0 {
            "all stacks are as they should be".to_owned()
        } else {
            format!("{changed} stacks changed")
        };
        self.reporter.say(&format!("{:>6.1}s  {what}", self.reporter.elapsed().as_secs_f64()));
        if let Some(local) = self.local.filter(|_| self.only.is_empty()) {
            self.deploy_workloads(local, &mut known).await?;
        }
        Ok(())
    }

    /// Deploys one stack; whether anything changed.
    async fn deploy_stack(&self, entry: &StackEntry, known: &mut Known) -> Result<bool> {
        let path = self.assembly.join(&entry.template);
        let template: Json = serde_json::from_str(
            &fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?,
        )
        .with_context(|| path.display().to_string())?;
        self.look_up(&entry.parameters, known).await?;
        self.assets.ready(&entry.parameters, known).await?;
        let parameters = resolve_all(&entry.parameters, known)?;
        let mut changed = false;
        loop {
            let observed = self.stacks.observe(entry, &template, &parameters).await?;
            let action = decide(&entry.name, observed.as_ref());
            let why = reason(observed.as_ref());
            match action {
                Action::Nothing => {
                    if !changed {
                        self.reporter.stack(&entry.name, "unchanged", "");
                    }
                    break;
                }
                Action::Blocked { way_out } => bail!(way_out),
                Action::Wait => {
                    self.reporter.stack(&entry.name, "waiting", "another operation on it is under way");
                    self.stacks.at_rest(&entry.name).await?;
                }
                Action::Recreate => {
                    self.reporter.stack(&entry.name, "deleting", &format!("{why}, which takes no update"));
                    self.stacks.delete(&entry.name, &template, self.reporter).await?;
                }
                Action::Create | Action::Update => {
                    let create = action == Action::Create;
                    self.reporter.stack(&entry.name, if create { "creating" } else { "updating" }, &why);
                    changed |= self.change(entry, &template, &parameters, create, known).await?;
                    break;
                }
            }
        }
        let deployed = self
            .stacks
            .describe(&entry.name)
            .await?
            .with_context(|| format!("the stack {} is gone right after it was deployed", entry.name))?;
        if deployed.protected != entry.termination_protection {
            self.stacks.protect(&entry.name, entry.termination_protection).await?;
        }
        known.outputs.insert(entry.id.clone(), deployed.outputs);
        invocations::run(self.functions, entry, known, self.reporter).await?;
        Ok(changed)
    }

    /// Creates and executes the change set; whether there was anything to change.
    async fn change(
        &self,
        entry: &StackEntry,
        template: &Json,
        parameters: &BTreeMap<String, String>,
        create: bool,
        known: &Known,
    ) -> Result<bool> {
        let body = template_body(self.assets, entry, template, known).await?;
        *lock_pending(&self.pending) = Some(entry.name.clone());
        let changes = self.stacks.create_change_set(entry, body, parameters, create).await?;
        let Some(changes) = changes else {
            *lock_pending(&self.pending) = None;
            self.reporter.stack(&entry.name, "unchanged", "CloudFormation finds nothing to change");
            return Ok(false);
        };
        *lock_pending(&self.pending) = None;
        self.executing.store(true, Ordering::Relaxed);
        let executed = self.stacks.execute(entry, template, self.reporter).await;
        self.executing.store(false, Ordering::Relaxed);
        executed?;
        self.reporter.stack(
            &entry.name,
            if create { "created" } else { "updated" },
            &format!("{changes} changes"),
        );
        Ok(true)
    }

    /// Looks up what CloudFormation cannot tell.
    async fn look_up(&self, wired: &[cfn::assembly::ParameterWiring], known: &mut Known) -> Result<()> {
        for (cluster_arn, authentication) in lookups(wired, known) {
            let servers = self.bootstrap_brokers(&cluster_arn, &authentication).await?;
            known.bootstrap_servers.insert((cluster_arn, authentication), servers);
        }
        Ok(())
    }

    async fn bootstrap_brokers(&self, cluster_arn: &str, authentication: &str) -> Result<String> {
        let deadline = tokio::time::Instant::now() + LOOKUP_TIMEOUT;
        let mut announced = false;
        loop {
            let request = self.kafka.get_bootstrap_brokers().cluster_arn(cluster_arn);
            let brokers = request.send().await.map_err(|error| {
                told(error, &format!("the bootstrap brokers of {cluster_arn} cannot be looked up"))
            })?;
            let servers = match authentication {
                "iam" => brokers.bootstrap_broker_string_sasl_iam(),
                "tls" => brokers.bootstrap_broker_string_tls(),
                _ => brokers.bootstrap_broker_string(),
            };
            if let Some(servers) = servers.filter(|servers| !servers.is_empty()) {
                return Ok(servers.to_owned());
            }
            if tokio::time::Instant::now() >= deadline {
                bail!(
                    "{cluster_arn} has had no brokers for {authentication} clients for {} s; does the cluster allow such clients?",
                    LOOKUP_TIMEOUT.as_secs()
                );
            }
            if !announced {
                self.reporter.say(&format!("waiting for the brokers of {cluster_arn}"));
                announced = true;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    async fn deploy_workloads(&self, local: &LocalEnvironment, known: &mut Known) -> Result<()> {
        for workload in &self.manifest.workloads {
            self.look_up(&workload.values, known).await?;
            self.assets.ready(&workload.values, known).await?;
        }
        let directory = workloads::write_resolved(self.manifest, self.assembly, known)?;
        self.reporter.stack("workloads", "starting", "and waiting until they are ready");
        local.apply(&directory, &self.binaries).await?;
        self.reporter.stack("workloads", "ready", "");
        for (name, system) in &self.manifest.systems {
            self.smoke_check(local, name, system).await?;
        }
        Ok(())
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

    /// What an interruption leaves, in words; a change set that was not executed is deleted.
    pub async fn interrupted(&self) -> String {
        let pending = lock_pending(&self.pending).take();
        if let Some(name) = pending {
            self.stacks.discard_change_set(&name).await;
            return format!(
                "interrupted; the change set of {name} was not executed and is deleted. Deploy again to go on"
            );
        }
        if self.executing.load(Ordering::Relaxed) {
            return "interrupted; CloudFormation goes on with the stack that it is changing. Deploy again: it waits for that and goes on".to_owned();
        }
        "interrupted between two steps. Deploy again to go on".to_owned()
    }
}

/// The template as CloudFormation takes it: within the request, or from the bucket of artifacts when it is larger.
async fn template_body(
    assets: &Assets<'_>,
    entry: &StackEntry,
    template: &Json,
    known: &Known,
) -> Result<TemplateBody> {
    let text = String::from_utf8(to_canonical_bytes(template)).context("a template is text")?;
    if text.len() <= INLINE_TEMPLATE_BYTES_MAX {
        return Ok(TemplateBody::Inline(text));
    }
    Ok(TemplateBody::At(assets.template_url(entry, &text, known).await?))
}

fn lock_pending(pending: &Mutex<Option<String>>) -> std::sync::MutexGuard<'_, Option<String>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}
