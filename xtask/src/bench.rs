//! `cargo xtask bench`: figures, and what they compare with.

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::{bench_deploy, programs};

/// Measure, and compare.
///
/// Measure, and compare. Absolute times differ between machines; ratios within one run do not.
///
/// Examples:
///   cargo xtask bench synth
///   cargo xtask bench deploy --with-cdk
///   cargo xtask bench consumer
///   cargo xtask bench ledger
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Rendering prod as a process of its own: time, memory, and how they grow; without and with check
    Synth,
    /// Deploying the local environment's stacks: nothing to do, all of them against the slowest chain, memory
    Deploy {
        /// Compare with the AWS CDK's command line, which npm installs, on the same endpoint
        #[arg(long)]
        with_cdk: bool,
    },
    /// The consumer against a bare librdkafka loop and a single-threaded one, on a private broker
    Consumer,
    /// The ledger's writer against bare multi-row upserts and rows one by one, on a private database
    Ledger,
}

pub(crate) fn run(arguments: &BenchArgs, root: &Path) -> Result<ExitCode> {
    match arguments.what {
        What::Synth => synth(root),
        What::Consumer => on_real_parts(root, "trade-consumer", "throughput"),
        What::Ledger => on_real_parts(root, "ledger-writer", "ledger"),
        What::Deploy { with_cdk } => bench_deploy::run(root, with_cdk),
    }?;
    Ok(ExitCode::SUCCESS)
}

const RUNS: usize = 9;

/// What an AWS CDK app of five such stacks (149 resources) takes, as published with this project's goals.
const CDK: &str =
    "AWS CDK, five stacks, 149 resources: 0.47 s and 131 MiB without validation, 2.27 s and 459 MiB with it";

fn synth(root: &Path) -> Result<()> {
    println!("building xtask (release)");
    let status = Command::new(programs::cargo())
        .current_dir(root)
        .args(["build", "--quiet", "--release", "--package", "xtask"])
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("`cargo build` of xtask failed");
    }
    let program = programs::target_directory(root).join("release/xtask");
    println!("`xtask synth --env prod`, release build, {RUNS} runs each, the process as a whole");
    println!("{:>6}  {:<12} {:>10} {:>10} {:>10} {:>10}", "copies", "", "min", "median", "max", "peak");
    for copies in [1, 10, 50] {
        for check in [false, true] {
            let copies_text = copies.to_string();
            let mut arguments = vec!["synth", "--env", "prod", "--copies", copies_text.as_str()];
            if check {
                arguments.push("--check");
            }
            let mut times = Vec::new();
            let mut peak_kib = 0;
            for _ in 0..RUNS {
                let (time, kib) = measure(root, &program, &arguments)?;
                times.push(time);
                peak_kib = peak_kib.max(kib);
            }
            times.sort_unstable();
            let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
            println!(
                "{copies:>6}  {:<12} {:>10} {:>10} {:>10} {:>6.1} MiB",
                if check { "synth+check" } else { "synth" },
                ms(times[0]),
                ms(times[RUNS / 2]),
                ms(times[RUNS - 1]),
                peak_kib as f64 / 1024.0
            );
        }
    }
    println!("for comparison: {CDK}");
    Ok(())
}

/// The most memory (KiB) that a running process has had, as the kernel says; 0 when it is gone.
pub(crate) fn peak_kib(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .unwrap_or(0)
}

/// Time and peak memory (KiB) of a process: the kernel's own high-water mark, read until it ends.
fn measure(root: &Path, program: &Path, arguments: &[&str]) -> Result<(Duration, u64)> {
    let begun = Instant::now();
    let mut child = Command::new(program)
        .current_dir(root)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let mut peak_kib = 0;
    let status = loop {
        peak_kib = peak_kib.max(self::peak_kib(child.id()));
        if let Some(status) = child.try_wait()? {
            break status;
        }
    };
    let time = begun.elapsed();
    if !status.success() {
        bail!("`xtask {}` failed ({status})", arguments.join(" "));
    }
    Ok((time, peak_kib))
}

/// Runs a package's benchmark, which starts what it needs.
fn on_real_parts(root: &Path, package: &str, benchmark: &str) -> Result<()> {
    let local = programs::build(root, false)?.join("local-environment");
    println!("building the benchmark (release); the first time takes some minutes");
    let status = Command::new(programs::cargo())
        .current_dir(root)
        .args(["bench", "--quiet", "--package", package, "--bench", benchmark])
        .env("FLOODGATE_LOCAL_ENVIRONMENT", local)
        .env("FLOODGATE_LOCAL_ROOT", programs::local_parts(root))
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("the benchmark failed");
    }
    Ok(())
}
