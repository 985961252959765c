//! How a change of AWS is agreed to, the same for every command that makes one.

use std::process::Command;

/// How a change is agreed to.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Consent {
    /// Do not ask (not for prod).
    #[arg(long)]
    yes: bool,
    /// Do not ask: the environment is named here.
    #[arg(long, value_name = "ENVIRONMENT")]
    confirm: Option<String>,
}

impl Consent {
    /// Passes it on to the deploy engine, which asks where nobody has agreed.
    pub(crate) fn pass(&self, command: &mut Command) {
        if self.yes {
            command.arg("--yes");
        }
        if let Some(environment) = &self.confirm {
            command.args(["--confirm", environment]);
        }
    }
}
