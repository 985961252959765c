//! The account of a server that refuses to run as root.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use nix::unistd::{User, geteuid};

/// Bits of a mode: to search a directory, and to read and execute.
const SEARCH: u32 = 0o1;
const READ_AND_EXECUTE: u32 = 0o5;

/// Under which user a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// The one that started it.
    Own,
    /// Another, because root started it.
    Other {
        /// The user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

impl Account {
    /// The user's own; `nobody` for root.
    ///
    /// # Errors
    ///
    /// When root starts it and there is no `nobody`.
    pub fn without_root() -> Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self::Own);
        }
        let nobody = User::from_name("nobody")
            .ok()
            .flatten()
            .context("PostgreSQL does not run as root, and there is no user `nobody` to run it as")?;
        Ok(Self::Other { uid: nobody.uid.as_raw(), gid: nobody.gid.as_raw() })
    }

    /// Has a command run under it.
    pub fn run(self, command: &mut Command) -> &mut Command {
        match self {
            Self::Own => command,
            Self::Other { uid, gid } => command.uid(uid).gid(gid),
        }
    }

    /// Gives a file or directory to it.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn take(self, path: &Path) -> Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(uid), Some(gid))
                .with_context(|| format!("cannot give away {}", path.display())),
        }
    }

    /// Whether it may execute the program at an absolute path: all directories above let it through.
    #[must_use]
    pub fn may_execute(self, program: &Path) -> bool {
        let Self::Other { uid, gid } = self else { return true };
        let may = |path: &Path, wanted: u32| {
            fs::metadata(path).is_ok_and(|found| is_granted(&found, (uid, gid), wanted))
        };
        may(program, READ_AND_EXECUTE) && program.ancestors().skip(1).all(|directory| may(directory, SEARCH))
    }
}

/// As the system decides it: the first class that fits counts, and no other.
fn is_granted(found: &fs::Metadata, (uid, gid): (u32, u32), wanted: u32) -> bool {
    let class = if found.uid() == uid {
        6
    } else if found.gid() == gid {
        3
    } else {
        0
    };
    (found.mode() >> class) & wanted == wanted
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_closed_directory_above_keeps_a_program_from_another_account() {
        let open = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
        let inner = open.path().join("inner");
        let program = inner.join("program");
        fs::create_dir(&inner).unwrap();
        fs::write(&program, "").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let stranger = Account::Other { uid: 4_000_000, gid: 4_000_000 };
        for (directory, file, expected) in
            [(0o755, 0o755, true), (0o711, 0o755, true), (0o700, 0o755, false), (0o755, 0o744, false)]
        {
            mode(&inner, directory);
            mode(&program, file);
            assert_eq!(stranger.may_execute(&program), expected, "{directory:o} {file:o}");
            assert!(Account::Own.may_execute(&program));
        }
        mode(&program, 0o055);
        mode(&inner, 0o755);
        let found = fs::metadata(&program).unwrap();
        let owner = Account::Other { uid: found.uid(), gid: found.gid() };
        assert!(!owner.may_execute(&program), "what others may does not count for the owner");
    }
}
