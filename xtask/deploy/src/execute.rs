//! Carrying a plan out: what is to be recovered first, then every step once what it needs is done.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use cfn::{
    Json,
    assembly::{INLINE_TEMPLATE_BYTES_MAX, Manifest, StackEntry},
    to_canonical_bytes,
};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, FuturesUnordered},
};

use crate::{
    cloudformation::{ChangeSet, CloudFormation, Deployed, Target},
    operation::{Operations, Sources},
    plan::{
        Action, Asked, Inputs, Part, Plan, Present, Recovery, Step, decide, plan, status::has_come_to_be,
    },
    report::Reporter,
    role::ExecutionRole,
    wiring::{Known, resolve_all},
};

/// How often stacks are brought back before a person is asked: more often than that, somebody else works against it.
const RECOVERIES_MAX: usize = 5;

/// How many templates are read at a time.
const READS: usize = 8;

/// What belongs to a stack's deployment and is not CloudFormation's.
#[expect(async_fn_in_trait, reason = "all implementations are in this crate, and none is spawned")]
pub trait Beside {
    /// Called before a stack's change set is made, one stack at a time: adds to `known` what the stack's parameters
    /// need and no stack gives.
    async fn before(&self, entry: &StackEntry, known: &mut Known) -> Result<()>;

    /// Where CloudFormation finds a template that is too large for a request.
    async fn template_url(&self, entry: &StackEntry, body: &str, known: &Known) -> Result<String>;

    /// Called when a stack is as it should be, whether it changed or not, before what depends on it.
    async fn after(&self, entry: &StackEntry, known: &Known) -> Result<()>;
}

/// What is to be said to change sets before they are executed.
#[expect(async_fn_in_trait, reason = "all implementations are in this crate, and none is spawned")]
pub trait Approve {
    /// Whether a wave is looked at as a whole: nothing of it is executed then before all of its change sets are there,
    /// and nothing of the next before it is done. Else a stack waits for nothing but what it depends on.
    fn by_wave(&self) -> bool;

