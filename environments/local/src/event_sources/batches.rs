//! The batches of a mapping, whatever it reads: gathered, delivered, and listened to until they end.

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use anyhow::{Result, bail};

use super::{
    dispatch::{Told, Worker, now_ms},
    gathering::{Gathering, Lane, Limits, Pollers},
    record::{Position, Record},
};

/// Positions that are done, each with its partition or shard.
pub type Done = Vec<(Arc<str>, Position)>;

/// What a mapping's reader has gathered and has in flight.
pub struct Batches<'a> {
    worker: &'a Worker,
    gathering: Gathering,
    told: (Sender<Told>, Receiver<Told>),
    /// Whether what is read was away when last asked.
    troubled: bool,
}

impl<'a> Batches<'a> {
    /// None yet.
    #[must_use]
    pub fn new(worker: &'a Worker, pollers: Pollers) -> Self {
        let limits = Limits { batch_size: worker.mapping.batch_size, window_ms: worker.mapping.window_ms };
        Self { worker, gathering: Gathering::new(limits, pollers), told: channel(), troubled: false }
    }

    /// Takes a record in.
    pub fn push(&mut self, lane: Lane, record: Record) {
        self.gathering.push(lane, record, now_ms());
    }

    /// Whether so much waits in a lane that no more of it is to be read.
    #[must_use]
    pub fn is_full(&self, lane: &Lane) -> bool {
        self.gathering.is_full(lane)
    }

    /// Whether any batch is in flight.
    #[must_use]
    pub fn are_in_flight(&self) -> bool {
        self.gathering.in_flight() > 0
    }

    /// Sends out the batches that are full or due.
    pub fn deliver_due(&mut self) {
        while let Some(batch) = self.gathering.next(now_ms()) {
            self.worker.deliver(batch, &self.told.0);
        }
    }

    /// What has been done, waiting at most so long for the first to be told; and whether a batch ended before its time, so
    /// that what is not done has to be read again.
    pub fn heard(&mut self, wait: Duration) -> (Done, Result<()>) {
        let mut done = Done::new();
        let mut told = self.told.1.recv_timeout(wait).ok();
        while let Some(heard) = told {
            if let Err(error) = self.hear(heard, &mut done) {
                return (done, Err(error));
            }
            told = self.told.1.try_recv().ok();
        }
        (done, Ok(()))
    }

    fn hear(&mut self, told: Told, done: &mut Done) -> Result<()> {
        match told {
            Told::Done(positions) => done.extend(positions),
            Told::Ended { id, complete } => {
                self.gathering.ended(id);
                if !complete && !self.worker.is_stopping() {
                    bail!("a batch ended before its time; reading again what is not done")
                }
            }
        }
        Ok(())
    }

    /// Lets no more begin and waits for what is in flight; gives what is done of it.
    pub fn drain(&mut self) -> Done {
        self.worker.stop.store(true, Ordering::Relaxed);
        self.worker.counts.lock().state = "Stopping".to_owned();
        let mut done = Done::new();
        while self.are_in_flight() {
            match self.told.1.recv() {
                // A batch that stops is not complete, and need not be.
                Ok(told) => drop(self.hear(told, &mut done)),
                Err(_) => break,
            }
        }
        self.worker.counts.lock().in_flight = 0;
        done
    }

    /// Counts what is in flight.
    pub fn count(&self) {
        let mut counts = self.worker.counts.lock();
        counts.pollers = self.gathering.pollers();
        counts.in_flight = self.gathering.in_flight();
        counts.in_flight_max = counts.in_flight_max.max(counts.in_flight);
    }

    /// Says that what is read is away, or is back.
    pub fn trouble(&mut self, reason: Option<String>) {
        match reason {
            Some(reason) => {
                self.troubled = true;
                self.worker.counts.state("Problem", Some(reason));
            }
            None if self.troubled => {
                self.troubled = false;
                self.worker.counts.state("Running", None);
            }
            None => {}
        }
    }
}
