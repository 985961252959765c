//! `cargo xtask doctor`.

mod machine;
mod quotas;
mod tools;

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use cfn::Assembly;
use platform::Environment;
use serde::Serialize;

use machine::Machine;

/// What this machine and account lack for an environment, each with its repair.
///
/// Tools and their versions, disk, memory, ports, and for an environment on
/// AWS the credentials, their account, the region and the quotas that its
/// sizes ask for: of Lambda what the account has, of the others the documented
/// default, and each says which. Nothing is built for it. Exits with 1 where
/// something fails.
///
/// Examples:
///   cargo xtask doctor
///   cargo xtask doctor --env prod --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct DoctorArgs {
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// Something goes without it, slower or less.
    Warn,
    /// Nothing of the environment goes without it.
    Fail,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What.
    what: String,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// How it is repaired.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Finding {
    fn ok(what: &str, found: impl Into<String>) -> Self {
        Self { what: what.to_owned(), verdict: Verdict::Ok, found: found.into(), fix: None }
    }

    fn warn(what: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.to_owned(), verdict: Verdict::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    fn fail(what: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.to_owned(), verdict: Verdict::Fail, found: found.into(), fix: Some(fix.into()) }
    }
}

pub(crate) fn run(arguments: &DoctorArgs, root: &Path) -> Result<ExitCode> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let base_registry = std::env::var(machine::BASE_REGISTRY).ok();
    let findings = examine(root, &arguments.env, &Machine::new(path, base_registry));
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", table(&findings));
    }
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    Ok(if worst == Verdict::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Looks at everything.
fn examine(root: &Path, name: &str, machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    let assembly = match rendered(root, name) {
        Ok(assembly) => {
            let text = format!("{} stacks render", assembly.manifest.stacks.len());
            findings.push(Finding::ok("environment", format!("{name}: {text}")));
            Some(assembly)
        }
        Err(error) => {
            let fix = "correct the file in environments/, or choose another one with --env";
            findings.push(Finding::fail("environment", format!("{error:#}"), fix));
            None
        }
    };
    let on_aws = assembly.as_ref().is_some_and(|assembly| assembly.manifest.provider == "aws");
    findings.extend(tools::tools(machine, assembly.as_ref()));
    findings.extend(machine::resources(root, machine));
    findings.extend(machine::programs(root));
    if on_aws {
        if let Some(assembly) = &assembly {
            let asked = quotas::credentials(root, machine, assembly);
            let defaults = quotas::quotas(assembly, &asked);
            findings.extend(asked.into_iter().chain(defaults));
        }
    } else {
        findings.extend(machine::ports(root));
    }
    findings
}

fn rendered(root: &Path, name: &str) -> Result<Assembly> {
    Ok(platform::render(&Environment::load(root, name)?)?)
}

/// The findings for people.
fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        text += &format!("{verdict:<5} {:<20} {}\n", finding.what, finding.found);
        if let Some(fix) = &finding.fix {
            text += &format!("{:<26} -> {fix}\n", "");
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    match (count(Verdict::Fail), count(Verdict::Warn)) {
        (0, 0) => text += "all is as it should be\n",
        (0, warned) => text += &format!("nothing fails; {warned} could be better\n"),
        (failed, warned) => text += &format!("{failed} to be repaired, {warned} could be better\n"),
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::workspace;

    /// A directory with programs that say these things.
    fn machine(programs: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let directory = tempfile::tempdir().unwrap();
        for (name, says) in programs {
            let path = directory.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{says}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let machine = Machine::new(directory.path().as_os_str().to_owned(), None);
        (directory, machine)
    }

    const WHOLE: [(&str, &str); 15] = [
        ("rustc", "echo 'rustc 1.97.0 (abc 2026-10-01)'"),
        ("cargo", "echo 'cargo 1.97.0 (abc 2026-10-01)'"),
        ("rustfmt", "echo 'rustfmt 1.9.0-stable'"),
        ("cargo-clippy", "echo 'clippy 0.1.97'"),
        ("cc", "echo 'cc (Debian 12.2.0-14) 12.2.0'"),
        ("make", "echo 'GNU Make 4.3'"),
        ("perl", "echo 'This is perl 5, version 36, subversion 0 (v5.36.0) built for x86_64'"),
        ("cmake", "echo 'cmake version 3.25.1'"),
        ("git", "echo 'git version 2.39.5'"),
        ("python3", "echo 'Python 3.11.2'"),
        ("java", "echo 'openjdk version \"17.0.13\" 2024-10-15' >&2"),
        ("mvn", "echo 'Apache Maven 3.8.7'"),
        ("helm", "echo 'v3.16.1+g5a5449d'"),
        ("promtool", "echo 'promtool, version 2.42.0'"),
        (
            "df",
            "echo 'Filesystem 1024-blocks Used Available Capacity Mounted'; echo '/dev/vda 90000000 1 50000000 1% /'",
        ),
    ];

    fn found(findings: &[Finding], what: &str) -> (Verdict, String) {
        let finding = findings.iter().find(|finding| finding.what == what);
        let finding = finding.unwrap_or_else(|| panic!("{what}: {findings:#?}"));
        (finding.verdict, format!("{} -> {}", finding.found, finding.fix.as_deref().unwrap_or_default()))
    }

    #[test]
    fn a_whole_machine_has_nothing_to_be_repaired() {
        let (_directory, machine) = machine(&WHOLE);
        let assembly = rendered(&workspace::root(), "local").unwrap();
        let findings = tools::tools(&machine, Some(&assembly));
        insta::assert_snapshot!(table(&findings));
        let findings = machine::resources(&workspace::root(), &machine);
        assert_eq!(found(&findings, "disk").0, Verdict::Ok, "{findings:?}");
    }

    #[test]
    fn an_empty_machine_is_told_everything_with_its_repair() {
        let (_directory, machine) = machine(&[]);
        let assembly = rendered(&workspace::root(), "local").unwrap();
        let findings = tools::tools(&machine, Some(&assembly));
        assert!(findings.iter().all(|finding| finding.verdict != Verdict::Ok && finding.fix.is_some()));
        insta::assert_snapshot!(table(&findings));
    }

    #[test]
    fn what_is_too_old_or_half_there_is_seen() {
        let mut programs = WHOLE.to_vec();
        for (name, says) in &mut programs {
            match *name {
                "rustc" => *says = "echo 'rustc 1.80.1 (abc 2024-08-01)'",
                "python3" => *says = "case \"$1\" in --version) echo 'Python 3.11.2';; *) exit 1;; esac",
                "java" => *says = "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2",
                "df" => {
                    *says = "echo 'Filesystem 1024-blocks Used Available Capacity Mounted'; echo '/dev/vda 9 1 2000000 99% /'"
                }
                _ => {}
            }
        }
        let (_directory, machine) = self::machine(&programs);
        let findings = tools::tools(&machine, None);
        let (verdict, text) = found(&findings, "rust");
        assert!(
            verdict == Verdict::Fail && text.contains("1.80") && text.contains("rustup update"),
            "{text}"
        );
        let (verdict, text) = found(&findings, "python");
        assert!(verdict == Verdict::Fail && text.contains("python3-venv"), "{text}");
        let (verdict, text) = found(&findings, "java, maven");
        assert!(verdict == Verdict::Warn && text.contains("17"), "{text}");
        let (verdict, text) = found(&machine::resources(&workspace::root(), &machine), "disk");
        assert!(verdict == Verdict::Fail && text.contains("2.0 GB"), "{text}");
    }

    #[test]
    fn what_a_deployment_to_aws_asks_for_first_is_looked_at() {
        let assembly = rendered(&workspace::root(), "prod").unwrap();
        let looked = |version: &str, registry: Option<&str>| {
            let helm = format!(
                "case \"$1\" in repo) echo '[{{\"name\":\"kedacore\"}},{{\"name\":\"prometheus-community\"}}]';; *) echo '{version}';; esac"
            );
            let (directory, machine) = machine(&[("helm", &helm)]);
            let path = directory.path().as_os_str().to_owned();
            drop(machine);
            let machine = Machine::new(path, registry.map(str::to_owned));
            let findings = tools::tools(&machine, Some(&assembly));
            ["helm", "helm repositories", "base of images"].map(|what| found(&findings, what).0)
        };
        assert_eq!(looked("v3.12.0", Some("mirror.example")), [Verdict::Ok; 3]);
        // The engine refuses it, so this does as well.
        assert_eq!(looked("v3.11.3", Some(" ")), [Verdict::Fail, Verdict::Ok, Verdict::Fail]);
    }

    #[test]
    fn an_environment_on_aws_wants_more() {
        let (_directory, machine) = machine(&WHOLE);
        let root = workspace::root();
        let findings = examine(&root, "prod", &machine);
        let (verdict, text) = found(&findings, "arm64 binaries");
        assert!(verdict == Verdict::Fail && text.contains("rustup target add"), "{text}");
        assert_eq!(found(&findings, "helm").0, Verdict::Ok);
        // It prints no list of repositories here.
        let (verdict, text) = found(&findings, "helm repositories");
        assert!(verdict == Verdict::Fail && text.contains("helm repo add kedacore URL"), "{text}");
        let (verdict, text) = found(&findings, "base of images");
        assert!(verdict == Verdict::Fail && text.contains("export FLOODGATE_BASE_REGISTRY="), "{text}");
        assert!(findings.iter().any(|finding| finding.what.starts_with("quota: ")), "{findings:#?}");
        let findings = examine(&root, "nowhere", &machine);
        let (verdict, text) = found(&findings, "environment");
        assert!(verdict == Verdict::Fail && text.contains("there is no environment `nowhere`"), "{text}");
    }
}
