//! Scales a workload as KEDA and the Kubernetes autoscaler would, by its ScaledObject, on the real lag of the real
//! broker. [`Scaler`] decides and does no I/O; [`Autoscaler`] asks the broker in a thread of its own.
//!
//! There is no Prometheus on one machine: the arrival rate, which the second trigger's query gives in a cluster, comes
//! from the broker's end offsets over that query's range.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use capacity::scaling::{
    Milliseconds,
    keda::{KafkaScaler, PartitionOffsets},
    manifest::{ScaledObjectManifest, Source},
    stepper::{Observation, Scaling, Stepper, Target},
};
use serde::{Deserialize, Serialize};

use crate::lag::OffsetReader;

/// Decisions that are kept.
const DECISIONS: usize = 10;

/// How long the broker may take to answer: longer than it ever does, shorter than a loop that nobody would miss.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the moment of the last activity is remembered while nothing else happens.
const REMEMBER_EVERY: Milliseconds = 10_000;

/// What was decided at a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Records of lag that were seen; nothing where the broker did not answer.
    pub lag_records: Option<u64>,
    /// Records that arrived, per second.
    pub arrival_per_second: f64,
    /// Replicas before.
    pub current: u32,
    /// Those of them that were ready.
    pub ready: u32,
    /// Replicas after.
    pub desired: u32,
    /// Why, in words.
    pub reason: String,
    /// How often in a row it was decided to leave the same replicas; this is the last time.
    pub times: u32,
}

/// How a workload is scaled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScalingStatus {
    /// What the replicas follow, in words.
    pub target: String,
    /// Replicas, at least.
    pub replicas_min: u32,
    /// Replicas, at most.
    pub replicas_max: u32,
    /// The number at which somebody has paused it.
    pub paused: Option<u32>,
    /// Records of lag, when it last looked.
    pub lag_records: Option<u64>,
    /// Records that arrive, per second, when it last looked.
    pub arrival_per_second: f64,
    /// When the autoscaler looks next, in milliseconds since 1970. KEDA's own polls come between.
    pub next_sync_at_ms: u64,
    /// Why the broker could not be asked.
    pub error: Option<String>,
    /// The last ones, oldest first.
    pub decisions: Vec<Decision>,
}

/// What outlives the supervisor, as the cluster's own store would keep it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Replicas that were wanted.
    pub replicas: Option<u32>,
    /// The number at which somebody has paused it.
    pub paused: Option<u32>,
    /// When the trigger was last active, in milliseconds since 1970.
    pub last_active_ms: Option<u64>,
    /// The last decisions.
    pub decisions: Vec<Decision>,
}

/// Records that arrive, from what was ever written.
#[derive(Debug)]
struct Arrivals {
    window: Milliseconds,
    totals: VecDeque<(Milliseconds, u64)>,
}

impl Arrivals {
    fn new(window_seconds: u32) -> Self {
        Self { window: u64::from(window_seconds.max(1)) * 1000, totals: VecDeque::new() }
    }

    fn note(&mut self, now: Milliseconds, total: u64) {
        // A topic that was made anew begins again, as a counter does.
        if self.totals.back().is_some_and(|(at, before)| *before > total || *at > now) {
            self.totals.clear();
        }
        self.totals.push_back((now, total));
        // The last one before the window stays: the rate is over at least the window.
        while self.totals.get(1).is_some_and(|(at, _)| at + self.window <= now) {
            self.totals.pop_front();
        }
    }

    /// Thousandths of records per second over the window, which is divided by in full also where less is known.
    fn thousandths(&self) -> u64 {
        let (Some((from, first)), Some((to, last))) = (self.totals.front(), self.totals.back()) else {
            return 0;
        };
        (last - first) * 1_000_000 / self.window.max(to - from)
    }
}

/// What can be seen at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// When the loop was due.
    pub now: Milliseconds,
    /// When the offsets came.
    pub asked_at: Milliseconds,
    /// The offsets, or why there are none.
    pub offsets: Result<&'a [PartitionOffsets], &'a str>,
    /// Replicas that are wanted.
    pub replicas: u32,
    /// Replicas that are ready.
    pub ready: u32,
}

/// Decides how many replicas there are to be.
#[derive(Debug)]
pub struct Scaler {
    stepper: Stepper,
    arrivals: Arrivals,
    status: ScalingStatus,
}

fn target(scaling: &Scaling) -> String {
    match scaling.target {
        Target::Lag => format!("lag / {}", scaling.trigger.lag_threshold),
        Target::Rate(target) => format!(
            "(arrival rate + lag / {} s) / {}",
            target.drain_seconds, target.messages_per_second_per_replica
        ),
    }
}

