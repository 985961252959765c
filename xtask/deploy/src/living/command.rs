//! The command line of what exists.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use aws_sdk_cloudformation::Client;
use cfn::{
    Json,
    assembly::{Manifest, StackEntry},
};
use clap::Subcommand;

use super::{
    drift, import, orphan,
    refactor::{self, Place},
};
use crate::{
    cloudformation::CloudFormation,
    operation::Operations,
    role::ExecutionRole,
    stacks::Stacks,
    wiring::{Known, resolve},
};

/// What can be done with what exists.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What was changed behind CloudFormation's back.
    Drift {
        /// These stacks alone.
        #[arg(long = "stack")]
        stacks: Vec<String>,
        /// Bring it back to what the templates say.
        #[arg(long)]
        revert: bool,
        /// 3 where there is drift.
        #[arg(long)]
        exit_code: bool,
    },
    /// Take resources that exist into a stack.
    Import {
        /// The stack.
        #[arg(long)]
        stack: String,
        /// `LOGICAL_ID=PROPERTY=VALUE[,PROPERTY=VALUE]`.
        #[arg(long = "resource", required = true, value_parser = import::parse)]
        claims: Vec<import::Claim>,
    },
    /// Let a resource leave its stack and stay alive.
    Orphan {
        /// The stack.
        #[arg(long)]
        stack: String,
        /// Its logical id.
        #[arg(long)]
        resource: String,
    },
    /// Move a resource to another logical id or stack without replacing it.
    Move {
        /// `STACK/LOGICAL_ID`.
        #[arg(long)]
        from: String,
        /// `STACK/LOGICAL_ID`.
        #[arg(long)]
        to: String,
    },
}

impl Command {
    /// What it is called where somebody is asked to agree; nothing for what only reads.
    #[must_use]
    pub fn changes(&self) -> Option<&'static str> {
        match self {
            Self::Drift { revert: false, .. } => None,
            Self::Drift { .. } => Some("drift --revert"),
            Self::Import { .. } => Some("import"),
            Self::Orphan { .. } => Some("orphan"),
            Self::Move { .. } => Some("move"),
        }
    }
}

/// What a command works with.
pub struct Scene<'a> {
    /// The assembly's directory.
    pub assembly: &'a Path,
    /// What it holds.
    pub manifest: &'a Manifest,
    /// CloudFormation.
    pub client: &'a Client,
    /// Operations on its stacks.
    pub operations: Operations<'a, Stacks>,
    /// How often to ask.
    pub poll: Duration,
    /// JSON instead of text.
    pub json: bool,
}

impl Scene<'_> {
    /// Does it.
    ///
    /// # Errors
    ///
    /// What is wrong with the arguments, or what CloudFormation says.
    pub async fn run(&self, command: &Command) -> Result<ExitCode> {
        match command {
            Command::Drift { stacks, revert, exit_code } => self.drift(stacks, *revert, *exit_code).await,
            Command::Import { stack, claims } => {
                let entry = self.entry(stack)?;
                let parameters = self.parameters(entry).await?;
                let rendered = self.rendered(entry)?;
                let role = self.role(entry).await?;
                let Self { client, operations, .. } = self;
                import::run(client, operations, (entry, role.as_deref()), &rendered, &parameters, claims)
                    .await?;
                let environment = &self.manifest.environment;
                self.operations.reporter.say(&format!(
                    "what differs from what is rendered was left as it is: deploy, then `cargo xtask drift --env {environment} --stack {stack}` shows it"
                ));
                Ok(ExitCode::SUCCESS)
            }
            Command::Orphan { stack, resource } => {
                let entry = self.entry(stack)?;
                let role = self.role(entry).await?;
                let rendered = self.rendered(entry)?;
                orphan::run(&self.operations, (entry, role.as_deref()), &rendered, resource).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Move { from, to } => {
                let (from, to) = (self.place(from)?, self.place(to)?);
                refactor::run(self.client, &self.operations, self.poll, &from, &to).await?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    fn entry(&self, id: &str) -> Result<&StackEntry> {
        Ok(self.manifest.stack_named(id)?)
    }

    /// The role that CloudFormation works with on a stack, as a deployment gives it.
    async fn role(&self, entry: &StackEntry) -> Result<Option<String>> {
        let role = ExecutionRole::look_up(self.manifest, self.operations.cloud).await?;
        Ok(role.for_stack(&entry.id))
    }

    fn rendered(&self, entry: &StackEntry) -> Result<Json> {
        let path = self.assembly.join(&entry.template);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// The values of a stack's parameters: those that it is deployed with, and those that other stacks give.
    async fn parameters(&self, entry: &StackEntry) -> Result<std::collections::BTreeMap<String, String>> {
        let mut known = Known::default();
        for stack in &self.manifest.stacks {
            if let Some(deployed) = self.operations.cloud.describe(&stack.name).await? {
                known.outputs.insert(stack.id.clone(), deployed.outputs);
            }
        }
        let mut parameters = self
            .operations
            .cloud
            .describe(&entry.name)
            .await?
            .map(|stack| stack.parameters)
            .unwrap_or_default();
        for wired in &entry.parameters {
            if let Ok(value) = resolve(&wired.source, &known) {
                parameters.entry(wired.name.clone()).or_insert(value);
            }
        }
        Ok(parameters)
    }

    fn place(&self, text: &str) -> Result<Place> {
        let Some((stack, logical_id)) = text.split_once('/').filter(|(_, id)| !id.is_empty()) else {
            bail!("`{text}` is not STACK/LOGICAL_ID")
        };
        Ok(Place { stack: self.entry(stack)?.name.clone(), logical_id: logical_id.to_owned() })
    }

    async fn drift(&self, only: &[String], revert: bool, exit_code: bool) -> Result<ExitCode> {
        for id in only {
            self.entry(id)?;
        }
        let mut all = Vec::new();
        let mut unread = Vec::new();
        let mut looked = false;
        for entry in self.manifest.stacks.iter().filter(|stack| only.is_empty() || only.contains(&stack.id)) {
            if self.operations.cloud.describe(&entry.name).await?.is_none() {
                continue;
            }
            looked = true;
            let template = self.operations.cloud.template(&entry.name).await?;
            let detected = drift::detect_readable(self.client, self.poll, entry, &template).await?;
            let drifted = detected.drifted;
            if !self.json {
                match (drifted.len(), &detected.unread) {
                    (0, None) => println!("{}: as its template says", entry.name),
                    (0, Some(_)) => println!("{}: what could be read is as its template says", entry.name),
                    (count, _) => println!("{}: {count} resources have drifted", entry.name),
                }
                for one in &drifted {
                    println!("  {}", one.to_string().replace('\n', "\n  "));
                }
            }
            if revert && !drifted.is_empty() {
                let role = self.role(entry).await?;
                let of = (entry, role.as_deref());
                drift::revert(self.client, &self.operations, of, &template).await?;
            }
            all.extend(drifted);
            unread.extend(detected.unread.map(|why| format!("{}: {why}", entry.name)));
        }
        if !looked {
            let what = if only.is_empty() { "nothing" } else { "none of these stacks" };
            let environment = &self.manifest.environment;
            bail!("{what} of {environment} is deployed; `cargo xtask deploy --env {environment}` does it");
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&all)?);
        }
        if !unread.is_empty() {
            bail!(
                "whether all is as it should be is not known; some resources could not be read:\n  {}",
                unread.join("\n  ")
            );
        }
        Ok(if exit_code && !all.is_empty() { ExitCode::from(3) } else { ExitCode::SUCCESS })
    }
}
