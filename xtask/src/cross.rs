//! Binaries for AWS: built for the processor that they run on there, against a glibc that is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use cfn::{
    Assembly,
    architecture::{Architecture, of_assets},
    assembly::{ParameterWiring, Source},
};

use crate::programs::{cargo, target_directory};

/// The glibc of `provided.al2023`, for a linker that can aim at one.
const GLIBC: &str = "2.34";

/// What this machine has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tools {
    /// The machine's own processor.
    host: Option<Architecture>,
    /// Targets whose standard library is installed.
    targets: BTreeSet<&'static str>,
    zigbuild: bool,
    /// Processors that a cross C compiler is there for.
    compilers: BTreeSet<Architecture>,
}

/// How a build is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `cargo zigbuild`, whose linker aims at a glibc.
    Zigbuild,
    /// `cargo build`, with this linker where it is not the machine's own.
    Cargo { linker: Option<&'static str> },
}

impl std::fmt::Display for Way {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Zigbuild => write!(formatter, "by cargo-zigbuild, against glibc {GLIBC}"),
            Self::Cargo { linker: None } => formatter.write_str("by cargo, with this machine's glibc"),
            Self::Cargo { linker: Some(linker) } => write!(formatter, "by cargo, linked by {linker}"),
        }
    }
}

fn cross_compiler(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Arm64 => "aarch64-linux-gnu-gcc",
        Architecture::X86_64 => "x86_64-linux-gnu-gcc",
    }
}

/// Decides how to build for a processor; in words what is missing.
pub(crate) fn way(tools: &Tools, architecture: Architecture) -> Result<Way, String> {
    let target = architecture.rust_target();
    let installed = tools.targets.contains(target);
    if installed && tools.zigbuild {
        return Ok(Way::Zigbuild);
    }
    if installed && tools.host == Some(architecture) {
        return Ok(Way::Cargo { linker: None });
    }
    if installed && tools.compilers.contains(&architecture) {
        return Ok(Way::Cargo { linker: Some(cross_compiler(architecture)) });
    }
    let mut missing = Vec::new();
    if !installed {
        missing.push(format!("`rustup target add {target}`"));
    }
    if !tools.zigbuild {
        missing.push(format!(
            "`cargo install cargo-zigbuild` with zig (it links against glibc {GLIBC}), or {} of the C toolchain",
            cross_compiler(architecture)
        ));
    }
    Err(format!("binaries for {architecture} cannot be built here yet; install: {}", missing.join("; ")))
}

/// What is there, as programs say: `says` gives what one prints, and nothing when it is not there or fails.
pub(crate) fn tools(says: &dyn Fn(&str, &[&str]) -> Option<String>) -> Tools {
    let runs = |program: &str, arguments: &[&str]| says(program, arguments).is_some();
    let both = [Architecture::Arm64, Architecture::X86_64];
    let libraries = says("rustc", &["--print", "sysroot"]);
    let libraries = libraries.map(|text| PathBuf::from(text.trim()).join("lib/rustlib"));
    let has = |target: &str| {
        libraries.as_ref().is_some_and(|libraries| libraries.join(target).join("lib").is_dir())
    };
    Tools {
        host: Architecture::named(std::env::consts::ARCH),
        targets: both.map(Architecture::rust_target).into_iter().filter(|target| has(target)).collect(),
        zigbuild: runs("cargo-zigbuild", &["--version"]) && runs("zig", &["version"]),
        compilers: both.into_iter().filter(|one| runs(cross_compiler(*one), &["--version"])).collect(),
    }
}

/// The packages of the assets that stacks need (all stacks when none is named), and workloads if they are deployed.
pub(crate) fn packages(assembly: &Assembly, stacks: &[String], workloads: bool) -> BTreeSet<String> {
    let manifest = &assembly.manifest;
    let of_stacks = manifest
        .stacks
        .iter()
        .filter(|stack| stacks.is_empty() || stacks.contains(&stack.id))
        .flat_map(|stack| &stack.parameters);
    let of_workloads = manifest
        .workloads
        .iter()
        .filter(|_| workloads && stacks.is_empty())
        .flat_map(|workload| &workload.values);
    let named = |parameter: &ParameterWiring| match &parameter.source {
        Source::Asset { name, .. } => manifest.assets.iter().find(|asset| asset.name == *name),
        _ => None,
    };
    of_stacks.chain(of_workloads).filter_map(named).map(|asset| asset.package.clone()).collect()
}

