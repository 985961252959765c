//! `cargo xtask pipeline`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use handlebars::Handlebars;
use platform::{Environment, Provider as Stands};
use serde::Serialize;

/// What GitHub's actions are pinned to: commits, because a tag can be moved to other code.
#[derive(Serialize)]
struct Actions {
    checkout: &'static str,
    cache: &'static str,
    upload: &'static str,
    download: &'static str,
    credentials: &'static str,
}

const ACTIONS: Actions = Actions {
    checkout: "actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0",
    cache: "actions/cache@0400d5f644dc74513175e3cd8d07132dd4860809 # v4.2.4",
    upload: "actions/upload-artifact@ea165f8d65b6e75b540449e92b4886f43607fa02 # v4.6.2",
    download: "actions/download-artifact@d3f86a106a0bac45b974a628896c90dbdf5c8093 # v4.3.0",
    credentials: "aws-actions/configure-aws-credentials@a03048d87541d1d9fcf2ecf528a4a65ba9bd7838 # v5.0.0",
};

/// How long a deployment may take beside the bake time of where it comes from, in minutes: a new Kafka cluster takes
/// most of an hour.
const DEPLOY_MINUTES: u32 = 150;

/// Whose pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Provider {
    /// GitHub Actions.
    Github,
    /// GitLab CI.
    Gitlab,
}

impl Provider {
    fn template(self) -> &'static str {
        match self {
            Self::Github => include_str!("../../templates/pipelines/github.yaml.hbs"),
            Self::Gitlab => include_str!("../../templates/pipelines/gitlab.yaml.hbs"),
        }
    }

    /// Where the provider looks for it.
    fn file(self) -> &'static str {
        match self {
            Self::Github => ".github/workflows/deliver.yml",
            Self::Gitlab => ".gitlab-ci.yml",
        }
    }
}

/// Render the pipeline that delivers releases: check, release, then from environment to environment.
///
/// Its stages are the environments on AWS in the order of `promotes_to`. The first gets the release that was made,
/// each other one what the one before runs, by `promote`, so that the same bytes go all the way; the last, and each
/// where data is kept and nothing comes after, wants somebody's approval. Jobs sign in by OIDC with the roles of the
/// stack `delivery`, and no key is kept anywhere; actions are pinned to commits, permissions are the least.
///
/// Examples:
///   cargo xtask pipeline --provider github --out .github/workflows/deliver.yml
///   cargo xtask pipeline --provider gitlab > .gitlab-ci.yml
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct PipelineArgs {
    /// Whose pipeline.
    #[arg(long, value_enum)]
    provider: Provider,
    /// Write it here, instead of printing it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Fail when the file (where the provider looks for it, or `--out`) is not as it would be rendered now.
    #[arg(long)]
    check: bool,
}

/// A stage of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Stage {
    name: String,
    region: String,
    /// Where its releases come from; the first has none.
    from: Option<Origin>,
    /// Whether somebody is asked.
    approval: bool,
    timeout_minutes: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Origin {
    name: String,
    region: String,
}

#[derive(Serialize)]
struct Page<'a> {
    actions: Actions,
    stages: &'a [Stage],
    names: String,
    approved: String,
    gates: bool,
}

