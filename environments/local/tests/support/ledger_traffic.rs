//! The ledger's traffic while things break: events at a steady rate, some twice, some late, some that nobody can read,
//! and all of it remembered, so that it can be counted afterwards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ledger_events::{
    Envelope,
    traffic::{BROKEN, Disorder, Disturber, Mix, Traffic},
};
use rdkafka::{
    ClientConfig, ClientContext,
    config::FromClientConfigAndContext,
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};

/// A tenth comes twice, a tenth late, a hundredth is malformed.
const DISORDER: Disorder = Disorder { duplicates: 0.1, out_of_order: 0.1, malformed: 0.01 };

const PAUSE: Duration = Duration::from_millis(5);

/// How long the broker may take for what is under way at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

/// Traffic under way.
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    thread: JoinHandle<Sent>,
}

/// What was sent.
pub(crate) struct Sent {
    /// Every event, once, as it was made.
    pub(crate) events: Vec<Envelope>,
    /// Records that are no events.
    pub(crate) malformed: usize,
    /// All records, repetitions included.
    pub(crate) records: usize,
}

/// Counts what the broker did not take.
struct Receipts(Arc<AtomicU64>);

impl ClientContext for Receipts {}

impl ProducerContext for Receipts {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Running {
    /// Begins. The rate waits for nobody.
    pub(crate) fn begin(servers: &str, topic: &str, seed: u64, per_second: u64) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (servers, topic, stopped, counter) =
            (servers.to_owned(), topic.to_owned(), stop.clone(), made.clone());
        let thread = thread::spawn(move || send(&servers, &topic, seed, per_second, &stopped, &counter));
        Self { stop, made, thread }
    }

    /// How many events were made so far.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Ends it, with what was late sent as well, and acknowledged.
    pub(crate) fn end(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn send(servers: &str, topic: &str, seed: u64, per_second: u64, stop: &AtomicBool, made: &AtomicU64) -> Sent {
    let refused = Arc::new(AtomicU64::new(0));
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("enable.idempotence", "true")
        .set("queue.buffering.max.messages", "200000")
        .set("linger.ms", "5")
        .set("log_level", "0");
    let producer = BaseProducer::from_config_and_context(&config, Receipts(refused.clone())).unwrap();
    let mut traffic = Traffic::new(seed, Mix { deletes: 0.09 });
    let mut disturber = Disturber::new(seed, DISORDER);
    let mut sent = Sent { events: Vec::new(), malformed: 0, records: 0 };
    let put = |key: Option<&[u8]>, payload: &[u8]| {
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).payload(payload);
        let record = match key {
            Some(key) => record.key(key),
            None => record,
        };
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.poll(Duration::ZERO);
    };
    let begun = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let due = begun.elapsed().as_millis() * u128::from(per_second) / 1000;
        while u128::from(made.load(Ordering::Relaxed)) < due {
            for event in traffic.next(local_environment::event_sources::dispatch::now_ms()) {
                for event in disturber.push(event.clone()) {
                    put(Some(event.key().as_bytes()), &event.to_bytes());
                    sent.records += 1;
                }
                if let Some(number) = disturber.breaks() {
                    put(None, BROKEN[number]);
                    sent.malformed += 1;
                    sent.records += 1;
                }
                sent.events.push(event);
                made.fetch_add(1, Ordering::Relaxed);
            }
        }
        thread::sleep(PAUSE);
    }
    for event in disturber.finish() {
        put(Some(event.key().as_bytes()), &event.to_bytes());
        sent.records += 1;
    }
    producer.flush(FLUSH_TIMEOUT).unwrap();
    assert_eq!(refused.load(Ordering::Relaxed), 0, "the broker did not take what was to be counted");
    sent
}
