//! Consumers as processes of their own, whose attempts and effects can be counted whatever happens to them.

#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, unreachable_pub)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use local_testing::Broker;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use worker_contract::trades::ConsumerConfiguration;

/// Records of a batch.
pub const BATCH: usize = 50;
/// Batches in flight.
pub const LANES: usize = 2;

/// What recorders of one group leave behind.
pub struct Journal {
    directory: tempfile::TempDir,
}

impl Journal {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Bytes of the notes of attempts: grows with each.
    pub fn progress(&self) -> u64 {
        std::fs::metadata(self.file("attempts")).map_or(0, |facts| facts.len())
    }

    /// How often the members' log says something.
    pub fn told(&self, message: &str) -> usize {
        lines(&self.file("log")).iter().filter(|line| line.contains(message)).count()
    }

    /// What was handed to a sink: `partition offset`.
    pub fn attempts(&self) -> Vec<String> {
        lines(&self.file("attempts"))
    }

    /// The effects of each key, in the order in which they came about.
    pub fn effects(&self, partitions: i32) -> BTreeMap<String, Vec<usize>> {
        let mut effects: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for partition in 0..partitions {
            for line in lines(&self.file(&format!("partition-{partition}"))) {
                let (key, value) = line.split_once(' ').unwrap();
                effects.entry(key.to_owned()).or_default().push(value.parse().unwrap());
            }
        }
        effects
    }

    pub fn effect_count(&self, partitions: i32) -> usize {
        self.effects(partitions).values().map(Vec::len).sum()
    }

    /// Passes when every effect of each key came about once and in order, and everything of the topic was handed
    /// over at least once; gives how often something was handed over again.
    pub fn exactly_once(&self, broker: &Broker, topic: &str, sent: &BTreeMap<String, usize>) -> usize {
        let repeated = self.at_least_once(broker, topic);
        let ends = broker.ends(topic);
        let effects = self.effects(i32::try_from(ends.len()).unwrap());
        assert_eq!(effects.keys().collect::<Vec<_>>(), sent.keys().collect::<Vec<_>>());
        for (key, values) in &effects {
            assert!(values.iter().copied().eq(0..sent[key]), "{key}: not once each in order: {values:?}");
        }
        repeated
    }

    /// Passes when everything of the topic was handed over at least once; gives how often something was handed over
    /// again.
    pub fn at_least_once(&self, broker: &Broker, topic: &str) -> usize {
        let ends = broker.ends(topic);
        let attempts = self.attempts();
        let distinct: BTreeSet<&str> = attempts.iter().map(String::as_str).collect();
        let expected: BTreeSet<String> = ends
            .iter()
            .flat_map(|(partition, end)| (0..*end).map(move |offset| format!("{partition} {offset}")))
            .collect();
        assert_eq!(distinct.len(), expected.len(), "lost");
        assert!(expected.iter().all(|record| distinct.contains(record.as_str())), "lost");
        attempts.len() - distinct.len()
    }
}

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A consumer that runs as a process.
pub struct RecorderProcess {
    child: Child,
}

impl RecorderProcess {
    pub fn start(broker: &Broker, topic: &str, journal: &Journal) -> Self {
        Self::start_as(broker, topic, journal, None)
    }

    /// Starts it under a name of its own in the group.
    pub fn start_as(broker: &Broker, topic: &str, journal: &Journal, name: Option<&str>) -> Self {
        let program = std::env::current_exe().unwrap();
        let program = program.parent().unwrap().parent().unwrap().join("examples/recorder");
        assert!(program.is_file(), "`cargo test` without `--test` builds {} first", program.display());
        let configuration = ConsumerConfiguration {
            kafka: broker.kafka(),
            topic: topic.to_owned(),
            dead_letter_topic: topic.to_owned(),
            consumer_group: "g".to_owned(),
            group_instance_id: name.map(str::to_owned),
            session_timeout_seconds: 2.0,
            batch_size: BATCH as u32,
            batch_bytes: 1 << 20,
            batch_timeout_seconds: 0.05,
            batch_processing_seconds: 0.03,
            batches_in_flight: LANES as u32,
            message_bytes_max: 1 << 20,
            retry_budget_seconds: 10.0,
            drain_timeout_seconds: 1.0,
            metrics_address: "127.0.0.1:0".to_owned(),
        };
        let mut command = Command::new(program);
        let log = OpenOptions::new().create(true).append(true).open(journal.file("log")).unwrap();
        command.arg(journal.directory.path()).envs(configuration.to_environment()).stdout(log);
        let child = command.spawn().unwrap();
        Self { child }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Ends it as the kernel does when memory runs out.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for RecorderProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
