//! What a binary needs to run: its processor and the newest glibc that it asks for. Reads the few parts of ELF that
//! say so, and no more of a file: a debug build has a hundred megabytes. What is no 64-bit little-endian ELF file is
//! refused.

use std::{fmt, fs::File, os::unix::fs::FileExt};

use cfn::architecture::Architecture;

/// The glibc of Amazon Linux 2023, which is that of `provided.al2023`.
pub const LAMBDA_GLIBC: Glibc = Glibc(2, 34, 0);

/// A glibc version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Glibc(pub u32, pub u32, pub u32);

impl Glibc {
    /// Of a symbol version's name, such as `GLIBC_2.34`.
    #[must_use]
    pub fn of_symbol_version(name: &str) -> Option<Self> {
        // Binaries with relative relocations packed need the loader that knows them.
        if name == "GLIBC_ABI_DT_RELR" {
            return Some(Self(2, 36, 0));
        }
        let mut numbers = name.strip_prefix("GLIBC_")?.split('.').map(str::parse::<u32>);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(Self(major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)))
    }
}

impl fmt::Display for Glibc {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(major, minor, 0) => write!(formatter, "{major}.{minor}"),
            Self(major, minor, patch) => write!(formatter, "{major}.{minor}.{patch}"),
        }
    }
}

/// What a binary needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The processor.
    pub architecture: Architecture,
    /// The newest glibc that a symbol is of; `None` when it needs none.
    pub glibc: Option<Glibc>,
    /// Whether a loader of the system starts it; a static binary needs none.
    pub dynamic: bool,
}

/// Why a file is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Not an ELF file, or not a 64-bit little-endian one.
    #[error("it is no 64-bit Linux program")]
    NotElf,
    /// A processor that AWS does not have.
    #[error("it is for a processor (ELF machine {0}) that neither Lambda nor the cluster has")]
    OtherMachine(u16),
    /// A part lies outside the file.
    #[error("it is damaged: {0} lies outside the file")]
    Damaged(&'static str),
}

const SECTION_VERSION_NEEDS: u32 = 0x6fff_fffe;
const SEGMENT_INTERPRETER: u32 = 3;
const NEED_IS_WEAK: u16 = 2;

/// A longer name of a version is none.
const NAME_BYTES_MAX: usize = 256;

/// Where a binary's bytes come from.
trait Bytes {
    /// Fills `into` from a place on; whether that many bytes are there.
    fn fill(&self, place: usize, into: &mut [u8]) -> bool;
}

impl Bytes for [u8] {
    fn fill(&self, place: usize, into: &mut [u8]) -> bool {
        let found = self.get(place..).and_then(|rest| rest.get(..into.len()));
        found.map(|bytes| into.copy_from_slice(bytes)).is_some()
    }
}

impl Bytes for File {
    fn fill(&self, place: usize, into: &mut [u8]) -> bool {
        self.read_exact_at(into, place as u64).is_ok()
    }
}

/// Reads a binary.
///
/// # Errors
///
/// See [`ElfError`].
pub fn needs(bytes: &[u8]) -> Result<Needs, ElfError> {
    read(bytes)
}

/// Reads a binary from its file.
///
/// # Errors
///
/// See [`ElfError`].
pub fn needs_of(file: &File) -> Result<Needs, ElfError> {
    read(file)
}

fn read<B: Bytes + ?Sized>(file: &B) -> Result<Needs, ElfError> {
    if bytes_at(file, 0, "the header") != Ok(*b"\x7fELF\x02\x01") {
        return Err(ElfError::NotElf);
    }
    let architecture = match u16_at(file, 0x12, "the header")? {
        0x3e => Architecture::X86_64,
        0xb7 => Architecture::Arm64,
        other => return Err(ElfError::OtherMachine(other)),
    };
    let mut dynamic = false;
    let (segments, size) = (offset_at(file, 0x20, "the header")?, u16_at(file, 0x36, "the header")?);
    for number in 0..usize::from(u16_at(file, 0x38, "the header")?) {
        let place = at(segments, number, size)?;
        dynamic |= u32_at(file, place, "a segment")? == SEGMENT_INTERPRETER;
    }
    Ok(Needs { architecture, glibc: newest_glibc(file)?, dynamic })
}

/// The newest version that the section of version needs names, of any library: all are glibc's.
fn newest_glibc<B: Bytes + ?Sized>(file: &B) -> Result<Option<Glibc>, ElfError> {
    let (sections, size) = (offset_at(file, 0x28, "the header")?, u16_at(file, 0x3a, "the header")?);
    let count = usize::from(u16_at(file, 0x3c, "the header")?);
    let mut newest = None;
    for number in 0..count {
        let section = at(sections, number, size)?;
        if u32_at(file, add(section, 4)?, "a section")? != SECTION_VERSION_NEEDS {
            continue;
        }
        let link = u32_at(file, add(section, 0x28)?, "a section")?;
        let link = at(sections, usize::try_from(link).unwrap_or(usize::MAX), size)?;
        let names = offset_at(file, add(link, 0x18)?, "a section")?;
        let mut library = offset_at(file, add(section, 0x18)?, "a section")?;
        loop {
            let versions = u16_at(file, add(library, 2)?, "a version")?;
            let mut version = add(library, offset32_at(file, add(library, 8)?)?)?;
            for _ in 0..versions {
                // A weak need is of functions that the program looks for and can do without.
                if u16_at(file, add(version, 4)?, "a version")? & NEED_IS_WEAK == 0 {
                    let name = &text_at(file, add(names, offset32_at(file, add(version, 8)?)?)?)?;
                    newest = newest.max(Glibc::of_symbol_version(name));
                }
                let next = offset32_at(file, add(version, 12)?)?;
                if next == 0 {
                    break;
                }
                version = add(version, next)?;
            }
            let next = offset32_at(file, add(library, 12)?)?;
            if next == 0 {
                break;
            }
            library = add(library, next)?;
        }
    }
    Ok(newest)
}

