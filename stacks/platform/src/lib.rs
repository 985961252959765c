//! Environment to stacks: one module a stack. Rendering is pure.

pub mod add_ons;
pub mod cluster;
pub mod delivery;
pub mod environment;
pub mod kafka;
pub mod kubernetes;
pub mod ledger;
pub mod ledger_database;
pub mod lessons;
pub mod network;
pub mod observability;
mod sizes;
pub mod tags;
mod template;
pub mod trades;
mod workload;

pub use environment::{Environment, EnvironmentError, Provider, System};
pub use sizes::{Sizes, sizes};

use cfn::{App, AppProperties, Assembly, Value};
use cfn_resources::iam::Role;

/// Why an environment cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// Its service levels cannot be sized.
    #[error("environment {environment}: {source}")]
    Capacity {
        /// The environment.
        environment: String,
        /// Why.
        source: capacity::CapacityError,
    },
    /// Its construct tree is wrong.
    #[error(transparent)]
    Synth(#[from] cfn::SynthError),
    /// A template is wrong.
    #[error("templates: {0}")]
    Template(String),
    /// A resource of Kubernetes is wrong.
    #[error("manifests: {0}")]
    Manifest(String),
}

/// What the systems' stacks build on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) sizes: &'a Sizes,
    pub(crate) network: &'a constructs::network::Network,
    pub(crate) kafka: &'a kafka::Kafka,
    pub(crate) cluster: &'a cluster::Cluster,
    pub(crate) observability: &'a observability::Observability,
}

/// A stack, before it is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackDescription {
    /// Its id.
    pub id: &'static str,
    /// What it holds.
    pub description: &'static str,
}

/// The stacks of an environment, in the order of deploying.
pub fn stacks(environment: &Environment) -> impl Iterator<Item = StackDescription> {
    let has = |id: &str| match id {
        "trades" => environment.has(System::Trades),
        "ledger" | "ledger-database" => environment.has(System::Ledger),
        "lessons" => environment.has(System::Lessons),
        "tags" => environment.has(System::Tags),
        _ => true,
    };
    STACKS.into_iter().filter(move |stack| has(stack.id))
}

/// The stacks that an environment can have, in the order of deploying. It has those of its systems.
pub const STACKS: [StackDescription; 10] = [
    StackDescription { id: "delivery", description: delivery::DESCRIPTION },
    StackDescription { id: "network", description: network::DESCRIPTION },
    StackDescription { id: "kafka", description: kafka::DESCRIPTION },
    StackDescription { id: "cluster", description: cluster::DESCRIPTION },
    StackDescription { id: "observability", description: observability::DESCRIPTION },
    StackDescription { id: "trades", description: trades::DESCRIPTION },
    StackDescription { id: "ledger-database", description: ledger_database::DESCRIPTION },
    StackDescription { id: "ledger", description: ledger::DESCRIPTION },
    StackDescription { id: "lessons", description: lessons::DESCRIPTION },
    StackDescription { id: "tags", description: tags::DESCRIPTION },
];

/// Renders an environment.
///
/// # Errors
///
/// See [`RenderError`].
pub fn render(environment: &Environment) -> Result<Assembly, RenderError> {
    render_copies(environment, 1)
}

/// Renders an environment several times over, under prefixes of their own: for measuring how rendering
/// grows.
///
/// # Errors
///
/// See [`RenderError`].
pub fn render_copies(environment: &Environment, copies: usize) -> Result<Assembly, RenderError> {
    let sizes = sizes(environment)?;
    let mut app = App::new(AppProperties {
        environment: environment.name.clone(),
        provider: environment.provider.as_str().to_owned(),
        account: environment.account.clone(),
        region: environment.region.clone(),
        prefix: environment.prefix.clone(),
        tags: [
            ("floodgate:environment".to_owned(), environment.name.clone()),
            ("floodgate:managed-by".to_owned(), "floodgate".to_owned()),
        ]
        .into(),
    });
    for copy in 0..copies {
        let id = |name: &str| if copy == 0 { name.to_owned() } else { format!("{name}{copy}") };
        let network = network::add(&mut app, &id("network"), environment);
        let kafka = kafka::add(&mut app, &id("kafka"), environment, &sizes, &network);
        let cluster = cluster::add(&mut app, &id("cluster"), environment, &network);
        let observability =
            observability::add(&mut app, &id("observability"), environment, &kafka, sizes.kafka("brokers"));
        let base = Base {
            environment,
            sizes: &sizes,
            network: &network,
            kafka: &kafka,
            cluster: &cluster,
            observability: &observability,
        };
        // Workloads are of the first copy, and so is what scales and watches them.
        if copy == 0 && environment.provider == Provider::Aws {
            add_ons::add(&mut app, &sizes, &kafka)?;
        }
        if environment.has(System::Trades) {
            trades::add(&mut app, &id("trades"), &base, copy == 0)?;
        }
        if environment.has(System::Ledger) {
            let database = ledger_database::add(&mut app, &id("ledger-database"), &base);
            ledger::add(&mut app, &id("ledger"), &base, &database);
        }
        if environment.has(System::Lessons) {
            lessons::add(&mut app, &id("lessons"), &base);
        }
        if environment.has(System::Tags) {
            tags::add(&mut app, &id("tags"), &base, copy == 0)?;
        }
        delivery::add(&mut app, &id("delivery"), environment, (&cluster, &id("cluster")));
    }
    if let Some(boundary) = &environment.permissions_boundary_arn {
        app.visit(|_, resource| {
            if let Some(role) = resource.as_any_mut().downcast_mut::<Role>() {
                *role = role.clone().permissions_boundary(Value::Literal(boundary.clone()).assume());
            }
        });
    }
    Ok(app.synth()?)
}
