//! The trades' traffic: their producer is asked for another rate for a while.

use std::{path::Path, time::Instant};

use anyhow::Result;

use super::Traffic;
use crate::running::{Offsets, Running};

/// The system.
pub(super) const SYSTEM: &str = "trades";

/// The producer of the running environment.
pub(super) struct Producer<'a> {
    running: Running<'a>,
    rate: f64,
    /// What it was asked for before.
    before: f64,
    seen: (Instant, Offsets),
}

impl<'a> Producer<'a> {
    /// Finds it.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub(super) fn find(root: &'a Path, environment: &str, rate: f64) -> Result<Self> {
        let running = Running::find(root, environment, SYSTEM)?;
        let before = running.rate()?;
        let seen = (Instant::now(), running.offsets()?);
        Ok(Self { running, rate, before, seen })
    }
}

impl Traffic for Producer<'_> {
    fn begin(&mut self) -> Result<String> {
        self.running.set_rate(self.rate)?;
        Ok(format!("{SYSTEM}: {} -> {} messages/s", self.before, self.rate))
    }

    fn look(&mut self) -> Result<Vec<String>> {
        let (now, consumer) = (self.running.offsets()?, self.running.consumer()?);
        let (at, before) = std::mem::replace(&mut self.seen, (Instant::now(), now));
        let seconds = at.elapsed().as_secs_f64().max(1e-3);
        let per_second = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        Ok(vec![
            format!("produced {:>8.1}/s", per_second(before.written, now.written)),
            format!("processed {:>8.1}/s", per_second(before.committed(), now.committed())),
            format!("lag {:>7} records", now.lag),
            format!("{:>3} of {} consumers", consumer.ready, consumer.desired),
        ])
    }

    fn goes(&mut self) -> Result<bool> {
        Ok(true)
    }

    fn end(&mut self) -> Result<String> {
        self.running.set_rate(self.before)?;
        Ok(format!("the producer is back at {} messages/s", self.before))
    }

    /// The lag is what two seconds of the usual rate leave.
    fn caught_up(&mut self) -> Result<Option<String>> {
        let usual = (self.before.ceil() as u64).max(1) * 2;
        let lag = self.running.offsets()?.lag;
        Ok((lag <= usual).then(|| format!("lag {lag} records")))
    }
}
