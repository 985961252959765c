//! A program that makes a system's traffic, with the variables that its stacks give it.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader},
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
            bail!("load is made in local environments only; {environment} is one on AWS");
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
        let told = Arc::new(Mutex::new(None));
        let last = told.clone();
        let reader = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Ok(json) = serde_json::from_str(&line) {
                    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(json);
                }
            }
        });
        let (name, log) = (self.name.clone(), self.log.clone());
        Ok(Started { child, told, reader: Some(reader), ended: false, name, log })
    }
}

/// A program that runs. It does not outlive this.
pub(crate) struct Started {
    child: Child,
    /// The last line that it printed, as JSON.
    told: Arc<Mutex<Option<Json>>>,
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
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks it to end, waits, and gives what it told at its end.
    ///
    /// # Errors
    ///
    /// When it failed or does not end.
    pub(crate) fn end(&mut self) -> Result<Json> {
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
        if !status.success() {
            bail!("{} failed; see the end of {}", self.name, self.log.display());
        }
        self.told().with_context(|| format!("{} tells no figures", self.name))
    }
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
