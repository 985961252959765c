//! The AWS API emulator: its command, on loopback, with what it keeps in one directory.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{install, layout::Layout};

/// The command that runs the emulator on a port, with its data in `directory`, which is made. `others` are
/// variables that tell it where the parts are that stand behind its resources.
///
/// # Errors
///
/// When the directory or the emulator's script cannot be written.
pub fn command(
    layout: &Layout,
    directory: &Path,
    port: u16,
    others: impl IntoIterator<Item = (&'static str, String)>,
) -> Result<Command> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut command = Command::new(install::emulator_python(layout));
    command
        .arg(install::emulator_script(layout)?)
        .current_dir(directory)
        .env_clear()
        .envs(inherited())
        .env("BIND_HOST", "127.0.0.1")
        .env("GATEWAY_PORT", port.to_string())
        .env("IOT_MTLS_ENABLED", "0")
        .env("PERSIST_STATE", "1")
        .env("STATE_DIR", directory.join("state"))
        .env("S3_PERSIST", "1")
        .env("S3_DATA_DIR", directory.join("s3"))
        .env("TMPDIR", directory)
        // With a Docker daemon at hand it would remove containers that it takes for its own.
        .env("DOCKER_HOST", format!("unix://{}", directory.join("no-docker.sock").display()))
        .envs(others)
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// What a started process gets of this one's environment: nothing that could be a secret.
pub(crate) fn inherited() -> impl Iterator<Item = (String, String)> {
    ["PATH", "HOME", "LANG", "TZ", "RUST_LOG", "TMPDIR"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
}
