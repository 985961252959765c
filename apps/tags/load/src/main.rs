//! Makes the load of tags. Configured by environment variables (`worker_contract::tags::LoadConfiguration`), as the
//! Job of the cluster has them; options replace them. Prints what it did as one line of JSON.

use std::{process::ExitCode, time::SystemTime};

use anyhow::{Context, Result};
use clap::Parser;
use tag_load::run::{Report, id, run};
use worker_contract::tags::LoadConfiguration;
use worker_kit::{
    load::{program, rate, seconds, share},
    shutdown, telemetry,
};

/// Makes the load of tags: updates of objects in channels, at a rate that does not wait for anybody.
///
/// Ends with 0 when all updates were taken, and, with --verify, are in the cache.
#[derive(Debug, Parser)]
struct Arguments {
    /// Updates per second
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// For how long, such as 60s, 10m or 12h
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    period: Option<u64>,
    /// Channels that are written to
    #[arg(long)]
    channels: Option<u32>,
    /// Objects in each of them
    #[arg(long)]
    objects: Option<u32>,
    /// A message, in bytes
    #[arg(long)]
    bytes: Option<u32>,
    /// The share of updates that delete an object, 0 to 1
    #[arg(long, value_parser = share)]
    deletes: Option<f64>,
    /// How long an object lives that nobody changes, in seconds; 0 for what the workers give
    #[arg(long)]
    lifetime: Option<u32>,
    /// Makes the updates repeatable
    #[arg(long)]
    seed: Option<u64>,
    /// Follow some channels meanwhile, and compare the cache with what was written
    #[arg(long)]
    verify: bool,
}

impl Arguments {
    /// What the variables say, with what is said here instead.
    fn over(self, mut configuration: LoadConfiguration) -> LoadConfiguration {
        let shape = &mut configuration.shape;
        shape.channels = self.channels.unwrap_or(shape.channels);
        shape.objects_per_channel = self.objects.unwrap_or(shape.objects_per_channel);
        shape.message_bytes = self.bytes.unwrap_or(shape.message_bytes);
        shape.delete_share = self.deletes.unwrap_or(shape.delete_share);
        shape.lifetime_seconds = self.lifetime.unwrap_or(shape.lifetime_seconds);
        LoadConfiguration {
            updates_per_second: self.rate.unwrap_or(configuration.updates_per_second),
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
    let stop = shutdown::on_signals().context("cannot listen to signals")?;
    run(&configuration, id(&configuration, SystemTime::now(), rand::random()), &stop).await
}

/// What is wrong with what came of it.
fn complaint(report: &Report) -> Option<String> {
    match report.records_failed {
        0 if report.is_well() => None,
        0 => Some("the cache does not hold what was written: see `verification`".to_owned()),
        failed => {
            Some(format!("{failed} updates were not taken: is the topic there, and are the brokers up?"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_replace_what_the_variables_say() {
        let variables = |name: &str| match name {
            "KAFKA_BOOTSTRAP_SERVERS" => Some("localhost:9092".to_owned()),
            "KAFKA_TOPIC" => Some("t".to_owned()),
            "CHANNELS" => Some("7".to_owned()),
            "VERIFY" => Some("true".to_owned()),
            _ => None,
        };
        let read = || LoadConfiguration::from_environment(variables).unwrap();
        let parsed =
            |arguments: &[&str]| Arguments::try_parse_from(["tag-load"].iter().chain(arguments)).unwrap();
        assert_eq!(parsed(&[]).over(read()), read());
        let replaced =
            parsed(&["--rate", "9", "--for", "2m", "--deletes", "0.5", "--seed", "3"]).over(read());
        assert_eq!((replaced.updates_per_second, replaced.period_seconds), (9.0, 120));
        assert_eq!((replaced.shape.channels, replaced.shape.delete_share), (7, 0.5));
        assert_eq!((replaced.generator_seed, replaced.verify), (Some(3), true));
    }
}
