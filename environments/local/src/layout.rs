//! Where the local environment keeps its things: all below one directory.

use std::path::{Path, PathBuf};

/// The directory of the local environment, `target/local` unless told otherwise.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
    parts: PathBuf,
}

impl Layout {
    /// Below `root`, made absolute. What is installed lies in `parts`, which several environments may share.
    ///
    /// # Errors
    ///
    /// When a directory cannot be made.
    pub fn new(root: &Path, parts: Option<&Path>) -> std::io::Result<Self> {
        let parts = parts.unwrap_or(root);
        std::fs::create_dir_all(root)?;
        std::fs::create_dir_all(parts)?;
        Ok(Self { root: root.canonicalize()?, parts: parts.canonicalize()? })
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of what is installed.
    #[must_use]
    pub fn parts(&self) -> &Path {
        &self.parts
    }

    /// Held by whoever installs.
    #[must_use]
    pub fn install_lock_file(&self) -> PathBuf {
        self.parts.join("install.lock")
    }

    /// The emulator's start script and its modules.
    #[must_use]
    pub fn emulator_code(&self) -> PathBuf {
        self.root.join("emulator-code")
    }

    /// What the emulator keeps.
    #[must_use]
    pub fn emulator_data(&self) -> PathBuf {
        self.root.join("emulator")
    }

    /// What runs, for others to read.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.root.join("state.json")
    }

    /// Held by whoever starts or stops the environment.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// One log a process.
    #[must_use]
    pub fn log_file(&self, process: &str) -> PathBuf {
        self.root.join("logs").join(format!("{process}.log"))
    }

    /// The Python environment of the emulator.
    #[must_use]
    pub fn python(&self) -> PathBuf {
        self.parts.join("python")
    }

    /// The broker's jars.
    #[must_use]
    pub fn kafka_libraries(&self) -> PathBuf {
        self.parts.join("kafka-libraries")
    }

    /// The broker's data.
    #[must_use]
    pub fn kafka_data(&self) -> PathBuf {
        self.root.join("kafka")
    }

    /// PostgreSQL's data and the superuser's password.
    #[must_use]
    pub fn postgresql(&self) -> PathBuf {
        self.root.join("postgresql")
    }

    /// Valkey's data.
    #[must_use]
    pub fn valkey(&self) -> PathBuf {
        self.root.join("valkey")
    }

    /// Programs installed as tools.
    #[must_use]
    pub fn tools(&self) -> PathBuf {
        self.parts.join("tools")
    }

    /// What the runner of event source mappings keeps: how far it came, and how it does.
    #[must_use]
    pub fn event_sources(&self) -> PathBuf {
        self.root.join("event-sources")
    }

    /// The workers' binaries that run, by content.
    #[must_use]
    pub fn binaries(&self) -> PathBuf {
        self.root.join("binaries")
    }
}
