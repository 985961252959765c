//! `cargo xtask load`.

mod counted;
pub(crate) mod ledger;
mod lessons;
pub(crate) mod program;
mod tags;
mod trades;

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

use crate::live::{self, Live};

/// How long a system may take to catch up after the load.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(300);

/// The systems that there is traffic for.
const SYSTEMS: [&str; 4] = [trades::SYSTEM, ledger::SYSTEM, lessons::SYSTEM, tags::SYSTEM];

/// How often the figures are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Traffic into a system.
///
/// Traffic into a system for a while: shows how what does its work follows, and waits until nothing is left waiting.
/// The trades' producer is raised to the rate and put back; other systems have a program that makes their traffic.
/// Those of lessons and tags count what came out at the far end: the exit code is 1 where something was lost.
///
/// Ctrl-C ends the traffic as well. Local environments only.
///
/// Example: cargo xtask load trades --rate 1000 --for 60s
/// Example: cargo xtask load ledger --rate 500 --for 60s --noisy-neighbour
/// Example: cargo xtask load lessons --rate 200 --for 30s -- --malformed 0.01
/// Example: cargo xtask load tags --rate 500 --for 30s -- --deletes 0.1
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
    /// Have another service burn the ledger's database meanwhile.
    #[arg(long)]
    noisy_neighbour: bool,
    /// What the system's own program is asked beside that; its `--help` tells.
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// What makes a system's traffic, and what is seen of the system meanwhile.
pub(crate) trait Traffic {
    /// Begins; says what.
    fn begin(&mut self) -> Result<String>;
    /// Looks once: figures, each with its name.
    fn look(&mut self) -> Result<Vec<String>>;
    /// Whether it still goes; `false` when it has ended by itself.
    fn goes(&mut self) -> Result<bool>;
    /// Ends it and puts everything back, however far it came; says what.
    fn end(&mut self) -> Result<String>;
    /// Whether nothing is left waiting: what is to be said then.
    fn caught_up(&mut self) -> Result<Option<String>>;
    /// How long it may go on by itself after its time, to count what came of it.
    fn counts_for(&self) -> Duration {
        Duration::ZERO
    }
    /// How long it took until nothing was left waiting, in seconds, where it has found that out by itself.
    fn settled_seconds(&self) -> Option<f64> {
        None
    }
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
    let LoadArgs { system, env, rate, duration, noisy_neighbour, options } = arguments;
    if system != ledger::SYSTEM && *noisy_neighbour {
        bail!("--noisy-neighbour burns the ledger's database; {system} has none");
    }
    if system == trades::SYSTEM && !options.is_empty() {
        bail!("the trades' producer takes a rate and nothing else");
    }
    match system.as_str() {
        trades::SYSTEM => carry_out(trades::Producer::find(root, env, *rate)?, *duration),
        ledger::SYSTEM => {
            let plan = ledger::Plan { rate: *rate, duration: *duration, noisy_neighbour: *noisy_neighbour };
            carry_out(ledger::Events::find(root, env, plan, options)?, *duration)
        }
        lessons::SYSTEM | tags::SYSTEM => {
            let asked = counted::Asked { rate: *rate, duration: *duration, options };
            if system == lessons::SYSTEM {
                carry_out(counted::Counted::<lessons::Lessons>::find(root, env, &asked)?, *duration)
            } else {
                carry_out(counted::Counted::<tags::Tags>::find(root, env, &asked)?, *duration)
            }
        }
        other => bail!("nothing makes traffic for `{other}`; there is something for: {}", SYSTEMS.join(", ")),
    }
}

/// A flag that SIGINT and SIGTERM set.
pub(crate) fn interruption() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    Ok(interrupted)
}

/// Makes the traffic for as long as asked, shows how it goes, and waits until nothing is left waiting.
fn carry_out(mut traffic: impl Traffic, duration: Duration) -> Result<ExitCode> {
    let interrupted = interruption()?;
    let begun = traffic.begin();
    let watched = begun.and_then(|words| {
        println!("{words} for {} s", duration.as_secs());
        watch(&mut traffic, duration, &interrupted)
    });
    // Whatever went wrong: the traffic is not left running.
    let ended = traffic.end();
    watched?;
    println!("{}", ended?);
    if interrupted.load(Ordering::Relaxed) {
        return Ok(ExitCode::from(130));
    }
    catch_up(&mut traffic, &interrupted)
}

/// Figures of a moment.
struct Figures {
    at_seconds: f64,
    figures: Vec<String>,
}

impl live::Scene for Figures {
    fn at_seconds(&self) -> f64 {
        self.at_seconds
    }

    fn block(&self, _: usize) -> Vec<String> {
        let indented = self.figures.iter().map(|figure| format!("  {figure}"));
        std::iter::once(live::clock(self.at_seconds)).chain(indented).collect()
    }

    fn line(&self) -> String {
        format!("{:>5.0}s  {}", self.at_seconds, self.figures.join("  "))
    }
}

/// Shows the figures.
fn watch(traffic: &mut impl Traffic, duration: Duration, interrupted: &AtomicBool) -> Result<()> {
    let mut live = Live::new();
    let (begun, mut looked) = (Instant::now(), Instant::now());
    let duration = duration + traffic.counts_for();
    while begun.elapsed() < duration && !interrupted.load(Ordering::Relaxed) && traffic.goes()? {
        std::thread::sleep(Duration::from_millis(100));
        let at_seconds = begun.elapsed().as_secs_f64();
        if looked.elapsed() >= EVERY && live.wants(at_seconds) {
            looked = Instant::now();
            live.show(&Figures { at_seconds, figures: traffic.look()? });
        }
    }
    Ok(())
}

/// Waits until nothing is left waiting.
fn catch_up(traffic: &mut impl Traffic, interrupted: &AtomicBool) -> Result<ExitCode> {
    let begun = Instant::now();
    loop {
        if let Some(words) = traffic.caught_up()? {
            let seconds = traffic.settled_seconds().unwrap_or_else(|| begun.elapsed().as_secs_f64());
            println!("caught up after {seconds:.1} s: {words}");
            return Ok(ExitCode::SUCCESS);
        }
        if interrupted.load(Ordering::Relaxed) {
            return Ok(ExitCode::from(130));
        }
        if begun.elapsed() >= CATCH_UP_TIMEOUT {
            bail!(
                "what waits is not done after {} s: {}",
                CATCH_UP_TIMEOUT.as_secs(),
                traffic.look()?.join("  ")
            );
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
