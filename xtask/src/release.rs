//! `cargo xtask release`, and how a release gets from where it is to the deploy engine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use cfn::{Assembly, Json};
use platform::Environment;

use crate::{check, cross, deploy, programs, synth};

/// How much of a digest names a release in target/releases.
const DIGITS_MIN: usize = 8;

/// Make a release: one bundle with all that environments get, known by one digest.
///
/// It holds the rendered templates and manifests of every environment and the packed functions and workers, each file
/// by its content; with them the revision of the sources, the compiler and the version of this tool. The same sources
/// give the same bytes, so that two who make a release can compare its digest. A release is refused while `check` has
/// an error, and while there are changes that no commit has.
///
/// It is deployed by `deploy --release` and goes from environment to environment by `promote`.
///
/// Examples:
///   cargo xtask release
///   cargo xtask release --env local --env second
///   cargo xtask deploy --env dev --release target/releases/DIGEST.tar
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ReleaseArgs {
    /// For these environments alone; for all files in environments/ when none is named.
    #[arg(long = "env", value_name = "ENV")]
    environments: Vec<String>,
    /// Where the bundle goes.
    #[arg(long, value_name = "DIR", default_value = "target/releases")]
    out: PathBuf,
    /// Also from sources that no commit has; the release says so.
    #[arg(long)]
    allow_dirty: bool,
    /// JSON lines instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &ReleaseArgs, root: &Path) -> Result<ExitCode> {
    let (revision, clean) = revision(root);
    if !clean && !arguments.allow_dirty {
        bail!(
            "there are changes that no commit has, so nobody could make this release again: commit them (`git status` shows them), or `--allow-dirty`"
        );
    }
    let known = Environment::names(root)?;
    let names = if arguments.environments.is_empty() { &known } else { &arguments.environments };
    // All are rendered and checked before anything is built.
    let mut assemblies: Vec<Assembly> = Vec::new();
    for name in names {
        let assembly = synth::synth(root, name, 1)?;
        if check::report(&assembly, true)? != ExitCode::SUCCESS {
            bail!("{name} has errors, and so it is no release; `cargo xtask check --env {name}` shows them");
        }
        assemblies.push(assembly);
    }
    let packages = |assembly: &Assembly| -> std::collections::BTreeSet<String> {
        assembly.manifest.assets.iter().map(|asset| asset.package.clone()).collect()
    };
    let local = assemblies.iter().filter(|assembly| assembly.manifest.provider == "local");
    // What tries the systems of a local environment goes with it.
    let trials = |assembly: &Assembly| -> Vec<String> {
        assembly.manifest.trials().map(|(_, load)| load.package.clone()).collect()
    };
    let here: std::collections::BTreeSet<String> =
        local.flat_map(|assembly| packages(assembly).into_iter().chain(trials(assembly))).collect();
    let here: Vec<&str> = here.iter().map(String::as_str).collect();
    let programs = programs::build_with(root, false, &here)?;
    let mut command = Command::new(programs.join("deploy-engine"));
    command.current_dir(root);
    if arguments.json {
        command.arg("--json");
    }
    command.args(["bundle", "--revision", &revision, "--compiler", &compiler()]);
    if !clean {
        command.arg("--dirty");
    }
    command.arg("--out").arg(root.join(&arguments.out));
    for assembly in &assemblies {
        let binaries = match assembly.manifest.provider.as_str() {
            "local" => programs.clone(),
            _ => cross::build(root, assembly, &packages(assembly))?,
        };
        let name = &assembly.manifest.environment;
        let of = format!("{}={}", synth::directory(root, name).display(), binaries.display());
        command.args(["--of", &of]);
    }
    programs::run_to_end(&mut command)
}

/// The commit of the sources, and whether they are as it has them. Nobody knows without git, and then they are not.
pub(crate) fn revision(root: &Path) -> (String, bool) {
    let said = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(root).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let revision = said(&["rev-parse", "HEAD"]).unwrap_or_default();
    let clean = said(&["status", "--porcelain"]).is_some_and(|changes| changes.is_empty());
    (revision, clean)
}

/// The compiler, as it names itself.
fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// By which hand a release comes to an environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hand {
    arguments: Vec<String>,
    /// The profile of the credentials.
    pub(crate) profile: Option<String>,
}

impl Hand {
    fn by(by: &str, after: u64) -> Self {
        let arguments = ["--by", by, "--after", &after.to_string()].map(str::to_owned);
        Self { arguments: arguments.into(), profile: None }
    }

    /// Back, if nobody has deployed since the deployment of that number.
    pub(crate) fn back(after: u64) -> Self {
        Self::by("rollback", after)
    }

    /// From an environment, with what was overruled, if nobody has deployed since.
    pub(crate) fn from(environment: &str, overruled: &[String], after: u64, profile: Option<String>) -> Self {
        let mut hand = Self { profile, ..Self::by("promotion", after) };
        hand.arguments.extend(["--from".to_owned(), environment.to_owned()]);
        for what in overruled {
            hand.arguments.push(format!("--overruled={what}"));
        }
        hand
    }

    /// Tells the engine.
    pub(crate) fn pass(&self, command: &mut Command) {
        command.args(&self.arguments);
    }
}

/// A release on this machine.
#[derive(Clone, Debug, serde::Deserialize)]
pub(crate) struct Fetched {
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// The number of the environment's last deployment.
    #[serde(default)]
    pub(crate) number: u64,
    /// What was overruled.
    #[serde(default)]
    pub(crate) overruled: Vec<String>,
}

/// Where releases are unpacked to.
pub(crate) fn directory(root: &Path) -> PathBuf {
    root.join("target/releases")
}

