//! Installing the parts: the Python environment of the emulator, PostgreSQL and Valkey, and the broker.
//!
//! Everything is made in a directory beside its place and renamed at the end, so that an interrupted
//! installation leaves nothing that looks finished. What is installed is named by the hash of its pins: other
//! pins mean a new installation.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{
    layout::Layout,
    process::{find_program, lock, output_of},
};

const REQUIREMENTS: &str = include_str!("../emulator/requirements.txt");

/// The emulator's start script and the modules that it needs, by their paths.
const EMULATOR: [(&str, &str); 17] = [
    (EMULATOR_SCRIPT, include_str!("../emulator/floodgate_emulator.py")),
    ("floodgate/__init__.py", include_str!("../emulator/floodgate/__init__.py")),
    ("floodgate/alarms.py", include_str!("../emulator/floodgate/alarms.py")),
    ("floodgate/cache.py", include_str!("../emulator/floodgate/cache.py")),
    ("floodgate/cluster.py", include_str!("../emulator/floodgate/cluster.py")),
    ("floodgate/database.py", include_str!("../emulator/floodgate/database.py")),
    ("floodgate/evaluation.py", include_str!("../emulator/floodgate/evaluation.py")),
    ("floodgate/event_source_mappings.py", include_str!("../emulator/floodgate/event_source_mappings.py")),
    ("floodgate/identity.py", include_str!("../emulator/floodgate/identity.py")),
    ("floodgate/kafka.py", include_str!("../emulator/floodgate/kafka.py")),
    ("floodgate/kinesis_shards.py", include_str!("../emulator/floodgate/kinesis_shards.py")),
    ("floodgate/measures.py", include_str!("../emulator/floodgate/measures.py")),
    ("floodgate/network.py", include_str!("../emulator/floodgate/network.py")),
    ("floodgate/postgresql.py", include_str!("../emulator/floodgate/postgresql.py")),
    ("floodgate/resources.py", include_str!("../emulator/floodgate/resources.py")),
    ("floodgate/saving.py", include_str!("../emulator/floodgate/saving.py")),
    ("floodgate/waiting.py", include_str!("../emulator/floodgate/waiting.py")),
];
const EMULATOR_SCRIPT: &str = "floodgate_emulator.py";
const POM: &str = include_str!("../kafka/pom.xml");
const JARS: &str = include_str!("../kafka/jars.sha256");

/// The broker's version, as the pom pins it.
pub const KAFKA_VERSION: &str = "4.1.1";

/// The version of the broker for machines without Java.
const NISSHI_VERSION: &str = "0.8.1";

/// The file that says which pins an installation was made from.
const STAMP: &str = ".floodgate-installed";

/// Which broker is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broker {
    /// Apache Kafka, started by this Java.
    ApacheKafka {
        /// The `java` program.
        java: PathBuf,
    },
    /// nisshi, a broker in one binary.
    Nisshi {
        /// The program.
        program: PathBuf,
    },
    /// Somebody else's, named by `KAFKA_BOOTSTRAP_SERVERS`.
    External {
        /// Its addresses.
        bootstrap_servers: String,
    },
}

impl Broker {
    /// As `status` names it.
    #[must_use]
    pub fn implementation(&self) -> String {
        match self {
            Broker::ApacheKafka { .. } => format!("Apache Kafka {KAFKA_VERSION}"),
            Broker::Nisshi { .. } => format!("nisshi {NISSHI_VERSION}"),
            Broker::External { .. } => "external (KAFKA_BOOTSTRAP_SERVERS)".to_owned(),
        }
    }
}

/// Installs what is missing and says which broker there is.
///
/// # Errors
///
/// What is missing on the machine and how to get it, or what an installer said.
pub fn install(layout: &Layout) -> Result<Broker> {
    let _lock = lock(&layout.install_lock_file(), "another installation")?;
    install_emulator(layout)?;
    install_broker(layout)
}

/// Installs the Python packages alone: those of the emulator, and the servers that come as packages.
///
/// # Errors
///
/// What is missing on the machine and how to get it, or what the installer said.
pub fn install_packages(layout: &Layout) -> Result<()> {
    let _lock = lock(&layout.install_lock_file(), "another installation")?;
    install_emulator(layout)
}

/// The emulator's interpreter.
#[must_use]
pub fn emulator_python(layout: &Layout) -> PathBuf {
    layout.python().join("bin/python")
}

/// Where Python packages are installed.
///
/// # Errors
///
/// When there is no Python environment.
pub fn python_packages(layout: &Layout) -> Result<PathBuf> {
    let libraries = layout.python().join("lib");
    let found = fs::read_dir(&libraries)
        .with_context(|| format!("cannot read {}", libraries.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().join("site-packages")))
        .find(|packages| packages.is_dir());
    found.with_context(|| format!("no Python packages are installed in {}", libraries.display()))
}

