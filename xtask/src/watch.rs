//! `cargo xtask watch`.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use notify::{EventKind, RecursiveMode, Watcher};

use crate::{consent::Consent, hotswap, programs, synth};

/// A save is over when nothing was written for so long: editors write a file in several steps, and formatters again.
const QUIET: Duration = Duration::from_millis(300);

/// Who keeps writing is not waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(3);

/// How soon an interruption is seen.
const LOOK: Duration = Duration::from_millis(100);

/// The exit code of an interrupted run, as shells have it.
const INTERRUPTED: u8 = 130;

/// Swap new code into a running environment at every save.
///
/// What `deploy --hotswap` does, again and again, until Ctrl-C: cargo compiles
/// what changed, functions and workloads whose program changed are swapped, and
/// what is no code is named. When something does not compile, the compiler says
/// so, and the next save tries again.
///
/// Example: cargo xtask watch --env local
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct WatchArgs {
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// Functions of these stacks alone, by id, and no workloads.
    #[arg(long = "stack", value_name = "STACK")]
    stacks: Vec<String>,
    #[command(flatten)]
    consent: Consent,
}

pub(crate) fn run(arguments: &WatchArgs, root: &Path) -> Result<ExitCode> {
    hotswap::refuse(&synth::synth(root, &arguments.env, 1)?.manifest)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    let saves = Saves::of(root)?;
    println!("what is saved below {} is swapped into {}; Ctrl-C ends it", root.display(), arguments.env);
    // What was saved before now may not run yet.
    swap(arguments, root)?;
    loop {
        match saves.next(&interrupted)? {
            Some(changed) => {
                println!("\nsaved: {}", told(&changed));
                if !interrupted.load(Ordering::Relaxed) {
                    swap(arguments, root)?;
                }
            }
            None => return Ok(ExitCode::from(INTERRUPTED)),
        }
    }
}

/// Runs the command itself anew, by cargo: a change of the stacks is one of this program.
fn swap(arguments: &WatchArgs, root: &Path) -> Result<()> {
    let begun = Instant::now();
    let mut command = Command::new(programs::cargo());
    command.current_dir(root).args(["run", "--quiet", "--package", "xtask", "--", "deploy", "--hotswap"]);
    command.args(["--env", &arguments.env]);
    for stack in &arguments.stacks {
        command.args(["--stack", stack]);
    }
    arguments.consent.pass(&mut command);
    // Ctrl-C reaches it as well; it ends first.
    let status = command.status().context("cannot start cargo")?;
    let seconds = begun.elapsed().as_secs_f64();
    if status.success() {
        println!("{seconds:>6.1}s  from the save on; waiting for the next one");
    } else {
        println!("not swapped; the reason is above. Waiting for the next save");
    }
    Ok(())
}

/// Some of the paths.
fn told(changed: &BTreeSet<PathBuf>) -> String {
    const SHOWN: usize = 3;
    let mut names: Vec<String> = changed.iter().take(SHOWN).map(|path| path.display().to_string()).collect();
    if changed.len() > SHOWN {
        names.push(format!("and {} more", changed.len() - SHOWN));
    }
    names.join(", ")
}

/// What is saved in a workspace.
struct Saves {
    events: Receiver<notify::Result<notify::Event>>,
    root: PathBuf,
    /// Dropped, it tells nothing any more.
    _watcher: notify::RecommendedWatcher,
}

impl Saves {
    /// Watches the workspace without what is built in it: `target` has more directories than all else.
    fn of(root: &Path) -> Result<Self> {
        let root = root.canonicalize().with_context(|| format!("cannot find {}", root.display()))?;
        let (sender, events) = channel();
        let mut watcher = notify::recommended_watcher(sender).context("the system tells of no saves")?;
        let full = "the system watches no more directories; on Linux `sudo sysctl fs.inotify.max_user_watches=524288` allows more";
        watcher.watch(&root, RecursiveMode::NonRecursive).context(full)?;
        for entry in std::fs::read_dir(&root)? {
            let path = entry?.path();
            if path.is_dir() && is_source(&root, &path) {
                watcher.watch(&path, RecursiveMode::Recursive).context(full)?;
            }
        }
        Ok(Self { events, root, _watcher: watcher })
    }

