//! Environment to stacks: one module a stack. Rendering is pure.

pub mod cluster;
pub mod environment;
pub mod kafka;
pub mod network;
mod sizes;
pub mod trades;

pub use environment::{Environment, EnvironmentError, Provider};
pub use sizes::{Sizes, sizes};

use cfn::{App, AppProperties, Assembly};

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
    /// A manifest's template is wrong.
    #[error("templates/kubernetes: {0}")]
    Template(String),
}

/// A stack, before it is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackDescription {
    /// Its id.
    pub id: &'static str,
    /// What it holds.
    pub description: &'static str,
}

/// The stacks of every environment, in the order of deploying.
pub const STACKS: [StackDescription; 4] = [
    StackDescription { id: "network", description: network::DESCRIPTION },
    StackDescription { id: "kafka", description: kafka::DESCRIPTION },
    StackDescription { id: "cluster", description: cluster::DESCRIPTION },
    StackDescription { id: "trades", description: trades::DESCRIPTION },
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
        trades::add(&mut app, &id("trades"), environment, &sizes, &kafka, &cluster, copy == 0)?;
    }
    Ok(app.synth()?)
}
