//! Debug information out of a program, by the toolchain's own tools: a debug build is 100 MB, of which its code is a
//! fifth. Names of functions stay, so that a backtrace can be read.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The tools, in the order of trying. First the compiler's own: it knows every processor, and where the compiler is
/// the same so are the bytes. Those of the C toolchain know the machine's own processor alone.
fn candidates() -> Vec<(PathBuf, &'static [&'static str])> {
    let mut found: Vec<(PathBuf, &'static [&'static str])> = Vec::new();
    found.extend(rustc_objcopy().map(|path| (path, &["--strip-debug"][..])));
    found.extend([
        (PathBuf::from("strip"), &["--strip-debug", "-o"][..]),
        (PathBuf::from("llvm-strip"), &["--strip-debug", "-o"][..]),
        (PathBuf::from("objcopy"), &["--strip-debug"][..]),
    ]);
    found
}

fn rustc_objcopy() -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "target-libdir"]).output().ok()?;
    let libraries = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    Some(libraries.parent()?.join("bin/rust-objcopy")).filter(|path| path.is_file())
}

/// Writes the program without debug information to `stripped`; whether a tool was there that could.
#[must_use]
pub fn strip_debug(program: &Path, stripped: &Path) -> bool {
    candidates().into_iter().any(|(tool, arguments)| {
        let mut command = Command::new(tool);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // `-o FILE IN` for strip, `IN OUT` for objcopy.
        if arguments.ends_with(&["-o"]) {
            command.arg(stripped).arg(program);
        } else {
            command.arg(program).arg(stripped);
        }
        command.status().is_ok_and(|status| status.success()) && stripped.is_file()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets::elf;

    #[test]
    fn a_stripped_program_is_smaller_and_needs_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let (program, stripped) = (std::env::current_exe().unwrap(), directory.path().join("stripped"));
        assert!(strip_debug(&program, &stripped), "no strip of the C toolchain");
        let (before, after) = (std::fs::read(&program).unwrap(), std::fs::read(&stripped).unwrap());
        assert!(after.len() < before.len(), "{} and {}", before.len(), after.len());
        assert_eq!(elf::needs(&before), elf::needs(&after));
        assert!(Command::new(&stripped).arg("--list").stdout(Stdio::null()).status().unwrap().success());
    }

    #[test]
    fn what_is_no_program_is_not_stripped() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("script");
        std::fs::write(&program, "#!/bin/sh").unwrap();
        assert!(!strip_debug(&program, &directory.path().join("stripped")));
    }
}
