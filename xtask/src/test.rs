//! `cargo xtask test`: everything that must pass before a change lands.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{codegen, pipeline, programs, promtool, synth, tally, tidy};

/// Everything that must pass before a change lands.
///
/// Everything that must pass before a change lands: formatting, lints, generated code, the house, all tests on
/// the real local parts, and cfn-lint and checkov over every template.
///
/// The parts that tests need are installed below target; nothing is skipped in silence.
///
/// Examples:
///   cargo xtask test
///   cargo xtask test --step tests
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct TestArgs {
    /// Run this step alone: format, lints, codegen, tidy, promtool, tests, cfn-lint, tally, checkov,
    /// pipelines.
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(STEPS.map(|(name, _)| name)))]
    step: Option<String>,
}

type Step = fn(&Path) -> Result<()>;

const STEPS: [(&str, Step); 10] = [
    ("format", format),
    ("codegen", codegen_check),
    ("tidy", house),
    ("lints", lints),
    ("promtool", fetch_promtool),
    ("tests", tests),
    ("cfn-lint", cfn_lint),
    ("tally", second_opinion),
    ("checkov", checkov),
    ("pipelines", pipelines),
];

pub(crate) fn run(arguments: &TestArgs, root: &Path) -> Result<ExitCode> {
    let mut times: Vec<(&str, Duration)> = Vec::new();
    for (name, step) in
        STEPS.iter().filter(|(name, _)| arguments.step.as_ref().is_none_or(|only| only == name))
    {
        println!("== {name}");
        let begun = Instant::now();
        if let Err(error) = step(root) {
            eprintln!("error: {error:#}");
            eprintln!("the step `{name}` failed; run it alone with `cargo xtask test --step {name}`");
            return Ok(ExitCode::FAILURE);
        }
        times.push((name, begun.elapsed()));
    }
    for (name, time) in &times {
        println!("{name:<10} {:>7.1} s", time.as_secs_f64());
    }
    println!("all {} steps passed", times.len());
    Ok(ExitCode::SUCCESS)
}

fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(programs::cargo());
    command.current_dir(root).args(arguments);
    command
}

fn pass(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {what}"))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

fn format(root: &Path) -> Result<()> {
    pass(&mut cargo(root, &["fmt", "--all", "--check"]), "cargo fmt")
}

fn codegen_check(root: &Path) -> Result<()> {
    codegen::check(root)
}

fn house(root: &Path) -> Result<()> {
    tidy::check(root)
}

fn lints(root: &Path) -> Result<()> {
    let arguments = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    pass(&mut cargo(root, &arguments), "cargo clippy")
}

/// A step of its own, so that it can be fetched for a `cargo test` by hand.
fn fetch_promtool(root: &Path) -> Result<()> {
    promtool::find_or_install(root).map(drop)
}

/// The programs first, and the examples, because tests of one crate run those of another.
fn tests(root: &Path) -> Result<()> {
    pass(&mut cargo(root, &["build", "--quiet", "--workspace", "--bins", "--examples"]), "cargo build")?;
    let local = programs::target_directory(root).join("debug/local-environment");
    pass(
        Command::new(&local).arg("--root").arg(programs::local_parts(root)).arg("install"),
        "the installation of the local parts",
    )?;
    let promtool = promtool::find_or_install(root)?;
    pass(
        &mut cargo(root, &["test", "--quiet", "--workspace", "--lib", "--bins", "--tests", "--no-run"]),
        "cargo test",
    )?;
    let lanes = LANES.map(|targets| {
        let mut command = cargo(root, &["test", "--workspace", "--no-fail-fast"]);
        command
            .args(targets)
            .env("FLOODGATE_LOCAL_ENVIRONMENT", &local)
            .env("FLOODGATE_LOCAL_ROOT", programs::local_parts(root))
            .env("FLOODGATE_PROMTOOL", &promtool);
        command
    });
    let outcome = side_by_side(lanes);
    // No target that could be named beside others.
    let documentation = pass(&mut cargo(root, &["test", "--workspace", "--doc"]), "cargo test --doc");
    outcome.and(documentation)
}

/// What is tested side by side: most tests wait for their parts for most of the time. Every target is in just one of them.
const LANES: [&[&str]; 2] = [&["--lib", "--bins", "--test", "[!l-z]*"], &["--test", "[l-z]*"]];

/// Runs commands at the same time and prints what they say, line by line.
fn side_by_side<const N: usize>(commands: [Command; N]) -> Result<()> {
    let outcomes = std::thread::scope(|scope| {
        commands.map(|command| scope.spawn(move || in_whole_lines(command))).map(|running| {
            running.join().unwrap_or_else(|_| bail!("a bug: what reads the output of `cargo test` panicked"))
        })
    });
    outcomes.into_iter().collect()
}

/// Runs one with both of its outputs in one pipe, so that no line of another stands within its own.
fn in_whole_lines(mut command: Command) -> Result<()> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let errors = writer.try_clone().context("cannot share a pipe")?;
    let mut running = command.stdout(writer).stderr(errors).spawn().context("cannot start cargo test")?;
    // It has the pipe's other end as well, which would stay open for ever.
    drop(command);
    for line in BufReader::new(reader).split(b'\n') {
        println!("{}", String::from_utf8_lossy(&line.context("cannot read what cargo test says")?));
    }
    let status = running.wait().context("cannot wait for cargo test")?;
    if !status.success() {
        bail!("cargo test failed ({status})");
    }
    Ok(())
}

