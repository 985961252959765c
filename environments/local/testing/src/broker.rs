//! A Kafka broker, and what tests do with its topics.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{Headers, Message, OwnedMessage},
    producer::{FutureProducer, FutureRecord},
};
use worker_contract::{KafkaAuthentication, KafkaConfiguration};
use worker_kit::kafka::producer_config;

use crate::{
    part::Part,
    waiting::{eventually, wait_for},
};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A broker of a test's own. It can be killed and started again on its data.
pub struct Broker {
    part: Part,
}

impl Broker {
    /// Starts one, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not start or does not answer.
    pub async fn start() -> Self {
        let broker = Self { part: Part::start("kafka", &[]) };
        broker.until_it_answers().await;
        broker
    }

    /// As when the machine is gone: no time to write anything down.
    pub fn kill(&mut self) {
        self.part.kill();
    }

    /// Starts it again, at the same port, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not start or does not answer.
    pub async fn start_again(&mut self) {
        let servers = self.servers();
        self.part.start_again(&["--port", servers.rsplit_once(':').unwrap().1]);
        self.until_it_answers().await;
    }

    async fn until_it_answers(&self) {
        let client = self.watcher();
        eventually("the broker answers", || async {
            client
                .fetch_metadata(None, Duration::from_secs(2))
                .is_ok_and(|metadata| !metadata.brokers().is_empty())
        })
        .await;
    }

    /// Its address, as clients are told it.
    #[must_use]
    pub fn servers(&self) -> String {
        self.part.told["bootstrap_servers"].as_str().unwrap().to_owned()
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.servers()).set("log_level", "0");
        config
    }

    /// The same, as workers are told it.
    #[must_use]
    pub fn kafka(&self) -> KafkaConfiguration {
        KafkaConfiguration { bootstrap_servers: self.servers(), authentication: KafkaAuthentication::None }
    }

    /// Makes a topic.
    ///
    /// # Panics
    ///
    /// When the broker refuses it.
    pub async fn topic(&self, name: &str, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for result in admin.create_topics([&topic], &AdminOptions::new()).await.unwrap() {
            result.unwrap();
        }
    }

    /// Sets a topic's configuration; what else was set of it goes back to its default.
    ///
    /// # Panics
    ///
    /// When the broker refuses it.
    pub async fn configure_topic(&self, name: &str, key: &str, value: &str) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let change = AlterConfig::new(ResourceSpecifier::Topic(name)).set(key, value);
        for result in admin.alter_configs([&change], &AdminOptions::new()).await.unwrap() {
            result.unwrap();
        }
    }

    /// A producer with the settings of the project's own.
    pub fn producer(&self) -> FutureProducer {
        producer_config(&self.kafka(), "test").create().unwrap()
    }

    /// Sends values, each with its key, and waits until all are acknowledged.
    ///
    /// # Panics
    ///
    /// When one is not.
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

    /// The end offsets of a topic, by partition.
    ///
    /// # Panics
    ///
    /// When the broker does not tell them.
    #[must_use]
    pub fn ends(&self, topic: &str) -> BTreeMap<i32, i64> {
        let client = self.watcher();
        let metadata = client.fetch_metadata(Some(topic), TIMEOUT).unwrap();
        let mut ends = BTreeMap::new();
        for partition in metadata.topics()[0].partitions() {
            // A partition of a new topic may be without a leader for a moment.
            wait_for(&format!("{topic} has a leader"), || {
                let watermarks = client.fetch_watermarks(topic, partition.id(), TIMEOUT);
                watermarks.is_ok_and(|(_, end)| ends.insert(partition.id(), end).is_none())
            });
        }
        ends
    }

    /// How many members a group has, once it has settled; `None` while it rebalances.
    #[must_use]
    pub fn settled_members(&self, watcher: &BaseConsumer, group: &str) -> Option<usize> {
        let groups = watcher.fetch_group_list(Some(group), Duration::from_secs(5)).ok()?;
        let group = groups.groups().iter().find(|found| found.name() == group)?;
        (group.state() == "Stable").then(|| group.members().len())
    }

    /// A client that asks about groups.
    #[must_use]
    pub fn watcher(&self) -> BaseConsumer {
        self.client().create().unwrap()
    }

    /// What a group has committed of a topic, by partition; nothing where the broker does not tell.
    fn positions(
        &self,
        topic: &str,
        group: &str,
        partitions: impl Iterator<Item = i32>,
    ) -> BTreeMap<i32, i64> {
        let client: BaseConsumer = self.client().set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(topic, partition);
        }
        let Ok(committed) = client.committed_offsets(list, TIMEOUT) else { return BTreeMap::new() };
        let elements = committed.elements().into_iter();
        elements
            .filter_map(|element| match element.offset() {
                Offset::Offset(offset) => Some((element.partition(), offset)),
                _ => None,
            })
            .collect()
    }

    /// How many records of a topic a group has committed.
    #[must_use]
    pub fn committed(&self, topic: &str, group: &str) -> i64 {
        self.positions(topic, group, self.ends(topic).into_keys()).values().sum()
    }

    /// Whether a group has committed everything of a topic.
    #[must_use]
    pub fn is_committed(&self, topic: &str, group: &str) -> bool {
        let mut ends = self.ends(topic);
        ends.retain(|_, end| *end > 0);
        let positions = self.positions(topic, group, ends.keys().copied());
        ends.iter().all(|(partition, end)| positions.get(partition) == Some(end))
    }

    /// All records of a topic.
    ///
    /// # Panics
    ///
    /// When they do not come.
    pub async fn read_all(&self, topic: &str) -> Vec<OwnedMessage> {
        let client: BaseConsumer = self.client().set("group.id", "reader").create().unwrap();
        let ends = self.ends(topic);
        let mut list = TopicPartitionList::new();
        for partition in ends.keys() {
            list.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
        }
        client.assign(&list).unwrap();
        let wanted = usize::try_from(ends.values().sum::<i64>()).unwrap();
        let mut found = Vec::new();
        eventually("all records are read", || {
            while let Some(Ok(message)) = client.poll(Duration::from_millis(50)) {
                found.push(message.detach());
            }
            std::future::ready(found.len() >= wanted)
        })
        .await;
        found
    }
}

/// The text of a record's header; nothing where there is none.
#[must_use]
pub fn header(message: &OwnedMessage, key: &str) -> String {
    message
        .headers()
        .into_iter()
        .flat_map(Headers::iter)
        .find(|header| header.key == key)
        .and_then(|header| header.value)
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .unwrap_or_default()
}
