//! What can be asked of the engine on its command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use deploy_engine::{approval::Policy, gc, living, outputs::Format};

use crate::command::{
    self,
    bundle::{BundleArguments, UnpackArguments},
    origin::OriginArguments,
};

/// Deploys an assembly through CloudFormation, and shows and removes what is deployed.
#[derive(Parser)]
#[command(name = "deploy-engine")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Args)]
pub(crate) struct Common {
    /// The assembly's directory.
    #[arg(long, global = true, default_value = "target/assembly/local")]
    pub(crate) assembly: PathBuf,
    /// Where the AWS APIs are, instead of AWS.
    #[arg(long, global = true)]
    pub(crate) endpoint_url: Option<String>,
    /// The local environment's program, for the local provider.
    #[arg(long, global = true)]
    pub(crate) local_environment: Option<PathBuf>,
    /// The local environment's directory.
    #[arg(long, global = true, default_value = "target/local")]
    pub(crate) local_root: PathBuf,
    /// Where the local environment's parts are installed; its own directory unless told otherwise.
    #[arg(long, global = true)]
    pub(crate) local_parts: Option<PathBuf>,
    /// Where packed functions are kept.
    #[arg(long, global = true, default_value = "target/assets")]
    pub(crate) assets: PathBuf,
    /// JSON instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Consent {
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Do not ask: the environment is named here.
    #[arg(long, value_name = "ENVIRONMENT")]
    pub(crate) confirm: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Deploy.
    Deploy(DeployArguments),
    /// Pack assets and say what came of it; talks to nobody.
    Pack {
        /// Where the binaries are, each by its package's name.
        #[arg(long, default_value = "target/debug")]
        binaries: PathBuf,
        /// These assets alone.
        names: Vec<String>,
    },
    /// Make a release of rendered environments; talks to no environment.
    Bundle(BundleArguments),
    /// Unpack a release and compare every byte with its index; talks to nobody.
    Unpack(UnpackArguments),
    /// Releases and records of the environment.
    Releases {
        #[command(subcommand)]
        command: command::releases::Command,
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
        /// Empty the buckets that go with their stacks; without it those that hold something are kept.
        #[arg(long)]
        purge: bool,
        /// Leave the workloads, with their load balancers and volumes.
        #[arg(long)]
        stacks_only: bool,
    },
    /// The stacks' outputs.
    Outputs {
        /// These stacks alone.
        #[arg(long = "stack")]
        stacks: Vec<String>,
        /// How they are printed.
        #[arg(long, default_value_t = Format::Text)]
        format: Format,
    },
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
    /// Whose credentials these are, and what the account allows; for `doctor`.
    #[command(hide = true)]
    Whoami,
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
    /// What is seen of a system, a JSON line a look, until it is interrupted.
    #[command(hide = true)]
    Observe {
        /// The system.
        system: String,
        /// Between two looks, in milliseconds.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(200..=3_600_000))]
        every_ms: u64,
    },
    /// Which program makes a system's traffic, and its environment variables, as JSON.
    #[command(hide = true)]
    Traffic {
        /// The system.
        system: String,
    },
    /// The logs of a system's workloads and functions.
    Logs {
        /// The system, a workload or a function.
        system: String,
        /// Go on as they grow.
        #[arg(long)]
        follow: bool,
        /// How far back.
        #[arg(long, value_parser = gc::duration)]
        since: Option<Duration>,
        /// Lines with this text alone.
        #[arg(long)]
        filter: Option<String>,
    },
}

/// How a deployment is asked for.
#[derive(Args)]
pub(crate) struct DeployArguments {
    #[command(flatten)]
    pub(crate) consent: Consent,
    /// These stacks alone.
    #[arg(long = "stack")]
    pub(crate) stacks: Vec<String>,
    /// Stacks without workloads.
    #[arg(long)]
    pub(crate) stacks_only: bool,
    /// Print the waves with the reason of each step, and touch nothing.
    #[arg(long)]
    pub(crate) plan: bool,
    /// How many stacks are worked on at a time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) concurrency: u8,
    /// Which changes want a yes; by default those that are called out where data is kept, and none elsewhere.
    #[arg(long, value_name = "WHEN")]
    pub(crate) require_approval: Option<Policy>,
    /// Do not look whether somebody has changed what will be changed.
    #[arg(long)]
    pub(crate) no_drift: bool,
    /// Delete stacks of the environment that left the manifest.
    #[arg(long)]
    pub(crate) prune: bool,
    /// Swap the code of functions and workloads, and do nothing else.
    #[arg(long, conflicts_with_all = ["plan", "prune", "require_approval"])]
    pub(crate) hotswap: bool,
    /// Where the workers' binaries are.
    #[arg(long, default_value = "target/debug")]
    pub(crate) binaries: PathBuf,
    #[command(flatten)]
    pub(crate) origin: OriginArguments,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
