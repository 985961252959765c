//! The schema packages: fetched through the ordinary package clients, held to their recorded hashes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pin {
    version: String,
    sha256: String,
    license: String,
}

/// The unpacked packages.
pub(super) struct Packages {
    pins: BTreeMap<String, Pin>,
    /// `cfnlint/data/schemas` of the PyPI package.
    pub(super) schemas: PathBuf,
    /// The database of the npm package.
    pub(super) service_spec: Json,
}

impl Packages {
    /// Writes down the versions and hashes that were used.
    pub(super) fn record(&self, pins: &Path) -> Result<()> {
        let text = cfn::to_canonical_string(&serde_json::to_value(&self.pins)?);
        fs::write(pins, text).with_context(|| format!("cannot write {}", pins.display()))
    }
}

/// Fetches both packages into `directory`. A version that is not given is the recorded one, and must have
/// the recorded hash.
pub(super) fn fetch(
    pins: &Path,
    directory: &Path,
    cfn_lint: Option<&str>,
    service_spec: Option<&str>,
) -> Result<Packages> {
    let mut recorded: BTreeMap<String, Pin> =
        serde_json::from_str(&fs::read_to_string(pins).with_context(|| pins.display().to_string())?)?;
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;

    let version = wanted(&recorded, "cfn-lint", cfn_lint)?;
    println!("codegen: fetching cfn-lint {version}");
    run(
        directory,
        "python3",
        &["-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", &format!("cfn-lint=={version}")],
    )?;
    let wheel = find(directory, ".whl")?;
    settle(&mut recorded, "cfn-lint", &version, &wheel)?;
    run(directory, "python3", &["-m", "zipfile", "-e", &wheel.to_string_lossy(), "cfn-lint"])?;

    let version = wanted(&recorded, "@aws-cdk/aws-service-spec", service_spec)?;
    println!("codegen: fetching @aws-cdk/aws-service-spec {version}");
    run(directory, "npm", &["pack", "--silent", &format!("@aws-cdk/aws-service-spec@{version}")])?;
    let archive = find(directory, ".tgz")?;
    settle(&mut recorded, "@aws-cdk/aws-service-spec", &version, &archive)?;
    run(directory, "tar", &["-xzf", &archive.to_string_lossy()])?;
    run(directory, "gzip", &["-d", "package/db.json.gz"])?;

    let database = fs::read_to_string(directory.join("package/db.json"))?;
    Ok(Packages {
        pins: recorded,
        schemas: directory.join("cfn-lint/cfnlint/data/schemas"),
        service_spec: serde_json::from_str(&database)?,
    })
}

fn wanted(recorded: &BTreeMap<String, Pin>, package: &str, asked: Option<&str>) -> Result<String> {
    match (asked, recorded.get(package)) {
        (Some(version), _) => Ok(version.to_owned()),
        (None, Some(pin)) => Ok(pin.version.clone()),
        (None, None) => bail!("no version of {package} is recorded; name one"),
    }
}

/// Holds a package to its recorded hash, or records the hash of a version asked for.
fn settle(recorded: &mut BTreeMap<String, Pin>, package: &str, version: &str, file: &Path) -> Result<()> {
    let sha256 = cfn::assembly::sha256_hex(&fs::read(file)?);
    let pin = recorded.get_mut(package).with_context(|| format!("{package} is not in sources.json"))?;
    if pin.version == version && pin.sha256 != sha256 {
        bail!("{package} {version} has the SHA-256 {sha256}, recorded is {}: refusing it", pin.sha256);
    }
    pin.version = version.to_owned();
    pin.sha256 = sha256;
    Ok(())
}

fn find(directory: &Path, suffix: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(suffix) {
            return Ok(path);
        }
    }
    bail!("the package client left no {suffix} file in {}", directory.display())
}

fn run(directory: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output()
        .with_context(|| format!("cannot start `{program}`; is it installed?"))?;
    if !output.status.success() {
        bail!(
            "`{program} {}` failed ({}):\n{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
