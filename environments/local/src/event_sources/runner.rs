//! The part `event-sources`: runs each mapping that the emulator has, as it has it now.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value as Json;

use super::{
    aws_api::AwsApi,
    dispatch::{Counts, Worker},
    kafka_source, kinesis_source,
    mapping::{Mapping, Refused, Source},
    status::{self, MappingStatus},
};
use crate::{layout::Layout, supervised::note};

/// How often the mappings are listed and their status is written.
const EVERY: Duration = Duration::from_secs(1);

/// How long a mapping that could not be run waits before it is run again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

const PAUSE: Duration = Duration::from_millis(50);

struct Task {
    mapping: Arc<Mapping>,
    worker: Worker,
    thread: JoinHandle<Result<()>>,
}

struct Runner {
    api: AwsApi,
    bootstrap_servers: String,
    directory: PathBuf,
    tasks: BTreeMap<String, Task>,
    /// What does not run: refused, disabled, or waiting to be run again.
    resting: BTreeMap<String, (MappingStatus, Option<Instant>)>,
    /// What tasks that have ended had counted: the next of the same mapping counts on.
    counted: BTreeMap<String, MappingStatus>,
    /// Invocations that were tried, and the lag, when metrics were last published.
    published: BTreeMap<String, (u64, Option<i64>)>,
}

/// Runs the mappings until it is told to end; what is in flight then is waited for.
///
/// # Errors
///
/// When its directory cannot be made.
pub fn run(layout: &Layout, endpoint: &str, bootstrap_servers: &str) -> Result<()> {
    let terminated = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, terminated.clone())?;
    }
    let directory = layout.event_sources();
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut runner = Runner {
        api: AwsApi::new(endpoint),
        bootstrap_servers: bootstrap_servers.to_owned(),
        directory,
        tasks: BTreeMap::new(),
        resting: BTreeMap::new(),
        counted: BTreeMap::new(),
        published: BTreeMap::new(),
    };
    let file = status::file(layout);
    let (mut looked, mut heard) = (None::<Instant>, true);
    while !terminated.load(Ordering::Relaxed) {
        if looked.is_none_or(|looked| looked.elapsed() >= EVERY) {
            looked = Some(Instant::now());
            match runner.api.mappings() {
                Ok(listed) => {
                    heard = true;
                    runner.reconcile(&listed);
                }
                // What runs goes on: the emulator is being started again.
                Err(error) if heard => {
                    heard = false;
                    note(&format!("the mappings cannot be listed: {error:#}"));
                }
                Err(_) => {}
            }
            runner.report(&file);
            if heard {
                runner.publish();
            }
        }
        thread::sleep(PAUSE);
    }
    runner.end();
    runner.report(&file);
    Ok(())
}

impl Runner {
    /// Starts, stops and changes tasks so that those run that are listed.
    fn reconcile(&mut self, listed: &[Json]) {
        let mut wanted = BTreeMap::new();
        let mut resting = BTreeMap::new();
        for json in listed {
            match Mapping::read(json) {
                Ok(mapping) if mapping.enabled => drop(wanted.insert(mapping.uuid.clone(), mapping)),
                Ok(mapping) => {
                    let status = MappingStatus { state: "Disabled".to_owned(), ..status_of(&mapping) };
                    resting.insert(mapping.uuid, (status, None));
                }
                Err(refused) => {
                    let known = self.resting.get(&refused.uuid).map(|(status, _)| &status.reason);
                    if known != Some(&Some(refused.reason.clone())) {
                        note(&format!("{} is refused: {}", refused.uuid, refused.reason));
                    }
                    resting.insert(refused.uuid.clone(), (refusal(refused), None));
                }
            }
        }
        for (uuid, task) in &self.tasks {
            if wanted.get(uuid).is_none_or(|mapping| *mapping != *task.mapping) && !task.worker.is_stopping()
            {
                note(&format!("{uuid} changes or goes: ending what is in flight"));
                task.worker.stop.store(true, Ordering::Relaxed);
            }
        }
        let ended: Vec<String> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.thread.is_finished())
            .map(|(uuid, _)| uuid.clone())
            .collect();
        for uuid in ended {
            let Some(task) = self.tasks.remove(&uuid) else { continue };
            let problem = match task.thread.join() {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{error:#}")),
                Err(_) => Some("its thread has panicked; see the log".to_owned()),
            };
            if !wanted.contains_key(&uuid) {
                continue;
            }
            let failed = problem.is_some();
            if failed {
                task.worker.counts.state("Problem", problem);
            }
            let status = task.worker.counts.lock().clone();
            self.counted.insert(uuid.clone(), status.clone());
            if failed {
                resting.insert(uuid, (status, Some(Instant::now() + AGAIN_AFTER)));
            }
        }
        for (uuid, (status, until)) in std::mem::take(&mut self.resting) {
            if wanted.contains_key(&uuid) && until.is_some_and(|until| Instant::now() < until) {
                resting.insert(uuid, (status, until));
            }
        }
        for (uuid, mapping) in wanted {
            if !self.tasks.contains_key(&uuid) && !resting.contains_key(&uuid) {
                self.start(mapping);
            }
        }
        self.resting = resting;
    }

