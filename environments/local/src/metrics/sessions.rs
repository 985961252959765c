//! The database's sessions, asked through its own client, which stays: a client a second would be load.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    layout::Layout,
    postgresql::{self, Endpoint},
};

/// Who comes through a proxy in AWS: roles that sign in by IAM, and roles whose connections are limited, as ours are to
/// the derived figure. A session that is idle outside a transaction and holds a lock has taken one for the session:
/// the proxy could not share it.
const QUESTION: &str = "SELECT count(*), count(*) FILTER (WHERE a.state = 'idle' AND EXISTS (\
SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory')) \
FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid \
WHERE a.backend_type = 'client backend' AND (r.rolconnlimit >= 0 OR EXISTS (\
SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid AND g.rolname = 'rds_iam'\
));\n";

const PATIENCE: Duration = Duration::from_secs(5);

/// How many sessions there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Counts {
    /// Of the proxy's clients.
    pub(super) sessions: f64,
    /// Of those, the ones that it could not share.
    pub(super) pinned: f64,
}

/// A client of the database.
pub(super) struct Sessions {
    client: Child,
    questions: ChildStdin,
    answers: Receiver<String>,
}

impl Sessions {
    /// Connects as the superuser, who sees all sessions.
    ///
    /// # Errors
    ///
    /// When the client cannot be started.
    pub(super) fn open(layout: &Layout, endpoint: &Endpoint) -> Result<Self> {
        let mut client = postgresql::client(layout, endpoint)?
            .args(["--quiet", "--tuples-only", "--no-align", "--field-separator", " "])
            .args(["--dbname", "postgres", "--file", "-"])
            .env("PGAPPNAME", "floodgate-metrics")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("psql cannot be started")?;
        let questions = client.stdin.take().context("psql has no input")?;
        let lines = BufReader::new(client.stdout.take().context("psql has no output")?).lines();
        let (sender, answers) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { client, questions, answers })
    }

    /// Asks.
    ///
    /// # Errors
    ///
    /// When the database does not answer; another client is to be opened then.
    pub(super) fn counts(&mut self) -> Result<Counts> {
        self.questions.write_all(QUESTION.as_bytes()).context("the database is away")?;
        let line = self.answers.recv_timeout(PATIENCE).context("the database does not answer")?;
        parse(&line).with_context(|| format!("the database answers `{line}`"))
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

fn parse(line: &str) -> Option<Counts> {
    let (sessions, pinned) = line.trim().split_once(' ')?;
    Some(Counts { sessions: sessions.parse().ok()?, pinned: pinned.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_two_counts() {
        assert_eq!(parse("12 3"), Some(Counts { sessions: 12.0, pinned: 3.0 }));
        assert_eq!(parse("12"), None);
        assert_eq!(parse("many 3"), None);
    }
}
