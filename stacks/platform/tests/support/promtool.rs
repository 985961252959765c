//! Prometheus's own opinion, by promtool.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// The program that `cargo xtask test` names, the machine's own, or the one that `cargo xtask test` unpacked before.
fn program() -> PathBuf {
    let unpacked =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|place| place.join("Cargo.lock").is_file());
    let unpacked = unpacked.unwrap().join("target/test-tools/promtool/promtool");
    std::env::var_os("FLOODGATE_PROMTOOL")
        .map(PathBuf::from)
        .into_iter()
        .chain(["promtool".into(), unpacked])
        .find(|program| Command::new(program).arg("--version").output().is_ok())
        .expect(
            "these tests need promtool: `cargo xtask test` fetches it, and so does `apt install prometheus`",
        )
}

/// What promtool says to a command with files, run in a directory.
pub fn promtool(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(program()).current_dir(directory).args(arguments).output().unwrap()
}

/// Passes when promtool finds nothing to complain about in what was scraped.
pub fn check_metrics(exposition: &str) {
    let mut child = Command::new(program())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(exposition.as_bytes()).unwrap();
    accepted("check metrics", &child.wait_with_output().unwrap());
}

/// Passes when promtool was content.
pub fn accepted(what: &str, output: &Output) {
    let told =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert!(output.status.success(), "{what}: {told}");
}
