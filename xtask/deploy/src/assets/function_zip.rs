//! The zip that Lambda takes: one program named `bootstrap`. Pure, and the same bytes for the same program: no time,
//! no owner, one entry.

use std::io::{Cursor, Write};

use zip::{CompressionMethod, DateTime, ZipWriter, result::ZipError, write::SimpleFileOptions};

/// What Lambda's `provided` runtimes start.
pub const ENTRY: &str = "bootstrap";

/// zlib's usual level: beyond it a program shrinks by a percent and takes several times as long.
const COMPRESSION_LEVEL: i64 = 6;

/// Lambda unpacks at most this many bytes, layers included.
pub const UNPACKED_BYTES_MAX: usize = 250 * 1024 * 1024;

/// Packs a program.
///
/// # Errors
///
/// When it is larger than a zip takes.
pub fn function_zip(program: &[u8]) -> Result<Vec<u8>, ZipError> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(COMPRESSION_LEVEL))
        // The first moment that a zip can tell.
        .last_modified_time(DateTime::default())
        .unix_permissions(0o755);
    let mut writer = ZipWriter::new(Cursor::new(Vec::with_capacity(program.len() / 2)));
    writer.start_file(ENTRY, options)?;
    writer.write_all(program)?;
    Ok(writer.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_program_comes_out_as_it_went_in_and_always_the_same(program in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let zipped = function_zip(&program).unwrap();
            prop_assert_eq!(&zipped, &function_zip(&program).unwrap());
            let mut archive = zip::ZipArchive::new(Cursor::new(zipped)).unwrap();
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
        let digest = cfn::assembly::sha256_hex(&function_zip(&program).unwrap());
        assert_eq!(digest, "f0ac028d6c41e444778a03a0863938f7bc18632c74139059a5b2344804d0f5e3");
    }
}
