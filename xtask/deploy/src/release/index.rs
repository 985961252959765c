//! A release's index: what it was made from and every file that it holds, by content. The SHA-256 of the index is the
//! release's digest, so that the digest stands for every byte. There is no time in it: the same sources and binaries
//! give the same digest.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use cfn::{
    assembly::{MANIFEST_FILE, sha256_hex},
    to_canonical_bytes,
};
use serde::{Deserialize, Serialize};

use crate::assets::pack::Packed;

/// The version of the index's format.
pub const SCHEMA_VERSION: u32 = 1;

/// The index's file.
pub const INDEX_FILE: &str = "release.json";

/// Where the assemblies are, a directory an environment.
pub const ASSEMBLIES: &str = "assemblies";

/// Where packed assets are.
pub const ASSETS: &str = "assets";

/// An index is at most so large; what is larger is none.
pub const INDEX_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A file of a release is at most so large, ten times what the largest layer has.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// How much of a digest names a release where there is no other that begins so.
const PREFIX_DIGITS_MIN: usize = 8;

/// How much of a digest is shown.
const SHOWN_DIGITS: usize = 12;

/// A release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of the program that made it.
    pub tool_version: String,
    /// The compiler that the binaries are of, as it names itself.
    pub compiler: String,
    /// What it was made from.
    pub source: Revision,
    /// What each environment gets.
    pub environments: BTreeMap<String, Contents>,
    /// Every file by its path within the release.
    pub files: BTreeMap<String, Entry>,
}

/// A state of the sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// The commit; empty where nobody knows.
    pub revision: String,
    /// Whether the sources were as that commit has them.
    pub clean: bool,
}

impl std::fmt::Display for Revision {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = self.revision.get(..SHOWN_DIGITS).unwrap_or(&self.revision);
        formatter.write_str(if short.is_empty() { "unknown" } else { short })?;
        if self.clean { Ok(()) } else { formatter.write_str("+changes") }
    }
}

/// What an environment gets of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// `aws` or `local`.
    pub provider: String,
    /// Its region.
    pub region: String,
    /// The assembly's own digest.
    pub assembly: String,
    /// Its assets by name.
    pub assets: BTreeMap<String, Asset>,
    /// By package, programs that are deployed nowhere and try whether a system of a local environment works; each is
    /// packed as a layer, below [`ASSETS`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub programs: BTreeMap<String, Packed>,
}

/// A packed asset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asset {
    /// The file, below [`ASSETS`], and what is known of it.
    pub packed: Packed,
    /// The digest of the image that it is a layer of, on AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

impl Entry {
    /// Of a file's content.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self { sha256: sha256_hex(content), bytes: content.len() as u64 }
    }
}

impl Release {
    /// The index's bytes.
    ///
    /// # Errors
    ///
    /// Never for what was read or made here.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        Ok(to_canonical_bytes(&serde_json::to_value(self)?))
    }

    /// Reads an index, and gives it with its digest.
    ///
    /// # Errors
    ///
    /// When it is none, of another version, or says what cannot be.
    pub fn parse(bytes: &[u8]) -> Result<(Self, String)> {
        if bytes.len() as u64 > INDEX_BYTES_MAX {
            bail!("the index has {} bytes, more than one can have", bytes.len());
        }
        let json: serde_json::Value = serde_json::from_slice(bytes).context("it is no index of a release")?;
        let found = json.get("schema_version").and_then(serde_json::Value::as_u64);
        if found != Some(u64::from(SCHEMA_VERSION)) {
            bail!(
                "it was made by another version of this tool (format {}, this one reads {SCHEMA_VERSION}): check out the revision that it was made from",
                found.map_or_else(|| "unknown".to_owned(), |found| found.to_string())
            );
        }
        let release: Self = serde_json::from_value(json).context("it is no index of a release")?;
        release.check()?;
        // Another spelling of the same would have another digest.
        if release.bytes()? != bytes {
            bail!("the index is not as it is written: it was changed after it was made");
        }
        Ok((release, sha256_hex(bytes)))
    }

    /// Whether all that it names is there, and nothing lies outside.
    fn check(&self) -> Result<()> {
        for (path, entry) in &self.files {
            if !is_plain(path) {
                bail!("the index names `{path}`, which is no path within a release");
            }
            if entry.bytes > FILE_BYTES_MAX {
                bail!("the index names `{path}` with {} bytes, more than a file can have", entry.bytes);
            }
        }
        for (environment, contents) in &self.environments {
            let manifest = format!("{ASSEMBLIES}/{environment}/{MANIFEST_FILE}");
            if !self.files.contains_key(&manifest) {
                bail!("the index has no assembly of {environment}");
            }
            let assets = contents.assets.iter().map(|(name, asset)| (name, &asset.packed));
            for (name, packed) in assets.chain(&contents.programs) {
                let there = self.files.get(&format!("{ASSETS}/{}", packed.file));
                if there != Some(&Entry { sha256: packed.sha256.clone(), bytes: packed.bytes }) {
                    bail!("the index names the asset {name} of {environment} and not its file");
                }
            }
        }
        Ok(())
    }

    /// What an environment gets.
    ///
    /// # Errors
    ///
    /// When it is not one of the release's, with those that are.
    pub fn of(&self, environment: &str) -> Result<&Contents> {
        self.environments.get(environment).with_context(|| {
            let known: Vec<&str> = self.environments.keys().map(String::as_str).collect();
            format!(
                "the release holds nothing for {environment}; it is for: {}. Make one that is: `cargo xtask release --env {environment} …`",
                known.join(", ")
            )
        })
    }
}

