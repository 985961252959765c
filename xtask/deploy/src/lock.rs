//! One deployment at a time of an environment: a parameter in the environment's own account says who works on it.
//!
//! The parameter is never deleted, because Parameter Store takes a name anew only half a minute after its deletion. It
//! is free, or names its holder, who renews it. Who takes a free or stale one writes over it and looks at the version
//! that this gave: two at once get two versions, and the first has it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use aws_sdk_ssm::{Client, error::ProvideErrorMetadata, types::ParameterType};
use serde::{Deserialize, Serialize};

use crate::{report::Reporter, sdk::told};

/// How often a holder renews the lock.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// A lock that was not renewed for so long is nobody's, in seconds.
const STALE_SECONDS: u64 = 120;

/// Who holds the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// What tells two runs apart.
    pub token: String,
    /// What is done: `deploy`, `teardown`…
    pub doing: String,
    /// Whose credentials, as an ARN.
    pub identity: String,
    /// The name that git knows the person by, where it does.
    pub person: String,
    /// The machine.
    pub host: String,
    /// The process on it.
    pub pid: u32,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// When it was renewed last, in seconds since 1970.
    pub renewed: u64,
}

/// What the parameter holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nobody works on the environment.
    Free,
    /// Somebody does.
    Held(Holder),
}

/// What can be done about a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is free.
    Take,
    /// Its holder is gone; why, in words.
    TakeOver(String),
    /// Somebody works on the environment; who, in words.
    Refuse(String),
}

/// Decides. `now` is in seconds since 1970; `is_gone` says whether a process of this host, `here`, has ended.
#[must_use]
pub fn judge(state: &State, now: u64, here: &str, is_gone: &dyn Fn(u32) -> bool) -> Verdict {
    let State::Held(holder) = state else { return Verdict::Take };
    let quiet = now.saturating_sub(holder.renewed);
    if holder.host == here && is_gone(holder.pid) {
        return Verdict::TakeOver(format!(
            "a {} of process {} on this machine ended without giving the environment back",
            holder.doing, holder.pid
        ));
    }
    if quiet > STALE_SECONDS {
        return Verdict::TakeOver(format!("{} has not been heard of for {}", who(holder), span(quiet)));
    }
    Verdict::Refuse(format!("{}, for {}", who(holder), span(now.saturating_sub(holder.since))))
}

fn who(holder: &Holder) -> String {
    let person = if holder.person.is_empty() { String::new() } else { format!("{}, ", holder.person) };
    let article = if holder.doing.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    let Holder { doing, identity, pid, host, .. } = holder;
    format!("{article} {doing} by {person}{identity} (process {pid} on {host})")
}

/// A time span for people.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whether no deploy engine of that process id runs on this machine. Where there is no /proc nobody can tell.
fn is_gone(pid: u32) -> bool {
    let name = |process: &str| std::fs::read_to_string(format!("/proc/{process}/comm")).ok();
    name("self").is_some() && name(&pid.to_string()) != name("self")
}

/// What a program prints, if it prints anything.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// This machine's name.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .or_else(|| said("hostname", &[]))
        .unwrap_or_default()
}

impl Holder {
    /// This run: what it does and with whose credentials. The rest is asked of the machine and of git.
    #[must_use]
    pub fn this(doing: &str, identity: &str) -> Self {
        let host = host();
        let pid = std::process::id();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            token: format!("{host}-{pid}-{}", now.as_nanos()),
            doing: doing.to_owned(),
            identity: identity.to_owned(),
            person: said("git", &["config", "user.name"]).unwrap_or_default(),
            host,
            pid,
            since: now.as_secs(),
            renewed: now.as_secs(),
        }
    }
}

/// The parameter of an environment.
#[derive(Clone, Debug)]
pub struct Locks {
    client: Client,
    name: String,
    environment: String,
}

/// The lock, held. It is given back by [`Lock::release`].
#[derive(Debug)]
pub struct Lock<'a> {
    locks: &'a Locks,
    holder: Holder,
}