fn add(place: usize, offset: usize) -> Result<usize, ElfError> {
    place.checked_add(offset).ok_or(ElfError::Damaged("an offset"))
}

fn at(table: usize, number: usize, size: u16) -> Result<usize, ElfError> {
    add(table, number.checked_mul(usize::from(size)).ok_or(ElfError::Damaged("a table"))?)
}

fn bytes_at<const N: usize, B: Bytes + ?Sized>(
    file: &B,
    place: usize,
    what: &'static str,
) -> Result<[u8; N], ElfError> {
    let mut bytes = [0; N];
    if file.fill(place, &mut bytes) { Ok(bytes) } else { Err(ElfError::Damaged(what)) }
}

fn u16_at<B: Bytes + ?Sized>(file: &B, place: usize, what: &'static str) -> Result<u16, ElfError> {
    bytes_at(file, place, what).map(u16::from_le_bytes)
}

fn u32_at<B: Bytes + ?Sized>(file: &B, place: usize, what: &'static str) -> Result<u32, ElfError> {
    bytes_at(file, place, what).map(u32::from_le_bytes)
}

fn offset32_at<B: Bytes + ?Sized>(file: &B, place: usize) -> Result<usize, ElfError> {
    usize::try_from(u32_at(file, place, "an offset")?).map_err(|_| ElfError::Damaged("an offset"))
}

fn offset_at<B: Bytes + ?Sized>(file: &B, place: usize, what: &'static str) -> Result<usize, ElfError> {
    usize::try_from(u64::from_le_bytes(bytes_at(file, place, what)?)).map_err(|_| ElfError::Damaged(what))
}

/// A text that a zero ends, of a length that names of versions have.
fn text_at<B: Bytes + ?Sized>(file: &B, place: usize) -> Result<String, ElfError> {
    let mut text = Vec::new();
    while text.len() <= NAME_BYTES_MAX {
        match bytes_at::<1, B>(file, add(place, text.len())?, "a name")? {
            [0] => return String::from_utf8(text).map_err(|_| ElfError::Damaged("a name")),
            [byte] => text.push(byte),
        }
    }
    Err(ElfError::Damaged("a name"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_ordered_as_numbers() {
        let of = |name| Glibc::of_symbol_version(name);
        assert!(of("GLIBC_2.9") < of("GLIBC_2.34") && of("GLIBC_2.2.5") < of("GLIBC_2.3"));
        assert_eq!(of("GLIBC_PRIVATE"), None);
        assert_eq!(of("GCC_3.0"), None);
        assert!(of("GLIBC_ABI_DT_RELR") > Some(LAMBDA_GLIBC));
        assert_eq!(of("GLIBC_2.34").unwrap().to_string(), "2.34");
    }

    /// The test's own program, compared with what the C toolchain reads from it.
    #[test]
    fn a_program_is_read_as_the_toolchain_reads_it() {
        let path = std::env::current_exe().unwrap();
        let needs = needs(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(needs_of(&File::open(&path).unwrap()), Ok(needs));
        assert_eq!(needs.architecture.rust_target().split('-').next(), Some(std::env::consts::ARCH));
        assert!(needs.dynamic);
        let output = Command::new("readelf").args(["--version-info", "--wide"]).arg(&path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let expected = text
            .lines()
            .filter(|line| line.contains("Name: GLIBC_") && !line.contains("Flags: WEAK"))
            .filter_map(|line| line.split("Name: ").nth(1)?.split_whitespace().next())
            .filter_map(Glibc::of_symbol_version)
            .max();
        assert!(expected.is_some(), "{text}");
        assert_eq!(needs.glibc, expected);
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert_eq!(needs(b"#!/bin/sh"), Err(ElfError::NotElf));
        assert_eq!(needs(b"\x7fELF\x02\x01"), Err(ElfError::Damaged("the header")));
    }

    proptest! {
        /// Damage is told, never a panic or an endless loop.
        #[test]
        fn damaged_files_are_survived(flips in proptest::collection::vec((0usize..4096, any::<u8>()), 1..40)) {
            let mut file = vec![0u8; 4096];
            let header = b"\x7fELF\x02\x01";
            file[..header.len()].copy_from_slice(header);
            file[0x12] = 0x3e;
            file[0x20] = 0x40;
            file[0x28] = 0x80;
            file[0x36] = 0x38;
            file[0x38] = 2;
            file[0x3a] = 0x40;
            file[0x3c] = 4;
            file[0x84..0x88].copy_from_slice(&SECTION_VERSION_NEEDS.to_le_bytes());
            for (place, value) in flips {
                if place >= 0x14 {
                    file[place] = value;
                }
            }
            let _ = needs(&file);
        }
    }
}
