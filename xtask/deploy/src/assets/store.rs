//! What is packed on this machine, below `target/assets`: packed files by content, and what is known of the binaries
//! that they were made from, so that nothing is read or packed twice.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result};
use cfn::assembly::sha256_hex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

/// The directory of packed files and of what is known of them.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

/// A file as it was when it was last read: while none of this changes, neither has its content.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    bytes: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Debug, Serialize, Deserialize)]
struct Stamped {
    stamp: Stamp,
    sha256: String,
}

impl Store {
    /// In this directory, which is made when needed.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Where a packed file is or would be.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// The SHA-256 of a file, which is read only when it has changed since it was last asked for.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn digest_of(&self, file: &Path) -> Result<String> {
        let file = fs::canonicalize(file)
            .with_context(|| format!("cannot read {}; `cargo xtask build` makes it", file.display()))?;
        let metadata = fs::metadata(&file)?;
        let stamp = Stamp {
            bytes: metadata.len(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            path: file,
        };
        let known = format!("known/{}.json", sha256_hex(stamp.path.as_os_str().as_encoded_bytes()));
        if let Some(stamped) = self.read::<Stamped>(&known).filter(|stamped| stamped.stamp == stamp) {
            return Ok(stamped.sha256);
        }
        let sha256 = sha256_of(&stamp.path)?;
        self.write_json(&known, &Stamped { stamp, sha256: sha256.clone() })?;
        Ok(sha256)
    }

    /// A note; `None` when there is none or it does not parse.
    pub fn read<T: DeserializeOwned>(&self, note: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.path(note)).ok()?).ok()
    }

    /// Writes a note.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn write_json<T: Serialize>(&self, note: &str, value: &T) -> Result<()> {
        self.write(note, &serde_json::to_vec(value)?)
    }

    /// Writes a file as a whole or not at all.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn write(&self, file: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(file);
        let partial = self.partial(file);
        let attempt = || -> io::Result<()> {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&partial, bytes)?;
            fs::rename(&partial, &path)
        };
        attempt().with_context(|| format!("cannot write {} (is the disk full?)", path.display()))
    }

    /// Takes over a file that was written under [`Self::partial`], as a whole.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn adopt(&self, partial: &Path, file: &str) -> Result<()> {
        let path = self.path(file);
        fs::rename(partial, &path)
            .with_context(|| format!("cannot write {} (is the disk full?)", path.display()))
    }

    /// A name beside a file that no other writer has, in this process or another.
    pub fn partial(&self, file: &str) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.path(&format!("{file}.{}-{number}.partial", std::process::id()))
    }
}

/// The SHA-256 of a file, of which only a little is in memory at a time.
///
/// # Errors
///
/// When it cannot be read.
pub fn sha256_of(path: &Path) -> Result<String> {
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(path)?;
        let mut digest = Sha256::new();
        io::copy(&mut file, &mut digest)?;
        Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_has_another_digest_and_an_unchanged_one_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("assets"));
        let file = directory.path().join("program");
        fs::write(&file, "one").unwrap();
        let first = store.digest_of(&file).unwrap();
        assert_eq!(first, sha256_hex(b"one"));
        // Were it read again, this note would not be believed.
        let note =
            fs::read_dir(directory.path().join("assets/known")).unwrap().next().unwrap().unwrap().path();
        let text = fs::read_to_string(&note).unwrap().replace(&first, "noted");
        fs::write(&note, text).unwrap();
        assert_eq!(store.digest_of(&file).unwrap(), "noted");
        // The same size, written over at once.
        fs::write(&file, "two").unwrap();
        assert_eq!(store.digest_of(&file).unwrap(), sha256_hex(b"two"));
        let message = format!("{:#}", store.digest_of(&directory.path().join("none")).unwrap_err());
        assert!(message.contains("cargo xtask build"), "{message}");
    }
}