    /// Waits for a save and gives what was written, relative to the workspace; nothing when it was interrupted.
    fn next(&self, interrupted: &AtomicBool) -> Result<Option<BTreeSet<PathBuf>>> {
        let mut changed = BTreeSet::new();
        let mut first: Option<Instant> = None;
        loop {
            if interrupted.load(Ordering::Relaxed) {
                return Ok(None);
            }
            match self.events.recv_timeout(if first.is_some() { QUIET } else { LOOK }) {
                Ok(event) => {
                    let event = event.context("the system no longer tells of saves")?;
                    let before = changed.len();
                    if !matches!(event.kind, EventKind::Access(_)) {
                        let sources = event.paths.iter().filter(|path| is_source(&self.root, path));
                        changed.extend(
                            sources.filter_map(|path| Some(path.strip_prefix(&self.root).ok()?.to_owned())),
                        );
                    }
                    if first.is_none() && changed.len() != before {
                        first = Some(Instant::now());
                    }
                }
                Err(RecvTimeoutError::Timeout) if first.is_some() => return Ok(Some(changed)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the system no longer tells of saves"),
            }
            if first.is_some_and(|first| first.elapsed() > PATIENCE) {
                return Ok(Some(changed));
            }
        }
    }
}

/// Whether what is built may come from a path: nothing hidden, built, of an editor, or for people alone.
fn is_source(root: &Path, path: &Path) -> bool {
    let Ok(relative) = path.strip_prefix(root) else { return false };
    let hidden = |part: &OsStr| part.to_string_lossy().starts_with('.') || part == "__pycache__";
    if relative.as_os_str().is_empty() || relative.starts_with("target") || relative.iter().any(hidden) {
        return false;
    }
    let name = relative.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let of_editors = name.ends_with('~') || name.starts_with('#') || name == "4913";
    let others = ["md", "snap", "new", "swp", "swx", "tmp", "partial", "orig", "rej", "lock"];
    let extension = relative.extension().map(|extension| extension.to_string_lossy().into_owned());
    !of_editors && extension.is_none_or(|extension| !others.contains(&extension.as_str()))
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    #[test]
    fn sources_are_what_is_built_from() {
        let root = Path::new("/w");
        for source in
            ["apps/x/src/main.rs", "environments/local.toml", "templates/a.hbs", "Cargo.toml", "apps"]
        {
            assert!(is_source(root, &root.join(source)), "{source}");
        }
        for other in [
            "",
            "target",
            "target/debug/x.rs",
            ".git/index",
            "apps/.x.rs.swp",
            "apps/x.rs~",
            "apps/4913",
            "README.md",
            "apps/#x.rs#",
            "stacks/a.snap",
            "environments/local/emulator/__pycache__/a.pyc",
            "Cargo.lock",
        ] {
            assert!(!is_source(root, &root.join(other)), "{other}");
        }
        assert!(!is_source(root, Path::new("/elsewhere/x.rs")));
    }

    #[test]
    fn a_save_comes_through_once_and_what_is_built_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        for folder in ["apps/x/src", "target/debug", ".git"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let saves = Saves::of(&root).unwrap();
        let running = AtomicBool::new(false);
        // As editors do it: beside, then over it; and once more, by a formatter.
        let source = root.join("apps/x/src/main.rs");
        fs::write(root.join("apps/x/src/main.rs~"), "old").unwrap();
        fs::write(&source, "fn main() {}").unwrap();
        fs::write(root.join("target/debug/x.rs"), "built").unwrap();
        fs::write(&source, "fn main() {}\n").unwrap();
        let changed = saves.next(&running).unwrap().unwrap();
        assert_eq!(changed, BTreeSet::from([PathBuf::from("apps/x/src/main.rs")]));
        // A crate that comes while it is watched is watched as well.
        fs::create_dir_all(root.join("apps/y/src")).unwrap();
        let changed = saves.next(&running).unwrap().unwrap();
        assert!(changed.contains(Path::new("apps/y")), "{changed:?}");
        fs::write(root.join("apps/y/src/lib.rs"), "").unwrap();
        assert!(saves.next(&running).unwrap().unwrap().contains(Path::new("apps/y/src/lib.rs")));
        // Nothing more is told of what was told; an interruption ends the waiting.
        thread::scope(|scope| {
            scope.spawn(|| {
                fs::write(root.join("target/debug/y.rs"), "built").unwrap();
                fs::write(root.join("README.md"), "read").unwrap();
                running.store(true, Ordering::Relaxed);
            });
            assert_eq!(saves.next(&running).unwrap(), None);
        });
    }
}