/// Runs the engine with `--answer FILE` and reads that file; the engine's exit code where it failed.
pub(crate) fn answered<T: serde::de::DeserializeOwned>(
    root: &Path,
    command: &mut Command,
) -> Result<Result<T, ExitCode>> {
    let place = directory(root);
    std::fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let file = place.join(format!("answer-{}.json", std::process::id()));
    let code = programs::run_to_end(command.arg("--answer").arg(&file))?;
    if code != ExitCode::SUCCESS {
        return Ok(Err(code));
    }
    let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    std::fs::remove_file(&file)?;
    Ok(Ok(serde_json::from_slice(&bytes).context("the engine's answer is none")?))
}

/// A release that somebody named, unpacked for an environment, with every byte compared; the engine's exit code where
/// it was not.
pub(crate) fn unpacked(
    root: &Path,
    given: &Path,
    environment: &str,
    json: bool,
) -> Result<Result<PathBuf, ExitCode>> {
    let given = found(given, &directory(root))?;
    let mut command = Command::new(programs::build(root, false)?.join("deploy-engine"));
    if json {
        command.arg("--json");
    }
    command.args(["unpack", "--environment", environment, "--release"]).arg(given);
    command.arg("--into").arg(directory(root));
    let answer = answered::<Fetched>(root, &mut command)?;
    Ok(answer.map(|fetched| fetched.directory))
}

/// Whether a text may be how a digest begins.
fn is_digest(text: &str) -> bool {
    text.len() >= DIGITS_MIN && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A release's digest, or how that begins, as an argument.
pub(crate) fn digest(text: &str) -> Result<String, String> {
    if !is_digest(text) {
        return Err(format!("it is no digest of {DIGITS_MIN} hexadecimal digits or more"));
    }
    Ok(text.to_owned())
}

/// The archive or directory that is meant: a path, or how the digest of one in `releases` begins.
fn found(given: &Path, releases: &Path) -> Result<PathBuf> {
    if given.exists() {
        return Ok(given.canonicalize()?);
    }
    let name = given.to_string_lossy();
    let is_digest = is_digest(&name);
    // By digest: an archive and the directory that it was unpacked to are one release.
    let mut known: BTreeMap<String, PathBuf> = BTreeMap::new();
    for entry in std::fs::read_dir(releases).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let digest = file.strip_suffix(".tar").unwrap_or(&file).to_owned();
        if is_digest && digest.len() == 64 && digest.starts_with(name.as_ref()) {
            let path = known.entry(digest).or_insert_with(|| entry.path());
            if file.ends_with(".tar") {
                *path = entry.path();
            }
        }
    }
    match known.len() {
        1 => known.into_values().next().context("there is one"),
        0 => bail!(
            "there is no release {name}: give its archive, or 8 digits or more of the digest of one in target/releases; `cargo xtask release` makes one"
        ),
        _ => bail!("more than one release in target/releases begins with {name}: name more of it"),
    }
}

/// A release that ran in an environment, brought here from there; the engine's exit code where it was not.
pub(crate) fn fetched(
    root: &Path,
    environment: &str,
    wanted: &str,
    json: bool,
) -> Result<Result<Fetched, ExitCode>> {
    let mut command = deploy::reading(root, environment, json)?;
    command.args(["releases", "fetch", wanted, "--into"]).arg(directory(root));
    answered(root, &mut command)
}

/// The number of an environment's last deployment.
pub(crate) fn last_number(root: &Path, command: &mut Command) -> Result<Result<u64, ExitCode>> {
    command.args(["releases", "last"]);
    let answer: Result<Json, ExitCode> = answered(root, command)?;
    Ok(answer.map(|answer| answer["number"].as_u64().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_digest_has_eight_digits_or_more() {
        assert_eq!(digest("0123abcd"), Ok("0123abcd".to_owned()));
        for wrong in ["0123abc", "sha256:0123abcd", "latest-release", ""] {
            assert!(digest(wrong).unwrap_err().contains("8 hexadecimal digits"), "{wrong}");
        }
    }

    #[test]
    fn a_release_is_named_by_path_or_digest() {
        let directory = tempfile::tempdir().unwrap();
        let releases = directory.path().join("releases");
        let place = |name: &str| releases.join(name);
        let (one, other) =
            (format!("{}{}", "a".repeat(9), "0".repeat(55)), format!("{}{}", "a".repeat(9), "1".repeat(55)));
        fs::create_dir_all(place(&one)).unwrap();
        let find = |given: &str| found(Path::new(given), &releases);
        assert_eq!(find("aaaaaaaa").unwrap(), place(&one));
        fs::write(place(&format!("{one}.tar")), "").unwrap();
        assert_eq!(find("aaaaaaaa").unwrap(), place(&format!("{one}.tar")));
        assert_eq!(find(&place(&one).to_string_lossy()).unwrap(), place(&one).canonicalize().unwrap());
        fs::write(place(&format!("{other}.tar")), "").unwrap();
        assert!(find("aaaaaaaa").unwrap_err().to_string().contains("more than one"));
        assert_eq!(find(&other[..10]).unwrap(), place(&format!("{other}.tar")));
        for none in ["bbbbbbbb", "aaaa", "release.tar"] {
            assert!(find(none).unwrap_err().to_string().contains("no release"), "{none}");
        }
    }

    #[test]
    fn a_revision_knows_whether_it_is_all() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert_eq!(revision(root), (String::new(), false));
        let git = |arguments: &[&str]| {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
            let output =
                Command::new("git").current_dir(root).args(identity).args(arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        git(&["init", "--quiet"]);
        fs::write(root.join("a"), "a").unwrap();
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message", "a"]);
        let (first, clean) = revision(root);
        assert!(first.len() == 40 && clean);
        fs::write(root.join("b"), "b").unwrap();
        assert_eq!(revision(root), (first, false));
    }
}
