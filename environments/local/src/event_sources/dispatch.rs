//! Carries out what [`super::delivery`] decides: a thread a batch, which invokes, waits, and tells destinations.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use rdkafka::{
    ClientConfig, ClientContext,
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};
use serde_json::Value as Json;

use super::{
    aws_api::{AwsApi, Invoked},
    delivery::{Condition, Delivery, Step},
    event,
    failure_record::{self, Failure, GivenUp},
    gathering::Batch,
    mapping::{Destination, Mapping, Source},
    record::{Position, Record},
    response,
    status::MappingStatus,
};
use crate::supervised::note;

/// How often a destination that answers badly is told again. After that the failure record is dropped, as Lambda drops
/// it (its metric `DestinationDeliveryFailures`).
const DESTINATION_TRIES: u32 = 6;

/// How long a wait goes on without a look whether to stop.
const PAUSE: Duration = Duration::from_millis(50);

/// What a batch tells its source.
#[derive(Debug)]
pub enum Told {
    /// These are done.
    Done(Vec<(Arc<str>, Position)>),
    /// The batch has ended.
    Ended {
        /// Which.
        id: u64,
        /// Whether all of it is done; not when it was stopped.
        complete: bool,
    },
}

/// What is counted, for all threads of a mapping.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<MappingStatus>>);

impl Counts {
    /// Of a mapping that has not begun.
    #[must_use]
    pub fn new(status: MappingStatus) -> Self {
        Self(Arc::new(Mutex::new(status)))
    }

    /// To be read or added to.
    pub fn lock(&self) -> MutexGuard<'_, MappingStatus> {
        // Counts are whole after each addition, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how the mapping is. A reason that is new is logged.
    pub fn state(&self, state: &str, reason: Option<String>) {
        let mut counts = self.lock();
        if reason.is_some() && counts.reason != reason {
            note(&format!("{} {}: {}", counts.uuid, state, reason.as_deref().unwrap_or_default()));
        }
        state.clone_into(&mut counts.state);
        counts.reason = reason;
    }
}

/// All that the threads of a mapping need.
#[derive(Clone, Debug)]
pub struct Worker {
    /// The mapping.
    pub mapping: Arc<Mapping>,
    /// The AWS APIs.
    pub api: AwsApi,
    /// The broker.
    pub bootstrap_servers: String,
    /// Set when the mapping is to stop: what is in flight ends, nothing new begins.
    pub stop: Arc<AtomicBool>,
    /// What is counted.
    pub counts: Counts,
}

impl Worker {
    /// Whether to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Delivers a batch in a thread of its own.
    pub fn deliver(&self, batch: Batch, told: &Sender<Told>) {
        let (worker, told) = (self.clone(), told.clone());
        thread::spawn(move || {
            // Told in any case, also by a thread that panics.
            let mut end = End { id: batch.id, complete: false, told };
            end.complete = worker.run(batch.records, &end.told);
        });
    }

    /// Whether all records are done.
    fn run(&self, records: Vec<Record>, told: &Sender<Told>) -> bool {
        let mut delivery = Delivery::new(records, self.mapping.policy);
        let mut last: Option<Failure> = None;
        loop {
            let step = delivery.step(now_ms());
            if step == Step::Done {
                self.counts.lock().batches += 1;
                return true;
            }
            if self.is_stopping() {
                return false;
            }
            let done = match step {
                Step::Done => Vec::new(),
                Step::Wait(until) => {
                    let left = u64::try_from(until.saturating_sub(now_ms())).unwrap_or(0);
                    thread::sleep(Duration::from_millis(left).min(PAUSE));
                    continue;
                }
                Step::GiveUp(condition) => {
                    if !self.tell_destination(&delivery, condition, last.as_ref()) {
                        return false;
                    }
                    self.counts.lock().given_up += u64::try_from(delivery.records().len()).unwrap_or(0);
                    delivery.given_up()
                }
                Step::Invoke => self.invoke(&mut delivery, &mut last),
            };
            if !done.is_empty() && told.send(Told::Done(done)).is_err() {
                return false;
            }
        }
    }

    fn invoke(&self, delivery: &mut Delivery, last: &mut Option<Failure>) -> Vec<(Arc<str>, Position)> {
        let event = self.event(delivery.records());
        let newest = delivery.records().last().map(|record| record.timestamp_ms);
        self.counts.lock().iterator_age_ms = newest.map(|newest| now_ms().saturating_sub(newest).max(0));
        let records = delivery.records().len();
        let failed = match self.api.invoke(&self.mapping.function_arn, &self.mapping.region, &event) {
            Invoked::Answered { body, context } => {
                let failed = response::failed(self.mapping.policy.report, &body, delivery.records());
                if !failed.is_empty() {
                    *last = Some(context);
                }
                failed
            }
            Invoked::Failed(context) => {
                *last = Some(context);
                (0..records).collect()
            }
            Invoked::Throttled => {
                self.counts.lock().throttles += 1;
                delivery.unheard(now_ms());
                return Vec::new();
            }
            Invoked::Unavailable(reason) => {
                self.counts.state("Problem", Some(format!("the function cannot be invoked: {reason}")));
                delivery.unheard(now_ms());
                return Vec::new();
            }
        };
        let done = delivery.answered(&failed, now_ms());
        let mut counts = self.counts.lock();
        counts.invocations += 1;
        counts.failures += u64::from(!failed.is_empty());
        counts.records += u64::try_from(done.len()).unwrap_or(0);
        if counts.state == "Problem" {
            "Running".clone_into(&mut counts.state);
            counts.reason = None;
        }
        done
    }

