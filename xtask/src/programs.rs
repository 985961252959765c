//! The programs that the command line calls: built when first needed, because the AWS SDK alone compiles for
//! minutes and `synth`, `check`, `list` and `capacity` need none of it.

use std::{
    io::IsTerminal,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use serde_json::Value as Json;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

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

/// Runs a program to its end; gives its exit code, or what shells make of the signal that ended it. What is to end this
/// program ends that one, which gives back what it holds (the lock of an environment), and is waited for.
pub(crate) fn run_to_end(command: &mut Command) -> Result<ExitCode> {
    let program = command.get_program().to_os_string();
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let listening = signals.handle();
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id is a small number")?);
    // A terminal's Ctrl-C reaches both; what a pipeline's runner or `kill` sends may reach this one alone.
    let on_terminal = std::io::stdin().is_terminal() || std::io::stderr().is_terminal();
    let passing_on = std::thread::spawn(move || {
        for signal in signals.forever().filter(|signal| !(on_terminal && *signal == SIGINT)) {
            // It may have ended by itself.
            let _ = Signal::try_from(signal).and_then(|signal| kill(pid, signal));
        }
    });
    // It is not reaped before nobody signals it any more: its number may then be another's.
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    listening.close();
    let _ = passing_on.join();
    let status = child.wait().with_context(|| format!("cannot wait for {}", program.display()))?;
    if let Some(signal) = status.signal() {
        let name = Path::new(&program).file_name().unwrap_or(&program).display().to_string();
        eprintln!("error: {name} was ended by signal {signal}; the same command again goes on");
    }
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What reaches this program alone, as from a pipeline's runner, reaches the one that it waits for.
    #[test]
    fn a_signal_to_end_is_passed_on_and_the_code_is_that_of_the_program() {
        let directory = tempfile::tempdir().unwrap();
        let ready = directory.path().join("ready");
        let script = format!("trap 'exit 7' TERM; touch {}; while :; do sleep 0.02; done", ready.display());
        let waits = std::thread::spawn(move || run_to_end(Command::new("sh").args(["-c", &script])));
        while !ready.exists() {
            std::thread::yield_now();
        }
        signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
        assert_eq!(waits.join().unwrap().unwrap(), ExitCode::from(7));
        // Not beside it: a signal that is raised here reaches all that are waited for.
        let run = |script: &str| run_to_end(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(run("exit 3"), ExitCode::from(3));
        assert_eq!(run("kill -KILL $$"), ExitCode::from(137));
    }
}
