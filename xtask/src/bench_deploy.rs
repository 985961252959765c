//! `cargo xtask bench deploy`: the deploy engine on local parts of its own.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use cfn::assembly::Manifest;
use platform::Environment;
use serde_json::Value as Json;

use crate::{bench::peak_kib, programs};

/// How often a deployment that changes nothing is run.
const RUNS: usize = 9;

/// What the project promises (README): a no-op after start, a first deployment against its slowest chain, memory.
const NO_OP_MAX: Duration = Duration::from_secs(2);
const CHAIN_RATIO_MAX: f64 = 1.5;
const PEAK_MIB_MAX: f64 = 100.0;

/// What a run of the engine was.
struct Run {
    took: Duration,
    peak_kib: u64,
    /// From the beginning of a stack's change set to the end of its operation.
    stacks: BTreeMap<String, Duration>,
}

/// Local parts in a directory of their own, so that what is deployed on this machine is left alone.
struct Bench<'a> {
    root: &'a Path,
    directory: PathBuf,
    binaries: PathBuf,
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        // Whatever happened, nothing is left running.
        let _ = self.local(&["down"]);
    }
}

impl Bench<'_> {
    fn local(&self, arguments: &[&str]) -> Result<Json> {
        let output = Command::new(self.binaries.join("local-environment"))
            .arg("--root")
            .arg(self.directory.join("local"))
            .args(arguments)
            .output()
            .context("cannot start local-environment")?;
        if !output.status.success() {
            bail!("local-environment failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    fn up(&self) -> Result<String> {
        let state = self.local(&["up"])?;
        let url = state.pointer("/aws/endpoint_url").and_then(Json::as_str);
        Ok(url.context("the local environment has no AWS endpoint")?.to_owned())
    }

    fn deploy(&self, endpoint_url: &str, arguments: &[&str]) -> Result<Run> {
        let begun = Instant::now();
        let mut child = Command::new(self.binaries.join("deploy-engine"))
            .current_dir(self.root)
            .arg("--assembly")
            .arg(self.directory.join("assembly"))
            .arg("--local-environment")
            .arg(self.binaries.join("local-environment"))
            .arg("--local-root")
            .arg(self.directory.join("local"))
            .args(["--endpoint-url", endpoint_url, "--json", "deploy", "--stacks-only", "--binaries"])
            .arg(&self.binaries)
            .args(arguments)
            .env_remove("AWS_PROFILE")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start deploy-engine")?;
        let (mut begins, mut stacks, mut peak) = (BTreeMap::new(), BTreeMap::new(), 0);
        let output = child.stdout.take().context("no output")?;
        for line in BufReader::new(output).lines() {
            peak = peak.max(peak_kib(child.id()));
            let event: Json = serde_json::from_str(&line?).unwrap_or_default();
            let text = |key: &str| event.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
            match text("state").as_str() {
                "creating" => {
                    begins.insert(text("stack"), Instant::now());
                }
                "created" => {
                    if let Some(begin) = begins.get(&text("stack")) {
                        stacks.insert(text("stack"), begin.elapsed());
                    }
                }
                _ => {}
            }
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("the deployment failed ({status}); its message is above");
        }
        Ok(Run { took: begun.elapsed(), peak_kib: peak, stacks })
    }
}

/// The longest way through the stacks by their times: no deployment can be faster.
fn slowest_chain(manifest: &Manifest, times: &BTreeMap<String, Duration>) -> (Duration, Vec<String>) {
    let mut ends: BTreeMap<&str, (Duration, Vec<String>)> = BTreeMap::new();
    // Producers come first in a manifest.
    for entry in &manifest.stacks {
        let before = entry.depends_on.iter().filter_map(|id| ends.get(id.as_str())).max();
        let (time, mut way) = before.cloned().unwrap_or_default();
        way.push(entry.id.clone());
        ends.insert(&entry.id, (time + times.get(&entry.name).copied().unwrap_or_default(), way));
    }
    ends.into_values().max().unwrap_or_default()
}

pub(crate) fn run(root: &Path) -> Result<()> {
    let binaries = programs::build(root, false)?;
    let directory = programs::target_directory(root).join("bench/deploy");
    let bench = Bench { root, directory, binaries };
    let _ = bench.local(&["down"]);
    std::fs::create_dir_all(bench.directory.join("local"))?;
    // What is installed is used, and not installed again.
    let installed = programs::local_root(root);
    for part in std::fs::read_dir(&installed).into_iter().flatten().flatten() {
        let name = part.file_name();
        let (from, to) = (part.path(), bench.directory.join("local").join(&name));
        if from.is_dir()
            && !to.exists()
            && ["python", "kafka-libraries", "tools"].iter().any(|part| name == *part)
        {
            symlink(from, to)?;
        }
    }
    let assembly = platform::render(&Environment::load(root, "local")?)?;
    assembly.write(&bench.directory.join("assembly"))?;
    let manifest = &assembly.manifest;

    println!("one stack after the other, each by itself, debug build");
    let endpoint_url = bench.up()?;
    let mut alone = BTreeMap::new();
    for entry in &manifest.stacks {
        let run = bench.deploy(&endpoint_url, &["--stack", &entry.id])?;
        alone.extend(run.stacks);
    }
    bench.local(&["down"])?;
    let sum: Duration = alone.values().sum();
    let (chain, way) = slowest_chain(manifest, &alone);
    println!(
        "  {:.2} s of CloudFormation in all; the slowest chain {:.2} s: {}",
        sum.as_secs_f64(),
        chain.as_secs_f64(),
        way.join(" -> ")
    );

    let endpoint_url = bench.up()?;
    let first = bench.deploy(&endpoint_url, &[])?;
    let ratio = first.took.as_secs_f64() / chain.as_secs_f64().max(f64::MIN_POSITIVE);
    println!(
        "first deployment of all stacks: {:.2} s, {ratio:.2} times the slowest chain (goal: {CHAIN_RATIO_MAX}), peak {:.1} MiB (goal: {PEAK_MIB_MAX})",
        first.took.as_secs_f64(),
        first.peak_kib as f64 / 1024.0
    );

    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(bench.deploy(&endpoint_url, &[])?);
    }
    let peak = runs.iter().map(|run| run.peak_kib).max().unwrap_or_default();
    runs.sort_by_key(|run| run.took);
    println!(
        "nothing to do, {RUNS} runs: min {:.2} s, median {:.2} s, max {:.2} s (goal: {:.0} s), peak {:.1} MiB",
        runs[0].took.as_secs_f64(),
        runs[RUNS / 2].took.as_secs_f64(),
        runs[RUNS - 1].took.as_secs_f64(),
        NO_OP_MAX.as_secs_f64(),
        peak as f64 / 1024.0
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_chain_follows_what_stacks_wait_for() {
        let root = crate::workspace::root();
        let assembly = platform::render(&Environment::load(&root, "local").unwrap()).unwrap();
        let manifest = &assembly.manifest;
        let times =
            manifest.stacks.iter().map(|entry| (entry.name.clone(), Duration::from_secs(1))).collect();
        let (time, way) = slowest_chain(manifest, &times);
        assert_eq!(time, Duration::from_secs(way.len() as u64));
        for pair in way.windows(2) {
            assert!(manifest.stack(&pair[1]).unwrap().depends_on.contains(&pair[0]), "{way:?}");
        }
        assert!(way.len() >= 3, "network, kafka, and a system: {way:?}");
    }
}
