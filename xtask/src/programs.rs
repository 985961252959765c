//! The programs that the command line calls: built when first needed, because the AWS SDK alone compiles for
//! minutes and `synth`, `check`, `list` and `capacity` need none of it.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

/// What carries commands out, beside this program.
pub(crate) const PROGRAMS: [&str; 2] = ["deploy-engine", "local-environment"];

/// Builds the programs and gives the directory of their binaries.
pub(crate) fn build(root: &Path, release: bool) -> Result<PathBuf> {
    build_with(root, release, &[])
}

/// Builds the programs and these packages' binaries, for this machine.
pub(crate) fn build_with(root: &Path, release: bool, packages: &[&str]) -> Result<PathBuf> {
    let binaries = target_directory(root).join(if release { "release" } else { "debug" });
    let all: Vec<&str> = PROGRAMS.iter().chain(packages).copied().collect();
    if !all.iter().all(|program| binaries.join(program).is_file()) {
        eprintln!(
            "building {} for the first time: the AWS SDK and the Kafka client compile for some minutes, later builds take seconds",
            all.join(", ")
        );
    }
    let mut command = Command::new(cargo());
    // Binaries of the whole workspace: cargo compiles a dependency anew for each set of features that the packages
    // of a build ask for, so that packages named one by one would cost minutes each time others are named.
    command.current_dir(root).args(["build", "--quiet", "--workspace"]);
    if release {
        command.arg("--release");
    }
    for program in &all {
        command.args(["--bin", program]);
    }
    let status = command.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("`cargo build` of {} failed", all.join(", "));
    }
    Ok(binaries)
}

pub(crate) fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Where cargo builds.
pub(crate) fn target_directory(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |directory| root.join(directory))
}

/// Where the environment `local` keeps its things, and where the parts of all local environments are installed.
pub(crate) fn local_parts(root: &Path) -> PathBuf {
    root.join("target/local")
}

/// Where a local environment keeps its things: several run side by side.
pub(crate) fn local_root(root: &Path, environment: &str) -> PathBuf {
    match environment {
        "local" => local_parts(root),
        other => root.join("target").join(format!("local-{other}")),
    }
}

/// Calls a local environment and reads the JSON that it prints; its messages go to standard error.
pub(crate) fn ask_local(root: &Path, environment: &str, program: &Path, arguments: &[&str]) -> Result<Json> {
    ask(Command::new(program)
        .arg("--root")
        .arg(local_root(root, environment))
        .arg("--parts")
        .arg(local_parts(root))
        .args(arguments))
}

/// Calls a program and reads the JSON that it prints; its messages go to standard error.
pub(crate) fn ask(command: &mut Command) -> Result<Json> {
    let program = command.get_program().to_os_string();
    let name = Path::new(&program).file_name().unwrap_or(&program).display().to_string();
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !output.status.success() {
        bail!("{name} failed; its message is above");
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{name} printed no JSON"))
}

/// Runs a program to its end. Ctrl-C reaches it as well as this one, which waits for it.
pub(crate) fn run_to_end(command: &mut Command) -> Result<ExitCode> {
    let interrupted = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let registered = signal_hook::flag::register(signal_hook::consts::SIGINT, interrupted)?;
    let status = command.status().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    signal_hook::low_level::unregister(registered);
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
