//! `cargo xtask bench deploy`: the deploy engine on local parts of its own.

use std::{
    collections::BTreeMap,
    fs,
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

use crate::{
    bench::peak_kib,
    bench_cdk,
    bench_emulator::{Emulator, Parameters},
    programs,
};

/// How often a deployment that changes nothing is run.
const RUNS: usize = 9;

/// How often everything is deployed anew, one stack after the other and all at once.
const ROUNDS: usize = 5;

/// What the project promises (README): a no-op after start, a first deployment against its slowest chain, memory.
const NO_OP_MAX: Duration = Duration::from_secs(2);
const CHAIN_RATIO_MAX: f64 = 1.5;
const PEAK_MIB_MAX: f64 = 100.0;

/// What a run of a program was.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) took: Duration,
    pub(crate) peak_kib: u64,
}

impl Run {
    pub(crate) fn seconds(self) -> f64 {
        self.took.as_secs_f64()
    }

    pub(crate) fn mib(self) -> f64 {
        self.peak_kib as f64 / 1024.0
    }
}

/// The run in the middle of several by time, with the most memory of all.
pub(crate) fn median(mut runs: Vec<Run>) -> Run {
    runs.sort_by_key(|run| run.took);
    let peak_kib = runs.iter().map(|run| run.peak_kib).max().unwrap_or_default();
    runs.get(runs.len() / 2).map_or(Run { took: Duration::ZERO, peak_kib }, |run| Run { peak_kib, ..*run })
}

/// Local parts in a directory of their own, so that what is deployed on this machine is left alone.
pub(crate) struct Bench<'a> {
    root: &'a Path,
    pub(crate) directory: PathBuf,
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

    /// Starts the parts with nothing in them; gives where the AWS APIs are.
    pub(crate) fn anew(&self) -> Result<String> {
        self.local(&["down"])?;
        let state = self.local(&["up"])?;
        let url = state.pointer("/aws/endpoint_url").and_then(Json::as_str);
        Ok(url.context("the local environment has no AWS endpoint")?.to_owned())
    }

    fn assets(&self) -> PathBuf {
        self.directory.join("assets")
    }

    /// Runs the engine to its end.
    fn engine(&self, arguments: &[&str]) -> Result<Run> {
        let begun = Instant::now();
        let mut child = Command::new(self.binaries.join("deploy-engine"))
            .current_dir(self.root)
            .arg("--assembly")
            .arg(self.directory.join("assembly"))
            .arg("--local-environment")
            .arg(self.binaries.join("local-environment"))
            .arg("--local-root")
            .arg(self.directory.join("local"))
            .arg("--assets")
            .arg(self.assets())
            .arg("--json")
            .args(arguments)
            .arg("--binaries")
            .arg(&self.binaries)
            .env_remove("AWS_PROFILE")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start deploy-engine")?;
        let mut peak = 0;
        let output = child.stdout.take().context("no output")?;
        for line in BufReader::new(output).lines() {
            line?;
            peak = peak.max(peak_kib(child.id()));
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("`deploy-engine {}` failed ({status}); its message is above", arguments.join(" "));
        }
        Ok(Run { took: begun.elapsed(), peak_kib: peak })
    }

    pub(crate) fn deploy(&self, endpoint_url: &str, stacks: &[&str]) -> Result<Run> {
        let mut arguments = vec!["--endpoint-url", endpoint_url, "deploy", "--stacks-only"];
        arguments.extend(stacks.iter().flat_map(|id| ["--stack", id]));
        self.engine(&arguments)
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

/// Parts in a directory of their own, with what is installed on this machine.
fn bench<'a>(root: &'a Path, manifest: &Manifest) -> Result<Bench<'a>> {
    let functions: Vec<&str> = manifest.assets.iter().map(|asset| asset.package.as_str()).collect();
    let binaries = programs::build_with(root, false, &functions)?;
    let directory = programs::target_directory(root).join("bench/deploy");
    let bench = Bench { root, directory, binaries };
    fs::create_dir_all(bench.directory.join("local"))?;
    let installed = programs::local_parts(root);
    for part in fs::read_dir(&installed).into_iter().flatten().flatten() {
        let name = part.file_name();
        let (from, to) = (part.path(), bench.directory.join("local").join(&name));
        if from.is_dir()
            && !to.exists()
            && ["python", "kafka-libraries", "tools"].iter().any(|part| name == *part)
        {
            symlink(from, to)?;
        }
    }
    Ok(bench)
}

/// A first deployment of everything, and the slowest chain of the same stacks deployed one after the other before.
struct Round {
    first: Run,
    chain: Duration,
}