    /// Shows change sets and asks where that is wanted.
    ///
    /// # Errors
    ///
    /// When they are not to be executed.
    async fn approve(&self, together: &[Prepared<'_>]) -> Result<()>;
}

/// What would be left by an interruption.
#[derive(Debug, Default)]
pub struct Underway {
    pending: Mutex<BTreeMap<String, bool>>,
    executing: Mutex<BTreeSet<String>>,
}

impl Underway {
    /// Change sets that are there and not executed: the stack's name, and whether only the change set made the stack.
    pub fn pending(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stacks that CloudFormation is changing.
    pub fn executing(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.executing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is executed of a step.
#[derive(Debug)]
pub struct Prepared<'a> {
    /// The step.
    pub step: &'a Step,
    /// The stack as it is, where it is there.
    pub before: Option<Present>,
    /// What it is to become; of a deletion nothing.
    pub after: Option<(&'a StackEntry, Target)>,
    /// Its change set; of a deletion none.
    pub change_set: ChangeSet,
    /// The role that CloudFormation works with.
    pub role_arn: Option<String>,
}

impl Prepared<'_> {
    fn creates(&self) -> bool {
        self.after.is_some()
            && self.before.as_ref().is_none_or(|before| !has_come_to_be(&before.deployed.status))
    }
}

/// Steps that are looked at together, and the batches that must be done before.
struct Batch<'p> {
    steps: Vec<&'p Step>,
    needs: BTreeSet<usize>,
}

/// How many batches come one after the other from each one on. What a batch needs comes before it.
fn longest_ways(batches: &[Batch<'_>]) -> Vec<usize> {
    let mut ways = vec![1; batches.len()];
    for (number, batch) in batches.iter().enumerate().rev() {
        for before in &batch.needs {
            ways[*before] = ways[*before].max(ways[number] + 1);
        }
    }
    ways
}

/// What came of a batch.
struct Outcome {
    /// The names of the stacks that changed.
    changed: BTreeSet<String>,
    /// Its stacks as they are now.
    present: BTreeMap<String, Present>,
    /// What is known after it.
    known: Known,
}

/// A deployment of stacks.
pub struct Execution<'a, C, B, A> {
    /// CloudFormation.
    pub cloud: &'a C,
    /// What else belongs to a stack's deployment.
    pub beside: &'a B,
    /// Who says yes to change sets.
    pub approver: &'a A,
    /// What should be.
    pub manifest: &'a Manifest,
    /// The rendered templates by stack id.
    pub templates: &'a BTreeMap<String, Json>,
    /// Where resources come from, by stack id.
    pub sources: &'a BTreeMap<String, Sources>,
    /// What was asked for.
    pub asked: &'a Asked,
    /// How many stacks are worked on at a time, at least 1.
    pub concurrency: usize,
    /// What the user sees.
    pub reporter: &'a Reporter,
    /// What would be left by an interruption.
    pub underway: &'a Underway,
}

impl<C: CloudFormation, B: Beside, A: Approve> Execution<'_, C, B, A> {
    fn operations(&self) -> Operations<'_, C> {
        Operations { cloud: self.cloud, reporter: self.reporter }
    }

    fn sources(&self, id: &str) -> &Sources {
        static NONE: Sources = Sources::new();
        self.sources.get(id).unwrap_or(&NONE)
    }

    /// The plan for what is there now. Touches nothing; adds to `known` what is deployed.
    ///
    /// # Errors
    ///
    /// What CloudFormation says, or that no plan can be made.
    pub async fn plan(&self, known: &mut Known) -> Result<(Plan, BTreeMap<String, Present>)> {
        let present = self.observe().await?;
        for entry in &self.manifest.stacks {
            known.outputs.remove(&entry.id);
            if let Some(there) =
                present.get(&entry.name).filter(|there| has_come_to_be(&there.deployed.status))
            {
                known.outputs.insert(entry.id.clone(), there.deployed.outputs.clone());
            }
        }
        let inputs = Inputs {
            manifest: self.manifest,
            templates: self.templates,
            present: &present,
            known,
            asked: self.asked,
        };
        let plan = plan(&inputs)?;
        Ok((plan, present))
    }

    /// The stacks that are there.
    async fn observe(&self) -> Result<BTreeMap<String, Present>> {
        let listed = match self.cloud.list().await {
            Ok(listed) => listed,
            // Who may see the environment's stacks alone cannot list; what left the manifest is then not found.
            Err(error) if error.to_string().contains("AccessDenied") => {
                let names = self.manifest.stacks.iter().map(|entry| self.cloud.describe(&entry.name));
                let found: Vec<Option<Deployed>> =
                    stream::iter(names).buffer_unordered(READS).try_collect().await?;
                found.into_iter().flatten().collect()
            }
            Err(error) => return Err(error),
        };
        let prefix = format!("{}-", self.manifest.prefix);
        let named = |name: &str| self.manifest.stacks.iter().any(|entry| entry.name == name);
        let ours = listed.into_iter().filter(|deployed| {
            deployed.status != "DELETE_COMPLETE"
                && (named(&deployed.name) || deployed.name.starts_with(&prefix))
        });
        stream::iter(ours.map(|deployed| async move {
            let template = if has_come_to_be(&deployed.status) {
                self.cloud.template(&deployed.name).await?
            } else {
                Json::Null
            };
            Ok((deployed.name.clone(), Present { deployed, template }))
        }))
        .buffer_unordered(READS)
        .try_collect()
        .await
    }

    /// Does it all; gives how many stacks changed.
    ///
    /// # Errors
    ///
    /// What failed first, where and why; the next deployment goes on from there.
    pub async fn run(&self, known: &mut Known) -> Result<usize> {
        let mut recoveries = 0;
        let (plan, present) = loop {
            let (plan, present) = self.plan(known).await?;
            let blocked: Vec<&str> = plan
                .steps()
                .filter_map(|step| match &step.action {
                    Action::Blocked { way_out } => Some(way_out.as_str()),
                    _ => None,
                })
                .collect();
            if !blocked.is_empty() {
                bail!("{}", blocked.join("\n"));
            }
            if !self.recover(&plan, &present, known).await? {
                break (plan, present);
            }
            recoveries += 1;
            if recoveries > RECOVERIES_MAX {
                bail!(
                    "stacks were waited for and brought back {RECOVERIES_MAX} times and are not at rest: does somebody else deploy {}?",
                    self.manifest.environment
                );
            }
        };
        for step in &plan.left {
            self.reporter.stack(&step.name, "left", &step.reason);
        }
        Ok(self.carry_out(&self.batches(&plan), &present, known).await?.len())
    }

    /// Waits for what others do and brings back what takes no update; whether there was anything of that.
    async fn recover(&self, plan: &Plan, present: &BTreeMap<String, Present>, known: &Known) -> Result<bool> {
        let steps: BTreeMap<&str, &Step> = plan
            .steps()
            .filter(|step| matches!(step.action, Action::Wait | Action::Recover(_)))
            .map(|step| (step.name.as_str(), step))
            .collect();
        let any = !steps.is_empty();
        let outcomes: Vec<Result<()>> = stream::iter(
            steps.into_values().map(|step| self.bring_back(step, present.get(&step.name), known)),
        )
        .buffer_unordered(self.concurrency)
        .collect()
        .await;
        outcomes.into_iter().collect::<Result<()>>()?;
        Ok(any)
    }

    async fn bring_back(&self, step: &Step, present: Option<&Present>, known: &Known) -> Result<()> {
        let name = &step.name;
        let operations = self.operations();
        // What never came to be has no template of its own; what is rendered names its constructs as well.
        let template = present
            .map(|present| &present.template)
            .filter(|template| !template.is_null())
            .or_else(|| self.templates.get(&step.stack))
            .unwrap_or(&Json::Null);
        let role = self.role(&step.stack, known);
        match step.action {
            Action::Wait => {
                self.reporter.stack(name, "waiting", &step.reason);
                operations.at_rest(name).await
            }
            Action::Recover(Recovery::Recreate) => {
                self.reporter.stack(name, "deleting", &step.reason);
                if present.is_some_and(|present| present.deployed.protected) {
                    self.cloud.protect(name, false).await?;
                }
                let stays =
                    operations.delete(name, template, self.sources(&step.stack), role.as_deref()).await?;
                for resource in stays {
                    self.reporter.say(&format!(
                        "  left behind: {} {} ({}); remove it in its service when it is no longer wanted",
                        resource.logical_id, resource.physical_id, resource.resource_type
                    ));
                }
                Ok(())
            }
            Action::Recover(Recovery::GoBack) => {
                self.reporter.stack(name, "going back", &step.reason);
                operations
                    .go_back(name, &[], template, self.sources(&step.stack), role.as_deref())
                    .await
                    .with_context(|| {
                        format!(
                            "the stack {name} cannot go back. Repair what hinders it and deploy again, or leave the resource as it is: `cargo xtask rollback --env {} --stack {} --skip-resource LOGICAL_ID`",
                            self.manifest.environment, step.stack
                        )
                    })
            }
            _ => Ok(()),
        }
    }

    /// The role that CloudFormation works with on a stack.
    fn role(&self, id: &str, known: &Known) -> Option<String> {
        ExecutionRole::of(self.manifest, &known.outputs).for_stack(id)
    }

    /// What is begun together, and what must be done before it. Where changes are looked at, that is a wave; else every
    /// step is one by itself, which waits for nothing but what it needs.
    fn batches<'p>(&self, plan: &'p Plan) -> Vec<Batch<'p>> {
        if self.approver.by_wave() {
            let waves = plan.waves.iter().enumerate();
            return waves
                .map(|(number, wave)| Batch { steps: wave.iter().collect(), needs: (0..number).collect() })
                .collect();
        }
        plan.steps()
            .map(|step| Batch { steps: vec![step], needs: step.needs.iter().copied().collect() })
            .collect()
    }

    /// Carries batches out, each once all that it needs is done. After a failure what runs goes on to its end and
    /// nothing else is begun.
    async fn carry_out(
        &self,
        batches: &[Batch<'_>],
        present: &BTreeMap<String, Present>,
        known: &mut Known,
    ) -> Result<BTreeSet<String>> {
        // Batches are waves, one at a time, or single steps.
        let side_by_side = if self.approver.by_wave() { 1 } else { self.concurrency };
        let stop = AtomicBool::new(false);
        // Of what can begin, that first which most has to wait for.
        let mut open: Vec<usize> = (0..batches.len()).collect();
        let ahead = longest_ways(batches);
        open.sort_by_key(|number| Reverse(ahead[*number]));
        let mut done = BTreeSet::new();
        let mut running = FuturesUnordered::new();
        let mut changed = BTreeSet::new();
        // What earlier steps of the same stack have made of it.
        let mut present = present.clone();
        let mut failures = Vec::new();
        loop {
            while failures.is_empty() && running.len() < side_by_side {
                let Some(place) = open.iter().position(|next| batches[*next].needs.is_subset(&done)) else {
                    break;
                };
                let number = open.remove(place);
                let batch = &batches[number];
                let there = batch
                    .steps
                    .iter()
                    .filter_map(|step| Some((step.name.clone(), present.get(&step.name)?.clone())))
                    .collect();
                let known = known.clone();
                let stop = &stop;
                running.push(async move { (number, self.batch(&batch.steps, there, known, stop).await) });
            }
            match running.next().await {
                None => break,
                Some((number, Ok(outcome))) => {
                    done.insert(number);
                    known.learn(outcome.known, batches[number].steps.iter().map(|step| step.stack.as_str()));
                    for step in &batches[number].steps {
                        present.remove(&step.name);
                    }
                    present.extend(outcome.present);
                    changed.extend(outcome.changed);
                }
                Some((_, Err(error))) => {
                    stop.store(true, Ordering::Relaxed);
                    failures.push(error);
                }
            }
        }
        drop(running);
        let mut failures = failures.into_iter();
        let Some(first) = failures.next() else { return Ok(changed) };
        self.discard().await;
        for other in failures {
            self.reporter.say(&format!("failed as well: {other:#}"));
        }
        Err(first)
    }

    /// One batch: change sets of all its stacks, a look at them, then their execution.
    async fn batch(
        &self,
        steps: &[&Step],
        mut present: BTreeMap<String, Present>,
        mut known: Known,
        stop: &AtomicBool,
    ) -> Result<Outcome> {
        let mut changed = BTreeSet::new();
        for step in steps {
            if let Some(entry) = self.manifest.stack(&step.stack) {
                self.beside.before(entry, &mut known).await?;
            }
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(Outcome { changed, present, known });
        }
        let preparing: Vec<Result<Option<Prepared<'_>>>> =
            stream::iter(steps.iter().map(|step| self.prepare(step, &present, &known)))
                .buffered(self.concurrency)
                .collect()
                .await;
        let prepared: Vec<Prepared<'_>> =
            preparing.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        // What failed meanwhile stands: nobody is asked about what is not begun any more.
        if !prepared.is_empty() && !stop.load(Ordering::Relaxed) {
            self.approver.approve(&prepared).await?;
        }
        let mut running = stream::iter(prepared.iter().map(|one| self.finish(one, stop)))
            .buffer_unordered(self.concurrency);
        let mut failures = Vec::new();
        while let Some(outcome) = running.next().await {
            match outcome {
                Ok(name) => changed.extend(name),
                Err(error) => failures.push(error),
            }
        }
        drop(running);
        let mut failures = failures.into_iter();
        if let Some(first) = failures.next() {
            for other in failures {
                self.reporter.say(&format!("failed as well: {other:#}"));
            }
            return Err(first);
        }
        for one in prepared.iter().filter(|one| changed.contains(&one.step.name)) {
            match &one.after {
                Some((_, target)) => {
                    let deployed = self.cloud.describe(&target.name).await?.with_context(|| {
                        format!("the stack {} is gone right after it was deployed", target.name)
                    })?;
                    known.outputs.insert(one.step.stack.clone(), deployed.outputs.clone());
                    present
                        .insert(target.name.clone(), Present { deployed, template: target.template.clone() });
                }
                None => {
                    present.remove(&one.step.name);
                }
            }
        }
        // The last step of a stack is the one after which it is as it should be.
        for step in steps.iter().filter(|step| step.part != Part::First) {
            let (Some(entry), Some(there)) = (self.manifest.stack(&step.stack), present.get_mut(&step.name))
            else {
                continue;
            };
            if stop.load(Ordering::Relaxed) {
                break;
            }
            if there.deployed.protected != entry.termination_protection {
                self.cloud.protect(&entry.name, entry.termination_protection).await?;
                there.deployed.protected = entry.termination_protection;
            }
            self.beside.after(entry, &known).await?;
        }
        Ok(Outcome { changed, present, known })
    }

    /// The change set of a step; `None` when there is nothing to do.
    async fn prepare<'s>(
        &'s self,
        step: &'s Step,
        present: &BTreeMap<String, Present>,
        known: &Known,
    ) -> Result<Option<Prepared<'s>>> {
        let name = &step.name;
        let before = present.get(name).cloned();
        let (Some(entry), Some(expected)) = (self.manifest.stack(&step.stack), &step.expected) else {
            let role_arn = self.role(&step.stack, known);
            return Ok(Some(Prepared {
                step,
                before,
                after: None,
                change_set: ChangeSet::default(),
                role_arn,
            }));
        };
        // What comes from others is known by now.
        let (action, reason) = decide(entry, expected, before.as_ref(), known, &BTreeSet::new())?;
        let create = match action {
            Action::Nothing => {
                if step.part != Part::Last {
                    self.reporter.stack(name, "unchanged", "");
                }
                return Ok(None);
            }
            Action::Create => true,
            Action::Update | Action::Follow => false,
            _ => bail!("the stack {name} changed under this deployment: {reason}. Deploy again"),
        };
        let mut parameters = resolve_all(&entry.parameters, known)?;
        parameters.extend(expected.kept_parameters.clone());
        let body = String::from_utf8(to_canonical_bytes(&expected.template)).context("a template is text")?;
        let template_url = if body.len() > INLINE_TEMPLATE_BYTES_MAX {
            Some(self.beside.template_url(entry, &body, known).await?)
        } else {
            None
        };
        let target = Target {
            name: name.clone(),
            template_url,
            template: expected.template.clone(),
            parameters,
            tags: entry.tags.clone(),
            capabilities: entry.capabilities.clone(),
            role_arn: self.role(&entry.id, known),
        };
        let reason = if step.keeps.is_empty() { reason } else { step.reason.clone() };
        self.reporter.stack(name, if create { "creating" } else { "updating" }, &reason);
        self.underway.pending().insert(name.clone(), create);
        let sources = self.sources(&step.stack);
        let change_set = self.operations().checked_change_set(&target, create, sources).await;
        let change_set = match change_set {
            Ok(Some(change_set)) => change_set,
            Ok(None) => {
                self.underway.pending().remove(name);
                self.reporter.stack(name, "unchanged", "CloudFormation finds nothing to change");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let role_arn = target.role_arn.clone();
        Ok(Some(Prepared { step, before, after: Some((entry, target)), change_set, role_arn }))
    }

    /// Executes what was prepared, unless something else has failed; the stack's name if it changed.
    async fn finish(&self, one: &Prepared<'_>, stop: &AtomicBool) -> Result<Option<String>> {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let name = &one.step.name;
        self.underway.executing().insert(name.clone());
        self.underway.pending().remove(name);
        let outcome = self.apply(one).await;
        self.underway.executing().remove(name);
        if let Err(error) = outcome {
            if !stop.swap(true, Ordering::Relaxed) {
                self.reporter.stack(name, "failed", "what else runs is waited for, nothing else is begun");
            }
            return Err(error);
        }
        Ok(Some(name.clone()))
    }

    async fn apply(&self, one: &Prepared<'_>) -> Result<()> {
        let name = &one.step.name;
        let sources = self.sources(&one.step.stack);
        match &one.after {
            Some((_, target)) => {
                self.operations().execute(name, &target.template, sources).await?;
                let verb = if one.creates() { "created" } else { "updated" };
                self.reporter.stack(name, verb, &format!("{} changes", one.change_set.changes.len()));
            }
            None => {
                self.reporter.stack(name, "deleting", &one.step.reason);
                let template = one.before.as_ref().map_or(&Json::Null, |before| &before.template);
                self.operations().delete(name, template, sources, one.role_arn.as_deref()).await?;
                self.reporter.stack(name, "deleted", "");
            }
        }
        Ok(())
    }

    /// Deletes the change sets that were not executed, and the stacks that only they have made; gives the stacks'
    /// names.
    pub async fn discard(&self) -> Vec<String> {
        let pending = std::mem::take(&mut *self.underway.pending());
        for (name, create) in &pending {
            let discarded = async {
                self.cloud.delete_change_set(name).await?;
                let status = self.cloud.describe(name).await?.map(|deployed| deployed.status);
                if *create && status.as_deref() == Some("REVIEW_IN_PROGRESS") {
                    self.cloud.delete_stack(name, &[], None).await?;
                }
                anyhow::Ok(())
            };
            if let Err(error) = discarded.await {
                self.reporter.say(&format!("{error:#}; the next deploy does it"));
            }
        }
        pending.into_keys().collect()
    }
}
