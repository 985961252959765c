//! The programs that building, deploying and testing call.

use std::collections::BTreeSet;

use cfn::{Assembly, Json, architecture::of_assets, assembly::AssetKind};

use super::{
    Finding, Verdict,
    machine::{BASE_REGISTRY, Machine, numbers},
};
use crate::cross;

/// The least Rust, as the workspace's Cargo.toml has it.
const RUST: &str = env!("CARGO_PKG_RUST_VERSION");

/// A program that is there or not.
struct Tool {
    what: &'static str,
    program: &'static str,
    version: &'static str,
    /// The least version.
    least: &'static [u32],
    /// What is when it is not there.
    verdict: Verdict,
    /// What it is for.
    purpose: &'static str,
    fix: &'static str,
}

const TOOLS: [Tool; 10] = [
    Tool {
        what: "cargo",
        program: "cargo",
        version: "--version",
        least: &[],
        verdict: Verdict::Fail,
        purpose: "builds everything",
        fix: "install Rust by rustup: https://rustup.rs",
    },
    Tool {
        what: "rustfmt",
        program: "rustfmt",
        version: "--version",
        least: &[],
        verdict: Verdict::Warn,
        purpose: "`cargo xtask test` and `codegen` format with it",
        fix: "rustup component add rustfmt",
    },
    Tool {
        what: "clippy",
        program: "cargo-clippy",
        version: "--version",
        least: &[],
        verdict: Verdict::Warn,
        purpose: "`cargo xtask test` lints with it",
        fix: "rustup component add clippy",
    },
    Tool {
        what: "C compiler",
        program: "cc",
        version: "--version",
        least: &[],
        verdict: Verdict::Fail,
        purpose: "compiles the Kafka client and links",
        fix: "apt-get install gcc, or xcode-select --install",
    },
    Tool {
        what: "make",
        program: "make",
        version: "--version",
        least: &[],
        verdict: Verdict::Fail,
        purpose: "builds the Kafka client and OpenSSL",
        fix: "apt-get install make, or xcode-select --install",
    },
    Tool {
        what: "perl",
        program: "perl",
        version: "--version",
        least: &[5],
        verdict: Verdict::Fail,
        purpose: "configures OpenSSL, which the Kafka client has within",
        fix: "apt-get install perl",
    },
    Tool {
        what: "git",
        program: "git",
        version: "--version",
        least: &[2],
        verdict: Verdict::Fail,
        purpose: "names revisions; `tidy` asks it for the files",
        fix: "apt-get install git",
    },
    Tool {
        what: "promtool",
        program: "promtool",
        version: "--version",
        least: &[],
        verdict: Verdict::Warn,
        purpose: "`cargo xtask test` parses alerts with it",
        fix: "apt-get install prometheus; else it is unpacked below target/test-tools when it is first needed",
    },
    Tool {
        what: "cmake",
        program: "cmake",
        version: "--version",
        least: &[3],
        verdict: Verdict::Warn,
        purpose: "builds the broker that stands in where there is no Java",
        fix: "apt-get install cmake, unless Java and Maven are there",
    },
    Tool {
        what: "helm",
        program: "helm",
        version: "version",
        // The deploy engine refuses older ones.
        least: &[3, 12],
        verdict: Verdict::Fail,
        purpose: "installs what others publish into the cluster",
        fix: "install helm 3.12 or newer: https://helm.sh/docs/intro/install",
    },
];

/// Looks at the programs. What only a cluster on AWS needs is left out where nothing is deployed into one.
pub(super) fn tools(machine: &Machine, assembly: Option<&Assembly>) -> Vec<Finding> {
    let mut findings = vec![rust(machine)];
    let with_helm = assembly.is_some_and(|assembly| !assembly.manifest.helm_releases.is_empty());
    for tool in &TOOLS {
        if tool.what != "helm" || with_helm {
            findings.push(look(machine, tool));
        }
    }
    findings.push(python(machine));
    findings.push(java(machine));
    if let Some(assembly) = assembly.filter(|assembly| assembly.manifest.provider == "aws") {
        findings.extend(binaries(machine, assembly));
        findings.extend(repositories(machine, assembly));
        findings.extend(base(machine, assembly));
    }
    findings
}

/// Whether helm knows the repositories of the charts: a deployment asks for them before it touches anything.
fn repositories(machine: &Machine, assembly: &Assembly) -> Option<Finding> {
    let what = "helm repositories";
    let releases = &assembly.manifest.helm_releases;
    let wanted: BTreeSet<&str> =
        releases.iter().filter_map(|release| release.chart.split('/').next()).collect();
    // Without helm that is what is told; without repositories it fails to list them.
    if wanted.is_empty() || machine.find("helm").is_none() {
        return None;
    }
    let list = machine.says("helm", &["repo", "list", "--output", "json"]).unwrap_or_default();
    let known: Vec<Json> = serde_json::from_str(&list).unwrap_or_default();
    let is_known = |name: &str| known.iter().any(|repository| repository["name"] == name);
    let missing: Vec<&str> = wanted.iter().copied().filter(|name| !is_known(name)).collect();
    if missing.is_empty() {
        let names: Vec<&str> = wanted.into_iter().collect();
        return Some(Finding::ok(what, names.join(", ")));
    }
    let fix: Vec<String> = missing.iter().map(|name| format!("helm repo add {name} URL")).collect();
    let fix = format!("{}, with the URL that the chart's documentation gives", fix.join("; "));
    Some(Finding::fail(what, format!("helm does not know {}", missing.join(", ")), fix))
}

