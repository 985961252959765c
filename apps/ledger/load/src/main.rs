//! Makes the ledger's traffic: events at a rate that does not wait for anybody, or, as a noisy neighbour, queries that
//! keep the database's processors busy.
//!
//! The brokers and the database are told by the variables that the functions have
//! (`worker_contract::{kafka, database}`).

mod neighbour;
mod produce;

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::Parser;
use ledger_events::traffic::Disorder;
use worker_contract::{DatabaseConfiguration, KafkaConfiguration, Reader};
use worker_kit::{shutdown, telemetry};

/// The longest run.
const RUN_MAX: Duration = Duration::from_secs(24 * 3600);

/// Makes the ledger's traffic.
#[derive(Debug, Parser)]
struct Arguments {
    /// Events per second
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// For how long, such as 60s or 10m
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = duration)]
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
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no threads");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&arguments)) {
        Ok(told) => {
            tell(&told);
            let failed = told.get("records_failed").and_then(serde_json::Value::as_u64).unwrap_or_default();
            if failed > 0 {
                tracing::error!(
                    failed,
                    "some records were not taken: is the topic there, and are the brokers up?"
                );
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the load ends");
            ExitCode::FAILURE
        }
    }
}

/// Says how far it is, a JSON line each second; the last line is the sum. Whether somebody reads: who started this and is
/// gone leaves no traffic behind.
pub(crate) fn tell(figures: &serde_json::Value) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{figures}").and_then(|()| out.flush()).is_ok()
}

async fn run(arguments: &Arguments) -> Result<serde_json::Value> {
    ensure!(arguments.period <= RUN_MAX, "--for is at most a day");
    let stop = shutdown::on_signals()?;
    let reader = Reader::new(|name: &str| std::env::var(name).ok());
    if arguments.noisy_neighbour {
        let database = DatabaseConfiguration::read(&reader)?;
        return neighbour::burn(&database, arguments.sessions, arguments.period, &stop).await;
    }
    if !(0.1..=100_000.0).contains(&arguments.rate) {
        bail!("--rate is from 0.1 to 100000 events per second");
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

fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "a share is from 0 to 1".to_owned())
}

/// A number with `s`, `m` or `h`; without one, seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("a time is a number with s, m or h".to_owned()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(seconds))
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(|| "a time is a whole number with s, m or h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares_are_read() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        for wrong in ["", "0s", "1d", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(share("0.1"), Ok(0.1));
        assert!(share("1.1").is_err() && share("NaN").is_err());
    }
}
