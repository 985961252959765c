//! How far a search is, on standard error, and whether it was interrupted.

use std::{
    io::{IsTerminal, Write, stderr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;

/// What takes less is over before anybody asks.
const QUIET: Duration = Duration::from_secs(1);

/// How often a terminal is told, in milliseconds, and how often a log.
const EVERY_MS: [u64; 2] = [100, 10_000];

/// A line on a terminal that is written over, or now and then a line in a log.
pub(super) struct Progress {
    begun: Instant,
    interrupted: Arc<AtomicBool>,
    terminal: bool,
    next_ms: AtomicU64,
}

impl Progress {
    /// Begins to listen for Ctrl-C.
    pub(super) fn new() -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, interrupted.clone())?;
        }
        let next_ms = AtomicU64::new(u64::try_from(QUIET.as_millis()).unwrap_or(u64::MAX));
        Ok(Self { begun: Instant::now(), interrupted, terminal: stderr().is_terminal(), next_ms })
    }

    /// Tells that so many of so many settings are tried; whether to go on.
    pub(super) fn tell(&self, tried: usize, all: usize) -> bool {
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        let every_ms = if self.terminal { EVERY_MS[0] } else { EVERY_MS[1] };
        let due = now_ms >= next_ms
            && self
                .next_ms
                .compare_exchange(next_ms, now_ms + every_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if due {
            let (start, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
            let words = line(tried, all, now_ms);
            // A closed standard error is no reason to stop.
            let _ = write!(stderr(), "{start}{words}{end}").and_then(|()| stderr().flush());
        }
        !self.interrupted.load(Ordering::Relaxed)
    }

    /// Takes the line away.
    pub(super) fn end(&self) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K").and_then(|()| stderr().flush());
        }
    }
}

fn line(tried: usize, all: usize, spent_ms: u64) -> String {
    let left = (all - tried.min(all)) as f64 * spent_ms as f64 / tried.max(1) as f64 / 1000.0;
    format!("{tried} of {all} settings tried, about {left:.0} s left; Ctrl-C stops")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_what_was_spent() {
        assert_eq!(line(20, 60, 5000), "20 of 60 settings tried, about 10 s left; Ctrl-C stops");
        assert_eq!(line(0, 60, 1000), "0 of 60 settings tried, about 60 s left; Ctrl-C stops");
    }

    #[test]
    fn a_signal_stops_the_search() {
        let progress = Progress::new().unwrap();
        assert!(progress.tell(1, 2));
        signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
        assert!(!progress.tell(2, 2));
    }
}
