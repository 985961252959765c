//! A bundle: a release's index and its files, as one archive to be carried, and as a directory to be deployed from.
//! Nothing of it is used before every byte of it is known to be what the index says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use cfn::assembly::{AssetKind, Manifest, sha256_hex};
use flate2::read::GzDecoder;

use super::index::{ASSEMBLIES, ASSETS, Entry, INDEX_BYTES_MAX, INDEX_FILE, Release, is_digest, short};
use crate::{assets::pack::Packed, kubernetes::cluster::KUBECONFIG};

/// What a deployment itself writes beside an assembly.
const WORKING: [&str; 3] = ["deploy.lock", "resolved", KUBECONFIG];

/// Where the programs of a local environment's workloads are unpacked to.
const PROGRAMS: &str = "programs";

/// Of a release with all its files, in a directory of its digest's name.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The index.
    pub release: Release,
    /// The index's digest.
    pub digest: String,
    /// The directory.
    pub directory: PathBuf,
}

/// Where a file's content is while a bundle is made.
#[derive(Clone, Debug)]
pub enum Content {
    /// Here.
    Bytes(Vec<u8>),
    /// In that file.
    File(PathBuf),
}

impl Content {
    fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) => fs::read(path).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

/// Writes a release as one archive, as a whole or not at all: the index first, then the files in the order of their
/// names, without times or owners, so that the same release gives the same bytes.
///
/// # Errors
///
/// When a file is not what the index says, or what the file system says.
pub fn write(release: &Release, contents: &BTreeMap<String, Content>, to: &Path) -> Result<()> {
    let partial = to.with_extension(format!("{}.partial", std::process::id()));
    let attempt = || -> Result<()> {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let file = File::create(&partial)?;
        let mut archive = tar::Builder::new(io::BufWriter::new(file));
        append(&mut archive, INDEX_FILE, &release.bytes()?)?;
        for (path, entry) in &release.files {
            let content =
                contents.get(path).with_context(|| format!("the release has no content for {path}"))?;
            let bytes = content.read()?;
            if Entry::of(&bytes) != *entry {
                bail!("{path} changed while the release was made; make it again");
            }
            append(&mut archive, path, &bytes)?;
        }
        archive.into_inner()?.into_inner().map_err(|error| error.into_error())?.sync_all()?;
        fs::rename(&partial, to)?;
        Ok(())
    };
    attempt()
        .inspect_err(|_| drop(fs::remove_file(&partial)))
        .with_context(|| format!("cannot write {}", to.display()))
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    archive.append_data(&mut header, path, bytes)
}

