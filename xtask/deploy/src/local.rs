//! The local environment's program, called as one.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;
use tokio::process::Command;

/// The program and its directory.
#[derive(Clone, Debug)]
pub struct LocalEnvironment {
    program: PathBuf,
    root: PathBuf,
    parts: Option<PathBuf>,
}

impl LocalEnvironment {
    /// By its program and directory; what is installed lies in `parts`, where that is not the same.
    #[must_use]
    pub fn new(program: PathBuf, root: PathBuf, parts: Option<PathBuf>) -> Self {
        Self { program, root, parts }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root);
        if let Some(parts) = &self.parts {
            command.arg("--parts").arg(parts);
        }
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Calls it and reads what it prints as JSON.
    ///
    /// # Errors
    ///
    /// What it says when it fails.
    pub async fn ask(&self, arguments: &[&str]) -> Result<Json> {
        let output = self
            .command(arguments)
            .stderr(Stdio::piped())
            .output()
            .await
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let text = text.trim().trim_start_matches("error: ");
            bail!("{text}");
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`local-environment {}` printed no JSON", arguments.join(" ")))
    }

    /// Whether it runs, when nobody starts or stops it any more.
    pub async fn runs(&self) -> bool {
        self.ask(&["status", "--settled"]).await.is_ok()
    }

    /// Calls it; what it prints goes where this program's output goes.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub async fn run(&self, arguments: &[&str]) -> Result<()> {
        let status = self
            .command(arguments)
            .status()
            .await
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        // 141: whoever read its output has seen enough.
        if !status.success() && status.code() != Some(141) {
            bail!("`local-environment {}` failed", arguments.join(" "));
        }
        Ok(())
    }

    /// Makes the running workloads those of the manifests in a directory; gives the names of those that are other than
    /// they were.
    ///
    /// # Errors
    ///
    /// What did not become ready.
    pub async fn apply(&self, manifests: &Path, binaries: &Path) -> Result<Vec<String>> {
        let (manifests, binaries) = (manifests.to_string_lossy(), binaries.to_string_lossy());
        let applied = self.ask(&["apply", "--manifests", &manifests, "--binaries", &binaries]).await?;
        let changed = applied.get("changed").and_then(Json::as_array).into_iter().flatten();
        Ok(changed.filter_map(Json::as_str).map(str::to_owned).collect())
    }
}
