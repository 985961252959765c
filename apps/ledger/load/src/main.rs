//! Makes the ledger's traffic: events at a rate that does not wait for anybody, or, as a noisy neighbour, queries that
//! keep the database's processors busy.
//!
//! The brokers and the database are told by the variables that the functions have
//! (`worker_contract::{kafka, database}`).

mod neighbour;
mod produce;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Parser;
use ledger_events::traffic::Disorder;
use worker_contract::{DatabaseConfiguration, KafkaConfiguration, Reader};
use worker_kit::{
    load::{program, rate, seconds, share},
    shutdown, telemetry,
};

/// Makes the ledger's traffic.
#[derive(Debug, Parser)]
struct Arguments {
    /// Events per second
    #[arg(long, default_value_t = 500.0, value_parser = rate)]
    rate: f64,
    /// For how long, such as 60s or 10m
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = period)]
    period: Duration,
    /// The topic
    #[arg(long, default_value = "ledger-source")]
    topic: String,
    /// Makes the traffic repeatable
    #[arg(long)]
    seed: Option<u64>,
    /// The share of deletions, 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    deletes: f64,
    /// The share of events that are sent twice, 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    duplicates: f64,
    /// The share of events that are sent after later ones, 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    out_of_order: f64,
    /// The share of events that have a malformed neighbour, 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    malformed: f64,
    /// Burns the database's processors instead of sending events
    #[arg(long)]
    noisy_neighbour: bool,
    /// Sessions of the noisy neighbour
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    sessions: u32,
}

fn main() -> ExitCode {
    telemetry::init_log();
    let arguments = Arguments::parse();
    program(run(&arguments), complaint)
}

/// What is wrong with what came of it.
fn complaint(told: &serde_json::Value) -> Option<String> {
    let failed =
        told.get("records_failed").and_then(serde_json::Value::as_u64).filter(|failed| *failed > 0)?;
    Some(format!("{failed} records were not taken: is the topic there, and are the brokers up?"))
}

async fn run(arguments: &Arguments) -> Result<serde_json::Value> {
    let stop = shutdown::on_signals()?;
    let reader = Reader::new(|name: &str| std::env::var(name).ok());
    if arguments.noisy_neighbour {
        let database = DatabaseConfiguration::read(&reader)?;
        return neighbour::burn(&database, arguments.sessions, arguments.period, &stop).await;
    }
    let plan = produce::Plan {
        topic: arguments.topic.clone(),
        rate: arguments.rate,
        period: arguments.period,
        seed: arguments.seed.unwrap_or_else(rand::random),
        deletes: arguments.deletes,
        disorder: Disorder {
            duplicates: arguments.duplicates,
            out_of_order: arguments.out_of_order,
            malformed: arguments.malformed,
        },
    };
    produce::run(&KafkaConfiguration::read(&reader)?, &plan, &stop).await
}

fn period(text: &str) -> Result<Duration, String> {
    seconds(text).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_is_refused() {
        let parsed = |arguments: &[&str]| Arguments::try_parse_from(["ledger-load"].iter().chain(arguments));
        let asked =
            parsed(&["--rate", "300", "--for", "10m", "--duplicates", "0.1"]).expect("it can be done");
        assert_eq!((asked.rate, asked.period.as_secs(), asked.duplicates), (300.0, 600, 0.1));
        for wrong in [["--rate", "0"], ["--for", "25h"], ["--malformed", "1.1"], ["--sessions", "0"]] {
            assert!(parsed(&wrong).is_err(), "{wrong:?}");
        }
    }
}