/// Unpacks an archive into a directory of its digest's name below `into`, every byte compared with the index; what is
/// there already is compared as well.
///
/// # Errors
///
/// What is not as the index says, by name; then nothing is left behind.
pub fn unpack(file: &Path, into: &Path) -> Result<Bundle> {
    let what = || format!("{} is no release that can be deployed", file.display());
    let open = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut archive = tar::Archive::new(io::BufReader::new(open));
    let mut entries = archive.entries().with_context(what)?;
    let mut first = entries.next().context("it is empty").with_context(what)?.with_context(what)?;
    if path_of(&first).with_context(what)? != INDEX_FILE || first.size() > INDEX_BYTES_MAX {
        bail!("{}: it does not begin with {INDEX_FILE}", what());
    }
    let mut bytes = Vec::new();
    first.read_to_end(&mut bytes).with_context(what)?;
    let (release, digest) = Release::parse(&bytes).with_context(what)?;
    let named =
        file.file_stem().and_then(|name| name.to_str()).filter(|name| name.len() == 64 && is_digest(name));
    if let Some(named) = named.filter(|named| *named != digest) {
        bail!(
            "{}: its name says that it is {}…, and what it holds is {}…: it was taken for another one. Nothing was touched; fetch the right one",
            what(),
            short(named),
            short(&digest)
        );
    }
    let place = into.join(&digest);
    if place.is_dir() {
        // It was whole when it got this name; what became of it since is told by its bytes.
        if let Ok(there) = verify(&place) {
            return Ok(there);
        }
        fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    let partial = Partial::new(into, &digest)?;
    fs::write(partial.0.join(INDEX_FILE), &bytes)?;
    let mut seen = BTreeSet::new();
    for entry in entries {
        let mut entry = entry.with_context(what)?;
        let path = path_of(&entry).with_context(what)?;
        let Some(expected) = release.files.get(&path).filter(|_| entry.header().entry_type().is_file())
        else {
            bail!("{}: it holds `{path}`, which its index does not name", what());
        };
        let mut content = Vec::new();
        // No more than the index says is read, whatever the archive says.
        (&mut entry).take(expected.bytes.saturating_add(1)).read_to_end(&mut content).with_context(what)?;
        compare(&path, expected, &content).with_context(what)?;
        put(&partial.0.join(&path), &content)?;
        seen.insert(path);
    }
    if let Some(missing) = release.files.keys().find(|path| !seen.contains(*path)) {
        bail!("{}: `{missing}` is missing; it was not carried whole, fetch it again", what());
    }
    partial.done(&place)?;
    Ok(Bundle { release, digest, directory: place })
}

fn path_of(entry: &tar::Entry<'_, impl Read>) -> Result<String> {
    let path = entry.path()?;
    Ok(path.to_str().context("it names a file that is no text")?.to_owned())
}

/// Whether a content is the one that the index names.
///
/// # Errors
///
/// When it is another one, with both digests.
pub fn compare(path: &str, expected: &Entry, content: &[u8]) -> Result<()> {
    let found = Entry::of(content);
    if found != *expected {
        bail!(
            "`{path}` is not what the release says: its SHA-256 is {}…, it should be {}…. It was changed after the release was made, or not carried whole. Nothing was touched; fetch the release again",
            short(&found.sha256),
            short(&expected.sha256)
        );
    }
    Ok(())
}

/// Reads a release's directory and compares every byte with its index.
///
/// # Errors
///
/// What is not as the index says, what is missing, and what is there beside.
pub fn verify(directory: &Path) -> Result<Bundle> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let what = || format!("{} is no release that can be deployed", directory.display());
    let (release, digest) = Release::parse(&read(&directory.join(INDEX_FILE))?).with_context(what)?;
    if directory.file_name().and_then(|name| name.to_str()) != Some(&digest) {
        bail!("{}: its index has the digest {}…: it was changed after it was made", what(), short(&digest));
    }
    for (path, expected) in &release.files {
        compare(path, expected, &read(&directory.join(path))?).with_context(what)?;
    }
    for environment in release.environments.keys() {
        let assembly = directory.join(ASSEMBLIES).join(environment);
        let mut known: BTreeSet<PathBuf> = WORKING.iter().map(|name| assembly.join(name)).collect();
        known.extend(release.files.keys().map(|path| directory.join(path)));
        strangers(&assembly, &known).with_context(what)?;
    }
    Ok(Bundle { release, digest, directory: directory.to_owned() })
}

/// Refuses what no index names: it might be taken for a part of the release.
fn strangers(directory: &Path, known: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry?.path();
        if known.contains(&path) {
            continue;
        }
        if path.is_dir() {
            strangers(&path, known)?;
        } else {
            bail!("{} is there, which the release does not name; remove it", path.display());
        }
    }
    Ok(())
}

/// Writes a file as a whole or not at all.
///
/// # Errors
///
/// What the file system says.
pub fn put(path: &Path, content: &[u8]) -> Result<()> {
    let attempt = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(name);
        fs::write(&partial, content)?;
        fs::rename(partial, path)
    };
    attempt().with_context(|| format!("cannot write {} (is the disk full?)", path.display()))
}

/// A directory that becomes a release's, or goes.
pub(super) struct Partial(pub(super) PathBuf);

impl Partial {
    /// Below `into`, for a release of that digest.
    pub(super) fn new(into: &Path, digest: &str) -> Result<Self> {
        let place = into.join(format!("{digest}.{}.partial", std::process::id()));
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        Ok(Self(place))
    }

