//! Swapping code, and putting right in a proper deploy what that has left.

use std::time::Duration;

use anyhow::{Context, Result};
use cfn::assembly::{ParameterWiring, Source, StackEntry};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Outcome, Skipped, allowed, beside_code, code_of, functions, invoked, record::WORKLOADS};
use crate::{
    cloudformation::CloudFormation,
    deploy::Deployment,
    kubernetes::{eks::EksWorkloads, install::Swapped},
    plan::status::has_come_to_be,
    wiring::{Known, WiringError},
};

/// How many functions Lambda is asked about at a time.
const READS: usize = 8;

/// A function and the zip that it is to run.
struct Wanted {
    stack: String,
    name: String,
    function: String,
    asset: String,
    bucket: String,
    key: String,
}

impl Deployment<'_> {
    /// Gives functions and workloads their new code, and nothing else. The environment's lock is held.
    ///
    /// # Errors
    ///
    /// Where code is not swapped at all; what is not built; what Lambda says.
    pub async fn hotswap(&self) -> Result<Outcome> {
        allowed(self.manifest)?;
        let mut known = Known::default();
        let rendered = self.rendered()?;
        let (_, present) = self.execution(&rendered).plan(&mut known).await?;
        let mut outcome = Outcome::default();
        let mut codes = Vec::new();
        let only = &self.asked.only;
        for entry in self.manifest.stacks.iter().filter(|entry| only.is_empty() || only.contains(&entry.id)) {
            let template = rendered.templates.get(&entry.id).cloned().unwrap_or_default();
            let mut what = Vec::new();
            match present.get(&entry.name) {
                Some(there)
                    if has_come_to_be(&there.deployed.status)
                        && !there.deployed.status.ends_with("_IN_PROGRESS") =>
                {
                    self.look_up(&entry.parameters, &mut known).await?;
                    what.extend(beside_code(entry, &template, there, &known));
                    let invoked = invoked(entry, &template);
                    let before = code_of(entry, &there.template);
                    for code in code_of(entry, &template) {
                        if invoked.contains(&code.logical_id) {
                            let why =
                                format!("{} has new code, and is invoked when it is deployed", code.asset);
                            codes.push((entry, code, Some(why)));
                        } else if before.contains(&code) {
                            codes.push((entry, code, None));
                        }
                    }
                }
                Some(there) => what.push(format!("it is {}", there.deployed.status)),
                None => what.push("it is not there yet".to_owned()),
            }
            if !what.is_empty() {
                outcome.skipped.push(Skipped { stack: entry.id.clone(), what });
            }
        }
        // Where the code lies is known when it is published.
        let mut wanted = Vec::new();
        for (entry, code, instead) in codes {
            let one = self.wanted(entry, &code.logical_id, &code.asset, &mut known).await?;
            wanted.push((one, instead));
        }
        let looked: Vec<(bool, (Wanted, Option<String>))> =
            stream::iter(wanted.into_iter().map(|(one, instead)| async move {
                let runs = functions::runs(self.functions, &one.function, &one.key).await?;
                anyhow::Ok((runs, (one, instead)))
            }))
            .buffered(READS)
            .try_collect()
            .await?;
        let mut swaps = Vec::new();
        for (runs, (one, instead)) in looked {
            match instead {
                _ if runs => outcome.unchanged += 1,
                Some(why) => match outcome.skipped.iter_mut().find(|skipped| skipped.stack == one.stack) {
                    Some(skipped) => skipped.what.push(why),
                    None => outcome.skipped.push(Skipped { stack: one.stack, what: vec![why] }),
                },
                None => swaps.push(one),
            }
        }
        // Written down first: who is killed in between leaves a stack that is looked at once too often.
        if !swaps.is_empty() {
            self.swapped.add(swaps.iter().map(|one| one.stack.clone())).await?;
        }
        let swapped: Vec<String> = stream::iter(swaps.into_iter().map(|one| self.swap(one)))
            .buffer_unordered(self.concurrency)
            .try_collect()
            .await?;
        outcome.swapped = swapped;
        outcome.swapped.sort();
        self.swap_workloads(&mut known, &mut outcome).await?;
        Ok(outcome)
    }

    async fn swap(&self, one: Wanted) -> Result<String> {
        self.reporter.progress(&one.name, &format!("{}  swapping {}", one.name, one.asset));
        let begun = self.reporter.elapsed();
        functions::put(self.functions, &one.function, (&one.bucket, &one.key), self.poll()).await?;
        self.reporter.settle(&one.name);
        let seconds = (self.reporter.elapsed() - begun).as_secs_f64();
        self.reporter.stack(&one.name, "swapped", &format!("{} in {seconds:.1} s", one.asset));
        Ok(one.asset)
    }

    async fn swap_workloads(&self, known: &mut Known, outcome: &mut Outcome) -> Result<()> {
        if !self.asked.only.is_empty() || self.manifest.workloads.is_empty() {
            return Ok(());
        }
        if self.local.is_none() && self.eks.is_none() {
            return Ok(());
        }
        // Written down first, and taken out again where nothing was to be done: who is killed in between leaves
        // workloads that are deployed once too often.
        let were_swapped = self.swapped.read().await?.contains(WORKLOADS);
        self.swapped.add([WORKLOADS.to_owned()]).await?;
        let done = match (self.local, &self.eks) {
            (Some(local), _) => {
                let changed = self.apply_workloads(local, known).await;
                changed.map(|changed| Swapped { changed, ..Swapped::default() })
            }
            (None, Some(eks)) => self.swap_in_cluster(eks, known).await,
            (None, None) => return Ok(()),
        };
        let left = match done {
            Ok(Swapped { changed, left }) => {
                outcome.workloads = true;
                outcome.workloads_changed = changed;
                left
            }
            // They want something of a stack that only a deploy brings.
            Err(error) if error.is::<WiringError>() => vec![format!("{error:#}")],
            Err(error) => return Err(error),
        };
        if outcome.workloads_changed.is_empty() && !were_swapped {
            self.swapped.take_out(WORKLOADS).await?;
        }
        if !left.is_empty() {
            outcome.skipped.push(Skipped { stack: WORKLOADS.to_owned(), what: left });
        }
        Ok(())
    }

    /// Pushes images, and gives the workloads of a cluster what is rendered now.
    async fn swap_in_cluster(&self, eks: &EksWorkloads<'_>, known: &mut Known) -> Result<Swapped> {
        let values: Vec<ParameterWiring> =
            self.manifest.workloads.iter().flat_map(|workload| workload.values.clone()).collect();
        self.look_up(&values, known).await?;
        self.assets.ready(&values, known).await?;
        self.reporter.stack("workloads", "swapping", "and waiting until they run");
        eks.swap(known).await
    }

    /// What a function is to run, after that was published.
    async fn wanted(
        &self,
        entry: &StackEntry,
        logical_id: &str,
        asset: &str,
        known: &mut Known,
    ) -> Result<Wanted> {
        let field = |field: &str| Source::Asset { name: asset.to_owned(), field: field.to_owned() };
        let wired = |name: &str| ParameterWiring { name: name.to_owned(), source: field(name) };
        self.assets.ready(&[wired("s3_key")], known).await?;
        let value = |name: &str| crate::wiring::resolve(&field(name), known);
        let (bucket, key) = (value("s3_bucket")?, value("s3_key")?);
        let resources = self.stacks.resources(&entry.name).await?;
        let resource =
            resources.into_iter().find(|resource| resource.logical_id == logical_id).with_context(|| {
                format!("the stack {} does not say which function {logical_id} is", entry.name)
            })?;
        Ok(Wanted {
            stack: entry.id.clone(),
            name: entry.name.clone(),
            function: resource.physical_id,
            asset: asset.to_owned(),
            bucket,
            key,
        })
    }

    /// After a stack is as it should be: where its functions had been swapped, those that run other code than the
    /// stack says get that, and the stack is no longer written down.
    ///
    /// # Errors
    ///
    /// What Lambda says.
    pub(crate) async fn put_right(&self, entry: &StackEntry, known: &Known) -> Result<()> {
        if allowed(self.manifest).is_err() {
            return Ok(());
        }
        let recorded = self.recorded.get_or_try_init(|| self.swapped.read()).await?;
        if !recorded.contains(&entry.id) {
            return Ok(());
        }
        let templates = crate::deploy::templates(self.assembly, self.manifest)?;
        let template = templates.get(&entry.id).cloned().unwrap_or_default();
        let mut known = known.clone();
        for code in code_of(entry, &template) {
            let wanted = self.wanted(entry, &code.logical_id, &code.asset, &mut known).await?;
            if functions::runs(self.functions, &wanted.function, &wanted.key).await? {
                continue;
            }
            functions::put(self.functions, &wanted.function, (&wanted.bucket, &wanted.key), self.poll())
                .await?;
            let detail = format!("{} runs what the stack says again; it had been swapped", code.asset);
            self.reporter.stack(&entry.name, "put right", &detail);
        }
        self.swapped.take_out(&entry.id).await
    }

    /// After the workloads run what was deployed: they are no longer written down.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub(crate) async fn workloads_are_right(&self) -> Result<()> {
        if allowed(self.manifest).is_err() {
            return Ok(());
        }
        let recorded = self.recorded.get_or_try_init(|| self.swapped.read()).await?;
        if recorded.contains(WORKLOADS) { self.swapped.take_out(WORKLOADS).await } else { Ok(()) }
    }

    fn poll(&self) -> Duration {
        Duration::from_millis(if self.manifest.provider == "local" { 50 } else { 500 })
    }
}
