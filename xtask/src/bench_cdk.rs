//! `cargo xtask bench deploy --with-cdk`: the same stacks by the AWS CDK's own command line on the same endpoint.
//!
//! An assembly of the CDK's form is written from the rendered templates, so that the CDK runs no app of its own and only
//! what it does to deploy is measured. Stacks whose functions need published code are left out on both sides: the CDK
//! would want its bootstrap bucket for them. Values from other stacks are given as defaults, known beforehand.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use cfn::{
    Assembly, Json,
    assembly::{Manifest, Source, StackEntry},
};
use serde_json::json;

use crate::{
    bench::peak_kib,
    bench_deploy::{Bench, Run, median},
    bench_emulator::Parameters,
    programs,
};

/// The CDK's command line, as npm has it.
const CDK: &str = "aws-cdk@2.1148.1";

/// The version of the assembly's form, which that command line reads.
const CDK_ASSEMBLY_VERSION: &str = "36.0.0";

/// How many stacks both work on at a time: the engine's default.
const CONCURRENCY: &str = "4";

/// How often what changes nothing is run; the CDK takes its time.
const NO_OPS: usize = 3;

/// How often a running process is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Runs both and prints what they took.
pub(crate) fn run(root: &Path, bench: &Bench<'_>, assembly: &Assembly, recorded: &Parameters) -> Result<()> {
    let program = match install(root) {
        Ok(program) => program,
        Err(error) => {
            println!("no comparison with the CDK: {error:#}");
            return Ok(());
        }
    };
    let stacks = comparable(&assembly.manifest);
    let app = bench.directory.join("cdk");
    write(&app, assembly, &stacks, recorded)?;
    let ids: Vec<&str> = stacks.iter().map(|entry| entry.id.as_str()).collect();

    let endpoint_url = bench.anew()?;
    let cdk = || deploy(&program, &bench.directory, &app, &endpoint_url, &assembly.manifest.region);
    let theirs = cdk()?;
    let their_no_op = median((0..NO_OPS).map(|_| cdk()).collect::<Result<Vec<_>>>()?);
    let endpoint_url = bench.anew()?;
    let ours = bench.deploy(&endpoint_url, &ids)?;
    let our_no_op =
        median((0..NO_OPS).map(|_| bench.deploy(&endpoint_url, &ids)).collect::<Result<Vec<_>>>()?);
    println!(
        "{} stacks that need no published code ({}), by `cdk deploy --all --concurrency {CONCURRENCY} --method change-set` of {CDK} and by this engine (debug build)",
        ids.len(),
        ids.join(", ")
    );
    for (what, theirs, ours) in
        [("first deployment", theirs, ours), ("nothing to do", their_no_op, our_no_op)]
    {
        println!(
            "  {what:<16} cdk {:>6.2} s {:>6.1} MiB   engine {:>6.2} s {:>6.1} MiB   {:.1} times as fast, {:.1} times less memory",
            theirs.seconds(),
            theirs.mib(),
            ours.seconds(),
            ours.mib(),
            theirs.seconds() / ours.seconds().max(f64::MIN_POSITIVE),
            theirs.mib() / ours.mib().max(f64::MIN_POSITIVE)
        );
    }
    Ok(())
}

/// The CDK's program, installed by npm when it is not there.
fn install(root: &Path) -> Result<PathBuf> {
    let directory = programs::target_directory(root).join("test-tools/cdk");
    let program = directory.join("node_modules/aws-cdk/bin/cdk");
    let wanted = directory.join(format!("installed-{CDK}"));
    if !wanted.is_file() || !program.is_file() {
        fs::create_dir_all(&directory)?;
        println!("installing {CDK} by npm");
        let output = Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--loglevel", "error", "--prefix"])
            .arg(&directory)
            .arg(CDK)
            .stdin(Stdio::null())
            .output()
            .context("npm cannot be started; Node 20 or newer brings it")?;
        if !output.status.success() {
            bail!("npm cannot install {CDK}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        fs::write(wanted, "")?;
    }
    Ok(program)
}

/// The stacks that need no published code, nor any stack that does.
pub(crate) fn comparable(manifest: &Manifest) -> Vec<&StackEntry> {
    let mut without: BTreeSet<&str> = BTreeSet::new();
    // Producers come first in a manifest.
    for entry in &manifest.stacks {
        let asks = entry.parameters.iter().any(|parameter| matches!(parameter.source, Source::Asset { .. }));
        if asks || entry.depends_on.iter().any(|id| without.contains(id.as_str())) {
            without.insert(&entry.id);
        }
    }
    manifest.stacks.iter().filter(|entry| !without.contains(entry.id.as_str())).collect()
}

/// Writes the stacks as the CDK writes its own.
fn write(app: &Path, assembly: &Assembly, stacks: &[&StackEntry], recorded: &Parameters) -> Result<()> {
    let manifest = &assembly.manifest;
    let _ = fs::remove_dir_all(app);
    fs::create_dir_all(app)?;
    let mut artifacts = serde_json::Map::new();
    let templates = &assembly.templates;
    for entry in stacks {
        let mut template: Json = templates.get(&entry.id).context("a stack without a template")?.clone();
        for (name, value) in recorded.get(&entry.id).into_iter().flatten() {
            if let Some(parameter) = template.pointer_mut(&format!("/Parameters/{name}")) {
                parameter["Default"] = json!(value);
            }
        }
        fs::write(app.join(&entry.template), serde_json::to_vec_pretty(&template)?)?;
        let names = stacks.iter().filter(|other| entry.depends_on.contains(&other.id));
        artifacts.insert(
            entry.name.clone(),
            json!({
                "type": "aws:cloudformation:stack",
                "environment": format!("aws://{}/{}", manifest.account, manifest.region),
                "properties": {
                    "templateFile": entry.template,
                    "terminationProtection": false,
                    "stackName": entry.name,
                    "tags": entry.tags,
                },
                "dependencies": names.map(|other| other.name.as_str()).collect::<Vec<_>>(),
                "displayName": entry.name,
            }),
        );
    }
    let manifest = json!({ "version": CDK_ASSEMBLY_VERSION, "artifacts": artifacts });
    fs::write(app.join("manifest.json"), serde_json::to_vec_pretty(&manifest)?)?;
    Ok(())
}

/// One run of the CDK, with a home of its own: what it notes there is not this machine's user's.
fn deploy(program: &Path, directory: &Path, app: &Path, endpoint_url: &str, region: &str) -> Result<Run> {
    let home = directory.join("cdk-home");
    fs::create_dir_all(&home)?;
    let log = directory.join("cdk.log");
    let output = fs::File::create(&log)?;
    let begun = Instant::now();
    let mut child = Command::new("node")
        .arg(program)
        .args(["deploy", "--all", "--concurrency", CONCURRENCY, "--method", "change-set"])
        .args(["--require-approval", "never", "--no-notices", "--progress", "events", "--ci", "--app"])
        .arg(app)
        .current_dir(directory)
        .env_remove("AWS_PROFILE")
        .env("HOME", &home)
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", region)
        .env("AWS_ENDPOINT_URL", endpoint_url)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("CDK_DISABLE_CLI_TELEMETRY", "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("node cannot be started")?;
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_kib(child.id()));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(LOOK);
    };
    if !status.success() {
        bail!("`cdk deploy` failed ({status}); what it says is in {}", log.display());
    }
    Ok(Run { took: begun.elapsed(), peak_kib: peak })
}