/// The emulator's script, written with its modules where it can be started.
///
/// # Errors
///
/// When one cannot be written.
pub fn emulator_script(layout: &Layout) -> Result<PathBuf> {
    let directory = layout.emulator_code();
    for (name, text) in EMULATOR {
        let path = directory.join(name);
        if !fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            if let Some(above) = path.parent() {
                fs::create_dir_all(above).with_context(|| format!("cannot make {}", above.display()))?;
            }
            write(&path, text)?;
        }
    }
    Ok(directory.join(EMULATOR_SCRIPT))
}

fn install_emulator(layout: &Layout) -> Result<()> {
    let stamp = hex(REQUIREMENTS.as_bytes());
    if is_installed(&layout.python(), &stamp) {
        return Ok(());
    }
    let python = suitable_python()?;
    eprintln!(
        "installing the AWS emulator, PostgreSQL and Valkey (Python packages, about 150 MB, about 20 s)"
    );
    // A virtual environment knows its own path: it is made in place and stamped last.
    remove(&layout.python())?;
    run(Command::new(&python).args(["-m", "venv"]).arg(layout.python()), "python3 -m venv").context(
        "the virtual environment could not be made; on Debian or Ubuntu: apt-get install python3-venv",
    )?;
    let requirements = layout.python().join("requirements.txt");
    write(&requirements, REQUIREMENTS)?;
    run(
        Command::new(emulator_python(layout))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"])
            .args(["--only-binary", ":all:", "--requirement"])
            .arg(&requirements),
        "pip install",
    )?;
    write(&layout.python().join(STAMP), &stamp)
}

fn suitable_python() -> Result<PathBuf> {
    let ask = "import sys; print('%d.%d' % sys.version_info[:2])";
    let mut found = Vec::new();
    for name in ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10"] {
        let Some(path) = find_program(name) else { continue };
        let Some(version) = output_of(&path, &["-c", ask]) else { continue };
        let version = version.trim().to_owned();
        let minor = version.strip_prefix("3.").and_then(|minor| minor.parse::<u32>().ok());
        if minor.is_some_and(|minor| minor >= 10) {
            return Ok(path);
        }
        found.push(format!("{} is {version}", path.display()));
    }
    let found = if found.is_empty() { "none is on the PATH".to_owned() } else { found.join(", ") };
    bail!(
        "the AWS emulator needs Python 3.10 or newer; {found}. Install one (Debian or Ubuntu: apt-get install python3 python3-venv) and run the command again"
    )
}

fn install_broker(layout: &Layout) -> Result<Broker> {
    if let Some(servers) = std::env::var("KAFKA_BOOTSTRAP_SERVERS").ok().filter(|servers| !servers.is_empty())
    {
        return Ok(Broker::External { bootstrap_servers: servers });
    }
    let refusal = match suitable_java().and_then(|java| Ok((java, fetch_kafka(layout)?))) {
        Ok((java, fetched)) => {
            if let Some(fetched) = fetched {
                accept_kafka(layout, &fetched)?;
            }
            return Ok(Broker::ApacheKafka { java });
        }
        // The other broker needs far more room.
        Err(error) if format!("{error:#}").contains("No space left on device") => {
            return Err(error.context(format!("the disk of {} is full", layout.parts().display())));
        }
        Err(error) => error,
    };
    eprintln!("Apache Kafka cannot be used ({refusal:#}); taking nisshi {NISSHI_VERSION} instead");
    Ok(Broker::Nisshi { program: install_nisshi(layout)? })
}

/// A Java of at least version 17.
///
/// # Errors
///
/// When there is none.
fn suitable_java() -> Result<PathBuf> {
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    for java in home.into_iter().chain(find_program("java")) {
        let Some(text) = output_of(&java, &["-version"]) else { continue };
        let major = text
            .split('"')
            .nth(1)
            .and_then(|version| version.split('.').next())
            .and_then(|major| major.parse::<u32>().ok());
        if major.is_some_and(|major| major >= 17) {
            return Ok(java);
        }
    }
    bail!("there is no Java 17 or newer")
}

/// Has Maven bring the jars into a directory, which is the answer; `None` when they are installed already.
fn fetch_kafka(layout: &Layout) -> Result<Option<PathBuf>> {
    let place = layout.kafka_libraries();
    if is_installed(&place, &hex(JARS.as_bytes())) {
        return Ok(None);
    }
    let maven = find_program("mvn").context("there is no Maven (mvn)")?;
    eprintln!("installing Apache Kafka {KAFKA_VERSION} (46 jars, 43 MB, about 15 s)");
    let building = place.with_extension("building");
    remove(&building)?;
    fs::create_dir_all(&building).with_context(|| format!("cannot make {}", building.display()))?;
    let pom = building.join("pom.xml");
    write(&pom, POM)?;
    run(
        Command::new(maven)
            .args(["--quiet", "--batch-mode", "--no-transfer-progress", "--file"])
            .arg(&pom)
            .arg("dependency:copy-dependencies")
            .arg("-DincludeScope=runtime")
            .arg(format!("-DoutputDirectory={}", building.display())),
        "mvn dependency:copy-dependencies",
    )?;
    Ok(Some(building))
}