impl Scaler {
    /// Begins at a moment with what is remembered.
    ///
    /// # Errors
    ///
    /// For what KEDA or Kubernetes refuses.
    pub fn new(
        scaling: Scaling,
        rate_window_seconds: u32,
        memory: Memory,
        now: Milliseconds,
    ) -> Result<Self> {
        let status = ScalingStatus {
            target: target(&scaling),
            replicas_min: scaling.object.min_replica_count,
            replicas_max: scaling.object.max_replica_count,
            paused: memory.paused,
            decisions: memory.decisions,
            ..ScalingStatus::default()
        };
        let stepper = Stepper::resume(scaling, now, memory.last_active_ms)?;
        Ok(Self { stepper, arrivals: Arrivals::new(rate_window_seconds), status })
    }

    /// When there is something to do next.
    #[must_use]
    pub fn due(&self) -> Milliseconds {
        self.stepper.due()
    }

    /// How it does.
    #[must_use]
    pub fn status(&self) -> ScalingStatus {
        ScalingStatus { next_sync_at_ms: self.stepper.next_sync(), ..self.status.clone() }
    }

    /// What is to outlive the supervisor, with the replicas that are wanted.
    #[must_use]
    pub fn memory(&self, replicas: u32) -> Memory {
        Memory {
            replicas: Some(replicas),
            paused: self.status.paused,
            last_active_ms: self.stepper.last_active(),
            decisions: self.status.decisions.clone(),
        }
    }

    /// Leaves the replicas at a number until [`Scaler::resume`], as KEDA's annotation `paused-replicas` does.
    pub fn pause(&mut self, replicas: u32) {
        self.status.paused = Some(replicas);
    }

    /// Goes on. KEDA removes a paused autoscaler, so that it begins with an empty history.
    ///
    /// # Errors
    ///
    /// For what KEDA or Kubernetes refuses.
    pub fn resume(&mut self, now: Milliseconds) -> Result<()> {
        let last_active = self.stepper.last_active();
        self.stepper = Stepper::resume(self.stepper.scaling().clone(), now, last_active)?;
        self.status.paused = None;
        Ok(())
    }

    /// Does what is due; the replicas that there are to be.
    pub fn step(&mut self, seen: &Seen<'_>) -> u32 {
        self.note(seen);
        let decision = self.stepper.step(&Observation {
            now: seen.now,
            offsets: seen.offsets.ok(),
            arrival_thousandths: self.arrivals.thousandths(),
            replicas: seen.replicas,
            ready: seen.ready,
        });
        if let Some(paused) = self.status.paused {
            return paused;
        }
        if !decision.reason.is_empty() {
            self.keep(Decision {
                at_ms: seen.now,
                lag_records: self.status.lag_records,
                arrival_per_second: self.status.arrival_per_second,
                current: seen.replicas,
                ready: seen.ready,
                desired: decision.replicas,
                reason: decision.reason,
                times: 1,
            });
        }
        decision.replicas
    }

    fn note(&mut self, seen: &Seen<'_>) {
        let status = &mut self.status;
        match seen.offsets {
            Ok(offsets) => {
                self.arrivals
                    .note(seen.asked_at, offsets.iter().filter_map(|partition| partition.latest).sum());
                // A scaler without memory, so that lag which does not move is told as well.
                let fresh = KafkaScaler::new(self.stepper.scaling().trigger.clone());
                status.lag_records = fresh.ok().map(|mut fresh| fresh.query(offsets).records);
                status.error = None;
            }
            Err(error) => {
                status.lag_records = None;
                status.error = Some(error.to_owned());
            }
        }
        status.arrival_per_second = self.arrivals.thousandths() as f64 / 1000.0;
    }

    /// To leave the same replicas again is one decision, whose last time is told.
    fn keep(&mut self, mut decision: Decision) {
        let decisions = &mut self.status.decisions;
        let leaves = |decision: &Decision| (decision.current == decision.desired).then_some(decision.desired);
        if let Some(last) =
            decisions.last_mut().filter(|last| leaves(last).is_some() && leaves(last) == leaves(&decision))
        {
            decision.times = last.times.saturating_add(1);
            *last = decision;
            return;
        }
        decisions.push(decision);
        if decisions.len() > DECISIONS {
            decisions.remove(0);
        }
    }
}

/// Milliseconds since 1970 that never go back.
#[derive(Clone, Copy, Debug)]
struct Clock {
    begun_ms: Milliseconds,
    begun: Instant,
}

impl Clock {
    fn new(not_before: Milliseconds) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Milliseconds::try_from(now.as_millis()).unwrap_or(Milliseconds::MAX);
        Self { begun_ms: now.max(not_before), begun: Instant::now() }
    }

    fn now(&self) -> Milliseconds {
        self.begun_ms + Milliseconds::try_from(self.begun.elapsed().as_millis()).unwrap_or(Milliseconds::MAX)
    }
}

