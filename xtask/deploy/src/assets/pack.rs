//! From a binary to what is published: read, judged, stripped, packed, named by content. What was packed before is
//! not packed again.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result, bail};
use cfn::architecture::Architecture;
use serde::{Deserialize, Serialize};

use super::{
    elf::{self, Glibc, LAMBDA_GLIBC, Needs},
    function_zip::{Effort, UNPACKED_BYTES_MAX, function_zip},
    image::{self, BASE_GLIBC, Described},
    store::{Store, sha256_of},
    strip::strip_debug,
};

/// Counted up when packing changes, so that nothing is taken for packed that was packed otherwise.
const RECIPE: u32 = 3;

/// Where the program is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In AWS, on this processor.
    Aws(Architecture),
    /// On this machine.
    Here,
}

/// What a program becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lambda's zip.
    Zip,
    /// A layer of an image.
    Layer,
}

impl Form {
    fn extension(self) -> &'static str {
        match self {
            Form::Zip => "zip",
            Form::Layer => "tar.gz",
        }
    }

    /// The glibc that it finds where it runs in AWS, and who has that.
    fn glibc(self) -> (Glibc, &'static str) {
        match self {
            Form::Zip => (LAMBDA_GLIBC, "provided.al2023"),
            Form::Layer => (BASE_GLIBC, "the base of images"),
        }
    }
}

/// A packed program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// The file in the store, which is its SHA-256 with an ending.
    pub file: String,
    /// The file's SHA-256, in hexadecimal digits.
    pub sha256: String,
    /// The file's size.
    pub bytes: u64,
    /// The program's size in it.
    pub unpacked_bytes: u64,
    /// SHA-256 of what the file unpacks to, in hexadecimal digits: of the program, or of a layer's archive.
    pub unpacked_sha256: String,
    /// Whether debug information was taken out; without a tool that can it is still in.
    pub stripped: bool,
    /// What is to be known of the program, though it is packed.
    pub remarks: Vec<String>,
}

impl Packed {
    /// As the manifest of an image describes it.
    #[must_use]
    pub fn described(&self) -> Described {
        Described {
            digest: format!("sha256:{}", self.sha256),
            bytes: self.bytes,
            unpacked_sha256: self.unpacked_sha256.clone(),
        }
    }
}

/// What speaks against running a program somewhere: what makes it impossible, or what is worth knowing.
///
/// # Errors
///
/// What makes it impossible, and what to do.
pub fn judge(needs: Needs, place: Place, form: Form) -> Result<Vec<String>, String> {
    let (there, whose) = form.glibc();
    let wanted = match place {
        Place::Aws(architecture) => Some(architecture),
        Place::Here => Architecture::named(std::env::consts::ARCH),
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != needs.architecture) {
        return Err(format!(
            "it is built for {} and runs on {wanted}; build it for {}",
            needs.architecture,
            wanted.rust_target()
        ));
    }
    let newer: Option<Glibc> = needs.glibc.filter(|glibc| *glibc > there);
    match (newer, place) {
        (Some(glibc), Place::Aws(_)) => Err(format!(
            "it asks for glibc {glibc}, {whose} has {there}; build it with `cargo zigbuild`, or on a system whose glibc is as old"
        )),
        (Some(glibc), Place::Here) => {
            Ok(vec![format!("asks for glibc {glibc}: it runs here, but not in {whose}, which has {there}")])
        }
        (None, _) => Ok(Vec::new()),
    }
}

/// Packs a program, or finds it packed; the second value says whether it was packed just now.
///
/// # Errors
///
/// When the binary is not there, cannot run where it is wanted, or is too large.
pub fn pack(store: &Store, package: &str, binary: &Path, place: Place, form: Form) -> Result<(Packed, bool)> {
    let digest = store.digest_of(binary)?;
    let to = match place {
        Place::Aws(architecture) => architecture.as_str(),
        Place::Here => "here",
    };
    // A layer holds the program by its package's name.
    let what = match form {
        Form::Zip => "zip".to_owned(),
        Form::Layer => format!("layer-{package}"),
    };
    let note = format!("packed/{digest}-{to}-{what}-{RECIPE}.json");
    if let Some(packed) = store.read::<Packed>(&note)
        && fs::metadata(store.path(&packed.file)).is_ok_and(|file| file.len() == packed.bytes)
    {
        return Ok((packed, false));
    }
    let open = |path: &Path| File::open(path).with_context(|| format!("cannot read {}", path.display()));
    let judged = elf::needs_of(&open(binary)?)
        .map_err(|error| error.to_string())
        .and_then(|needs| judge(needs, place, form));
    let remarks = match judged {
        Ok(remarks) => remarks,
        Err(why) => bail!("{} cannot be {package}: {why}", binary.display()),
    };
    let stripped = store.partial(&format!("{digest}.stripped"));
    if let Some(parent) = stripped.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let is_stripped = strip_debug(binary, &stripped);
    let outcome = pack_program(store, package, if is_stripped { &stripped } else { binary }, place, form);
    // It may not be there.
    let _ = fs::remove_file(&stripped);
    let mut packed = Packed { stripped: is_stripped, ..outcome? };
    packed.remarks.extend(remarks);
    if !is_stripped {
        packed.remarks.push(
            "holds its debug information: neither rustc's tools nor `strip` could take it out".to_owned(),
        );
    }
    store.write_json(&note, &packed)?;
    Ok((packed, true))
}

