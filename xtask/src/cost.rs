//! `cargo xtask cost`.

use std::{fmt::Write, path::Path, path::PathBuf, process::ExitCode};

use ::capacity::{
    cost::{self, Estimate, Inputs},
    prices::{self, Prices},
};
use anyhow::{Context, Result};
use platform::{Environment, Provider, Sizes};

/// What an environment would cost a month, idle and under load, and what moves that most.
///
/// What an environment would cost a month, idle and under its service level's load: quantities from its sizes, times
/// the prices of stacks/capacity/prices.toml, with the assumptions and with what moves the sum most.
///
/// Example: cargo xtask cost --env prod --system ledger
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct CostArgs {
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// One system, or a part that all use, instead of all.
    #[arg(long, value_parser = cost::SYSTEMS)]
    system: Option<String>,
    /// Another price table.
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// How much each driver is changed by.
const CHANGE: f64 = 1.1;

/// Drivers that are shown.
const DRIVERS_SHOWN: usize = 8;

/// A number of the environment by which the estimate can be moved.
type Driver = (&'static str, fn(&mut Environment, f64));

/// The numbers that scale; those that count a few whole things are moved by their price instead.
const DRIVERS: [Driver; 15] = [
    ("trades.peak_messages_per_second", |e, f| e.trades.peak_messages_per_second *= f),
    ("trades.message_bytes", |e, f| scale(&mut e.trades.message_bytes, f)),
    ("trades.retention_hours", |e, f| scale(&mut e.trades.retention_hours, f)),
    ("trades.batch_processing_seconds", |e, f| e.trades.batch_processing_seconds *= f),
    ("ledger.transactions_per_second", |e, f| e.ledger.transactions_per_second *= f),
    ("ledger.record_bytes", |e, f| scale(&mut e.ledger.record_bytes, f)),
    ("ledger.write_seconds", |e, f| e.ledger.write_seconds *= f),
    ("lessons.records_per_second and its peak", |e, f| {
        e.lessons.records_per_second *= f;
        e.lessons.peak_records_per_second *= f;
    }),
    ("lessons.record_bytes", |e, f| scale(&mut e.lessons.record_bytes, f)),
    ("lessons.users and user_subscriptions", |e, f| {
        e.lessons.users = scaled(e.lessons.users, f);
        e.lessons.user_subscriptions = scaled(e.lessons.user_subscriptions, f);
    }),
    ("lessons.seconds_per_record", |e, f| e.lessons.seconds_per_record *= f),
    ("tags.messages_per_second", |e, f| e.tags.messages_per_second *= f),
    ("tags.message_bytes", |e, f| scale(&mut e.tags.message_bytes, f)),
    ("tags.objects", |e, f| e.tags.objects = scaled(e.tags.objects, f)),
    ("tags.retention_hours", |e, f| scale(&mut e.tags.retention_hours, f)),
];

fn scaled(value: u64, factor: f64) -> u64 {
    (value as f64 * factor).round() as u64
}

fn scale(value: &mut u32, factor: f64) {
    *value = u32::try_from(scaled(u64::from(*value), factor)).unwrap_or(u32::MAX);
}

/// What a driver does to the sum.
#[derive(Debug)]
struct Movement {
    driver: String,
    /// The change under load, in the table's currency; nothing where the environment can't be sized any more.
    change: Option<f64>,
}

/// An estimate with what it was made from.
#[derive(Debug)]
struct Report<'a> {
    environment: &'a Environment,
    prices: Prices,
    system: Option<&'a str>,
    estimate: Estimate,
    movements: Vec<Movement>,
}

pub(crate) fn run(arguments: &CostArgs, root: &Path) -> Result<ExitCode> {
    let environment = Environment::load(root, &arguments.env)?;
    let prices = match &arguments.prices {
        Some(file) => {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            Prices::parse(&text)?
        }
        None => Prices::parse(prices::BUILT_IN)?,
    };
    let report = report(&environment, prices, arguments.system.as_deref())?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report.json())?);
    } else {
        print!("{}", report.text());
    }
    Ok(ExitCode::SUCCESS)
}

fn report<'a>(environment: &'a Environment, prices: Prices, system: Option<&'a str>) -> Result<Report<'a>> {
    let sizes = platform::sizes(environment)?;
    let estimate = cost::estimate(&inputs(environment, &sizes), &prices)?;
    let movements = movements(environment, &sizes, &prices, system, &estimate)?;
    Ok(Report { environment, prices, system, estimate, movements })
}