enum Command {
    Pause(u32),
    Resume,
}

/// What the thread and the supervisor tell each other.
#[derive(Debug, Default)]
struct Shared {
    replicas: u32,
    ready: u32,
    wanted: Option<u32>,
    status: ScalingStatus,
    /// What is to be remembered and was not taken yet.
    memory: Option<Memory>,
}

/// A scaler with its thread, which ends with it.
pub struct Autoscaler {
    shared: Arc<Mutex<Shared>>,
    commands: Sender<Command>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Plain data: a panic elsewhere does not make it unusable.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Autoscaler {
    /// Starts with the replicas that there are.
    ///
    /// # Errors
    ///
    /// When the ScaledObject is not understood.
    pub fn start(object: &ScaledObjectManifest, memory: Memory, replicas: u32) -> Result<Self> {
        let (scaling, source) = (object.scaling()?, object.source()?);
        let clock = Clock::new(memory.last_active_ms.unwrap_or(0));
        let scaler = Scaler::new(scaling, source.rate_window_seconds.unwrap_or(1), memory, clock.now())?;
        let shared = Arc::new(Mutex::new(Shared { replicas, status: scaler.status(), ..Shared::default() }));
        let (commands, received) = channel();
        let thread = Loop { scaler, clock, shared: shared.clone(), reader: reader(&source), remembered: 0 };
        std::thread::spawn(move || thread.run(&received));
        Ok(Self { shared, commands })
    }

    /// Tells what there is, and takes what is wanted now, if anything is.
    #[must_use]
    pub fn exchange(&self, replicas: u32, ready: u32) -> Option<u32> {
        let mut shared = lock(&self.shared);
        let wanted = shared.wanted.take();
        // What is wanted now is what there is for the next decision, before it is carried out.
        (shared.replicas, shared.ready) = (wanted.unwrap_or(replicas), ready);
        wanted.filter(|wanted| *wanted != replicas)
    }

    /// Takes what is to be remembered now, if anything is.
    #[must_use]
    pub fn take_memory(&self) -> Option<Memory> {
        lock(&self.shared).memory.take()
    }

    /// How it does.
    #[must_use]
    pub fn status(&self) -> ScalingStatus {
        lock(&self.shared).status.clone()
    }

    /// Leaves the replicas at a number.
    pub fn pause(&self, replicas: u32) {
        lock(&self.shared).status.paused = Some(replicas);
        // A thread that is gone scales nothing either.
        let _ = self.commands.send(Command::Pause(replicas));
    }

    /// Goes on.
    pub fn resume(&self) {
        lock(&self.shared).status.paused = None;
        let _ = self.commands.send(Command::Resume);
    }
}

fn reader(source: &Source) -> OffsetReader {
    OffsetReader::new(&source.bootstrap_servers, &source.topic, &source.consumer_group)
}

struct Loop {
    scaler: Scaler,
    clock: Clock,
    shared: Arc<Mutex<Shared>>,
    reader: OffsetReader,
    remembered: Milliseconds,
}

impl Loop {
    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let wait = self.scaler.due().saturating_sub(self.clock.now());
            match commands.recv_timeout(Duration::from_millis(wait)) {
                Ok(Command::Pause(replicas)) => self.scaler.pause(replicas),
                Ok(Command::Resume) => {
                    if let Err(error) = self.scaler.resume(self.clock.now()) {
                        crate::supervised::note(&format!("scaling does not go on: {error:#}"));
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.step(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn step(&mut self) {
        let now = self.clock.now();
        let read = self.reader.read(ASK_TIMEOUT).map_err(|error| format!("{error:#}"));
        let (replicas, ready) = {
            let shared = lock(&self.shared);
            (shared.replicas, shared.ready)
        };
        let offsets = read.as_deref().map_err(String::as_str);
        let decisions = self.scaler.status.decisions.len();
        let before = self.scaler.status.decisions.last().cloned();
        let wanted = self.scaler.step(&Seen { now, asked_at: self.clock.now(), offsets, replicas, ready });
        let decided = self.scaler.status.decisions.len() != decisions
            || self.scaler.status.decisions.last() != before.as_ref();
        let mut shared = lock(&self.shared);
        if shared.status.paused != self.scaler.status.paused {
            // Somebody has paused it meanwhile, or lets it go on: that comes first.
            return;
        }
        (shared.wanted, shared.replicas) = (Some(wanted), wanted);
        shared.status = self.scaler.status();
        if decided || now >= self.remembered + REMEMBER_EVERY {
            shared.memory = Some(self.scaler.memory(wanted));
            self.remembered = now;
        }
    }
}

#[cfg(test)]
#[path = "autoscaler_tests.rs"]
mod tests;
