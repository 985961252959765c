//! `cargo xtask pipeline`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use handlebars::Handlebars;
use platform::{
    Environment, Provider as Stands,
    delivery::{PIPELINE_SESSION_MINUTES, gate_session_minutes},
};
use serde::Serialize;

use crate::programs;

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

/// How long a job may take on a runner of GitHub's own, in minutes (GitHub's documentation, "Actions limits").
const HOSTED_JOB_MINUTES_MAX: u32 = 360;

/// The compiler that the sources ask for.
const RUST: &str = env!("CARGO_PKG_RUST_VERSION");

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
    /// The repositories of its charts, as Helm knows them.
    repositories: BTreeSet<String>,
    /// Whether somebody is asked.
    approval: bool,
    timeout_minutes: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Origin {
    name: String,
    region: String,
    /// How long whoever looks there is signed in.
    session_seconds: u32,
}

#[derive(Serialize)]
struct Page<'a> {
    actions: Actions,
    stages: &'a [Stage],
    names: String,
    approved: String,
    gates: bool,
    /// How long whoever deploys is signed in.
    session_seconds: u32,
    rust: &'static str,
    /// The repositories of all charts.
    repositories: String,
    /// What carries commands out, beside this program.
    programs: [&'static str; 2],
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
    let too_long = stages.iter().find(|stage| stage.timeout_minutes > HOSTED_JOB_MINUTES_MAX);
    if let Some(Stage { name, from: Some(from), .. }) = too_long.filter(|_| provider == Provider::Github) {
        bail!(
            "the job of {name} waits while a release bakes in {}, and a job of GitHub's own runners ends after {HOSTED_JOB_MINUTES_MAX} min: `bake_minutes` in environments/{}.toml can be {} at most",
            from.name,
            from.name,
            HOSTED_JOB_MINUTES_MAX - DEPLOY_MINUTES
        );
    }
    let mut engine = Handlebars::new();
    engine.set_strict_mode(true);
    engine.register_escape_fn(handlebars::no_escape);
    let names = |wanted: &dyn Fn(&&Stage) -> bool| {
        stages.iter().filter(wanted).map(|stage| stage.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let repositories: BTreeSet<&str> =
        stages.iter().flat_map(|stage| stage.repositories.iter().map(String::as_str)).collect();
    let page = Page {
        actions: ACTIONS,
        stages,
        names: names(&|_| true),
        approved: names(&|stage| stage.approval),
        gates: stages.iter().any(|stage| stage.from.is_some()),
        session_seconds: PIPELINE_SESSION_MINUTES * 60,
        rust: RUST,
        repositories: repositories.into_iter().collect::<Vec<_>>().join(", "),
        programs: programs::PROGRAMS,
    };
    engine.render_template(provider.template(), &page).context("the template of the pipeline does not render")
}

/// Where an environment's charts come from: a runner that is new knows none of them.
fn repositories(environment: &Environment) -> Result<BTreeSet<String>> {
    let releases = platform::render(environment)?.manifest.helm_releases;
    Ok(releases.iter().filter_map(|release| Some(release.chart.split_once('/')?.0.to_owned())).collect())
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
        let before = from.and_then(|from| Some((from, from.delivery.as_ref()?)));
        let bake = before.map_or(0, |(_, delivery)| delivery.bake());
        stages.push(Stage {
            name: environment.name.clone(),
            region: environment.region.clone(),
            from: before.map(|(from, delivery)| Origin {
                name: from.name.clone(),
                region: from.region.clone(),
                session_seconds: gate_session_minutes(delivery) * 60,
            }),
            repositories: repositories(environment)?,
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

    /// A job that ends while a release bakes, or whose credentials do, would leave it halfway.
    #[test]
    fn jobs_and_their_credentials_last_as_long_as_the_work() {
        let of = |bake: Option<u32>| {
            let mut all = environments();
            let dev = all.iter_mut().find(|environment| environment.name == "dev").unwrap();
            dev.delivery.as_mut().unwrap().bake_minutes = bake;
            stages(&all).unwrap()
        };
        let staging = |bake| of(bake).remove(1);
        let session = |bake| staging(bake).from.unwrap().session_seconds;
        assert_eq!((staging(None).timeout_minutes, session(None)), (DEPLOY_MINUTES + 10, 70 * 60));
        assert_eq!((staging(Some(90)).timeout_minutes, session(Some(90))), (DEPLOY_MINUTES + 90, 150 * 60));
        const { assert!(PIPELINE_SESSION_MINUTES >= DEPLOY_MINUTES) };
        let too_long = of(Some(211));
        let refused = render(Provider::Github, &too_long).unwrap_err().to_string();
        assert!(refused.contains("bakes in dev") && refused.contains("can be 210 at most"), "{refused}");
        render(Provider::Gitlab, &too_long).unwrap();
    }

    /// What is promoted is what this run has made: whatever runs by then in the environment before is something else.
    #[test]
    fn the_digest_is_handed_on_to_every_stage() {
        for (provider, given) in
            [(Provider::Github, "needs: [release"), (Provider::Gitlab, "dependencies: [release]")]
        {
            let text = render(provider, &stages(&environments()).unwrap()).unwrap();
            assert_eq!(text.matches(given).count(), 3, "{text}");
            for line in
                text.lines().filter(|line| line.contains("xtask promote ") || line.contains("xtask deploy "))
            {
                assert!(line.contains("$DIGEST"), "{line}");
            }
        }
    }

    /// A deployment stops where helm does not know a chart's repository, and a runner begins with none.
    #[test]
    fn runners_get_to_know_the_repositories_of_charts() {
        let stages = stages(&environments()).unwrap();
        let expected = ["kedacore", "prometheus-community"].map(str::to_owned);
        let known = BTreeSet::from(expected.clone());
        assert!(stages.iter().all(|stage| stage.repositories == known));
        for provider in [Provider::Github, Provider::Gitlab] {
            let text = render(provider, &stages).unwrap();
            assert!(text.contains("helm repo add") && text.contains(&expected.join(", ")), "{text}");
        }
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