    fn event(&self, records: &[Record]) -> String {
        match self.mapping.source {
            Source::Kafka { .. } => {
                event::of_kafka(&self.mapping.source_arn, &self.bootstrap_servers, records)
            }
            Source::Kinesis { .. } => event::of_kinesis(records),
        }
    }

    /// Tells the destination, if there is one, until it knows or has refused for good; `false` when stopped before.
    fn tell_destination(&self, delivery: &Delivery, condition: Condition, last: Option<&Failure>) -> bool {
        let records = delivery.records();
        let ends = records.first().zip(records.last());
        let range = ends.map(|(first, last)| {
            format!("{} {} to {} {}", first.part, first.position, last.part, last.position)
        });
        note(&format!(
            "{}: giving up {} records ({}), {}",
            self.mapping.uuid,
            records.len(),
            range.unwrap_or_default(),
            condition.as_str()
        ));
        let Some(destination) = &self.mapping.destination else { return true };
        let event = self.event(records);
        let request_id = uuid::Uuid::now_v7().to_string();
        let given_up = GivenUp {
            function_arn: &self.mapping.function_arn,
            source_arn: &self.mapping.source_arn,
            condition,
            invocations: delivery.invocations(),
            last: last.filter(|_| delivery.invocations() > 0),
            request_id: &request_id,
            now_ms: now_ms(),
            records,
            event: &event,
        };
        for attempt in 1..=DESTINATION_TRIES {
            let error = match self.send(destination, &given_up) {
                Ok(sent) => {
                    self.counts.lock().destination_sends += sent;
                    return true;
                }
                Err(error) => error,
            };
            note(&format!(
                "{}: the destination does not take a failure record: {error:#}",
                self.mapping.uuid
            ));
            let mut left = Duration::from_millis(250).saturating_mul(2u32.saturating_pow(attempt));
            while attempt < DESTINATION_TRIES && !left.is_zero() {
                if self.is_stopping() {
                    return false;
                }
                thread::sleep(PAUSE);
                left = left.saturating_sub(PAUSE);
            }
        }
        self.counts.lock().destination_failures += 1;
        true
    }

    /// Sends; how many documents.
    fn send(&self, destination: &Destination, given_up: &GivenUp<'_>) -> Result<u64> {
        let region = &self.mapping.region;
        let document = match self.mapping.source {
            Source::Kafka { .. } => given_up.of_kafka(&self.bootstrap_servers),
            Source::Kinesis { .. } => given_up.of_kinesis(),
        };
        match destination {
            Destination::Queue(account, queue) => {
                self.api.send_message(account, queue, region, &document.to_string())?;
            }
            Destination::Topic(arn) => self.api.publish(arn, region, &document.to_string())?,
            Destination::Bucket(bucket) => {
                let part = given_up.records.first().map_or("none", |record| &*record.part);
                let key = failure_record::object_key(
                    &self.mapping.uuid,
                    part,
                    given_up.now_ms,
                    given_up.request_id,
                );
                let document = failure_record::with_event(document, given_up.event);
                self.api.put_object(bucket, &key, region, &document.to_string())?;
            }
            Destination::KafkaTopic(topic) => return self.produce(topic, given_up),
        }
        Ok(1)
    }

    /// One message a record, with the record's own key.
    fn produce(&self, topic: &str, given_up: &GivenUp<'_>) -> Result<u64> {
        let producer: BaseProducer<Receipts> = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "10000")
            .set("allow.auto.create.topics", "false")
            .create_with_context(Receipts::default())?;
        for record in given_up.records {
            let records = std::slice::from_ref(record);
            let event = self.event(records);
            let one = GivenUp { records, event: &event, ..*given_up };
            let document: Json = one.of_kafka_record(&self.bootstrap_servers);
            let text = document.to_string();
            let message: BaseRecord<'_, [u8], str> = BaseRecord::to(topic).payload(&text);
            let message = match &record.key {
                Some(key) => message.key(key.as_slice()),
                None => message,
            };
            producer.send(message).map_err(|(error, _)| error)?;
        }
        producer.flush(Duration::from_secs(12)).context("the topic does not take it")?;
        let refused = producer.context().refused.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = refused {
            return Err(error).context("the topic does not take it");
        }
        Ok(u64::try_from(given_up.records.len()).unwrap_or(0))
    }
}

/// Remembers that a message was not taken: flushing alone does not tell.
#[derive(Default)]
struct Receipts {
    refused: Mutex<Option<KafkaError>>,
}

impl ClientContext for Receipts {}

impl ProducerContext for Receipts {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        }
    }
}

struct End {
    id: u64,
    complete: bool,
    told: Sender<Told>,
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.told.send(Told::Ended { id: self.id, complete: self.complete });
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