/// Installs what Maven brought if it is what it should be. If not, that is an error and no reason to take another
/// broker: somebody has to look into it.
fn accept_kafka(layout: &Layout, fetched: &Path) -> Result<()> {
    let place = layout.kafka_libraries();
    verify(fetched)?;
    write(&fetched.join(STAMP), &hex(JARS.as_bytes()))?;
    remove(&place)?;
    fs::rename(fetched, &place).with_context(|| format!("cannot make {}", place.display()))
}

/// Every jar is one that is listed, with its hash.
fn verify(directory: &Path) -> Result<()> {
    for line in JARS.lines() {
        let (expected, name) = line.split_once("  ").with_context(|| format!("jars.sha256: `{line}`"))?;
        let path = directory.join(name);
        let bytes = fs::read(&path).with_context(|| format!("Maven did not bring {name}"))?;
        let found = hex(&bytes);
        if found != expected {
            bail!("{name} has the SHA-256 {found}, {expected} was expected: refusing it");
        }
    }
    let jars = fs::read_dir(directory)?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".jar"))
        .count();
    if jars != JARS.lines().count() {
        bail!("Maven brought {jars} jars, {} were expected", JARS.lines().count());
    }
    Ok(())
}

fn install_nisshi(layout: &Layout) -> Result<PathBuf> {
    let program = layout.tools().join("bin/nisshi");
    if program.is_file() {
        return Ok(program);
    }
    let cargo = find_program("cargo").context("there is no cargo to install the nisshi broker with")?;
    eprintln!(
        "installing nisshi {NISSHI_VERSION} with cargo (compiles for 5 to 15 minutes; needs cmake and a C++ compiler)"
    );
    run(
        Command::new(cargo)
            .args(["install", "nisshi", "--version", NISSHI_VERSION, "--locked", "--ignore-rust-version"])
            .arg("--root")
            .arg(layout.tools())
            .arg("--target-dir")
            .arg(layout.tools().join("build"))
            .env_remove("CARGO_TARGET_DIR"),
        "cargo install nisshi",
    )
    .context("no Kafka broker could be installed; install Java 17 and Maven (Debian or Ubuntu: apt-get install default-jre-headless maven), or name a broker in KAFKA_BOOTSTRAP_SERVERS")?;
    remove(&layout.tools().join("build"))?;
    Ok(program)
}

fn is_installed(directory: &Path, stamp: &str) -> bool {
    fs::read_to_string(directory.join(STAMP)).is_ok_and(|found| found == stamp)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {} (is the disk full?)", path.display()))
}

/// Removes a directory with all that is in it. One that is not there is no error.
///
/// # Errors
///
/// When it cannot be removed.
pub fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", directory.display())),
    }
}

/// Runs an installer; its output is shown only when it fails.
pub(crate) fn run(command: &mut Command, name: &str) -> Result<()> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("`{name}` cannot be started"))?;
    if output.status.success() {
        return Ok(());
    }
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
    bail!("`{name}` failed ({}):\n{tail}", output.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jar_that_is_not_the_listed_one_is_refused_and_not_installed() {
        let directory = tempfile::TempDir::new().unwrap();
        let layout = Layout::new(directory.path(), None).unwrap();
        let fetched = directory.path().join("fetched");
        fs::create_dir(&fetched).unwrap();
        for line in JARS.lines() {
            fs::write(fetched.join(line.split_once("  ").unwrap().1), "something else").unwrap();
        }
        let error = format!("{:#}", accept_kafka(&layout, &fetched).unwrap_err());
        assert!(error.contains("refusing it") && error.contains(".jar"), "{error}");
        assert!(!layout.kafka_libraries().exists());
    }

    #[test]
    fn every_module_of_the_emulator_is_carried() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("emulator/floodgate");
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "py") {
                let name = format!("floodgate/{}", path.file_name().unwrap().to_string_lossy());
                assert!(EMULATOR.iter().any(|(carried, _)| *carried == name), "{name}");
            }
        }
    }

    #[test]
    fn every_requirement_is_pinned_and_held_to_a_hash() {
        let pins = REQUIREMENTS.lines().filter(|line| !line.starts_with([' ', '#']) && !line.is_empty());
        let unpinned: Vec<&str> = pins.filter(|line| !line.contains("==")).collect();
        assert_eq!(unpinned, Vec::<&str>::new());
        assert!(REQUIREMENTS.matches("--hash=sha256:").count() >= REQUIREMENTS.matches("==").count());
    }
}
