//! `bundle` and `unpack`: a release as an archive, made and opened, without any environment.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Args;
use deploy_engine::{
    assets::store::Store,
    release::{
        bundle,
        index::{Revision, short},
        make::{self, Made, Origin, Rendered},
    },
    report::{Format, Reporter},
};
use serde_json::{Value as Json, json};

use crate::cli::Common;

/// What a release is made of.
#[derive(Args)]
pub(crate) struct BundleArguments {
    /// An assembly's directory and that of its binaries, as `ASSEMBLY=BINARIES`.
    #[arg(long = "of", required = true, value_parser = rendered)]
    environments: Vec<Rendered>,
    /// The commit of the sources.
    #[arg(long, default_value = "")]
    revision: String,
    /// The sources are not as that commit has them.
    #[arg(long)]
    dirty: bool,
    /// The compiler of the binaries, as it names itself.
    #[arg(long)]
    compiler: String,
    /// Where the archive goes.
    #[arg(long)]
    out: PathBuf,
    /// Where to say what came of it, as JSON.
    #[arg(long)]
    answer: Option<PathBuf>,
}

/// What is unpacked where.
#[derive(Args)]
pub(crate) struct UnpackArguments {
    /// The archive, or a directory that one was unpacked to.
    #[arg(long)]
    release: PathBuf,
    /// Below which directory.
    #[arg(long)]
    into: PathBuf,
    /// The environment that it is wanted for.
    #[arg(long)]
    environment: String,
    /// Where to say what came of it, as JSON.
    #[arg(long)]
    answer: PathBuf,
}

fn reporter(common: &Common) -> Reporter {
    Reporter::new(if common.json { Format::Json } else { Format::Human })
}

fn rendered(text: &str) -> Result<Rendered, String> {
    let (assembly, binaries) = text.split_once('=').ok_or("write ASSEMBLY=BINARIES")?;
    Ok(Rendered { assembly: assembly.into(), binaries: binaries.into() })
}

/// Writes an answer for whoever called.
///
/// # Errors
///
/// What the file system says.
pub(crate) fn answer(to: &Path, json: &Json) -> Result<()> {
    std::fs::write(to, json.to_string()).with_context(|| format!("cannot write {}", to.display()))
}

/// Makes a release.
///
/// # Errors
///
/// What cannot be packed or written.
pub(crate) async fn make(common: &Common, arguments: &BundleArguments) -> Result<ExitCode> {
    let reporter = reporter(common);
    let origin = Origin {
        source: Revision { revision: arguments.revision.clone(), clean: !arguments.dirty },
        compiler: arguments.compiler.clone(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let store = Store::new(common.assets.clone());
    let made = make::make(&arguments.environments, origin, &store, &arguments.out, &reporter).await?;
    let Made { file, digest, release } = made;
    let bytes = std::fs::metadata(&file).map_or(0, |file| file.len());
    let environments: Vec<&str> = release.environments.keys().map(String::as_str).collect();
    let text = format!(
        "release {digest}\n  of {} for {}: {} files, {:.1} MB, {}",
        release.source,
        environments.join(", "),
        release.files.len(),
        bytes as f64 / 1e6,
        file.display()
    );
    let json = json!({
        "event": "release", "digest": digest, "file": file, "bytes": bytes, "environments": environments,
        "revision": release.source.revision, "clean": release.source.clean,
    });
    reporter.result(&text, &json);
    if let Some(to) = &arguments.answer {
        answer(to, &json)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Unpacks a release and says where it is.
///
/// # Errors
///
/// What is not as its index says, or that it has nothing for the environment.
pub(crate) fn unpack(common: &Common, arguments: &UnpackArguments) -> Result<ExitCode> {
    let reporter = reporter(common);
    let release = &arguments.release;
    let bundle =
        if release.is_dir() { bundle::verify(release)? } else { bundle::unpack(release, &arguments.into)? };
    bundle.release.of(&arguments.environment)?;
    let text = format!(
        "release {}… of {}, made by version {}: every byte is as its index says",
        short(&bundle.digest),
        bundle.release.source,
        bundle.release.tool_version
    );
    let json = json!({ "event": "unpacked", "digest": bundle.digest, "directory": bundle.directory });
    reporter.result(&text, &json);
    answer(&arguments.answer, &json!({ "digest": bundle.digest, "directory": bundle.directory }))?;
    Ok(ExitCode::SUCCESS)
}