/// Whether somebody has said where the base of images is: a deployment with workloads asks for it first of all.
fn base(machine: &Machine, assembly: &Assembly) -> Option<Finding> {
    if !assembly.manifest.assets.iter().any(|asset| asset.kind == AssetKind::Image) {
        return None;
    }
    Some(match machine.base_registry() {
        Some(host) => Finding::ok("base of images", format!("from {host}")),
        None => Finding::fail(
            "base of images",
            format!("{BASE_REGISTRY} is not set"),
            format!(
                "export {BASE_REGISTRY}=HOST, a registry that has the distroless base: its publisher's, or a mirror"
            ),
        ),
    })
}

fn look(machine: &Machine, tool: &Tool) -> Finding {
    let Some(said) = machine.version(tool.program, tool.version) else {
        let found = format!("{} is not there; it {}", tool.program, tool.purpose);
        // What names its command is a sentence of its own.
        let found = if tool.purpose.starts_with('`') {
            format!("{} is not there; {}", tool.program, tool.purpose)
        } else {
            found
        };
        return Finding {
            what: tool.what.to_owned(),
            verdict: tool.verdict,
            found,
            fix: Some(tool.fix.to_owned()),
        };
    };
    if numbers(&said).as_slice() < tool.least {
        return Finding {
            what: tool.what.to_owned(),
            verdict: tool.verdict,
            found: format!("{said} is too old"),
            fix: Some(tool.fix.to_owned()),
        };
    }
    Finding::ok(tool.what, said)
}

fn rust(machine: &Machine) -> Finding {
    match machine.version("rustc", "--version") {
        None => Finding::fail("rust", "rustc is not there", "install Rust by rustup: https://rustup.rs"),
        Some(said) if numbers(&said) < numbers(RUST) => {
            Finding::fail("rust", format!("{said}; {RUST} or newer is needed"), "rustup update stable")
        }
        Some(said) => Finding::ok("rust", said),
    }
}

fn python(machine: &Machine) -> Finding {
    let fix = "apt-get install python3 python3-venv";
    let Some(said) = machine.version("python3", "--version") else {
        return Finding::fail("python", "python3 is not there; the local parts and the linters need it", fix);
    };
    if numbers(&said) < vec![3, 10] {
        return Finding::fail("python", format!("{said}; 3.10 or newer is needed"), fix);
    }
    // Debian has the module and not what it installs pip from.
    if machine.says("python3", &["-c", "import venv, ensurepip"]).is_none() {
        return Finding::fail("python", format!("{said} without venv"), fix);
    }
    Finding::ok("python", said)
}

fn java(machine: &Machine) -> Finding {
    let fix = "apt-get install openjdk-17-jre-headless maven; else the broker nisshi is compiled instead, for 5 to 15 minutes, with cmake";
    let java = machine.version("java", "-version");
    let maven = machine.version("mvn", "--version");
    match (java, maven) {
        (Some(java), Some(_)) if numbers(&java) >= vec![17] => Finding::ok("java, maven", java),
        (Some(java), Some(_)) => {
            Finding::warn("java, maven", format!("{java}; Apache Kafka needs 17 or newer"), fix)
        }
        (java, maven) => {
            let missing: Vec<&str> = [("java", java.is_some()), ("mvn", maven.is_some())]
                .into_iter()
                .filter_map(|(name, there)| (!there).then_some(name))
                .collect();
            Finding::warn("java, maven", format!("{} not there", missing.join(" and ")), fix)
        }
    }
}

/// Whether binaries can be built for what an environment on AWS runs them on.
fn binaries(machine: &Machine, assembly: &Assembly) -> Vec<Finding> {
    let wanted = match of_assets(&assembly.manifest, &assembly.templates, &assembly.files) {
        Ok(wanted) => wanted,
        Err(error) => {
            return vec![Finding::fail(
                "binaries",
                error.to_string(),
                "correct the stacks; `cargo xtask check` says more",
            )];
        }
    };
    let architectures: std::collections::BTreeSet<_> = wanted.into_values().collect();
    let tools = cross::tools(&|program, arguments| machine.says(program, arguments));
    architectures
        .into_iter()
        .map(|architecture| {
            let what = format!("{architecture} binaries");
            match cross::way(&tools, architecture) {
                Ok(way) => Finding::ok(&what, way.to_string()),
                Err(missing) => Finding::fail(
                    &what,
                    missing,
                    "install these; or deploy from the pipeline, which has them",
                ),
            }
        })
        .collect()
}
