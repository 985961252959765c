//! Where promtool comes from, Prometheus's own program that parses rules, expressions and what is scraped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::programs;

/// The Debian package that brings it.
const PACKAGE: &str = "prometheus";

/// The promtool of this machine, or one unpacked below `target/test-tools`: that needs apt's lists, and no root.
///
/// # Errors
///
/// When there is none and none can be had; it says what to install.
pub(crate) fn find_or_install(root: &Path) -> Result<PathBuf> {
    let unpacked = programs::target_directory(root).join("test-tools/promtool/promtool");
    for program in [Path::new("promtool"), unpacked.as_path()] {
        if let Some(version) = version(program) {
            println!("promtool {version}: {}", program.display());
            return Ok(program.to_owned());
        }
    }
    println!("installing promtool");
    unpack(&unpacked).with_context(|| {
        format!("promtool is not there and cannot be unpacked from Debian's package: `apt install {PACKAGE}` as root brings it, or put promtool 2.40 or newer into PATH")
    })?;
    let version = version(&unpacked)
        .with_context(|| format!("{} does not run: `apt install {PACKAGE}` as root", unpacked.display()))?;
    println!("promtool {version}: {}", unpacked.display());
    Ok(unpacked)
}

/// What it says of itself; `None` where it does not run.
fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    // 2.x prints it to standard error, later ones to standard output.
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    parse_version(&told)
}

fn parse_version(told: &str) -> Option<String> {
    let version = told.lines().next()?.strip_prefix("promtool, version ")?.split_whitespace().next()?;
    Some(version.to_owned())
}

/// Unpacks the program alone, through a directory that is left behind by an interruption and never looked at.
fn unpack(program: &Path) -> Result<()> {
    let place = program.parent().context("the program has a directory")?;
    let partial = place.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    let download = || -> Result<PathBuf> {
        run(Command::new("apt-get").args(["download", PACKAGE]).current_dir(&partial), "apt-get download")?;
        fs::read_dir(&partial)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get has downloaded nothing")
    };
    let package = download().or_else(|error| {
        // A fresh machine has no lists yet, or lists of versions that are gone. Only root may fetch them.
        run(Command::new("apt-get").args(["--quiet", "update"]), "apt-get update").context(error)?;
        download()
    })?;
    run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&partial), "dpkg-deb")?;
    fs::create_dir_all(place)?;
    fs::rename(partial.join("usr/bin/promtool"), program)
        .with_context(|| format!("{} holds no promtool", package.display()))?;
    fs::remove_dir_all(&partial)?;
    Ok(())
}

fn run(command: &mut Command, what: &str) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {what}"))?;
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_what_follows_the_name() {
        let told = "promtool, version 2.42.0+ds (branch: debian/sid)\n  build user: x";
        assert_eq!(parse_version(told).as_deref(), Some("2.42.0+ds"));
        assert_eq!(parse_version("promtool: not found"), None);
        assert_eq!(parse_version(""), None);
    }
}