impl Locks {
    /// Of an environment by its name and prefix.
    #[must_use]
    pub fn new(client: Client, environment: &str, prefix: &str) -> Self {
        Self { client, name: format!("/{prefix}/deploy-lock"), environment: environment.to_owned() }
    }

    /// The parameter's name.
    #[must_use]
    pub fn parameter(&self) -> &str {
        &self.name
    }

    /// What the parameter holds, with its version; free at version 0 where it was never written.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn read(&self) -> Result<(State, i64)> {
        match self.client.get_parameter().name(&self.name).send().await {
            Ok(answer) => {
                let parameter = answer.parameter();
                let text = parameter.and_then(|parameter| parameter.value()).unwrap_or_default();
                // What cannot be read was not written by this program: whoever wrote it keeps nobody out.
                let state = serde_json::from_str(text).unwrap_or(State::Free);
                Ok((state, parameter.map_or(0, aws_sdk_ssm::types::Parameter::version)))
            }
            Err(error) if error.code() == Some("ParameterNotFound") => Ok((State::Free, 0)),
            Err(error) => Err(told(error, &format!("cannot read the lock {}", self.name))),
        }
    }

    /// Writes it; the version that this gave, or `None` where somebody wrote the first one before.
    async fn write(&self, state: &State, overwrite: bool) -> Result<Option<i64>> {
        let written = self
            .client
            .put_parameter()
            .name(&self.name)
            .r#type(ParameterType::String)
            .value(serde_json::to_string(state)?)
            .description("Who deploys this environment; `cargo xtask unlock` frees it")
            .overwrite(overwrite)
            .send()
            .await;
        match written {
            Ok(answer) => Ok(Some(answer.version())),
            Err(error) if error.code() == Some("ParameterAlreadyExists") => Ok(None),
            Err(error) => Err(told(error, &format!("cannot write the lock {}", self.name))),
        }
    }

    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// Who holds it, since when, and how to break it; or what the SDK says.
    pub async fn acquire(&self, holder: Holder, reporter: &Reporter) -> Result<Lock<'_>> {
        let (state, version) = self.read().await?;
        match judge(&state, now(), &holder.host, &is_gone) {
            Verdict::Take => {}
            Verdict::TakeOver(why) => {
                reporter.say(&format!("the lock of {} is taken over: {why}", self.environment))
            }
            Verdict::Refuse(who) => bail!(self.refusal(&who)),
        }
        match self.write(&State::Held(holder.clone()), version > 0).await? {
            Some(written) if written == version + 1 => Ok(Lock { locks: self, holder }),
            // Somebody wrote in between: the first of us has it, and gets its entry back.
            Some(_) => {
                let first = self.at(version + 1).await?;
                self.write(&first, true).await?;
                bail!(self.refusal("somebody else, who was a moment faster"))
            }
            None => bail!(self.refusal("somebody else, who was a moment faster")),
        }
    }

    /// Who holds it and for how long, in words; nothing where nobody does or it cannot be read.
    pub async fn holder(&self) -> Option<String> {
        let (State::Held(holder), _) = self.read().await.ok()? else { return None };
        Some(format!("{}, for {}", who(&holder), span(now().saturating_sub(holder.since))))
    }

    /// Who works on the environment now, in words; nobody does whose lock could be taken over.
    ///
    /// # Errors
    ///
    /// When the parameter cannot be read.
    pub async fn underway(&self) -> Result<Option<String>> {
        let (state, _) = self.read().await?;
        Ok(match judge(&state, now(), &host(), &is_gone) {
            Verdict::Refuse(who) => Some(who),
            Verdict::Take | Verdict::TakeOver(_) => None,
        })
    }

    fn refusal(&self, who: &str) -> String {
        format!(
            "another deploy or teardown of {0} is under way: {who}. Wait for it, or, when you know that it is dead, free the environment: `cargo xtask unlock --env {0}`",
            self.environment
        )
    }

    /// What a version held.
    async fn at(&self, version: i64) -> Result<State> {
        let mut token: Option<String> = None;
        loop {
            let answer = self
                .client
                .get_parameter_history()
                .name(&self.name)
                .set_next_token(token.take())
                .send()
                .await
                .map_err(|error| told(error, &format!("cannot read the history of {}", self.name)))?;
            if let Some(entry) = answer.parameters().iter().find(|entry| entry.version() == version) {
                return serde_json::from_str(entry.value().unwrap_or_default())
                    .with_context(|| format!("version {version} of {} is not this program's", self.name));
            }
            token = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(State::Free);
            }
        }
    }

    /// Frees it, whoever holds it; who held it, in words.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn unlock(&self) -> Result<Option<String>> {
        let (State::Held(holder), _) = self.read().await? else { return Ok(None) };
        self.write(&State::Free, true).await?;
        Ok(Some(format!("{}, since {} ago", who(&holder), span(now().saturating_sub(holder.since)))))
    }
}