/// What the estimate needs of an environment and its sizes.
fn inputs<'a>(environment: &'a Environment, sizes: &Sizes) -> Inputs<'a> {
    let Environment { network, ledger, lessons, tags, database, cache, .. } = environment;
    let zones = u64::from(network.zones);
    let largest = lessons.user_bytes.max(lessons.user_subscription_bytes);
    Inputs {
        network: cost::Network {
            zones,
            nat_gateways: if network.nat_gateway_per_zone { zones } else { 1 },
            interface_endpoints: network.interface_endpoints.len() as u64,
        },
        kafka: cost::Kafka {
            brokers: sizes.kafka("brokers"),
            instance_type: &environment.kafka.instance_type,
            volume_gib: sizes.kafka("volume_gib"),
            bytes_per_second: sizes.kafka.load.sustained,
        },
        trades: cost::Trades {
            consumers_min: u64::from(environment.trades.consumers_min).min(sizes.trades("consumers")),
            consumers: sizes.trades("consumers"),
        },
        ledger: cost::Ledger {
            transactions_per_second: ledger.transactions_per_second,
            write_seconds: ledger.write_seconds,
            batch_records: u64::from(ledger.batch_records),
            record_bytes: u64::from(ledger.record_bytes),
            event_pollers: sizes.ledger("event_pollers"),
            function_memory_mib: sizes.ledger("function_memory_mib"),
            instance_class: &database.instance_class,
            min_capacity: database.min_capacity.unwrap_or_default(),
            max_capacity: database.max_capacity.unwrap_or_default(),
            instances: u64::from(database.instances),
            proxy: database.proxy,
        },
        lessons: cost::Lessons {
            records_per_second: lessons.records_per_second,
            record_bytes: u64::from(lessons.record_bytes),
            shards: sizes.lessons("input_shards") + sizes.lessons("output_shards"),
            retention_hours: u64::from(lessons.retention_hours),
            read_units_per_record: lessons.reads_per_record * 0.5 * f64::from(largest.div_ceil(4096)),
            write_units_per_record: lessons.writes_per_record * f64::from(largest.div_ceil(1024)),
            tables_gib: sizes.lessons("user_table_gib") + sizes.lessons("user_subscription_table_gib"),
            recovery: environment.data == platform::environment::Data::Kept,
            function_concurrency: sizes.lessons("function_concurrency"),
            batch_records: u64::from(lessons.batch_records),
            seconds_per_record: lessons.seconds_per_record,
        },
        tags: cost::Tags {
            messages_per_second: tags.messages_per_second,
            message_bytes: u64::from(tags.message_bytes),
            object_bytes: u64::from(tags.object_bytes),
            workers: sizes.tags("workers"),
            nodes: sizes.tags("shards") * (1 + sizes.tags("replicas_per_shard")),
            node_type: &cache.node_type,
            memory_gib: sizes.tags("memory_gib"),
            snapshot_retention_days: u64::from(cache.snapshot_retention_days),
        },
    }
}

/// What each driver alone does to the sum under load, the most first.
fn movements(
    environment: &Environment,
    sizes: &Sizes,
    prices: &Prices,
    system: Option<&str>,
    estimate: &Estimate,
) -> Result<Vec<Movement>> {
    let base = estimate.total(system).load;
    let mut movements = Vec::new();
    for (key, change) in DRIVERS {
        let mut changed = environment.clone();
        change(&mut changed, CHANGE);
        let sum = match platform::sizes(&changed) {
            Ok(sizes) => Some(cost::estimate(&inputs(&changed, &sizes), prices)?.total(system).load),
            Err(_) => None,
        };
        movements.push(Movement { driver: key.to_owned(), change: sum.map(|sum| sum - base) });
    }
    let mut names: Vec<&str> = estimate.lines_of(system).map(|line| line.price.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let sum =
            cost::estimate(&inputs(environment, sizes), &prices.scaled(name, CHANGE))?.total(system).load;
        movements.push(Movement { driver: format!("price or number of {name}"), change: Some(sum - base) });
    }
    movements.sort_by(|one, other| {
        let size = |movement: &Movement| movement.change.unwrap_or_default().abs();
        size(other).total_cmp(&size(one))
    });
    Ok(movements)
}