/// Where the binaries of an environment on AWS are, once they are built.
pub(crate) fn place(root: &Path, environment: &str) -> PathBuf {
    target_directory(root).join("binaries").join(environment)
}

/// Builds packages for what an environment runs them on, and gives the directory where each binary has its
/// package's name.
pub(crate) fn build(root: &Path, assembly: &Assembly, packages: &BTreeSet<String>) -> Result<PathBuf> {
    let wanted = of_assets(&assembly.manifest, &assembly.templates, &assembly.files)?;
    let mut groups: BTreeMap<Architecture, Vec<&str>> = BTreeMap::new();
    for asset in assembly.manifest.assets.iter().filter(|asset| packages.contains(&asset.package)) {
        if let Some(architecture) = wanted.get(&asset.name) {
            groups.entry(*architecture).or_default().push(&asset.package);
        }
    }
    let place = place(root, &assembly.manifest.environment);
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let tools = tools(&|program, arguments| {
        let output = Command::new(program).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    });
    // What is missing is said before anything is built.
    let ways: BTreeMap<Architecture, Way> = groups
        .keys()
        .map(|architecture| Ok((*architecture, way(&tools, *architecture).map_err(anyhow::Error::msg)?)))
        .collect::<Result<_>>()?;
    for (architecture, packages) in &groups {
        let Some(way) = ways.get(architecture) else { continue };
        compile(root, *architecture, way, packages)?;
        let built = target_directory(root).join(architecture.rust_target()).join("release");
        for package in packages {
            let (from, to) = (built.join(package), place.join(package));
            let _ = fs::remove_file(&to);
            fs::hard_link(&from, &to)
                .or_else(|_| fs::copy(&from, &to).map(drop))
                .with_context(|| format!("cannot put {} to {}", from.display(), to.display()))?;
        }
    }
    Ok(place)
}

/// Directories whose names would get into a binary, by the places that panics tell, each with what stands for it.
fn origins(root: &Path, given: &dyn Fn(&str) -> Option<String>) -> Vec<(String, &'static str)> {
    let home = given("HOME").unwrap_or_default();
    let cargo = given("CARGO_HOME").unwrap_or_else(|| format!("{home}/.cargo"));
    // The last that fits is taken: the workspace may lie within the other.
    vec![(cargo, "/cargo"), (root.display().to_string(), "/floodgate")]
}

/// Where OpenSSL looks for what it loads later, which it never does here; else that is below the directory of the build.
const OPENSSL_DIRECTORIES: &str =
    "ENGINESDIR=/usr/local/lib/engines-3 MODULESDIR=/usr/local/lib/ossl-modules";

