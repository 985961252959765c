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

use anyhow::{Result, bail};

use crate::running::Running;

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

pub(crate) fn run(arguments: &LoadArgs, root: &Path) -> Result<ExitCode> {
    let running = Running::find(root, &arguments.env, &arguments.system)?;
    let before = running.rate()?;

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
    running.set_rate(arguments.rate)?;
    let watched = watch(&running, arguments.duration, &interrupted);
    running.set_rate(before)?;
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
    let mut before = running.offsets()?;
    while begun.elapsed() < duration && !interrupted.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
        let left = duration.saturating_sub(begun.elapsed());
        if told.elapsed() < Duration::from_secs(5) && !left.is_zero() {
            continue;
        }
        let (now, consumer) = (running.offsets()?, running.consumer()?);
        let seconds = told.elapsed().as_secs_f64();
        let per_second = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        println!(
            "{:>5.0}s  produced {:>8.1}/s  processed {:>8.1}/s  lag {:>7} records  {:>3} of {} consumers",
            begun.elapsed().as_secs_f64(),
            per_second(before.written, now.written),
            per_second(before.committed(), now.committed()),
            now.lag,
            consumer.ready,
            consumer.desired
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
        let lag = running.offsets()?.lag;
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
