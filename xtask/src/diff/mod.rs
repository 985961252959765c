//! `cargo xtask diff`.

mod text;

use std::{
    io::{ErrorKind, IsTerminal, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use cfn::diff::{Side, diff};
use platform::Environment;

use crate::deploy;

/// The exit code of `--exit-code` where there are differences.
const DIFFERENT: u8 = 3;

/// What `--help` adds.
const MORE: &str = "\
Stack by stack, resource by resource, property by property. What wants a second look comes first: data at risk, what
CloudFormation will refuse, replacements (also those that others bring about), more access, more of the network.
Without --against it reads the deployed templates and parameters from CloudFormation, and changes nothing there.

Exit codes: 0, also where there are differences; with --exit-code 3 where there are; 1 failed; 2 wrong usage.

Examples:
  cargo xtask diff --env dev
  cargo xtask diff --env prod --against staging
  cargo xtask diff --env prod --against target/assembly/prod --json --exit-code";

/// What sets an environment apart from what is deployed, an assembly or another environment.
///
/// What sets the rendered environment apart from what is deployed, from another assembly or from another environment.
#[derive(Debug, clap::Args)]
#[command(after_help = MORE)]
#[command(verbatim_doc_comment)]
pub(crate) struct DiffArgs {
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// An assembly's directory, or another environment, which is rendered; without it, what is deployed.
    #[arg(long, value_name = "DIR|ENVIRONMENT")]
    against: Option<String>,
    /// One JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Exit with 3 where there are differences.
    #[arg(long)]
    exit_code: bool,
}

pub(crate) fn run(arguments: &DiffArgs, root: &Path) -> Result<ExitCode> {
    let render =
        |name: &str| -> Result<Side> { Ok(platform::render(&Environment::load(root, name)?)?.into()) };
    // What is wrong with the environment is said before anything is read or built.
    let new = render(&arguments.env)?;
    let (old, title) = match &arguments.against {
        Some(against) => (against_side(root, against, &render)?, against.clone()),
        None => (deployed(root, &arguments.env)?, "what is deployed".to_owned()),
    };
    let difference = diff(&old, &new, &cfn_resources::schema);
    if arguments.json {
        let document = serde_json::json!({
            "from": title,
            "to": arguments.env,
            "deployed": arguments.against.is_none(),
            "difference": difference,
        });
        say(&format!("{}\n", serde_json::to_string_pretty(&document)?))?;
    } else {
        let colour = std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        say(&text::render(&difference, &title, &arguments.env, colour))?;
    }
    Ok(if arguments.exit_code && !difference.is_empty() {
        ExitCode::from(DIFFERENT)
    } else {
        ExitCode::SUCCESS
    })
}

/// Prints. A reader that has seen enough, such as `head`, is no failure.
fn say(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("cannot print"),
    }
}

/// A directory that holds an assembly, or an environment by name.
fn against_side(root: &Path, against: &str, render: &dyn Fn(&str) -> Result<Side>) -> Result<Side> {
    let directory = Path::new(against);
    if directory.join(cfn::assembly::MANIFEST_FILE).is_file() {
        return Ok(Side::read(directory)?);
    }
    let names = Environment::names(root)?;
    if names.iter().any(|name| name == against) {
        return render(against);
    }
    if directory.is_dir() {
        bail!("{against} holds no assembly: it has no {}", cfn::assembly::MANIFEST_FILE);
    }
    bail!(
        "--against {against}: there is no such directory and no such environment; the environments are: {}",
        names.join(", ")
    )
}

/// What CloudFormation has, as the deploy engine writes it down. It knows nothing of workloads.
fn deployed(root: &Path, environment: &str) -> Result<Side> {
    let directory = deploy::templates(root, environment)?;
    let mut side = Side::read(&directory)
        .with_context(|| format!("what the deploy engine wrote to {} is no assembly", directory.display()))?;
    side.files = None;
    Ok(side)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    fn fixture(name: &str) -> Side {
        Side::read(&workspace::root().join("xtask/src/diff/fixtures").join(name)).unwrap()
    }

    fn pair() -> cfn::diff::Difference {
        diff(&fixture("before"), &fixture("after"), &cfn_resources::schema)
    }

    #[test]
    fn a_difference_reads_well() {
        insta::assert_snapshot!(text::render(&pair(), "before", "after", false));
    }

    #[test]
    fn a_difference_is_one_document() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&pair()).unwrap());
    }

    #[test]
    fn the_pair_has_one_of_each_callout() {
        use cfn::diff::CalloutKind::*;
        let found: Vec<_> = pair().callouts.iter().map(|callout| callout.kind).collect();
        for kind in [DataAtRisk, Refused, Replacement, Renamed, AccessBroadened, NetworkBroadened] {
            assert!(found.contains(&kind), "{kind:?}");
        }
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let plain = text::render(&pair(), "a", "b", false);
        let coloured = text::render(&pair(), "a", "b", true);
        let escapes = regex::Regex::new("\x1b\\[[0-9;]*m").unwrap();
        assert!(coloured.contains("\x1b[3"));
        assert_eq!(escapes.replace_all(&coloured, ""), plain);
    }

    #[test]
    fn a_template_does_not_steer_the_terminal() {
        let mut evil = fixture("after");
        let resources = evil.templates.get_mut("network").unwrap().get_mut("Resources").unwrap();
        resources["Evil\x1b[2J"] = serde_json::json!({ "Type": "AWS::\x1b[2J", "Properties": { "\x1b[2J": 1 }, "Metadata": { "floodgate:path": "\x1b[2J" } });
        evil.files = Some([("kubernetes/\x1b[2J.yaml".to_owned(), "a\n".to_owned())].into());
        for (old, new) in [(fixture("before"), evil.clone()), (evil, fixture("before"))] {
            let difference = diff(&old, &new, &cfn_resources::schema);
            assert!(!text::render(&difference, "a", "b", false).contains('\x1b'));
        }
    }

    #[test]
    fn an_environment_does_not_differ_from_itself_and_does_from_others() {
        let root = workspace::root();
        let side =
            |name: &str| Side::from(platform::render(&Environment::load(&root, name).unwrap()).unwrap());
        let same = diff(&side("prod"), &side("prod"), &cfn_resources::schema);
        assert!(same.is_empty() && same.callouts.is_empty());
        let said = text::render(&same, "prod", "prod", false);
        assert!(said.contains("no differences"), "{said}");
        let other = diff(&side("prod"), &side("dev"), &cfn_resources::schema);
        assert!(!other.is_empty());
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let root = workspace::root();
        let assembly = platform::render(&Environment::load(&root, "dev").unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        assembly.write(directory.path()).unwrap();
        let read = Side::read(directory.path()).unwrap();
        assert!(diff(&read, &assembly.into(), &cfn_resources::schema).is_empty());
    }

    #[test]
    fn what_is_neither_says_what_there_is() {
        let root = workspace::root();
        let error = against_side(&root, "nowhere", &|_| bail!("not rendered")).unwrap_err().to_string();
        assert!(error.contains("nowhere") && error.contains("staging"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        let path = empty.path().to_string_lossy().into_owned();
        let error = against_side(&root, &path, &|_| bail!("not rendered")).unwrap_err().to_string();
        assert!(error.contains("manifest.json"), "{error}");
    }
}
