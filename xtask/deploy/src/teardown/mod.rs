//! Taking an environment down: workloads first, then stacks in reverse, then a look at what is left. What is gone
//! already is no error, so that it can be run again after any failure.

pub mod buckets;
pub mod kept;
pub mod orphans;
pub mod protection;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result};
use cfn::{
    Json,
    assembly::{Manifest, Source, StackEntry},
};

use self::kept::{Kept, kept, left_behind};
use crate::{
    cloudformation::{CloudFormation, Deployed, StackResource, Target},
    deploy::{sources, templates},
    hotswap::record::Record,
    kubernetes::eks::EksWorkloads,
    local::LocalEnvironment,
    lock::Locks,
    operation::{Operations, Sources},
    plan::{
        Asked, Inputs, Present, ending,
        status::{Footing, footing},
    },
    report::Reporter,
    role::ExecutionRole,
    stacks::Stacks,
    wiring::Known,
};

/// What an environment is taken down with.
pub struct Teardown<'a> {
    /// The assembly's directory.
    pub assembly: &'a Path,
    /// What it holds.
    pub manifest: &'a Manifest,
    /// CloudFormation.
    pub stacks: &'a Stacks,
    /// The local environment, for the local provider.
    pub local: Option<&'a LocalEnvironment>,
    /// What an environment on AWS has beside.
    pub aws: Option<Aws<'a>>,
    /// What the user sees.
    pub reporter: &'a Reporter,
}

/// What an environment on AWS is taken down with, beside CloudFormation.
pub struct Aws<'a> {
    /// The workloads' side; nothing where stacks alone are deleted.
    pub eks: Option<EksWorkloads<'a>>,
    /// S3.
    pub objects: &'a aws_sdk_s3::Client,
    /// Finds resources by their tags.
    pub tags: &'a aws_sdk_resourcegroupstagging::Client,
    /// The environment's lock, which no stack holds.
    pub locks: &'a Locks,
    /// Which code was swapped: no stack holds this either.
    pub swapped: &'a Record,
    /// Whether buckets that go are emptied.
    pub purge: bool,
}

