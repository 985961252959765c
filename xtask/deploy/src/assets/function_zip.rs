//! The zip that Lambda takes: one program named `bootstrap`. Pure, and the same bytes for the same program: no time,
//! no owner, one entry.

use std::io::{Read, Seek, Write};

use zip::{CompressionMethod, DateTime, ZipWriter, result::ZipError, write::SimpleFileOptions};

/// What Lambda's `provided` runtimes start.
pub const ENTRY: &str = "bootstrap";

/// How hard a program is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// For what is uploaded and kept: zlib's usual level. Beyond it a program shrinks by a percent and takes several
    /// times as long.
    Usual,
    /// For what stays on this machine, and is packed anew at every build: a third of the time for some more bytes.
    Least,
}

impl Effort {
    fn level(self) -> i64 {
        match self {
            Effort::Usual => 6,
            Effort::Least => 2,
        }
    }
}

/// So much of a program is read at a time; always as much, so that the same bytes come out.
const CHUNK_BYTES: u64 = 1024 * 1024;

/// Lambda unpacks at most this many bytes, layers included.
pub const UNPACKED_BYTES_MAX: u64 = 250 * 1024 * 1024;

/// Packs a program.
///
/// # Errors
///
/// When it cannot be read, the zip cannot be written, or it is larger than a zip takes.
pub fn function_zip<W: Write + Seek>(mut program: impl Read, zip: W, effort: Effort) -> Result<W, ZipError> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(effort.level()))
        // The first moment that a zip can tell.
        .last_modified_time(DateTime::default())
        .unix_permissions(0o755);
    let mut writer = ZipWriter::new(zip);
    writer.start_file(ENTRY, options)?;
    let mut chunk = Vec::new();
    while program.by_ref().take(CHUNK_BYTES).read_to_end(&mut chunk)? > 0 {
        writer.write_all(&chunk)?;
        chunk.clear();
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn zipped(program: &[u8], effort: Effort) -> Vec<u8> {
        function_zip(program, Cursor::new(Vec::new()), effort).unwrap().into_inner()
    }

    proptest! {
        #[test]
        fn a_program_comes_out_as_it_went_in_and_always_the_same(program in proptest::collection::vec(any::<u8>(), 0..5000), least in any::<bool>()) {
            let effort = if least { Effort::Least } else { Effort::Usual };
            let zip = zipped(&program, effort);
            prop_assert_eq!(&zip, &zipped(&program, effort));
            let mut archive = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
            prop_assert_eq!(archive.len(), 1);
            let mut entry = archive.by_index(0).unwrap();
            prop_assert_eq!(entry.name().unwrap(), ENTRY);
            prop_assert_eq!(entry.unix_mode().map(|mode| mode & 0o777), Some(0o755));
            let mut unpacked = Vec::new();
            entry.read_to_end(&mut unpacked).unwrap();
            prop_assert_eq!(unpacked, program);
        }
    }

    /// Another digest here means that every function is uploaded and deployed again: if that is wanted, change it.
    #[test]
    fn a_zip_is_the_same_on_every_machine() {
        let program: Vec<u8> = (0..100_000u32).flat_map(|n| (n % 251 * n % 7).to_le_bytes()).collect();
        let digest = cfn::assembly::sha256_hex(&zipped(&program, Effort::Usual));
        assert_eq!(digest, "f0ac028d6c41e444778a03a0863938f7bc18632c74139059a5b2344804d0f5e3");
    }
}