    fn start(&mut self, mapping: Mapping) {
        let mapping = Arc::new(mapping);
        let new = status_of(&mapping);
        let counted = self.counted.remove(&mapping.uuid).unwrap_or_else(|| new.clone());
        let status = MappingStatus {
            function: new.function,
            source: new.source,
            state: "Starting".to_owned(),
            reason: None,
            ..counted
        };
        note(&format!("{} starts: {} to {}", mapping.uuid, source_name(&mapping), mapping.function_arn));
        let worker = Worker {
            counts: Counts::new(status),
            mapping: mapping.clone(),
            api: self.api.clone(),
            bootstrap_servers: self.bootstrap_servers.clone(),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let (own, directory) = (worker.clone(), self.directory.clone());
        let thread = thread::spawn(move || match own.mapping.source {
            Source::Kafka { .. } => kafka_source::run(&own),
            Source::Kinesis { .. } => kinesis_source::run(&own, &directory),
        });
        self.tasks.insert(mapping.uuid.clone(), Task { mapping, worker, thread });
    }

    fn report(&self, file: &Path) {
        let running = self.tasks.values().map(|task| task.worker.counts.lock().clone());
        let resting = self.resting.values().map(|(status, _)| status.clone());
        let mut all: Vec<MappingStatus> = running.chain(resting).collect();
        all.sort_by(|one, other| one.uuid.cmp(&other.uuid));
        if let Err(error) = status::write(file, &all) {
            note(&format!("cannot write {}: {error}", file.display()));
        }
    }

    /// Publishes what Lambda publishes of its pollers, for alarms: `IteratorAge` of a stream when a batch was sent,
    /// `OffsetLag` of a topic when it was measured.
    fn publish(&mut self) {
        for (uuid, task) in &self.tasks {
            let status = task.worker.counts.lock().clone();
            let seen = (status.invocations + status.throttles, status.offset_lag);
            let before = self.published.insert(uuid.clone(), seen).unwrap_or_default();
            let metric = match task.mapping.source {
                Source::Kinesis { .. } if before.0 != seen.0 => {
                    status.iterator_age_ms.map(|age| ("IteratorAge", "Milliseconds", age))
                }
                Source::Kafka { .. } if before != seen => {
                    status.offset_lag.map(|lag| ("OffsetLag", "Count", lag))
                }
                _ => None,
            };
            let Some((name, unit, value)) = metric else { continue };
            let function = task.mapping.function_name();
            if let Err(error) = self.api.put_metric(&task.mapping.region, function, name, unit, value) {
                note(&format!("{uuid}: the metric {name} was not taken: {error:#}"));
            }
        }
    }

    /// Ends all tasks at the same time.
    fn end(&mut self) {
        for task in self.tasks.values() {
            task.worker.stop.store(true, Ordering::Relaxed);
        }
        for (uuid, task) in std::mem::take(&mut self.tasks) {
            if let Ok(Err(error)) = task.thread.join() {
                note(&format!("{uuid}: {error:#}"));
            }
        }
    }
}

fn source_name(mapping: &Mapping) -> &str {
    match &mapping.source {
        Source::Kafka { topic, .. } => topic,
        Source::Kinesis { stream, .. } => stream,
    }
}

fn status_of(mapping: &Mapping) -> MappingStatus {
    MappingStatus {
        uuid: mapping.uuid.clone(),
        function: mapping.function_arn.clone(),
        source: source_name(mapping).to_owned(),
        ..MappingStatus::default()
    }
}

fn refusal(refused: Refused) -> MappingStatus {
    MappingStatus {
        uuid: refused.uuid,
        function: refused.function_arn,
        source: refused.source_arn,
        state: "Refused".to_owned(),
        reason: Some(refused.reason),
        ..MappingStatus::default()
    }
}
