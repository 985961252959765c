//! What an environment costs a month: quantities from its sizes and loads, times prices. An estimate, with its
//! assumptions.

mod systems;

pub use systems::{Inputs, Kafka, Ledger, Lessons, Network, Tags, Trades, pod_hour};

use crate::{figure::CapacityError, prices::Prices};

/// What is estimated apart, in the order in which it is shown: the parts that all use, then the systems.
pub const SYSTEMS: [&str; 7] = ["network", "kafka", "cluster", "trades", "ledger", "lessons", "tags"];

/// Hours of a month, as AWS reckons.
pub const HOURS: f64 = 730.0;

/// Seconds of a month.
pub const SECONDS: f64 = HOURS * 3600.0;

/// What the estimate takes for granted.
pub const ASSUMPTIONS: [&str; 11] = [
    "on demand, without free tiers, savings plans, tax or support; data into and out of AWS is not counted",
    "a month has 730 hours; idle: deployed, and no record flows; load: the service level's sustained load all month",
    "trades: the sustained load is half the peak where the simulated producer sends less",
    "pods: 100 millicores each, 19 on a node of 2 cores; 2 nodes run what every cluster needs",
    "Kafka: each record is written and read once by clients spread evenly over the zones; replication is free",
    "ledger: the database grows by every record and is shown after one month; 4 KiB an I/O, as many read as written",
    "ledger: a serverless database is at its least capacity when idle and at its greatest under load",
    "ledger: the writer's invocations last as long as a write",
    "lessons: tables are billed on demand; Lambda polls each shard once a second and invokes with what is there",
    "tags: each message writes a delta and a snapshot field; the first 10 TB written a month are free",
    "logs: 1 GB a month a system; backups beyond the size of a database are not counted",
];

/// One line of the estimate.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// One of [`SYSTEMS`].
    pub system: &'static str,
    /// What is paid for.
    pub what: String,
    /// The price's name in the table.
    pub price: String,
    /// What is counted, such as `GB-month`.
    pub unit: String,
    /// For one unit.
    pub usd: f64,
    /// Whether the price was read in a price list.
    pub verified: bool,
    /// Units a month when nothing flows.
    pub idle: f64,
    /// Units a month under the service level's load.
    pub load: f64,
    /// How the quantity came about.
    pub because: String,
}

/// An amount a month.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// When nothing flows.
    pub idle: f64,
    /// Under the service level's load.
    pub load: f64,
}

impl Line {
    /// What the line comes to.
    #[must_use]
    pub fn cost(&self) -> Cost {
        Cost { idle: self.idle * self.usd, load: self.load * self.usd }
    }
}

/// An estimate of a month.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// What is paid for, by system.
    pub lines: Vec<Line>,
}

impl Estimate {
    /// What one system costs, or all together.
    #[must_use]
    pub fn total(&self, system: Option<&str>) -> Cost {
        self.lines
            .iter()
            .filter(|line| system.is_none_or(|system| line.system == system))
            .map(Line::cost)
            .fold(Cost::default(), |sum, cost| Cost {
                idle: sum.idle + cost.idle,
                load: sum.load + cost.load,
            })
    }

    /// The lines of one system, or all.
    pub fn lines_of<'a>(&'a self, system: Option<&'a str>) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| system.is_none_or(|system| line.system == system))
    }
}

/// Lines under way.
pub(crate) struct Lines<'a> {
    prices: &'a Prices,
    system: &'static str,
    lines: Vec<Line>,
}

impl Lines<'_> {
    /// A line with its quantities when idle and under load. What is never used has none.
    pub(crate) fn add(
        &mut self,
        what: &str,
        price: &str,
        (idle, load): (f64, f64),
        because: impl Into<String>,
    ) -> Result<(), CapacityError> {
        if idle <= 0.0 && load <= 0.0 {
            return Ok(());
        }
        let found = self.prices.get(price)?;
        self.lines.push(Line {
            system: self.system,
            what: what.to_owned(),
            price: price.to_owned(),
            unit: found.unit.clone(),
            usd: found.usd,
            verified: found.verified,
            idle,
            load,
            because: because.into(),
        });
        Ok(())
    }

    /// A line whose quantity does not follow the load.
    pub(crate) fn fixed(
        &mut self,
        what: &str,
        price: &str,
        quantity: f64,
        because: impl Into<String>,
    ) -> Result<(), CapacityError> {
        self.add(what, price, (quantity, quantity), because)
    }
}

/// Estimates a month.
///
/// # Errors
///
/// When the table lacks a price, with its name.
pub fn estimate(inputs: &Inputs<'_>, prices: &Prices) -> Result<Estimate, CapacityError> {
    let mut lines = Lines { prices, system: SYSTEMS[0], lines: Vec::new() };
    for system in SYSTEMS {
        lines.system = system;
        inputs.lines(system, &mut lines)?;
    }
    Ok(Estimate { lines: lines.lines })
}
