//! A private broker, records to feed it, and consumers that note what they were given.

#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, unreachable_pub)]

pub mod load;
pub mod recorders;

use std::{
    collections::BTreeMap,
    future::Future,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{Headers, OwnedMessage},
    producer::{FutureProducer, FutureRecord},
};
use tokio_util::sync::CancellationToken;
use worker_contract::{KafkaAuthentication, KafkaConfiguration};
use worker_kit::{
    batch::Record,
    consumer::{self, ConsumerError, ConsumerMetrics, ConsumerSettings, Membership},
    dead_letters::{DeadLetterTopic, Rejection},
    kafka::{TokenSource, producer_config},
    lanes::Limits,
    processing::{BatchHandler, HandleError},
    retry::RetryPolicy,
};

/// The program that runs brokers.
fn local_environment() -> PathBuf {
    if let Some(program) = std::env::var_os("FLOODGATE_LOCAL_ENVIRONMENT") {
        return program.into();
    }
    let built =
        std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("local-environment");
    assert!(
        built.is_file(),
        "these tests need a broker: run them by `cargo xtask test`, or build local-environment first ({} is not there)",
        built.display()
    );
    built
}

/// Where the broker's jars are installed: shared with the local environment of this workspace.
fn parts() -> PathBuf {
    std::env::var_os("FLOODGATE_LOCAL_ROOT")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target/local"), Into::into)
}

/// A broker of the test's own. It can be killed and started again on its data.
pub struct Broker {
    process: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Broker {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (process, port) = run_broker(directory.path(), None);
        let broker = Self { process, port, directory };
        broker.until_it_answers().await;
        broker
    }

