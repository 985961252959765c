//! `cargo xtask load`.

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

use crate::{programs, synth};

/// How long the consumer may take to catch up after the load.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(300);

/// Traffic into a system.
///
/// Traffic into a system: raises the rate of its producer for a while, shows how the consumer follows, puts
/// the rate back and waits until the lag is gone.
///
/// Ctrl-C puts the rate back as well. Local environments only.
///
/// Example: cargo xtask load trades --rate 1000 --for 60s
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct LoadArgs {
    /// The system.
    system: String,
    /// Messages per second.
    #[arg(long, value_parser = rate)]
    rate: f64,
    /// How long: 30s, 5m, 1h.
    #[arg(long = "for", value_parser = duration, value_name = "DURATION")]
    duration: Duration,
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|rate| (0.0..=100_000.0).contains(rate))
        .ok_or_else(|| "a rate is 0 to 100000 messages per second".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("`{text}` is not a duration such as 30s, 5m or 1h (at most 24h)");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let seconds = match unit {
        "s" => number,
        "m" => number.saturating_mul(60),
        "h" => number.saturating_mul(3600),
        _ => return Err(refused()),
    };
    if !(1..=86_400).contains(&seconds) {
        return Err(refused());
    }
    Ok(Duration::from_secs(seconds))
}

/// A system of the running local environment.
struct Running<'a> {
    root: &'a Path,
    program: std::path::PathBuf,
    entry: cfn::assembly::SystemEntry,
    agent: ureq::Agent,
}

impl Running<'_> {
    fn endpoints(&self, workload: &str) -> Result<Vec<String>> {
        let status = programs::ask_local(self.root, &self.program, &["status"])?;
        Ok(status
            .get("workloads")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .filter(|known| known.get("name").and_then(Json::as_str) == Some(workload))
            .flat_map(|known| {
                known.get("metrics_endpoints").and_then(Json::as_array).cloned().unwrap_or_default()
            })
            .filter_map(|endpoint| endpoint.as_str().map(str::to_owned))
            .collect())
    }

    fn get(&self, endpoint: &str, path: &str) -> Result<String> {
        let url = format!("http://{endpoint}{path}");
        let mut answer = self.agent.get(&url).call().with_context(|| format!("{url} does not answer"))?;
        Ok(answer.body_mut().read_to_string()?)
    }

    fn set_rate(&self, endpoint: &str, rate: f64) -> Result<()> {
        let url = format!("http://{endpoint}/rate");
        self.agent
            .put(&url)
            .send(rate.to_string())
            .with_context(|| format!("the producer at {url} does not take the rate"))?;
        Ok(())
    }

    /// The sum of a metric over the processes of a workload.
    fn metric(&self, workload: &str, name: &str) -> Result<f64> {
        let mut sum = 0.0;
        for endpoint in self.endpoints(workload)? {
            let text = self.get(&endpoint, "/metrics")?;
            sum += text
                .lines()
                .filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']))
                .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum::<f64>();
        }
        Ok(sum)
    }

    fn lag_records(&self) -> Result<u64> {
        let arguments = ["lag", "--topic", &self.entry.topic, "--group", &self.entry.consumer_group];
        let lag = programs::ask_local(self.root, &self.program, &arguments)?;
        lag.get("lag_records").and_then(Json::as_u64).context("the lag is not a number")
    }
}

pub(crate) fn run(arguments: &LoadArgs, root: &Path) -> Result<ExitCode> {
    let assembly = synth::synth(root, &arguments.env, 1)?;
    if assembly.manifest.provider != "local" {
        bail!("load is made in local environments only; {} is one on AWS", arguments.env);
    }
    let entry = assembly.manifest.systems.get(&arguments.system).cloned().with_context(|| {
        let known: Vec<&str> = assembly.manifest.systems.keys().map(String::as_str).collect();
        format!("there is no system `{}`; there are: {}", arguments.system, known.join(", "))
    })?;
    let program = programs::build(root, false)?.join("local-environment");
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into();
    let running = Running { root, program, entry, agent };
    let producers = running.endpoints(&running.entry.producer)?;
    let [producer] = producers.as_slice() else {
        bail!(
            "{} does not run; `cargo xtask deploy --env {}` starts it",
            running.entry.producer,
            arguments.env
        )
    };
    let before: f64 =
        running.get(producer, "/rate")?.trim().parse().context("the producer's rate is not a number")?;

    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    println!(
        "{}: {before} -> {} messages/s for {} s",
        arguments.system,
        arguments.rate,
        arguments.duration.as_secs()
    );
    running.set_rate(producer, arguments.rate)?;
    let watched = watch(&running, arguments.duration, &interrupted);
    running.set_rate(producer, before)?;
    println!("the producer is back at {before} messages/s");
    watched?;
    if interrupted.load(Ordering::Relaxed) {
        return Ok(ExitCode::from(130));
    }
    catch_up(&running, &interrupted, before)
}

/// Prints how production and consumption go, every few seconds.
fn watch(running: &Running<'_>, duration: Duration, interrupted: &AtomicBool) -> Result<()> {
    let (begun, mut told) = (Instant::now(), Instant::now());
    let (sent, done) = ("trades_sent_total", "kafka_messages_processed_total");
    let entry = &running.entry;
    let mut before = (running.metric(&entry.producer, sent)?, running.metric(&entry.consumer, done)?);
    while begun.elapsed() < duration && !interrupted.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
        let left = duration.saturating_sub(begun.elapsed());
        if told.elapsed() < Duration::from_secs(5) && !left.is_zero() {
            continue;
        }
        let now = (running.metric(&entry.producer, sent)?, running.metric(&entry.consumer, done)?);
        let seconds = told.elapsed().as_secs_f64();
        println!(
            "{:>5.0}s  produced {:>8.1}/s  processed {:>8.1}/s  lag {:>7} records",
            begun.elapsed().as_secs_f64(),
            (now.0 - before.0) / seconds,
            (now.1 - before.1) / seconds,
            running.lag_records()?
        );
        (before, told) = (now, Instant::now());
    }
    Ok(())
}

/// Waits until the lag is what a second of the usual rate leaves.
fn catch_up(running: &Running<'_>, interrupted: &AtomicBool, rate: f64) -> Result<ExitCode> {
    let begun = Instant::now();
    let usual = (rate.ceil() as u64).max(1) * 2;
    loop {
        let lag = running.lag_records()?;
        if lag <= usual {
            println!("caught up after {:.1} s: lag {lag} records", begun.elapsed().as_secs_f64());
            return Ok(ExitCode::SUCCESS);
        }
        if interrupted.load(Ordering::Relaxed) {
            return Ok(ExitCode::from(130));
        }
        if begun.elapsed() >= CATCH_UP_TIMEOUT {
            bail!("the consumer has not caught up after {} s: lag {lag} records", CATCH_UP_TIMEOUT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_rates_are_bounded() {
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for wrong in ["60", "0s", "25h", "-1s", "s", "1d", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(rate("-1").is_err() && rate("NaN").is_err() && rate("1e9").is_err());
        assert_eq!(rate("1000"), Ok(1000.0));
    }
}