impl Lock<'_> {
    /// Renews the lock for as long as it is this run's; ends when it is not.
    pub async fn keep(&self) -> anyhow::Error {
        let mut doubts = 0;
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            let (state, _) = match self.locks.read().await {
                Ok(read) => read,
                // A failure to read takes the lock from nobody; it goes stale if that lasts.
                Err(_) => continue,
            };
            match state {
                State::Held(held) if held.token == self.holder.token => {
                    doubts = 0;
                    let renewed = Holder { renewed: now(), ..self.holder.clone() };
                    let _ = self.locks.write(&State::Held(renewed), true).await;
                }
                // Somebody may have written over it by mistake and be about to put it back.
                _ if doubts == 0 => doubts = 1,
                State::Held(other) => {
                    return anyhow::anyhow!(
                        "the lock of {} was taken from this run by {}; nothing else is begun. Deploy again when that is done",
                        self.locks.environment,
                        who(&other)
                    );
                }
                State::Free => {
                    return anyhow::anyhow!(
                        "somebody has freed the environment {} under this run; nothing else is begun. Deploy again to go on",
                        self.locks.environment
                    );
                }
            }
        }
    }

    /// Gives the lock back, unless somebody has taken it.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn release(&self) -> Result<()> {
        match self.locks.read().await? {
            (State::Held(held), _) if held.token == self.holder.token => {
                self.locks.write(&State::Free, true).await.map(drop)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(host: &str, since: u64, renewed: u64) -> State {
        State::Held(Holder {
            token: "t".to_owned(),
            doing: "deploy".to_owned(),
            identity: "arn:aws:sts::1:assumed-role/dev/ada".to_owned(),
            person: "Ada".to_owned(),
            host: host.to_owned(),
            pid: 7,
            since,
            renewed,
        })
    }

    #[test]
    fn who_works_is_left_alone_and_who_is_gone_is_not() {
        let lives = |_| false;
        assert_eq!(judge(&State::Free, 1000, "here", &lives), Verdict::Take);
        let Verdict::Refuse(who) = judge(&held("there", 400, 990), 1000, "here", &lives) else { panic!() };
        assert_eq!(
            who,
            "a deploy by Ada, arn:aws:sts::1:assumed-role/dev/ada (process 7 on there), for 10 min"
        );
        // A process of another machine cannot be looked at: its heartbeat tells.
        assert!(matches!(judge(&held("there", 400, 990), 1000, "here", &|_| true), Verdict::Refuse(_)));
        assert!(matches!(judge(&held("there", 400, 800), 1000, "here", &lives), Verdict::TakeOver(_)));
        assert!(matches!(judge(&held("here", 400, 990), 1000, "here", &|_| true), Verdict::TakeOver(_)));
        // Its clock may be ahead of ours.
        assert!(matches!(judge(&held("there", 1010, 1010), 1000, "here", &lives), Verdict::Refuse(_)));
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        for state in [State::Free, held("there", 1, 2)] {
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        }
    }
}