/// Packs a program as it is. A zip is written as the program is read: a debug build's functions, several at a time,
/// are more than what the engine should hold.
fn pack_program(store: &Store, package: &str, program: &Path, place: Place, form: Form) -> Result<Packed> {
    let unpacked_bytes =
        fs::metadata(program).with_context(|| format!("cannot read {}", program.display()))?.len();
    if form == Form::Zip && unpacked_bytes > UNPACKED_BYTES_MAX {
        bail!(
            "{package} has {} MB, Lambda takes {} MB; build it with --release",
            unpacked_bytes / 1_000_000,
            UNPACKED_BYTES_MAX / 1_000_000
        );
    }
    let what = || format!("cannot pack {package}");
    let partial = store.partial(&format!("{package}.packed"));
    let unpacked_sha256 = match form {
        Form::Zip => {
            let effort = if place == Place::Here { Effort::Least } else { Effort::Usual };
            let zip = File::create(&partial).with_context(what)?;
            function_zip(File::open(program).with_context(what)?, zip, effort).with_context(what)?;
            sha256_of(program)?
        }
        Form::Layer => {
            let layer = image::layer(package, &fs::read(program).with_context(what)?).with_context(what)?;
            fs::write(&partial, &layer.compressed).with_context(what)?;
            layer.unpacked_sha256
        }
    };
    let sha256 = sha256_of(&partial)?;
    let packed = Packed {
        file: format!("{sha256}.{}", form.extension()),
        sha256,
        bytes: fs::metadata(&partial).with_context(what)?.len(),
        unpacked_bytes,
        unpacked_sha256,
        stripped: false,
        remarks: Vec::new(),
    };
    store.adopt(&partial, &packed.file)?;
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use cfn::assembly::sha256_hex;

    use super::*;

    fn needs(architecture: Architecture, glibc: Option<Glibc>) -> Needs {
        Needs { architecture, glibc, dynamic: true }
    }

    #[test]
    fn what_cannot_run_in_aws_is_refused_with_the_way_out() {
        let (arm, intel) = (Architecture::Arm64, Architecture::X86_64);
        let other = judge(needs(intel, None), Place::Aws(arm), Form::Zip).unwrap_err();
        assert!(other.contains("aarch64-unknown-linux-gnu"), "{other}");
        let newer = judge(needs(arm, Some(Glibc(2, 36, 0))), Place::Aws(arm), Form::Zip).unwrap_err();
        assert!(newer.contains("2.36") && newer.contains("2.34") && newer.contains("zigbuild"), "{newer}");
        assert_eq!(judge(needs(arm, Some(LAMBDA_GLIBC)), Place::Aws(arm), Form::Zip), Ok(Vec::new()));
    }

    #[test]
    fn images_have_a_newer_glibc_than_lambda() {
        let needs = needs(Architecture::X86_64, Some(BASE_GLIBC));
        let place = Place::Aws(Architecture::X86_64);
        assert_eq!(judge(needs, place, Form::Layer), Ok(Vec::new()));
        assert!(judge(needs, place, Form::Zip).is_err());
    }

    #[test]
    fn what_runs_here_alone_is_said() {
        let here = Architecture::named(std::env::consts::ARCH).unwrap();
        let remarks = judge(needs(here, Some(Glibc(2, 39, 0))), Place::Here, Form::Zip).unwrap();
        assert!(remarks[0].contains("2.39"), "{remarks:?}");
    }

    #[test]
    fn a_binary_is_packed_once_and_again_when_its_zip_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().to_owned());
        let binary = std::env::current_exe().unwrap();
        let (first, fresh) = pack(&store, "it", &binary, Place::Here, Form::Zip).unwrap();
        assert!(fresh && first.stripped);
        assert!(first.unpacked_bytes < fs::metadata(&binary).unwrap().len());
        let zip = store.path(&first.file);
        assert_eq!(sha256_hex(&fs::read(&zip).unwrap()), first.sha256);
        assert_eq!(pack(&store, "it", &binary, Place::Here, Form::Zip).unwrap(), (first.clone(), false));
        fs::write(&zip, "half").unwrap();
        assert_eq!(pack(&store, "it", &binary, Place::Here, Form::Zip).unwrap(), (first.clone(), true));
        assert_eq!(sha256_hex(&fs::read(&zip).unwrap()), first.sha256);
    }

    #[test]
    fn a_script_is_no_function() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        fs::write(&script, "#!/bin/sh").unwrap();
        let store = Store::new(directory.path().join("assets"));
        let error = pack(&store, "ledger-writer", &script, Place::Here, Form::Zip).unwrap_err().to_string();
        assert!(error.contains("ledger-writer") && error.contains("no 64-bit Linux program"), "{error}");
    }
}
