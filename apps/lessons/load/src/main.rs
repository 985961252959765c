//! Makes the lessons' traffic. Configured by environment variables (`worker_contract::lessons::LoadConfiguration`); options
//! replace them. Prints what it did as one line of JSON.

use std::{
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lesson_load::{
    run::{Report, run},
    traffic::RunId,
};
use worker_contract::lessons::LoadConfiguration;
use worker_kit::{
    aws,
    load::{program, rate, seconds, share},
    shutdown, telemetry,
};

/// Makes the lessons' traffic: of ten events one tells of a user, one of a subscription, eight are lessons.
///
/// Ends with 0 when the stream has taken all events, and, with --verify, all have come out.
#[derive(Debug, Parser)]
struct Arguments {
    /// Events per second
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// For how long, such as 60s, 10m or 12h
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    period: Option<u64>,
    /// Users that the events are about
    #[arg(long)]
    users: Option<u32>,
    /// A lesson's record, in bytes
    #[arg(long)]
    bytes: Option<u32>,
    /// The share of records that are no events, 0 to 1
    #[arg(long, value_parser = share)]
    malformed: Option<f64>,
    /// The share of events that are lessons without a subscription, 0 to 1
    #[arg(long, value_parser = share)]
    unsubscribed: Option<f64>,
    /// Makes the events repeatable
    #[arg(long)]
    seed: Option<u64>,
    /// Read the streams behind the enricher, and count what came of the events
    #[arg(long)]
    verify: bool,
}

impl Arguments {
    /// What the variables say, with what is said here instead.
    fn over(self, mut configuration: LoadConfiguration) -> LoadConfiguration {
        let shape = &mut configuration.shape;
        shape.users = self.users.unwrap_or(shape.users);
        shape.record_bytes = self.bytes.unwrap_or(shape.record_bytes);
        shape.malformed_share = self.malformed.unwrap_or(shape.malformed_share);
        shape.unsubscribed_share = self.unsubscribed.unwrap_or(shape.unsubscribed_share);
        LoadConfiguration {
            events_per_second: self.rate.unwrap_or(configuration.events_per_second),
            period_seconds: self.period.unwrap_or(configuration.period_seconds),
            generator_seed: self.seed.or(configuration.generator_seed),
            verify: self.verify || configuration.verify,
            ..configuration
        }
    }
}

fn main() -> ExitCode {
    telemetry::init_log();
    program(load(Arguments::parse()), complaint)
}

async fn load(arguments: Arguments) -> Result<Report> {
    let configuration = LoadConfiguration::from_environment(|name| std::env::var(name).ok())?;
    let configuration = arguments.over(configuration);
    ensure!(
        !configuration.verify || configuration.streams.is_some(),
        "what comes out is read from the streams that OUTPUT_STREAM and FAILED_STREAM name"
    );
    let stop = shutdown::on_signals().context("cannot listen to signals")?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let id = RunId {
        seed: configuration.generator_seed.unwrap_or_else(rand::random),
        run: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    };
    run(&configuration, &aws::for_functions().await, id, &stop).await
}

/// What is wrong with what came of it.
fn complaint(report: &Report) -> Option<String> {
    match report.records_failed {
        0 if report.is_well() => None,
        0 => Some("not all events have come to what they should: see `outcome`".to_owned()),
        failed => Some(format!("the stream has not taken {failed} events")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_replace_what_the_variables_say() {
        let variables = |name: &str| match name {
            "INPUT_STREAM" => Some("in".to_owned()),
            "USERS" => Some("7".to_owned()),
            _ => None,
        };
        let read = || LoadConfiguration::from_environment(variables).unwrap();
        let parsed =
            |arguments: &[&str]| Arguments::try_parse_from(["lesson-load"].iter().chain(arguments)).unwrap();
        assert_eq!(parsed(&[]).over(read()), read());
        let replaced = parsed(&["--rate", "9", "--for", "2m", "--malformed", "0.5"]).over(read());
        assert_eq!(
            (replaced.events_per_second, replaced.period_seconds, replaced.shape.users),
            (9.0, 120, 7)
        );
        assert_eq!(replaced.shape.malformed_share, 0.5);
        assert!(Arguments::try_parse_from(["lesson-load", "--for", "25h"]).is_err());
    }
}