impl Report<'_> {
    fn groups(&self) -> impl Iterator<Item = &'static str> + '_ {
        cost::SYSTEMS.into_iter().filter(|system| self.system.is_none_or(|wanted| wanted == *system))
    }

    fn text(&self) -> String {
        let Prices { currency, region, date, .. } = &self.prices;
        let mut text = String::new();
        let mut say = |line: std::fmt::Arguments<'_>| {
            // Writing into a string does not fail.
            let _ = writeln!(text, "{line}");
        };
        say(format_args!("{}: {currency} a month, prices of {region} as of {date}", self.environment.name));
        if self.environment.provider == Provider::Local {
            say(format_args!(
                "It runs on this machine and costs nothing; this is what it would cost on AWS."
            ));
        } else if self.environment.region != *region {
            say(format_args!("It is in {}: prices there differ.", self.environment.region));
        }
        for system in self.groups() {
            let total = self.estimate.total(Some(system));
            say(format_args!("\n{system:<70} {:>10} {:>10}", "idle", "load"));
            for line in self.estimate.lines_of(Some(system)) {
                let cost = line.cost();
                let doubt = if line.verified { ' ' } else { '?' };
                let price = format!("{} a {}{doubt}", line.usd, line.unit);
                say(format_args!(
                    "  {:<34} {price:<33} {:>10.2} {:>10.2}  {}",
                    line.what, cost.idle, cost.load, line.because
                ));
            }
            say(format_args!("  {:<68} {:>10.2} {:>10.2}", "together", total.idle, total.load));
        }
        let total = self.estimate.total(self.system);
        if self.system.is_none() {
            say(format_args!("\n{:<70} {:>10.2} {:>10.2}", "total", total.idle, total.load));
        }
        let doubtful: f64 = self
            .estimate
            .lines_of(self.system)
            .filter(|line| !line.verified)
            .map(|line| line.cost().load)
            .sum();
        if total.load > 0.0 {
            say(format_args!(
                "\n? is a price that is not verified: {:.0}% of the sum under load hangs on such prices.",
                doubtful / total.load * 100.0
            ));
        }
        say(format_args!("\nwhat moves it most: 10% more of each alone, under load"));
        let moving = self.movements.iter().filter_map(|movement| Some((movement, movement.change?)));
        for (movement, change) in moving.filter(|(_, change)| change.abs() >= 0.005).take(DRIVERS_SHOWN) {
            say(format_args!("  {change:>+10.2}  {}", movement.driver));
        }
        let refused: Vec<_> = self
            .movements
            .iter()
            .filter(|movement| movement.change.is_none())
            .map(|movement| movement.driver.as_str())
            .collect();
        if !refused.is_empty() {
            say(format_args!("  what no longer fits with 10% more: {}", refused.join(", ")));
        }
        say(format_args!("\nassumptions"));
        for assumption in cost::ASSUMPTIONS {
            say(format_args!("  - {assumption}"));
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let systems: Vec<_> = self
            .groups()
            .map(|system| {
                let total = self.estimate.total(Some(system));
                let lines: Vec<_> = self
                    .estimate
                    .lines_of(Some(system))
                    .map(|line| {
                        let cost = line.cost();
                        serde_json::json!({
                            "what": line.what, "price": line.price, "unit": line.unit, "unit_price": line.usd,
                            "verified": line.verified, "because": line.because,
                            "quantity": {"idle": line.idle, "load": line.load},
                            "cost": {"idle": cost.idle, "load": cost.load},
                        })
                    })
                    .collect();
                serde_json::json!({
                    "system": system, "cost": {"idle": total.idle, "load": total.load}, "lines": lines,
                })
            })
            .collect();
        let movements: Vec<_> = self
            .movements
            .iter()
            .map(|movement| serde_json::json!({"driver": movement.driver, "change": movement.change}))
            .collect();
        let total = self.estimate.total(self.system);
        serde_json::json!({
            "environment": self.environment.name,
            "prices": {"currency": self.prices.currency, "region": self.prices.region, "date": self.prices.date},
            "systems": systems,
            "total": {"idle": total.idle, "load": total.load},
            "ten_percent_more": movements,
            "assumptions": cost::ASSUMPTIONS,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    fn environment(name: &str) -> Environment {
        Environment::load(&workspace::root(), name).unwrap()
    }

    fn built_in() -> Prices {
        Prices::parse(prices::BUILT_IN).unwrap()
    }

    #[test]
    fn the_estimate_of_an_environment_reads_well() {
        insta::assert_snapshot!(report(&environment("prod"), built_in(), None).unwrap().text());
    }

    #[test]
    fn one_system_is_estimated_alone() {
        let environment = environment("dev");
        insta::assert_snapshot!(report(&environment, built_in(), Some("ledger")).unwrap().text());
    }

    #[test]
    fn every_environment_has_its_prices() {
        for name in Environment::names(&workspace::root()).unwrap() {
            let environment = environment(&name);
            let report = report(&environment, built_in(), None).unwrap();
            let total = report.estimate.total(None);
            assert!(total.idle > 0.0 && total.load >= total.idle, "{name}");
            assert_eq!(report.json()["systems"].as_array().unwrap().len(), cost::SYSTEMS.len());
        }
    }

    #[test]
    fn a_driver_moves_what_it_is_part_of_and_a_step_takes_its_time() {
        let environment = environment("prod");
        let report = report(&environment, built_in(), None).unwrap();
        let change = |driver: &str| {
            report.movements.iter().find(|movement| movement.driver == driver).unwrap().change.unwrap()
        };
        let brokers = report.estimate.lines.iter().find(|line| line.what.starts_with("brokers")).unwrap();
        let moved = change("price or number of kafka.m7g.large");
        assert!((moved - brokers.cost().load * 0.1).abs() < 1e-6);
        assert!(change("lessons.users and user_subscriptions") > 10.0, "500 million items");
        assert!(change("tags.objects") < 1.0, "three shards hold a tenth more; only snapshots grow");
        let sizes: Vec<f64> =
            report.movements.iter().map(|movement| movement.change.unwrap_or_default().abs()).collect();
        assert!(sizes.is_sorted_by(|one, other| one >= other), "the most first");
    }
}