    /// As when the machine is gone: no time to write anything down.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub async fn start_again(&mut self) {
        (self.process, self.port) = run_broker(self.directory.path(), Some(self.port));
        self.until_it_answers().await;
    }

    async fn until_it_answers(&self) {
        let client: BaseConsumer = self.client().create().unwrap();
        eventually("the broker answers", Duration::from_secs(60), || async {
            client
                .fetch_metadata(None, Duration::from_secs(2))
                .is_ok_and(|metadata| !metadata.brokers().is_empty())
        })
        .await;
    }

    pub fn servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.servers()).set("log_level", "0");
        config
    }

    pub fn kafka(&self) -> KafkaConfiguration {
        KafkaConfiguration { bootstrap_servers: self.servers(), authentication: KafkaAuthentication::None }
    }

    pub async fn topic(&self, name: &str, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for result in admin.create_topics([&topic], &AdminOptions::new()).await.unwrap() {
            result.unwrap();
        }
    }

    /// Sets a topic's configuration; what else was set of it goes back to its default.
    pub async fn configure_topic(&self, name: &str, key: &str, value: &str) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let change = AlterConfig::new(ResourceSpecifier::Topic(name)).set(key, value);
        for result in admin.alter_configs([&change], &AdminOptions::new()).await.unwrap() {
            result.unwrap();
        }
    }

    /// With the settings of the project's own producers.
    pub fn producer(&self) -> FutureProducer {
        producer_config(&self.kafka(), "test").create().unwrap()
    }

    /// Sends values, each with its key, and waits until all are acknowledged.
    pub async fn send(&self, topic: &str, records: impl IntoIterator<Item = (String, Option<Vec<u8>>)>) {
        let producer = self.producer();
        let mut sent = Vec::new();
        for (key, value) in records {
            let mut record = FutureRecord::to(topic).key(&key);
            if let Some(value) = &value {
                record = record.payload(value);
            }
            sent.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
        }
        for delivery in sent {
            delivery.await.unwrap().unwrap();
        }
    }

    /// The end offsets of a topic.
    pub fn ends(&self, topic: &str) -> BTreeMap<i32, i64> {
        let client: BaseConsumer = self.client().create().unwrap();
        let metadata = client.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
        metadata.topics()[0]
            .partitions()
            .iter()
            .map(|partition| {
                // A partition of a new topic may be without a leader for a moment.
                let until = Instant::now() + Duration::from_secs(30);
                loop {
                    match client.fetch_watermarks(topic, partition.id(), Duration::from_secs(10)) {
                        Ok((_, end)) => return (partition.id(), end),
                        Err(error) => assert!(Instant::now() < until, "{topic}: {error}"),
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            })
            .collect()
    }

    /// How many members a group has, once it has settled; `None` while it rebalances.
    pub fn settled_members(&self, watcher: &BaseConsumer, group: &str) -> Option<usize> {
        let groups = watcher.fetch_group_list(Some(group), Duration::from_secs(5)).ok()?;
        let group = groups.groups().iter().find(|found| found.name() == group)?;
        (group.state() == "Stable").then(|| group.members().len())
    }

    /// A client that asks about groups.
    pub fn watcher(&self) -> BaseConsumer {
        self.client().create().unwrap()
    }

    /// How many records of a topic a group has committed.
    pub fn committed(&self, topic: &str, group: &str) -> i64 {
        let client: BaseConsumer = self.client().set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in self.ends(topic).keys() {
            list.add_partition(topic, *partition);
        }
        let Ok(committed) = client.committed_offsets(list, Duration::from_secs(10)) else { return 0 };
        committed.elements().iter().filter_map(|element| element.offset().to_raw()).filter(|at| *at > 0).sum()
    }

    /// Whether a group has committed everything of a topic.
    pub fn is_committed(&self, topic: &str, group: &str) -> bool {
        let client: BaseConsumer = self.client().set("group.id", group).create().unwrap();
        let ends = self.ends(topic);
        let mut list = TopicPartitionList::new();
        for partition in ends.keys() {
            list.add_partition(topic, *partition);
        }
        let Ok(committed) = client.committed_offsets(list, Duration::from_secs(10)) else { return false };
        ends.iter().filter(|(_, end)| **end > 0).all(|(partition, end)| {
            committed.find_partition(topic, *partition).map(|found| found.offset())
                == Some(Offset::Offset(*end))
        })
    }

    /// All records of a topic.
    pub async fn read_all(&self, topic: &str) -> Vec<OwnedMessage> {
        let client: BaseConsumer = self.client().set("group.id", "reader").create().unwrap();
        let ends = self.ends(topic);
        let mut list = TopicPartitionList::new();
        for partition in ends.keys() {
            list.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
        }
        client.assign(&list).unwrap();
        let wanted: i64 = ends.values().sum();
        let mut found = Vec::new();
        eventually("all records are read", Duration::from_secs(20), || {
            while let Some(Ok(message)) = client.poll(Duration::from_millis(50)) {
                found.push(message.detach());
            }
            std::future::ready(found.len() as i64 >= wanted)
        })
        .await;
        found
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run_broker(directory: &Path, port: Option<u16>) -> (Child, u16) {
    let mut command = Command::new(local_environment());
    command.arg("--root").arg(directory.join("root")).arg("--parts").arg(parts());
    command.arg("kafka").arg("--directory").arg(directory.join("broker"));
    if let Some(port) = port {
        command.args(["--port", &port.to_string()]);
    }
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let told: serde_json::Value = serde_json::from_str(&line).expect("the broker says where it is");
    let servers = told["bootstrap_servers"].as_str().unwrap();
    let port = servers.rsplit_once(':').unwrap().1.parse().unwrap();
    (process, port)
}

/// Waits for a condition.
pub async fn eventually<F: Future<Output = bool>>(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> F,
) {
    let deadline = Instant::now() + timeout;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {} s: {what}", timeout.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a consumer was given: (partition, offset, key, value), in order.
pub type Seen = Arc<Mutex<Vec<(i32, i64, String, String)>>>;

/// Notes what it is given, after a while.
pub struct Recorder {
    pub seen: Seen,
    pub takes: Duration,
}

impl BatchHandler for Recorder {
    type Item = (i32, i64, String, String);

    fn decode(&self, record: Record<'_>) -> Result<Self::Item, Rejection> {
        let text = |part: Option<&[u8]>| String::from_utf8_lossy(part.unwrap_or_default()).into_owned();
        Ok((record.origin.partition, record.origin.offset, text(record.key), text(record.payload)))
    }

    async fn handle(&self, items: &[Self::Item]) -> Result<(), HandleError> {
        tokio::time::sleep(self.takes).await;
        self.seen.lock().unwrap().extend_from_slice(items);
        Ok(())
    }
}

pub fn settings(broker: &Broker, topic: &str, group: &str, lanes: usize) -> ConsumerSettings {
    ConsumerSettings {
        kafka: broker.kafka(),
        topic: topic.to_owned(),
        group: group.to_owned(),
        client_id: group.to_owned(),
        limits: Limits {
            records: 50,
            bytes: 1 << 20,
            timeout: Duration::from_millis(50),
            in_flight: lanes,
            waiting: 2,
        },
        retry: RetryPolicy::within(Duration::from_secs(20)),
        drain_timeout: Duration::from_secs(5),
    }
}

/// A consumer that runs in this process.
pub struct Running {
    pub stop: CancellationToken,
    pub metrics: Arc<ConsumerMetrics>,
    task: tokio::task::JoinHandle<Result<(), ConsumerError>>,
}

impl Running {
    pub fn start<H: BatchHandler>(settings: ConsumerSettings, dead_letter_topic: &str, handler: H) -> Self {
        Self::start_as(settings, Membership::default(), dead_letter_topic, handler)
    }

    pub fn start_as<H: BatchHandler>(
        settings: ConsumerSettings,
        membership: Membership,
        dead_letter_topic: &str,
        handler: H,
    ) -> Self {
        // Warnings of clients whose broker is killed would bury everything else.
        if std::env::var_os("RUST_LOG").is_some() {
            worker_kit::telemetry::init_log();
        }
        let stop = CancellationToken::new();
        let metrics = Arc::new(ConsumerMetrics::new().unwrap());
        let tokens = TokenSource::new(&settings.kafka, tokio::runtime::Handle::current());
        let sink = Arc::new(
            DeadLetterTopic::new(&settings.kafka, dead_letter_topic, &settings.topic, tokens).unwrap(),
        );
        let task = tokio::spawn(consumer::run_as(
            settings,
            membership,
            Arc::new(handler),
            sink,
            metrics.clone(),
            stop.clone(),
        ));
        Self { stop, metrics, task }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Values 0..count of each of some keys, interleaved.
pub fn numbered(keys: usize, count: usize) -> impl Iterator<Item = (String, Option<Vec<u8>>)> {
    (0..count).flat_map(move |number| {
        (0..keys).map(move |key| (format!("key-{key}"), Some(number.to_string().into_bytes())))
    })
}

pub fn header(message: &OwnedMessage, key: &str) -> String {
    message
        .headers()
        .into_iter()
        .flat_map(|headers| headers.iter())
        .find(|header| header.key == key)
        .and_then(|header| header.value)
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .unwrap_or_default()
}