/// Whether it is a relative path that stays where it begins, below one of the release's two directories.
fn is_plain(path: &str) -> bool {
    let below = [ASSEMBLIES, ASSETS].iter().any(|name| path.starts_with(&format!("{name}/")));
    below
        && path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
        && path.split('/').all(|part| !["", ".", ".."].contains(&part))
}

/// How a digest is shown.
#[must_use]
pub fn short(digest: &str) -> &str {
    digest.get(..SHOWN_DIGITS).unwrap_or(digest)
}

/// Whether a text can name a release by the beginning of its digest.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    (PREFIX_DIGITS_MIN..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn release() -> Release {
        let packed = Packed {
            file: format!("{}.zip", sha256_hex(b"zip")),
            sha256: sha256_hex(b"zip"),
            bytes: 3,
            unpacked_bytes: 7,
            unpacked_sha256: sha256_hex(b"program"),
            stripped: true,
            remarks: Vec::new(),
        };
        let file = format!("{ASSETS}/{}", packed.file);
        let contents = Contents {
            provider: "local".to_owned(),
            region: "eu-west-1".to_owned(),
            assembly: "a".repeat(64),
            assets: BTreeMap::from([("writer".to_owned(), Asset { packed, image: None })]),
            programs: BTreeMap::new(),
        };
        Release {
            schema_version: SCHEMA_VERSION,
            tool_version: "0.1.0".to_owned(),
            compiler: "rustc 1".to_owned(),
            source: Revision { revision: "0123456789abcdef".to_owned(), clean: true },
            environments: BTreeMap::from([("dev".to_owned(), contents)]),
            files: BTreeMap::from([
                ("assemblies/dev/manifest.json".to_owned(), Entry::of(b"{}")),
                (file, Entry::of(b"zip")),
            ]),
        }
    }

    #[test]
    fn it_reads_as_it_was_written_and_its_digest_stands_for_every_byte() {
        let bytes = release().bytes().unwrap();
        let (read, digest) = Release::parse(&bytes).unwrap();
        assert_eq!((read, digest.as_str()), (release(), sha256_hex(&bytes).as_str()));
        let mut spaced = bytes.clone();
        spaced.push(b'\n');
        assert!(Release::parse(&spaced).unwrap_err().to_string().contains("changed after"));
        let other = String::from_utf8(bytes).unwrap().replace("\"schema_version\":1", "\"schema_version\":2");
        assert!(Release::parse(other.as_bytes()).unwrap_err().to_string().contains("format 2"));
    }

    #[test]
    fn what_it_names_is_there_and_nothing_lies_outside() {
        for path in
            ["../x", "/etc/x", "assets/../../x", "assets", "else/x", "assets//x", "assets/a b", "assets/./x"]
        {
            let mut wrong = release();
            wrong.files.insert(path.to_owned(), Entry::of(b""));
            let error = Release::parse(&wrong.bytes().unwrap()).unwrap_err().to_string();
            assert!(error.contains("no path within"), "{path}: {error}");
        }
        let mut without = release();
        without.files.retain(|path, _| path.starts_with(ASSEMBLIES));
        assert!(Release::parse(&without.bytes().unwrap()).unwrap_err().to_string().contains("asset writer"));
        let mut without = release();
        let dev = without.environments.get_mut("dev").unwrap();
        let mut program = dev.assets["writer"].packed.clone();
        program.file = "load.tar.gz".to_owned();
        dev.programs.insert("load".to_owned(), program);
        assert!(Release::parse(&without.bytes().unwrap()).unwrap_err().to_string().contains("asset load"));
        let mut without = release();
        without.files.retain(|path, _| path.starts_with(ASSETS));
        assert!(
            Release::parse(&without.bytes().unwrap()).unwrap_err().to_string().contains("no assembly of dev")
        );
    }

    #[test]
    fn another_environment_is_told_which_there_are() {
        let error = release().of("prod").unwrap_err().to_string();
        assert!(error.contains("nothing for prod; it is for: dev"), "{error}");
    }

    #[test]
    fn a_digest_is_told_from_a_file() {
        assert!(is_digest("0123abcd") && is_digest(&"f".repeat(64)));
        assert!(
            !is_digest("0123abc") && !is_digest("previous") && !is_digest("0123ABCD") && !is_digest("a.tar")
        );
    }

    #[test]
    fn a_revision_says_whether_it_is_all() {
        let of = |revision: &str, clean| Revision { revision: revision.to_owned(), clean }.to_string();
        assert_eq!(of("0123456789abcdef", true), "0123456789ab");
        assert_eq!(of("0123456789abcdef", false), "0123456789ab+changes");
        assert_eq!(of("", false), "unknown+changes");
    }
}