    /// Gives it its name. Another run may have been faster: then its is as good.
    pub(super) fn done(self, place: &Path) -> Result<()> {
        match fs::rename(&self.0, place) {
            Err(_) if place.is_dir() => Ok(()),
            other => other.with_context(|| format!("cannot make {}", place.display())),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a renaming there is nothing of this name.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Bundle {
    /// Where an environment's assembly is.
    #[must_use]
    pub fn assembly(&self, environment: &str) -> PathBuf {
        self.directory.join(ASSEMBLIES).join(environment)
    }

    /// Where packed assets are.
    #[must_use]
    pub fn assets(&self) -> PathBuf {
        self.directory.join(ASSETS)
    }

    /// Unpacks the programs of a local environment's workloads, which run as processes here, and those that try its
    /// systems; gives the directory that has each by its package's name. What is there is left alone: a process may run
    /// from it.
    ///
    /// # Errors
    ///
    /// When a layer holds no such program, or what the file system says.
    pub fn programs(&self, manifest: &Manifest) -> Result<PathBuf> {
        let place = self.directory.join(PROGRAMS).join(&manifest.environment);
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        let contents = self.release.of(&manifest.environment)?;
        let mut layers: Vec<(&String, &Packed)> = contents.programs.iter().collect();
        for asset in manifest.assets.iter().filter(|asset| asset.kind == AssetKind::Image) {
            let packed = contents.assets.get(&asset.name).map(|asset| &asset.packed);
            let packed = packed.with_context(|| format!("the release has no asset {}", asset.name))?;
            layers.push((&asset.package, packed));
        }
        for (package, packed) in layers {
            let layer = self.assets().join(&packed.file);
            let program = program_of(&layer, package)
                .with_context(|| format!("{} holds no program {package}", layer.display()))?;
            let to = place.join(package);
            if fs::read(&to).is_ok_and(|there| sha256_hex(&there) == sha256_hex(&program)) {
                continue;
            }
            put(&to, &program)?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        }
        Ok(place)
    }
}

/// The program in a layer.
fn program_of(layer: &Path, package: &str) -> Result<Vec<u8>> {
    let file = File::open(layer)?;
    let mut archive = tar::Archive::new(GzDecoder::new(io::BufReader::new(file)));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let is_it = entry.path()?.file_name().is_some_and(|name| name == package);
        if is_it && entry.header().entry_type().is_file() {
            let mut program = Vec::new();
            entry.read_to_end(&mut program)?;
            return Ok(program);
        }
    }
    bail!("there is none of that name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::index::tests::release;

    fn contents() -> BTreeMap<String, Content> {
        release()
            .files
            .keys()
            .map(|path| {
                let bytes: &[u8] = if path.starts_with(ASSEMBLIES) { b"{}" } else { b"zip" };
                (path.clone(), Content::Bytes(bytes.to_vec()))
            })
            .collect()
    }

    fn packed() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("release.tar");
        write(&release(), &contents(), &file).unwrap();
        (directory, file)
    }

    #[test]
    fn it_is_unpacked_as_it_was_packed_and_the_same_bytes_each_time() {
        let (directory, file) = packed();
        let again = directory.path().join("again.tar");
        write(&release(), &contents(), &again).unwrap();
        assert_eq!(fs::read(&file).unwrap(), fs::read(again).unwrap());

        let into = directory.path().join("releases");
        let bundle = unpack(&file, &into).unwrap();
        assert_eq!(bundle.release, release());
        assert_eq!(fs::read(bundle.assembly("dev").join("manifest.json")).unwrap(), b"{}");
        // Twice is once, and nothing else is left.
        assert_eq!(unpack(&file, &into).unwrap().digest, bundle.digest);
        assert_eq!(fs::read_dir(&into).unwrap().count(), 1);
    }

    #[test]
    fn what_is_named_by_another_digest_is_refused() {
        let (directory, file) = packed();
        let (_, digest) = Release::parse(&release().bytes().unwrap()).unwrap();
        let into = directory.path().join("releases");
        let other = directory.path().join(format!("{}.tar", "0".repeat(64)));
        fs::copy(&file, &other).unwrap();
        let error = unpack(&other, &into).unwrap_err().to_string();
        assert!(
            error.contains(&format!("000000000000…, and what it holds is {}…", short(&digest))),
            "{error}"
        );
        assert!(!into.exists());
        let right = directory.path().join(format!("{digest}.tar"));
        fs::rename(other, &right).unwrap();
        unpack(&right, &into).unwrap();
    }

    #[test]
    fn any_changed_byte_is_refused_and_nothing_is_left() {
        let (directory, file) = packed();
        let whole = fs::read(&file).unwrap();
        let into = directory.path().join("releases");
        // Of the contents of each entry, which begin after a header of 512 bytes.
        let (mut changed, mut place) = (0, 0);
        while place + 512 < whole.len() && whole[place] != 0 {
            let size = std::str::from_utf8(&whole[place + 124..place + 135]).unwrap();
            let size = usize::from_str_radix(size, 8).unwrap();
            let mut other = whole.clone();
            other[place + 512] ^= 1;
            fs::write(&file, &other).unwrap();
            let error = format!("{:#}", unpack(&file, &into).unwrap_err());
            assert!(error.contains("no release that can be deployed"), "{error}");
            changed += 1;
            place += 512 + size.div_ceil(512) * 512;
        }
        assert_eq!(changed, 3, "the index and two files");
        // Cut off anywhere.
        for length in [0, 100, 700, whole.len() / 2] {
            fs::write(&file, &whole[..length]).unwrap();
            assert!(unpack(&file, &into).is_err(), "{length}");
        }
        assert_eq!(fs::read_dir(&into).map_or(0, Iterator::count), 0);
    }

    #[test]
    fn what_the_index_does_not_name_is_refused() {
        let (directory, _) = packed();
        let file = directory.path().join("other.tar");
        let mut archive = tar::Builder::new(File::create(&file).unwrap());
        append(&mut archive, INDEX_FILE, &release().bytes().unwrap()).unwrap();
        append(&mut archive, "assets/more", b"more").unwrap();
        archive.finish().unwrap();
        let error = format!("{:#}", unpack(&file, directory.path()).unwrap_err());
        assert!(error.contains("`assets/more`, which its index does not name"), "{error}");
    }

    #[test]
    fn a_directory_is_compared_again_and_mended_from_the_archive() {
        let (directory, file) = packed();
        let into = directory.path().join("releases");
        let bundle = unpack(&file, &into).unwrap();
        // What a deployment writes is its own affair.
        fs::write(bundle.assembly("dev").join("deploy.lock"), "").unwrap();
        fs::create_dir(bundle.assembly("dev").join("resolved")).unwrap();
        fs::write(bundle.assembly("dev").join(KUBECONFIG), "{}").unwrap();
        verify(&bundle.directory).unwrap();

        let manifest = bundle.assembly("dev").join("manifest.json");
        fs::write(&manifest, "{ }").unwrap();
        let error = format!("{:#}", verify(&bundle.directory).unwrap_err());
        assert!(error.contains("manifest.json` is not what the release says"), "{error}");
        unpack(&file, &into).unwrap();
        verify(&bundle.directory).unwrap();

        let stranger = bundle.assembly("dev").join("kubernetes/more.yaml");
        put(&stranger, b"").unwrap();
        let error = format!("{:#}", verify(&bundle.directory).unwrap_err());
        assert!(error.contains("more.yaml is there"), "{error}");
        fs::remove_file(&stranger).unwrap();

        let renamed = into.join("0".repeat(64));
        fs::rename(&bundle.directory, &renamed).unwrap();
        let error = format!("{:#}", verify(&renamed).unwrap_err());
        assert!(error.contains("has the digest"), "{error}");
    }
}
