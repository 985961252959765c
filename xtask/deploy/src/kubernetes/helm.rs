//! Helm releases, by the `helm` program.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cfn::assembly::{HelmReleaseEntry, sha256_hex};
use serde::Deserialize;
use tokio::process::Command;

/// How long a chart's workloads may take to run.
const TIMEOUT: &str = "15m";

/// A revision of a release, as `helm history` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Revision {
    /// Its number.
    pub revision: u64,
    /// Such as `deployed`.
    pub status: String,
    /// What it was said to be when it was made.
    #[serde(default)]
    pub description: String,
}

/// What is to be done for a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is as it should be.
    Nothing,
    /// Install or upgrade it.
    Upgrade,
    /// An operation was cut off and blocks every further one: go back, then upgrade.
    RollBackFirst {
        /// To this revision.
        to: u64,
    },
    /// The first installation was cut off: remove what there is of it, then install.
    UninstallFirst,
}

/// Decides from the history of a release (oldest first) and the mark of what it should be.
#[must_use]
pub fn decide(history: &[Revision], mark: &str) -> Action {
    let Some(last) = history.last() else { return Action::Upgrade };
    let good = history.iter().rev().find(|one| one.status == "deployed" || one.status == "superseded");
    match (last.status.as_str(), good) {
        ("deployed", _) if last.description == mark => Action::Nothing,
        (status, Some(good)) if status.starts_with("pending-") => Action::RollBackFirst { to: good.revision },
        (status, None) if status.starts_with("pending-") => Action::UninstallFirst,
        _ => Action::Upgrade,
    }
}

/// The mark of what a release should be: chart, version and values.
#[must_use]
pub fn mark(release: &HelmReleaseEntry, values: &str) -> String {
    let whole = format!("{}\n{}\n{values}", release.chart, release.version);
    format!("floodgate {}", &sha256_hex(whole.as_bytes())[..16])
}

/// The oldest Helm that is good enough, as (major, minor).
const OLDEST: (u32, u32) = (3, 12);

/// What to do when there is no such program.
const INSTALL: &str = "install Helm 3.12 or newer, as https://helm.sh/docs/intro/install tells, so that `helm version` runs here, or leave the workloads out with --stacks-only";