impl Round {
    fn ratio(&self) -> f64 {
        self.first.seconds() / self.chain.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Deploys everything twice into nothing. Gives the parameters of the stacks as well.
fn round(bench: &Bench<'_>, manifest: &Manifest) -> Result<(Round, Parameters)> {
    let endpoint_url = bench.anew()?;
    let mut alone = BTreeMap::new();
    for entry in &manifest.stacks {
        alone.insert(entry.name.clone(), bench.deploy(&endpoint_url, &[&entry.id])?.took);
    }
    // What every run takes before and after its stack; a chain has it once.
    let first_id = manifest.stacks.first().map(|entry| entry.id.as_str()).unwrap_or_default();
    let start =
        median((0..RUNS).map(|_| bench.deploy(&endpoint_url, &[first_id])).collect::<Result<Vec<_>>>()?);
    for took in alone.values_mut() {
        *took = took.saturating_sub(start.took);
    }
    let recorded = Emulator::new(&endpoint_url).parameters(manifest)?;
    let sum: Duration = alone.values().sum();
    let (chain, way) = slowest_chain(manifest, &alone);
    let chain = start.took + chain;
    let first = bench.deploy(&bench.anew()?, &[])?;
    let round = Round { first, chain };
    println!(
        "  start {:.2} s, {:.2} s of stacks in all; the slowest chain {:.2} s: {}; all at once {:.2} s, {:.2} times the chain",
        start.seconds(),
        sum.as_secs_f64(),
        chain.as_secs_f64(),
        way.join(" -> "),
        first.seconds(),
        round.ratio()
    );
    Ok((round, recorded))
}

pub(crate) fn run(root: &Path, with_cdk: bool) -> Result<()> {
    let assembly = platform::render(&Environment::load(root, "local")?)?;
    let manifest = &assembly.manifest;
    let bench = bench(root, manifest)?;
    assembly.write(&bench.directory.join("assembly"))?;

    // An empty store of packed functions, whatever runs there were before.
    let _ = fs::remove_dir_all(bench.assets());
    let endpoint_url = bench.anew()?;
    let packing = bench.engine(&["--endpoint-url", &endpoint_url, "pack"])?;
    println!("packing all programs, debug build: {:.2} s, peak {:.1} MiB", packing.seconds(), packing.mib());

    println!("one stack after the other, each by itself, as a user would wait for it, and all at once:");
    let mut rounds = (0..ROUNDS).map(|_| round(&bench, manifest)).collect::<Result<Vec<_>>>()?;
    rounds.sort_by(|(one, _), (other, _)| one.ratio().total_cmp(&other.ratio()));
    let (Round { first, .. }, recorded) = &rounds[ROUNDS / 2];
    let ratios: Vec<f64> = rounds.iter().map(|(round, _)| round.ratio()).collect();
    println!(
        "first deployment of all stacks, the median of {ROUNDS} rounds: {:.2} s, {:.2} times the slowest chain ({:.2} to {:.2}; goal: {CHAIN_RATIO_MAX}), peak {:.1} MiB (goal: {PEAK_MIB_MAX})",
        first.seconds(),
        ratios[ROUNDS / 2],
        ratios[0],
        ratios[ROUNDS - 1],
        rounds.iter().map(|(round, _)| round.first.mib()).fold(0.0, f64::max)
    );
    let endpoint_url = bench.anew()?;
    bench.deploy(&endpoint_url, &[])?;
    let no_ops = (0..RUNS).map(|_| bench.deploy(&endpoint_url, &[])).collect::<Result<Vec<_>>>()?;
    let slowest = no_ops.iter().map(|run| run.took).max().unwrap_or_default();
    let no_op = median(no_ops);
    println!(
        "nothing to do, {RUNS} runs: median {:.2} s, max {:.2} s (goal: {:.0} s), peak {:.1} MiB",
        no_op.seconds(),
        slowest.as_secs_f64(),
        NO_OP_MAX.as_secs_f64(),
        no_op.mib()
    );

    fs::remove_dir_all(bench.assets())?;
    let cold = bench.deploy(&bench.anew()?, &[])?;
    println!(
        "first deployment with nothing packed before: {:.2} s, peak {:.1} MiB",
        cold.seconds(),
        cold.mib()
    );

    let plain = bench_cdk::comparable(manifest);
    let emulator = Emulator::new(&bench.anew()?);
    let bare = emulator.create_all(&manifest.region, &plain, &assembly.templates, recorded)?;
    println!(
        "for comparison, the emulator alone: the {} stacks that need no published code, created all at once by a bare client that knows every value beforehand: {:.2} s",
        plain.len(),
        bare.as_secs_f64()
    );
    if with_cdk {
        bench_cdk::run(root, &bench, &assembly, recorded)?;
    }
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
