//! A program that makes a system's traffic, with the variables that its stacks give it.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{sys::signal, unistd::Pid};
use serde_json::Value as Json;

use crate::{deploy::Target, programs, synth};

/// How long the program may take to send what it has begun.
const END_TIMEOUT: Duration = Duration::from_secs(40);

/// A system's program, not started yet.
pub(crate) struct Program {
    binary: PathBuf,
    name: String,
    variables: Vec<(String, String)>,
    log: PathBuf,
}

impl Program {
    /// Of a system of an environment that runs here; it is built.
    ///
    /// # Errors
    ///
    /// When there is none, or the environment is not local or does not run.
    pub(crate) fn find(root: &Path, environment: &str, system: &str) -> Result<Self> {
        let assembly = synth::synth(root, environment, 1)?;
        let manifest = &assembly.manifest;
        if manifest.provider != "local" {
            bail!("{}", elsewhere(environment, system));
        }
        let entry = manifest.loads.get(system).with_context(|| {
            format!("{environment} has no system `{system}`: `systems` in environments/{environment}.toml names those that it has")
        })?;
        let target = Target::with(root, environment, &[&entry.package])?;
        let endpoint_url = target.endpoint_url(root).with_context(|| {
            format!("{environment} does not run; `cargo xtask deploy --env {environment}` starts it")
        })?;
        let mut engine = target.engine(root, Some(&endpoint_url), false);
        let told = programs::ask(engine.args(["traffic", system]))?;
        let given = told.get("variables").and_then(Json::as_object).into_iter().flatten();
        let mut variables: Vec<(String, String)> =
            given.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
        for (name, value) in [
            ("AWS_ENDPOINT_URL", endpoint_url.as_str()),
            ("AWS_REGION", &manifest.region),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ] {
            variables.push((name.to_owned(), value.to_owned()));
        }
        let logs = programs::local_root(root, environment).join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        Ok(Self {
            binary: programs::target_directory(root).join("debug").join(&entry.package),
            name: entry.package.clone(),
            variables,
            log: logs.join(format!("{}.log", entry.package)),
        })
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// When it cannot be.
    pub(crate) fn start(&self, arguments: &[String]) -> Result<Started> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut copy = log.try_clone()?;
        let mut child = Command::new(&self.binary)
            .args(arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env_remove("AWS_PROFILE")
            .env_remove("AWS_SESSION_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C reaches this program alone, which asks the other one to end: asked twice, it would end at once.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        let out = BufReader::new(child.stdout.take().context("the program has no output")?);
        let told = Arc::new(Mutex::new(Told::default()));
        let last = told.clone();
        let reader = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                last.lock().unwrap_or_else(PoisonError::into_inner).hear(&line, &mut copy);
            }
        });
        let (name, log) = (self.name.clone(), self.log.clone());
        Ok(Started { child, told, reader: Some(reader), ended: false, name, log })
    }
}

/// A program that runs. It does not outlive this.
pub(crate) struct Started {
    child: Child,
    told: Arc<Mutex<Told>>,
    reader: Option<JoinHandle<()>>,
    ended: bool,
    name: String,
    log: PathBuf,
}

impl Started {
    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// When the system does not tell.
    pub(crate) fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// What it told last, such as how much it has sent.
    pub(crate) fn told(&self) -> Option<Json> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).figures.clone()
    }

    /// Asks it to end, waits, and gives what it told at its end.
    ///
    /// # Errors
    ///
    /// When it failed or does not end.
    pub(crate) fn end(&mut self) -> Result<Json> {
        let Ended { figures, complaint } = self.finish()?;
        if let Some(complaint) = complaint {
            bail!("{} failed: {complaint}", self.name);
        }
        figures.with_context(|| format!("{} tells no figures", self.name))
    }

    /// Asks it to end, waits, and gives what it told at its end, also where it failed.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub(crate) fn finish(&mut self) -> Result<Ended> {
        self.ended = true;
        ask_to_end(&mut self.child);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if begun.elapsed() > END_TIMEOUT {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{} did not end; see {}", self.name, self.log.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let Told { figures, complaint } =
            std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner));
        let complaint = (!status.success()).then(|| {
            complaint
                .unwrap_or_else(|| format!("it ended with {status}; see the end of {}", self.log.display()))
        });
        Ok(Ended { figures, complaint })
    }
}

/// What came of a program.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// What it told last.
    pub(crate) figures: Option<Json>,
    /// Why it failed, if it did.
    pub(crate) complaint: Option<String>,
}

/// What a program prints: figures, a line of JSON each, of which the last are those of its end, and its log, which is
/// JSON as well and has levels.
#[derive(Debug, Default, PartialEq)]
struct Told {
    figures: Option<Json>,
    /// The last that went wrong.
    complaint: Option<String>,
}

impl Told {
    /// Takes in a line. What is of the log goes there.
    fn hear(&mut self, line: &str, log: &mut impl Write) {
        let Ok(json) = serde_json::from_str::<Json>(line) else { return };
        match json.get("level").and_then(Json::as_str) {
            None => self.figures = Some(json),
            Some(level) => {
                if level == "ERROR" {
                    self.complaint = json.get("message").and_then(Json::as_str).map(str::to_owned);
                }
                // A log that cannot be written is no reason to end the traffic.
                let _ = writeln!(log, "{line}");
            }
        }
    }
}

/// What to do where the environment is not on this machine.
fn elsewhere(environment: &str, system: &str) -> String {
    let instead = match system {
        "lessons" => format!(
            ". With credentials of its account `lesson-load --rate 200 --for 30s --verify` makes it from any machine: INPUT_STREAM, OUTPUT_STREAM and FAILED_STREAM are what `cargo xtask outputs --env {environment} --stack lessons` tells"
        ),
        "tags" => ". There the load is a Job that waits in the cluster: `kubectl -n tags patch job tag-load -p '{\"spec\":{\"suspend\":false}}'` runs it, and its log ends with what the cache holds".to_owned(),
        _ => String::new(),
    };
    format!("load is made in local environments only; {environment} is one on AWS{instead}")
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.ended {
            ask_to_end(&mut self.child);
            let _ = self.child.wait();
        }
    }
}

/// SIGTERM, to one that still runs: what it has begun is finished.
fn ask_to_end(child: &mut Child) {
    if let (Ok(None), Ok(pid)) = (child.try_wait(), i32::try_from(child.id())) {
        let _ = signal::kill(Pid::from_raw(pid), signal::Signal::SIGTERM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_from_the_log_which_is_kept() {
        let mut told = Told::default();
        let mut log = Vec::new();
        for line in [
            r#"{"events": 1}"#,
            r#"{"level": "WARN", "message": "late"}"#,
            r#"{"level": "ERROR", "message": "2 events are lost"}"#,
            r#"{"events": 2}"#,
            "no json",
        ] {
            told.hear(line, &mut log);
        }
        assert_eq!(told.figures, Some(serde_json::json!({"events": 2})));
        assert_eq!(told.complaint.as_deref(), Some("2 events are lost"));
        assert_eq!(String::from_utf8(log).unwrap().lines().count(), 2);
    }

    #[test]
    fn who_asks_for_load_on_aws_is_told_what_to_do() {
        let told = ["ledger", "lessons", "tags"].map(|system| elsewhere("dev", system));
        insta::assert_snapshot!(told.join("\n"));
    }
}