/// The variables by which a build leaves out of its binaries where and when it was made, added to what is given. What
/// debug information tells of directories goes when it is packed; an identity that linkers make of all of it would stay.
fn same_bytes(
    origins: &[(String, &'static str)],
    way: &Way,
    given: &dyn Fn(&str) -> Option<String>,
) -> Vec<(&'static str, String)> {
    let encoded = given("CARGO_ENCODED_RUSTFLAGS").filter(|flags| !flags.is_empty());
    let mut rust: Vec<String> = match encoded {
        Some(flags) => flags.split('\u{1f}').map(str::to_owned).collect(),
        None => given("RUSTFLAGS").unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
    };
    rust.extend(origins.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")));
    // zig's linker makes none unless it is asked to.
    if *way != Way::Zigbuild {
        rust.push("-Clink-arg=-Wl,--build-id=none".to_owned());
    }
    let make = format!("{} {OPENSSL_DIRECTORIES}", given("GNUMAKEFLAGS").unwrap_or_default());
    vec![
        ("CARGO_ENCODED_RUSTFLAGS", rust.join("\u{1f}")),
        ("GNUMAKEFLAGS", make.trim().to_owned()),
        // OpenSSL tells when it was built.
        ("SOURCE_DATE_EPOCH", given("SOURCE_DATE_EPOCH").unwrap_or_else(|| "0".to_owned())),
    ]
}

fn compile(root: &Path, architecture: Architecture, way: &Way, packages: &[&str]) -> Result<()> {
    let target = architecture.rust_target();
    eprintln!("building {} for {architecture}, optimised", packages.join(", "));
    let mut command = Command::new(cargo());
    command.current_dir(root);
    match way {
        Way::Zigbuild => {
            command.args(["zigbuild", "--target", &format!("{target}.{GLIBC}")]);
        }
        Way::Cargo { linker } => {
            command.args(["build", "--target", target]);
            if let Some(linker) = linker {
                let name = target.to_uppercase().replace('-', "_");
                command.env(format!("CARGO_TARGET_{name}_LINKER"), linker);
            }
        }
    }
    // Where the sources lie is no part of them: from another directory, by another user or on another day the same
    // bytes come out.
    let given = |name: &str| std::env::var(name).ok();
    command.envs(same_bytes(&origins(root, &given), way, &given));
    // Binaries of the whole workspace, for one set of features; see `programs`.
    command.args(["--release", "--quiet", "--workspace"]);
    for package in packages {
        command.args(["--bin", package]);
    }
    let status = command.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the build of {} for {architecture} failed", packages.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(targets: &[&'static str], zigbuild: bool, compilers: &[Architecture]) -> Tools {
        Tools {
            host: Some(Architecture::X86_64),
            targets: targets.iter().copied().collect(),
            zigbuild,
            compilers: compilers.iter().copied().collect(),
        }
    }

    const ARM: Architecture = Architecture::Arm64;
    const BOTH: [&str; 2] = ["aarch64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"];

    #[test]
    fn a_linker_that_aims_at_a_glibc_is_preferred() {
        assert_eq!(way(&machine(&BOTH, true, &[ARM]), ARM), Ok(Way::Zigbuild));
        let with_compiler = way(&machine(&BOTH, false, &[ARM]), ARM);
        assert_eq!(with_compiler, Ok(Way::Cargo { linker: Some("aarch64-linux-gnu-gcc") }));
        let own = way(&machine(&BOTH, false, &[]), Architecture::X86_64);
        assert_eq!(own, Ok(Way::Cargo { linker: None }));
    }

    #[test]
    fn what_is_missing_is_named() {
        let nothing = way(&machine(&BOTH[1..], false, &[]), ARM).unwrap_err();
        assert!(nothing.contains("rustup target add aarch64-unknown-linux-gnu"), "{nothing}");
        assert!(nothing.contains("cargo-zigbuild") && nothing.contains("aarch64-linux-gnu-gcc"), "{nothing}");
        let no_target = way(&machine(&BOTH[1..], true, &[]), ARM).unwrap_err();
        assert!(no_target.contains("rustup target add") && !no_target.contains("zigbuild"), "{no_target}");
        let no_linker = way(&machine(&BOTH, false, &[]), ARM).unwrap_err();
        assert!(!no_linker.contains("rustup") && no_linker.contains("zigbuild"), "{no_linker}");
    }

    #[test]
    fn a_deployment_builds_what_its_stacks_need_and_nothing_else() {
        let root = crate::workspace::root();
        let environment = platform::Environment::load(&root, "prod").unwrap();
        let assembly = platform::render(&environment).unwrap();
        let of = |stacks: &[&str], workloads| {
            let stacks: Vec<String> = stacks.iter().map(|&stack| stack.to_owned()).collect();
            packages(&assembly, &stacks, workloads)
        };
        assert!(of(&["network", "delivery"], true).is_empty());
        assert!(of(&["lessons"], true).iter().all(|package| package.starts_with("lessons-")));
        assert!(of(&[], true).contains("trade-consumer") && !of(&[], false).contains("trade-consumer"));
    }

    /// A checkout with a dependency from a registry, as cargo keeps those of a user; panics tell the places of both.
    fn program(place: &Path, mapped: bool) -> Vec<u8> {
        let target = Architecture::named(std::env::consts::ARCH).unwrap().rust_target();
        let (root, home) = (place.join("checkout"), place.join("home"));
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let package = |name: &str, more: &str| {
            format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2024\"\n{more}")
        };
        let other = home.join("registry/other");
        write(other.join("Cargo.toml"), &package("other", ""));
        write(other.join("src/lib.rs"), "pub fn fail(n: usize) -> u8 { [1, 2][n] }\n");
        write(other.join(".cargo-checksum.json"), "{\"files\": {}}");
        let more =
            "[dependencies]\nother = \"1\"\n[workspace]\n[profile.release]\ndebug = \"line-tables-only\"\n";
        write(root.join("Cargo.toml"), &package("program", more));
        write(
            root.join("src/main.rs"),
            "fn main() { println!(\"{}\", other::fail(std::env::args().count())) }\n",
        );
        let config = format!(
            "[source.crates-io]\nreplace-with = \"kept\"\n[source.kept]\ndirectory = \"{}\"\n",
            home.join("registry").display()
        );
        write(root.join(".cargo/config.toml"), &config);
        let mut command = Command::new(cargo());
        command.current_dir(&root).args(["build", "--offline", "--quiet", "--release", "--target", target]);
        command.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
        let given = |name: &str| (name == "CARGO_HOME").then(|| home.display().to_string());
        if mapped {
            command.envs(same_bytes(&origins(&root, &given), &Way::Cargo { linker: None }, &given));
        }
        assert!(command.status().unwrap().success());
        fs::read(root.join("target").join(target).join("release/program")).unwrap()
    }

    #[test]
    fn the_same_sources_give_the_same_bytes_wherever_they_lie() {
        let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let built = |mapped: bool| places.each_ref().map(|place| program(place.path(), mapped));
        let [one, other] = built(false);
        assert!(one != other, "nothing would have to be left out");
        let [one, other] = built(true);
        assert!(one == other);
        for place in &places {
            let name = place.path().as_os_str().as_encoded_bytes();
            assert!(!one.windows(name.len()).any(|bytes| bytes == name));
        }
    }

    #[test]
    fn what_is_given_stays_and_neither_time_nor_place_gets_in() {
        let origins = [("/ada/.cargo".to_owned(), "/cargo"), ("/ada/it".to_owned(), "/floodgate")];
        let made = |way: &Way, given: &[(&str, &str)]| {
            let given = |name: &str| {
                given.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            same_bytes(&origins, way, &given).into_iter().collect::<BTreeMap<_, _>>()
        };
        let cargo = made(
            &Way::Cargo { linker: None },
            &[("RUSTFLAGS", "-C link-arg=-s"), ("GNUMAKEFLAGS", "-k"), ("SOURCE_DATE_EPOCH", "7")],
        );
        let flags: Vec<&str> = cargo["CARGO_ENCODED_RUSTFLAGS"].split('\u{1f}').collect();
        let mapped = ["--remap-path-prefix=/ada/.cargo=/cargo", "--remap-path-prefix=/ada/it=/floodgate"];
        assert_eq!(flags[..2], ["-C", "link-arg=-s"]);
        assert_eq!(flags[2..4], mapped);
        assert_eq!(flags[4..], ["-Clink-arg=-Wl,--build-id=none"]);
        assert!(cargo["GNUMAKEFLAGS"].starts_with("-k ENGINESDIR=/usr/local/"), "{cargo:?}");
        assert_eq!(cargo["SOURCE_DATE_EPOCH"], "7");
        let zig = made(&Way::Zigbuild, &[]);
        assert_eq!(zig["CARGO_ENCODED_RUSTFLAGS"], mapped.join("\u{1f}"));
        assert_eq!(zig["SOURCE_DATE_EPOCH"], "0");
    }
}