impl Teardown<'_> {
    /// Takes it down.
    ///
    /// # Errors
    ///
    /// The first resource that does not go, with its construct and reason.
    pub async fn run(&self) -> Result<()> {
        // Without a supervisor no workload runs; `down` removes what the emulator has kept of the stacks.
        let runs = match self.local {
            Some(local) => local.runs().await,
            None => true,
        };
        if let Some(local) = self.local.filter(|_| runs) {
            let nothing = self.assembly.join("nothing");
            fs::create_dir_all(&nothing)?;
            self.reporter.stack("workloads", "stopping", "");
            local.apply(&nothing, &nothing).await?;
            fs::remove_dir(&nothing)?;
        }
        let mut kept = Vec::new();
        if runs {
            kept = self.stacks().await?;
        }
        if let Some(local) = self.local {
            self.reporter.stack("parts", "stopping", "");
            local.run(&["down"]).await?;
            self.reporter.stack("parts", "stopped", "");
        }
        if let Some(aws) = &self.aws {
            kept.extend(self.parameters(aws).await);
        }
        if !kept.is_empty() {
            let json = serde_json::json!({ "event": "kept", "kept": kept });
            let lines: Vec<String> = kept.iter().map(|one| format!("  {one}")).collect();
            let human = format!("kept; when it is no longer wanted, this removes it:\n{}", lines.join("\n"));
            self.reporter.result(&human, &json);
        }
        if let Some(aws) = &self.aws {
            self.tell_orphans(aws, &kept).await;
        }
        Ok(())
    }

    /// Workloads and stacks; gives what is kept of them.
    async fn stacks(&self) -> Result<Vec<Kept>> {
        let mut outputs = BTreeMap::new();
        for entry in &self.manifest.stacks {
            if let Some(deployed) = self.stacks.describe(&entry.name).await? {
                outputs.insert(entry.id.clone(), deployed.outputs);
            }
        }
        let role = ExecutionRole::of(self.manifest, &outputs);
        if let Some(eks) = self.aws.as_ref().and_then(|aws| aws.eks.as_ref()) {
            // Their load balancers and volumes hold the network, and no stack knows of them.
            let known = Known { outputs, ..Known::default() };
            let left = eks.remove(&known).await.context(
                "the workloads are not all removed, and no stack was touched: their load balancers and volumes would stay. Repair it and run the teardown again, or leave the workloads to you: --stacks-only",
            )?;
            for line in left {
                self.reporter.say(&line);
            }
        }
        let all = sources(self.assembly);
        let rendered = templates(self.assembly, self.manifest).unwrap_or_default();
        let mut found = Vec::new();
        for entry in self.order().await? {
            let of_stack = all.get(&entry.id).cloned().unwrap_or_default();
            let template = rendered.get(&entry.id).cloned().unwrap_or_default();
            found.extend(self.stack(&entry, template, &of_stack, role.for_stack(&entry.id)).await?);
        }
        Ok(found)
    }

    /// The stacks in the order in which they are deleted, with those of the environment that left the manifest: what
    /// they hold would stay, and might keep others from going.
    async fn order(&self) -> Result<Vec<StackEntry>> {
        let listed = match self.stacks.list().await {
            Ok(listed) => listed,
            Err(error) if error.to_string().contains("AccessDenied") => {
                self.reporter.say(&format!(
                    "stacks that left the manifest are not looked for, and stay where there are any: {error:#}"
                ));
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let present = listed
            .into_iter()
            .map(|deployed| (deployed.name.clone(), Present { deployed, template: Json::Null }))
            .collect();
        let order = ending(&Inputs {
            manifest: self.manifest,
            templates: &BTreeMap::new(),
            present: &present,
            known: &Known::default(),
            asked: &Asked::default(),
        });
        let known = |name: &String| self.manifest.stacks.iter().find(|entry| entry.name == *name).cloned();
        Ok(order.into_iter().map(|name| known(&name).unwrap_or_else(|| left_over(name))).collect())
    }

    /// Deletes a stack; gives what is kept of it.
    async fn stack(
        &self,
        entry: &StackEntry,
        rendered: Json,
        sources: &Sources,
        role: Option<String>,
    ) -> Result<Vec<Kept>> {
        let name = &entry.name;
        let operations = Operations { cloud: self.stacks, reporter: self.reporter };
        operations.at_rest(name).await?;
        let Some(deployed) = self.stacks.describe(name).await? else {
            self.reporter.stack(name, "absent", "");
            return Ok(Vec::new());
        };
        // What is deployed says what is kept, not what is rendered now.
        let template = match self.stacks.template(name).await {
            Ok(template) if template.is_object() => template,
            _ => rendered,
        };
        let resources = self.stacks.resources(name).await?;
        if deployed.protected {
            self.stacks.protect(name, false).await?;
        }
        self.unprotect(&operations, (entry, &deployed), &template, sources, role.clone()).await?;
        let may_stay = match &self.aws {
            Some(aws) => self.buckets(aws, entry, &template, &resources).await?,
            None => BTreeSet::new(),
        };
        let left = self.manifest.stack(&entry.id).is_none();
        self.reporter.stack(name, "deleting", if left { "it left the manifest" } else { "" });
        let stays = operations.delete_without(name, &template, sources, role.as_deref(), &may_stay).await?;
        self.reporter.stack(name, "deleted", "");
        let region = &self.manifest.region;
        let mut found: Vec<Kept> = stays.iter().map(|one| left_behind(name, one, region)).collect();
        found.extend(kept(name, &template, &resources, region));
        Ok(found)
    }

    /// Takes the protection from resources that go with a stack and have one of their own, as a deployment would: by a
    /// change set. A stack that takes no update is left to its deletion, which says what does not go.
    async fn unprotect(
        &self,
        operations: &Operations<'_, Stacks>,
        (entry, deployed): (&StackEntry, &Deployed),
        template: &Json,
        sources: &Sources,
        role_arn: Option<String>,
    ) -> Result<()> {
        let Some((free, ids)) = protection::unprotected(template) else { return Ok(()) };
        if !matches!(footing(Some(&deployed.status)), Footing::Whole | Footing::Halfway) {
            return Ok(());
        }
        self.reporter.stack(&entry.name, "unprotecting", &ids.join(", "));
        let target = Target {
            name: entry.name.clone(),
            template: free,
            template_url: None,
            parameters: deployed.parameters.clone(),
            tags: deployed.tags.clone(),
            capabilities: entry.capabilities.clone(),
            role_arn,
        };
        if operations.change_set(&target, false).await?.is_some() {
            operations.execute(&entry.name, &target.template, sources).await?;
        }
        Ok(())
    }

    /// Empties the buckets that go with a stack where that is asked for; gives those that hold something and so
    /// cannot go, by logical id.
    async fn buckets(
        &self,
        aws: &Aws<'_>,
        entry: &StackEntry,
        template: &Json,
        resources: &[StackResource],
    ) -> Result<BTreeSet<String>> {
        let mut may_stay = BTreeSet::new();
        let go = |resource: &&StackResource| {
            resource.resource_type == "AWS::S3::Bucket"
                && resource.status != "DELETE_COMPLETE"
                && kept::is_deleted(template, &resource.logical_id)
        };
        for bucket in resources.iter().filter(go) {
            let (id, name) = (&bucket.logical_id, &bucket.physical_id);
            if buckets::is_empty(aws.objects, name).await? {
                continue;
            }
            if aws.purge {
                self.reporter.stack(&entry.name, "emptying", name);
                let count = buckets::empty(aws.objects, name).await?;
                self.reporter.stack(&entry.name, "emptied", &format!("{name}: {count} objects and versions"));
            } else {
                self.reporter.stack(
                    &entry.name,
                    "keeping",
                    &format!("{name}, which is not empty; `--purge` empties and deletes it"),
                );
                may_stay.insert(id.clone());
            }
        }
        Ok(may_stay)
    }

    /// The parameters that the engine writes itself and no stack holds: the lock's, and, once code was swapped, that
    /// which says where.
    async fn parameters(&self, aws: &Aws<'_>) -> Vec<Kept> {
        let region = &self.manifest.region;
        let one = |logical_id: &str, name: &str, reason: &str| Kept {
            stack: self.manifest.prefix.clone(),
            logical_id: logical_id.to_owned(),
            resource_type: "AWS::SSM::Parameter".to_owned(),
            physical_id: name.to_owned(),
            reason: reason.to_owned(),
            removal: format!("aws ssm delete-parameter --name {name} --region {region}"),
        };
        let mut all = vec![one("lock", aws.locks.parameter(), "this teardown holds it to its end")];
        let swapped = aws.swapped.parameter();
        match aws.swapped.exists().await {
            Ok(true) => all.push(one("hotswapped", swapped, "it says where code was swapped")),
            Ok(false) => {}
            Err(error) => self.reporter.say(&format!("whether {swapped} is left is not known: {error:#}")),
        }
        all
    }

    /// Tells what carries the environment's tags and is neither gone nor kept. To look for it is no reason to fail.
    async fn tell_orphans(&self, aws: &Aws<'_>, kept: &[Kept]) {
        let cluster = self.cluster();
        let found = orphans::find(aws.tags, &self.manifest.environment, cluster.as_deref()).await;
        let orphans = match found {
            Ok(found) => orphans::unknown(found, kept),
            Err(error) => {
                self.reporter.say(&format!("what is left by its tags was not looked for: {error:#}"));
                return;
            }
        };
        let region = &self.manifest.region;
        let lines: Vec<String> =
            orphans.iter().map(|arn| format!("  {}", orphans::line(arn, region))).collect();
        let human = if orphans.is_empty() {
            "nothing else carries the environment's tags".to_owned()
        } else {
            format!(
                "left over: these carry the environment's tags. What has just been deleted is told for a while; what stays is to be removed by hand:\n{}",
                lines.join("\n")
            )
        };
        self.reporter.result(&human, &serde_json::json!({ "event": "orphans", "orphans": orphans }));
    }

    /// The cluster's name, also when its stack is gone: the cluster is named as the stack that makes it.
    fn cluster(&self) -> Option<String> {
        match self.manifest.cluster.as_ref()? {
            Source::Literal(name) => Some(name.clone()),
            Source::Output { stack, .. } => Some(self.manifest.stack(stack)?.name.clone()),
            _ => None,
        }
    }
}

/// A stack of which nothing but its name is known.
fn left_over(name: String) -> StackEntry {
    StackEntry {
        id: name.clone(),
        name,
        capabilities: vec!["CAPABILITY_NAMED_IAM".to_owned()],
        ..StackEntry::default()
    }
}