/// cfn-lint over every template: no error and no warning.
fn cfn_lint(root: &Path) -> Result<()> {
    let tool = install_tool(root, "cfn-lint")?;
    for (environment, templates) in rendered(root)? {
        // Exit codes: 2 an error, 4 a warning, 8 an information, or sums of them.
        let output =
            Command::new(&tool).args(["--non-zero-exit-code", "warning"]).args(&templates).output()?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        if !output.status.success() {
            bail!(
                "cfn-lint finds errors or warnings in {environment}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        println!("cfn-lint: no error and no warning in the {} templates of {environment}", templates.len());
    }
    Ok(())
}

/// Slips that cfn-lint finds, `check` finds as well.
fn second_opinion(root: &Path) -> Result<()> {
    let tool = install_tool(root, "cfn-lint")?;
    let assembly = platform::render(&platform::Environment::load(root, "prod")?)?;
    tally::tally(root, &tool, &assembly, &programs::target_directory(root).join("tally"))
}

/// checkov over every template: nothing but what is waived in code with a reason.
fn checkov(root: &Path) -> Result<()> {
    let tool = install_tool(root, "checkov")?;
    for (environment, templates) in rendered(root)? {
        let mut command = Command::new(&tool);
        command.args(["--framework", "cloudformation", "--skip-download", "--compact", "--quiet"]);
        // By relative paths: it puts a template's path into what it takes for values, and a path of forty characters
        // is a secret key to it.
        command.current_dir(root);
        for template in &templates {
            command.arg("--file").arg(template.strip_prefix(root).unwrap_or(template));
        }
        let output = command.output()?;
        let told = String::from_utf8_lossy(&output.stdout);
        // Without this line nothing was looked at.
        let Some(figures) = told.lines().find(|line| line.starts_with("Passed checks:")) else {
            bail!(
                "checkov looked at nothing in {environment}: {told}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        if !output.status.success() {
            bail!("checkov finds in {environment}:\n{told}");
        }
        println!("checkov: {environment}: {figures}");
    }
    Ok(())
}

/// The rendered pipelines by their providers' schemas; and slips, which must be found.
fn pipelines(root: &Path) -> Result<()> {
    let tool = install_tool(root, "check-jsonschema")?;
    let place = programs::target_directory(root).join("pipelines");
    std::fs::create_dir_all(&place)?;
    for (provider, schema, name) in [
        (pipeline::Provider::Github, "vendor.github-workflows", "github"),
        (pipeline::Provider::Gitlab, "vendor.gitlab-ci", "gitlab"),
    ] {
        let text = pipeline::rendered(root, provider)?;
        let judge = |name: &str, text: &str| -> Result<std::process::Output> {
            let file = place.join(name).with_extension("yml");
            std::fs::write(&file, text)?;
            let mut command = Command::new(&tool);
            command.args(["--builtin-schema", schema]);
            if provider == pipeline::Provider::Gitlab {
                // GitLab's own tags, such as !reference, are no plain YAML.
                command.args(["--data-transform", "gitlab-ci"]);
            }
            command.arg(&file).output().with_context(|| format!("cannot start {}", tool.display()))
        };
        let output = judge(name, &text)?;
        if !output.status.success() {
            bail!("the pipeline of {name} is not well:\n{}", String::from_utf8_lossy(&output.stdout));
        }
        let slips = pipeline::slips(provider);
        for (right, wrong) in slips {
            anyhow::ensure!(
                text.contains(right),
                "`{right}` is not in the pipeline of {name}: name another slip"
            );
            let output = judge(&format!("{name}-slip"), &text.replacen(right, wrong, 1))?;
            // 1: the file is not well; anything else says nothing of it.
            if output.status.code() != Some(1) {
                bail!(
                    "`{wrong}` instead of `{right}` in the pipeline of {name} is not found ({}):\n{}{}",
                    output.status,
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
        println!("pipelines: {name} is well, and {} slips in it are found", slips.len());
    }
    Ok(())
}

/// The templates of every environment.
fn rendered(root: &Path) -> Result<Vec<(String, Vec<PathBuf>)>> {
    let mut all = Vec::new();
    for environment in platform::Environment::names(root)? {
        synth::synth(root, &environment, 1)?;
        let directory = synth::directory(root, &environment);
        let templates: Vec<PathBuf> = std::fs::read_dir(&directory)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.to_string_lossy().ends_with(".template.json"))
            .collect();
        anyhow::ensure!(!templates.is_empty(), "{environment} rendered no template");
        all.push((environment, templates));
    }
    Ok(all)
}

/// Installs a tool at the versions and hashes of `xtask/tools/NAME.txt`, in a Python environment of its own:
/// two linters need not agree on the versions of what they use.
fn install_tool(root: &Path, name: &str) -> Result<PathBuf> {
    let requirements = root.join("xtask/tools").join(name).with_extension("txt");
    let place = programs::target_directory(root).join("test-tools").join(name);
    let pins = std::fs::read_to_string(&requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let stamp = place.join("installed-requirements.txt");
    let tool = place.join("bin").join(name);
    if tool.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == pins) {
        return Ok(tool);
    }
    println!("installing {name}");
    pass(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place), "python3 -m venv")?;
    pass(
        Command::new(place.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--require-hashes",
                "--requirement",
            ])
            .arg(&requirements),
        "pip install",
    )?;
    std::fs::write(stamp, pins)?;
    Ok(tool)
}
