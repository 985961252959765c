//! Topics of the real broker: made, written and read.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{Header, Headers, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};

const TIMEOUT: Duration = Duration::from_secs(20);

/// A broker.
pub(crate) struct Topics {
    servers: String,
}

/// A record to write.
pub(crate) struct Written<'a> {
    /// Its partition.
    pub(crate) partition: i32,
    /// Its key.
    pub(crate) key: &'a str,
    /// Its value.
    pub(crate) value: &'a str,
    /// When it says that it was written, in milliseconds since 1970; now, unless told.
    pub(crate) timestamp_ms: Option<i64>,
}

impl Topics {
    /// At an address.
    #[must_use]
    pub(crate) fn at(servers: &str) -> Self {
        Self { servers: servers.to_owned() }
    }

    fn client(&self) -> ClientConfig {
        ClientConfig::new().set("bootstrap.servers", &self.servers).set("log_level", "0").clone()
    }

    /// Makes a topic.
    pub(crate) fn create(&self, name: &str, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let made = runtime.block_on(admin.create_topics([&topic], &options)).unwrap();
        made.into_iter().for_each(|made| drop(made.unwrap()));
    }

    /// Writes records, each with a header, and waits until the broker has them.
    pub(crate) fn write<'a>(&self, topic: &str, records: impl IntoIterator<Item = Written<'a>>) {
        let producer: BaseProducer = self
            .client()
            .set("enable.idempotence", "true")
            .set("queue.buffering.max.messages", "100000")
            .create()
            .unwrap();
        for record in records {
            let header = Header { key: "trace", value: Some(&[1u8, 200]) };
            let message = BaseRecord::to(topic)
                .partition(record.partition)
                .key(record.key)
                .payload(record.value)
                .headers(OwnedHeaders::new().insert(header));
            let message = match record.timestamp_ms {
                Some(timestamp_ms) => message.timestamp(timestamp_ms),
                None => message,
            };
            producer.send(message).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(TIMEOUT).unwrap();
    }

    /// All records of a topic with one partition: key and value.
    #[must_use]
    pub(crate) fn read(&self, topic: &str) -> Vec<(String, String)> {
        let consumer: BaseConsumer = self.client().set("group.id", "tests").create().unwrap();
        let (begin, end) = consumer.fetch_watermarks(topic, 0, TIMEOUT).unwrap();
        let mut assigned = TopicPartitionList::new();
        assigned.add_partition_offset(topic, 0, Offset::Offset(begin)).unwrap();
        consumer.assign(&assigned).unwrap();
        let mut found = Vec::new();
        while begin + i64::try_from(found.len()).unwrap() < end {
            let message = consumer.poll(TIMEOUT).unwrap().unwrap();
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
            found.push((text(message.key()), text(message.payload())));
        }
        found
    }

    /// The headers of all records of a topic.
    #[must_use]
    pub(crate) fn headers(&self, topic: &str, partitions: i32) -> Vec<BTreeMap<String, String>> {
        let consumer: BaseConsumer = self.client().set("group.id", "tests").create().unwrap();
        let (mut assigned, mut expected) = (TopicPartitionList::new(), 0);
        for partition in 0..partitions {
            let (begin, end) = consumer.fetch_watermarks(topic, partition, TIMEOUT).unwrap();
            assigned.add_partition_offset(topic, partition, Offset::Offset(begin)).unwrap();
            expected += end - begin;
        }
        consumer.assign(&assigned).unwrap();
        let mut found = Vec::new();
        while i64::try_from(found.len()).unwrap() < expected {
            let message = consumer.poll(TIMEOUT).unwrap().unwrap();
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
            let headers = message.headers().into_iter().flat_map(Headers::iter);
            found.push(headers.map(|header| (header.key.to_owned(), text(header.value))).collect());
        }
        found
    }
}