pub(crate) fn run(arguments: &PipelineArgs, root: &Path) -> Result<ExitCode> {
    let environments: Vec<Environment> = Environment::names(root)?
        .iter()
        .map(|name| Environment::load(root, name))
        .collect::<Result<_, _>>()?;
    let text = render(arguments.provider, &stages(&environments)?)?;
    let place = root.join(arguments.out.as_deref().unwrap_or(Path::new(arguments.provider.file())));
    if arguments.check {
        let there =
            std::fs::read_to_string(&place).with_context(|| format!("cannot read {}", place.display()))?;
        if there != text {
            bail!("{} is not as it would be rendered now; render it again without --check", place.display());
        }
    } else if arguments.out.is_some() {
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        std::fs::write(&place, text).with_context(|| format!("cannot write {}", place.display()))?;
    } else {
        print!("{text}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Slips that a check by the provider's schema must find: what is right, and how it may be misspelt.
pub(crate) fn slips(provider: Provider) -> &'static [(&'static str, &'static str)] {
    match provider {
        Provider::Github => &[
            ("    runs-on: ", "    run-on: "),
            ("    timeout-minutes: ", "    timeout-minute: "),
            ("      id-token: write", "      id-token: writes"),
            ("      cancel-in-progress: false", "      cancel-in-progres: false"),
        ],
        Provider::Gitlab => &[
            ("  interruptible: true\n  timeout", "  interruptable: true\n  timeout"),
            ("      when: manual", "      when: manually"),
            ("  resource_group: ", "  resource_groups: "),
            ("    expire_in: ", "    expires_in: "),
        ],
    }
}

/// The pipeline as text.
pub(crate) fn rendered(root: &Path, provider: Provider) -> Result<String> {
    let environments: Vec<Environment> = Environment::names(root)?
        .iter()
        .map(|name| Environment::load(root, name))
        .collect::<Result<_, _>>()?;
    render(provider, &stages(&environments)?)
}

fn render(provider: Provider, stages: &[Stage]) -> Result<String> {
    let mut engine = Handlebars::new();
    engine.set_strict_mode(true);
    engine.register_escape_fn(handlebars::no_escape);
    let names = |wanted: &dyn Fn(&&Stage) -> bool| {
        stages.iter().filter(wanted).map(|stage| stage.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let page = Page {
        actions: ACTIONS,
        stages,
        names: names(&|_| true),
        approved: names(&|stage| stage.approval),
        gates: stages.iter().any(|stage| stage.from.is_some()),
    };
    engine.render_template(provider.template(), &page).context("the template of the pipeline does not render")
}

/// The environments that releases go through, in their order.
fn stages(environments: &[Environment]) -> Result<Vec<Stage>> {
    let delivered: Vec<&Environment> = environments
        .iter()
        .filter(|environment| environment.provider == Stands::Aws && environment.delivery.is_some())
        .collect();
    let next =
        |environment: &Environment| environment.delivery.as_ref().and_then(|one| one.promotes_to.clone());
    let find = |name: &str| delivered.iter().copied().find(|environment| environment.name == name);
    let into: Vec<String> = delivered.iter().filter_map(|environment| next(environment)).collect();
    if let Some(unknown) = into.iter().find(|name| find(name).is_none()) {
        bail!("releases go on to {unknown} (`promotes_to`), which is no environment on AWS with [delivery]");
    }
    let firsts: Vec<&Environment> =
        delivered.iter().copied().filter(|environment| !into.contains(&environment.name)).collect();
    let [first] = firsts.as_slice() else {
        let names: Vec<&str> = firsts.iter().map(|environment| environment.name.as_str()).collect();
        bail!(
            "a pipeline begins with one environment, these begin one: {}; say `promotes_to` below [delivery] of the one before each other",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        );
    };
    let mut stages: Vec<Stage> = Vec::new();
    let mut current = Some(*first);
    let mut from: Option<&Environment> = None;
    while let Some(environment) = current {
        if stages.iter().any(|stage| stage.name == environment.name) {
            bail!("releases go round in a circle through {} (`promotes_to`)", environment.name);
        }
        let following = next(environment);
        let bake = from.and_then(|from| from.delivery.as_ref()?.bake_minutes).unwrap_or(0);
        stages.push(Stage {
            name: environment.name.clone(),
            region: environment.region.clone(),
            from: from.map(|from| Origin { name: from.name.clone(), region: from.region.clone() }),
            approval: from.is_some() && following.is_none(),
            timeout_minutes: DEPLOY_MINUTES + bake,
        });
        from = Some(environment);
        current = following.as_deref().and_then(find);
    }
    if let Some(left) = delivered.iter().find(|one| !stages.iter().any(|stage| stage.name == one.name)) {
        bail!("no release gets to {} (`promotes_to` of the others)", left.name);
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    fn environments() -> Vec<Environment> {
        ["dev", "local", "prod", "staging"]
            .map(|name| Environment::load(&workspace::root(), name).unwrap())
            .into()
    }

    #[test]
    fn both_pipelines_read_well() {
        let stages = stages(&environments()).unwrap();
        insta::assert_snapshot!("github", render(Provider::Github, &stages).unwrap());
        insta::assert_snapshot!("gitlab", render(Provider::Gitlab, &stages).unwrap());
    }

    #[test]
    fn nothing_that_could_move_is_in_it() {
        let text = render(Provider::Github, &stages(&environments()).unwrap()).unwrap();
        let used: Vec<&str> = text.lines().filter_map(|line| line.split("uses: ").nth(1)).collect();
        assert!(used.len() > 10);
        for action in used {
            let commit = action.split(['@', ' ']).nth(1).unwrap();
            assert!(commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()), "{action}");
        }
        assert!(!text.contains("secrets.") && !text.contains("arn:aws"), "{text}");
    }

    #[test]
    fn stages_follow_from_who_promotes_to_whom() {
        let names = |environments: &[Environment]| -> Vec<String> {
            stages(environments).unwrap().into_iter().map(|stage| stage.name).collect()
        };
        assert_eq!(names(&environments()), ["dev", "staging", "prod"]);
        let change = |name: &str, to: Option<&str>| {
            let mut all = environments();
            let one = all.iter_mut().find(|environment| environment.name == name).unwrap();
            one.delivery.as_mut().unwrap().promotes_to = to.map(str::to_owned);
            stages(&all).unwrap_err().to_string()
        };
        assert!(change("prod", Some("dev")).contains("these begin one: none"));
        assert!(change("prod", Some("staging")).contains("circle"));
        assert!(change("dev", None).contains("dev, staging"));
        assert!(change("prod", Some("local")).contains("local (`promotes_to`)"));
    }
}
