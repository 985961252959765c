//! A steady stream of numbered records.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use local_testing::Broker;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long the end waits for acknowledgements; a broker may be away meanwhile.
const FLUSH: Duration = Duration::from_secs(60);

/// Sends 0, 1, 2… of each key at a rate, until it is stopped.
pub struct Load {
    stop: CancellationToken,
    sending: JoinHandle<BTreeMap<String, usize>>,
}

impl Load {
    /// `rate` is in records per second over all keys.
    pub fn start(broker: &Broker, topic: &str, keys: usize, rate: f64) -> Self {
        let stop = CancellationToken::new();
        let sending = tokio::spawn(send(broker.producer(), topic.to_owned(), keys, rate, stop.clone()));
        Self { stop, sending }
    }

    /// Stops; gives how many of each key were sent and acknowledged.
    pub async fn stop(self) -> BTreeMap<String, usize> {
        self.stop.cancel();
        self.sending.await.unwrap()
    }
}

async fn send(
    producer: FutureProducer,
    topic: String,
    keys: usize,
    rate: f64,
    stop: CancellationToken,
) -> BTreeMap<String, usize> {
    let begun = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let mut sent: BTreeMap<String, usize> = BTreeMap::new();
    let mut number = 0;
    while !stop.is_cancelled() {
        tick.tick().await;
        while (number as f64) < begun.elapsed().as_secs_f64() * rate {
            let key = format!("key-{}", number % keys);
            let count = sent.entry(key.clone()).or_default();
            let value = count.to_string();
            drop(
                producer
                    .send_result(FutureRecord::to(&topic).key(&key).payload(&value))
                    .map_err(|(error, _)| error)
                    .unwrap(),
            );
            *count += 1;
            number += 1;
        }
    }
    tokio::task::spawn_blocking(move || producer.flush(FLUSH).unwrap()).await.unwrap();
    sent
}
