//! Putting dead letters back: once the cause is repaired, their records are produced to the topic that they
//! came from, with key and payload as they were.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use worker_contract::KafkaConfiguration;

use crate::kafka::{ProducerContext, TokenSource, client_config, producer_config};

/// How long the cluster may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Letters that are on their way before their acknowledgements are waited for and the progress is committed.
const CHUNK: usize = 500;

/// What is to be put back.
#[derive(Clone, Debug)]
pub struct Redrive {
    /// The cluster.
    pub kafka: KafkaConfiguration,
    /// The topic of the dead letters.
    pub dead_letter_topic: String,
    /// The topic that records go back to; letters from elsewhere are left.
    pub source_topic: String,
    /// The consumer group that remembers which letters were looked at. Beside the workers' own: it never joins
    /// them.
    pub group: String,
    /// These causes alone; all when empty.
    pub causes: Vec<String>,
    /// Letters to put back, at most.
    pub limit: usize,
    /// Looks and tells, but puts nothing back and remembers nothing.
    pub dry_run: bool,
}

/// What became of the letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedriveReport {
    /// Put back (or to be put back), by cause.
    pub put_back: BTreeMap<String, usize>,
    /// Left in the topic, by reason.
    pub left: BTreeMap<&'static str, usize>,
}

/// Why putting back stopped. What was acknowledged until then is remembered; run it again to go on.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    /// The cluster does not answer or refuses.
    #[error("the Kafka cluster: {0}")]
    Kafka(#[from] KafkaError),
    /// Letters that are there do not come.
    #[error("the letters of the partitions {0:?} do not come; is a broker away? Run it again to go on")]
    Silent(Vec<i32>),
}

impl Redrive {
    /// Goes through the letters that were there when it began and were not looked at before. A letter whose
    /// progress was not remembered yet when this is interrupted is put back again: effects are idempotent.
    ///
    /// # Errors
    ///
    /// See [`RedriveError`].
    pub async fn run(&self, tokens: TokenSource) -> Result<RedriveReport, RedriveError> {
        let mut config = client_config(&self.kafka, &format!("{}-redrive", self.source_topic));
        config.set("group.id", &self.group).set("enable.auto.commit", "false");
        let consumer: BaseConsumer<TokenContext> =
            BaseConsumer::from_config_and_context(&config, TokenContext(tokens.clone()))?;
        let producer: FutureProducer<ProducerContext> = FutureProducer::from_config_and_context(
            &producer_config(&self.kafka, &format!("{}-redrive", self.source_topic)),
            ProducerContext::new(tokens),
        )?;
        let mut remaining = self.unread(&consumer)?;
        let mut report = RedriveReport::default();
        let mut sent = Vec::new();
        let mut done: BTreeMap<i32, i64> = BTreeMap::new();
        let mut count = 0;
        while !remaining.is_empty() && count < self.limit {
            let Some(message) = tokio::task::block_in_place(|| consumer.poll(ANSWER_TIMEOUT)) else {
                return Err(RedriveError::Silent(remaining.into_keys().collect()));
            };
            let letter = message?;
            match self.fate(&letter) {
                Ok(cause) => {
                    *report.put_back.entry(cause).or_default() += 1;
                    count += 1;
                    if !self.dry_run {
                        sent.push(self.put_back(&producer, &letter)?);
                    }
                }
                Err(reason) => *report.left.entry(reason).or_default() += 1,
            }
            let next = letter.offset() + 1;
            done.insert(letter.partition(), next);
            remaining.retain(|partition, end| *partition != letter.partition() || next < *end);
            if sent.len() >= CHUNK {
                self.remember(&consumer, &mut sent, &done).await?;
            }
        }
        self.remember(&consumer, &mut sent, &done).await?;
        Ok(report)
    }

    /// The end offsets of the partitions that have unread letters; the consumer is set to read them.
    fn unread(&self, consumer: &BaseConsumer<TokenContext>) -> Result<BTreeMap<i32, i64>, RedriveError> {
        let topic = &self.dead_letter_topic;
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER_TIMEOUT)?;
        let mut asked = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            asked.add_partition(topic, partition.id());
        }
        let committed = consumer.committed_offsets(asked, ANSWER_TIMEOUT)?;
        let mut assignment = TopicPartitionList::new();
        let mut ends = BTreeMap::new();
        for element in committed.elements() {
            let partition = element.partition();
            let (first, end) = consumer.fetch_watermarks(topic, partition, ANSWER_TIMEOUT)?;
            let begin = match element.offset() {
                Offset::Offset(offset) => offset.max(first),
                _ => first,
            };
            if begin < end {
                assignment.add_partition_offset(topic, partition, Offset::Offset(begin))?;
                ends.insert(partition, end);
            }
        }
        consumer.assign(&assignment)?;
        Ok(ends)
    }

    /// The cause of a letter that is to be put back, or why it is left.
    fn fate(&self, letter: &BorrowedMessage<'_>) -> Result<String, &'static str> {
        let header = |name: &str| {
            let headers = letter.headers()?;
            let found = headers.iter().find(|header| header.key == name)?;
            std::str::from_utf8(found.value?).ok().map(str::to_owned)
        };
        let Some(cause) = header("cause") else { return Err("it is no dead letter of a worker") };
        if header("source_topic").as_deref() != Some(&self.source_topic) {
            return Err("it comes from another topic");
        }
        if !self.causes.is_empty() && !self.causes.contains(&cause) {
            return Err("its cause was not asked for");
        }
        let length = letter.payload().map_or(0, <[u8]>::len);
        let real = header("payload_bytes").and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
        if real > length {
            return Err("its payload was too long to be kept whole");
        }
        Ok(cause)
    }

    fn put_back(
        &self,
        producer: &FutureProducer<ProducerContext>,
        letter: &BorrowedMessage<'_>,
    ) -> Result<rdkafka::producer::DeliveryFuture, RedriveError> {
        let from = format!("{}/{}/{}", self.dead_letter_topic, letter.partition(), letter.offset());
        let headers = OwnedHeaders::new().insert(Header { key: "redriven_from", value: Some(&from) });
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&self.source_topic).headers(headers);
        if let Some(key) = letter.key() {
            record = record.key(key);
        }
        if let Some(payload) = letter.payload() {
            record = record.payload(payload);
        }
        producer.send_result(record).map_err(|(error, _)| error.into())
    }

    /// Waits for the acknowledgements, then notes how far the letters were looked at.
    async fn remember(
        &self,
        consumer: &BaseConsumer<TokenContext>,
        sent: &mut Vec<rdkafka::producer::DeliveryFuture>,
        done: &BTreeMap<i32, i64>,
    ) -> Result<(), RedriveError> {
        for delivery in sent.drain(..) {
            delivery.await.map_err(|_| KafkaError::Canceled)?.map_err(|(error, _)| error)?;
        }
        if self.dry_run || done.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for (partition, offset) in done {
            list.add_partition_offset(&self.dead_letter_topic, *partition, Offset::Offset(*offset))?;
        }
        consumer.commit(&list, CommitMode::Sync)?;
        Ok(())
    }
}

/// A consumer's context that only makes tokens.
struct TokenContext(TokenSource);

impl rdkafka::ClientContext for TokenContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(
        &self,
        _config: Option<&str>,
    ) -> Result<rdkafka::client::OAuthToken, Box<dyn std::error::Error>> {
        self.0.token()
    }
}

impl rdkafka::consumer::ConsumerContext for TokenContext {}