/// The (major, minor) version that `helm version --short` tells, such as `v3.17.0+g301108e`.
#[must_use]
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix('v')?.split(['.', '+', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The program, with the cluster that it works on.
#[derive(Clone, Debug)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Helm {
    /// Finds the program, and the repositories of all charts that will be asked for. `kubeconfig` is read when a
    /// release is worked on, not before.
    ///
    /// # Errors
    ///
    /// When it is not installed, is too old, or does not know a repository.
    pub async fn find(program: &Path, kubeconfig: &Path, releases: &[HelmReleaseEntry]) -> Result<Self> {
        let helm = Self { program: program.to_owned(), kubeconfig: kubeconfig.to_owned() };
        let names: Vec<&str> = releases.iter().map(|release| release.name.as_str()).collect();
        let told = helm.run(&["version", "--short"]).await.with_context(|| {
            format!(
                "the environment's cluster wants the Helm releases {}, and the program `helm` does not run: {INSTALL}",
                names.join(", ")
            )
        })?;
        if version(&told).is_none_or(|version| version < OLDEST) {
            bail!("`helm version` says {told}, and the cluster's releases want 3.12 or newer: {INSTALL}");
        }
        #[derive(Deserialize)]
        struct Repository {
            name: String,
        }
        let list = helm.run(&["repo", "list", "--output", "json"]).await.unwrap_or_else(|_| "[]".to_owned());
        let known: Vec<Repository> = serde_json::from_str(&list).context("helm lists no repositories")?;
        for release in releases {
            let repository = release.chart.split('/').next().unwrap_or_default();
            if !known.iter().any(|known| known.name == repository) {
                bail!(
                    "helm does not know the repository `{repository}` of the chart {}; add it by `helm repo add {repository} URL` with the URL that the chart's documentation gives",
                    release.chart
                );
            }
        }
        Ok(helm)
    }

    /// Makes a release what it should be; whether anything had to change.
    ///
    /// # Errors
    ///
    /// What helm says.
    pub async fn apply(&self, release: &HelmReleaseEntry, values: &Path) -> Result<bool> {
        let text =
            std::fs::read_to_string(values).with_context(|| format!("cannot read {}", values.display()))?;
        let mark = mark(release, &text);
        let namespace = ["--namespace", release.namespace.as_str()];
        match decide(&self.history(release).await?, &mark) {
            Action::Nothing => return Ok(false),
            Action::RollBackFirst { to } => {
                let to = to.to_string();
                self.run(
                    &[&["rollback", &release.name, &to, "--wait", "--timeout", TIMEOUT], &namespace[..]]
                        .concat(),
                )
                .await?;
            }
            Action::UninstallFirst => {
                self.run(&[&["uninstall", &release.name, "--wait"], &namespace[..]].concat()).await?;
            }
            Action::Upgrade => {}
        }
        let values = values.to_string_lossy();
        let arguments = [
            &["upgrade", "--install", release.name.as_str(), release.chart.as_str()][..],
            &["--version", &release.version, "--values", &values, "--create-namespace"],
            &["--description", &mark, "--wait", "--timeout", TIMEOUT],
            &namespace,
        ];
        self.run(&arguments.concat()).await?;
        Ok(true)
    }

    /// Removes a release; one that is gone is no error.
    ///
    /// # Errors
    ///
    /// What helm says.
    pub async fn uninstall(&self, release: &HelmReleaseEntry) -> Result<()> {
        let arguments =
            ["uninstall", &release.name, "--namespace", &release.namespace, "--wait", "--ignore-not-found"];
        self.run(&arguments).await.map(drop)
    }

    async fn history(&self, release: &HelmReleaseEntry) -> Result<Vec<Revision>> {
        let arguments = ["history", &release.name, "--namespace", &release.namespace, "--output", "json"];
        match self.run(&arguments).await {
            Ok(text) => serde_json::from_str(&text).context("helm tells a history that cannot be read"),
            Err(error) if error.to_string().contains("not found") => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Runs helm and gives what it prints. It ends with this program.
    async fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`helm {}` failed: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(revision: u64, status: &str, description: &str) -> Revision {
        Revision { revision, status: status.to_owned(), description: description.to_owned() }
    }

    #[test]
    fn only_what_is_as_it_should_be_is_left() {
        assert_eq!(decide(&[], "m"), Action::Upgrade);
        assert_eq!(decide(&[revision(1, "deployed", "m")], "m"), Action::Nothing);
        assert_eq!(decide(&[revision(1, "deployed", "other")], "m"), Action::Upgrade);
        assert_eq!(decide(&[revision(1, "failed", "m")], "m"), Action::Upgrade);
    }

    #[test]
    fn a_version_is_read_whatever_follows_it() {
        assert_eq!(version("v3.17.0+g301108e\n"), Some((3, 17)));
        assert_eq!(version("v4.0.0-rc.1"), Some((4, 0)));
        assert!(version("v3.9.4").is_some_and(|version| version < OLDEST));
        assert_eq!(version("Client: v2.16.1"), None);
    }

    #[test]
    fn an_operation_that_was_cut_off_is_undone_first() {
        let history = [
            revision(1, "superseded", "a"),
            revision(2, "deployed", "b"),
            revision(3, "pending-upgrade", "m"),
        ];
        assert_eq!(decide(&history, "m"), Action::RollBackFirst { to: 2 });
        assert_eq!(decide(&[revision(1, "pending-install", "m")], "m"), Action::UninstallFirst);
    }

    #[test]
    fn the_mark_follows_chart_version_and_values() {
        let release = |version: &str| HelmReleaseEntry {
            name: "keda".to_owned(),
            chart: "kedacore/keda".to_owned(),
            version: version.to_owned(),
            namespace: "keda".to_owned(),
            values: String::new(),
            after: Vec::new(),
        };
        assert_eq!(mark(&release("2.18.1"), "a: 1"), mark(&release("2.18.1"), "a: 1"));
        assert_ne!(mark(&release("2.18.1"), "a: 1"), mark(&release("2.18.2"), "a: 1"));
        assert_ne!(mark(&release("2.18.1"), "a: 1"), mark(&release("2.18.1"), "a: 2"));
    }
}
