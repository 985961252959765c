//! Trades that are delivered under trouble: poison among them, a broker that is away, ten times the load. On a real
//! broker, by counting.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Stdio},
    time::Duration,
};

use capacity::memory::ConsumerBounds;
use local_testing::{Broker, Running, eventually, header, settings};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rdkafka::Message;
use support::{Recorder, Seen, load::Load};
use trade_consumer::TradeWriter;
use worker_contract::{
    kafka::{FETCH_QUEUE_BYTES, FETCH_QUEUE_MESSAGES, FETCH_RESPONSE_BYTES},
    trades::{BATCHES_WAITING, ConsumerConfiguration},
};
use worker_kit::{
    batch::Record,
    dead_letters::Rejection,
    processing::{BatchHandler, HandleError},
};

/// Takes trades as the consumer does; its target refuses some of them, with the whole batch that they are in.
struct Picky {
    writer: TradeWriter,
    seen: Seen,
}

impl BatchHandler for Picky {
    type Item = (i32, i64, String, String);

    fn decode(&self, record: Record<'_>) -> Result<Self::Item, Rejection> {
        self.writer.decode(record)?;
        let text = |part: Option<&[u8]>| String::from_utf8_lossy(part.unwrap_or_default()).into_owned();
        Ok((record.origin.partition, record.origin.offset, text(record.key), text(record.payload)))
    }

    async fn handle(&self, trades: &[Self::Item]) -> Result<(), HandleError> {
        if trades.iter().any(|(.., payload)| payload.contains("REFUSED")) {
            return Err(HandleError::Rejected("a constraint does not hold".to_owned()));
        }
        self.seen.lock().unwrap().extend_from_slice(trades);
        Ok(())
    }
}

fn trade(number: usize, symbol: &str) -> Vec<u8> {
    format!(
        r#"{{"account_id":"ACC{}","trade_id":"TRD{number}","symbol":"{symbol}","trade_type":"BUY","quantity":1,"price":1.5,"timestamp":"2026-01-01T00:00:00Z"}}"#,
        number % 100
    )
    .into_bytes()
}

/// One trade in a hundred cannot be processed, in four ways: each is one dead letter with its cause, and each of the others
/// is processed once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_poison_at_one_percent_each_is_a_dead_letter_once_and_nothing_else_is() {
    const TRADES: usize = 20_000;
    let seed: u64 =
        std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let broker = Broker::start().await;
    broker.topic("poisoned", 6).await;
    broker.topic("poisoned-dlq", 3).await;
    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    let mut records = Vec::new();
    for number in 0..TRADES {
        let (cause, value) = if random.random_bool(0.01) {
            match number % 4 {
                0 => ("malformed", Some(trade(number, "AAPL")[1..].to_vec())),
                1 => ("null", None),
                2 => ("oversized", Some(vec![b'x'; 70 << 10])),
                _ => ("rejected", Some(trade(number, "REFUSED"))),
            }
        } else {
            ("", Some(trade(number, "AAPL")))
        };
        *expected.entry(cause.to_owned()).or_default() += 1;
        records.push((format!("ACC{}", number % 100), value));
    }
    broker.send("poisoned", records).await;
    let good = expected.remove("").unwrap();
    let seen = Seen::default();
    let writer = TradeWriter { processing_time: Duration::ZERO, message_bytes_max: 64 << 10 };
    let handler = Picky { writer, seen: seen.clone() };
    let running = Running::start(settings(&broker, "poisoned", "g", 4), "poisoned-dlq", handler);
    eventually("all is done", || async { running.metrics.done_total() >= TRADES as u64 }).await;
    running.stop().await;
    assert!(broker.is_committed("poisoned", "g"));
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let mut places = BTreeSet::new();
    for letter in broker.read_all("poisoned-dlq").await {
        *found.entry(header(&letter, "cause")).or_default() += 1;
        let place = ["source_partition", "source_offset"].map(|name| header(&letter, name));
        assert!(places.insert(place), "twice in the dead letters: {:?}", letter.key());
    }
    println!("of {TRADES} trades {good} processed, dead letters {found:?}");
    assert_eq!(found, expected);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), good, "each of the others once");
    let distinct: BTreeSet<(i32, i64)> =
        seen.iter().map(|(partition, offset, ..)| (*partition, *offset)).collect();
    assert_eq!(distinct.len(), good);
}

/// The broker is killed, twice, under load and with a backlog: what has been fetched is done meanwhile, and nobody can
/// commit it. It is committed later or done again, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_while_nothing_can_be_committed_is_not_lost() {
    let mut broker = Broker::start().await;
    broker.topic("away", 4).await;
    let seen = Seen::default();
    // 1000 a second, with a backlog when the broker goes.
    let handler = Recorder { seen: seen.clone(), takes: Duration::from_millis(100) };
    let load = Load::start(&broker, "away", 20, 400.0);
    eventually("there is a backlog", || async { broker.ends("away").values().sum::<i64>() >= 2000 }).await;
    let running = Running::start(settings(&broker, "away", "g", 2), "away", handler);
    let works = async |count: u64| {
        let mark = running.metrics.done_total() + count;
        eventually("it works", || async { running.metrics.done_total() >= mark }).await;
    };
    for _ in 0..2 {
        works(500).await;
        broker.kill();
        // What is in the lanes; the client throws away what it has fetched for a full one.
        works(100).await;
        broker.start_again().await;
        works(500).await;
    }
    let sent = load.stop().await;
    let total: usize = sent.values().sum();
    assert_eq!(broker.ends("away").values().sum::<i64>(), total as i64, "what is acknowledged is kept, once");
    let distinct = || {
        let seen = seen.lock().unwrap();
        seen.iter().map(|(partition, offset, ..)| (*partition, *offset)).collect::<BTreeSet<_>>().len()
    };
    eventually("all is seen", || async { distinct() == total }).await;
    running.stop().await;
    assert!(broker.is_committed("away", "g"));
    // The first time that each is done is in order.
    let mut firsts: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for (partition, offset, key, value) in seen.lock().unwrap().iter() {
        if known.insert((*partition, *offset)) {
            firsts.entry(key.clone()).or_default().push(value.parse().unwrap());
        }
    }
    for (key, values) in &firsts {
        assert!(values.iter().copied().eq(0..sent[key]), "{key}: {values:?}");
    }
    let repeated = seen.lock().unwrap().len() - total;
    println!("the broker was killed twice: of {total} trades 0 lost, {repeated} done again");
}

/// Peak resident memory of a process, in MiB: the kernel's own high-water mark.
fn peak_mib(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().strip_suffix(" kB").unwrap().trim().parse::<f64>().unwrap() / 1024.0
}

/// Ten times what a consumer can do waits for it, more than its memory: it takes what it can, and no more memory for what it
/// cannot. The peak still moves by an answer of the broker and what the allocator keeps; the bound has room for both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_the_load_takes_no_more_memory() {
    let broker = Broker::start().await;
    broker.topic("flood", 6).await;
    let mut random = StdRng::seed_from_u64(1);
    // 200 MiB of trades that gzip makes some ten times smaller: each has letters of its own, eight times over.
    for chunk in 0..10 {
        let records = (0..2000).map(|number| {
            let letters: String = (0..1250).map(|_| char::from(random.random_range(b'A'..=b'Z'))).collect();
            (format!("k{}", number % 60), Some(trade(chunk * 2000 + number, &letters.repeat(8))))
        });
        broker.send("flood", records).await;
    }
    let configuration = ConsumerConfiguration {
        kafka: broker.kafka(),
        topic: "flood".to_owned(),
        dead_letter_topic: "flood".to_owned(),
        consumer_group: "g".to_owned(),
        group_instance_id: None,
        session_timeout_seconds: 10.0,
        // 100 every 0.5 s in two lanes: 400 trades a second, of 20,000 that wait.
        batch_size: 100,
        batch_bytes: 1 << 20,
        batch_timeout_seconds: 0.1,
        batch_processing_seconds: 0.5,
        batches_in_flight: 2,
        message_bytes_max: 64 << 10,
        retry_budget_seconds: 10.0,
        drain_timeout_seconds: 5.0,
        metrics_address: "127.0.0.1:0".to_owned(),
    };
    let mut consumer = Command::new(env!("CARGO_BIN_EXE_trade-consumer"))
        .envs(configuration.to_environment())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut peaks = Vec::new();
    for done in [1000, 2000, 3000, 4000] {
        eventually("it works", || async { broker.committed("flood", "g") >= done }).await;
        peaks.push(peak_mib(consumer.id()));
    }
    consumer.kill().unwrap();
    consumer.wait().unwrap();
    println!("200 MiB of trades wait; peak memory after 1000, 2000, 3000 and 4000 of 20000: {peaks:.1?} MiB");
    // What its pod would be given.
    let allowed = ConsumerBounds {
        batches_waiting: u64::from(BATCHES_WAITING),
        batch_bytes: configuration.batch_bytes,
        queue_bytes: FETCH_QUEUE_BYTES,
        queue_messages: FETCH_QUEUE_MESSAGES,
        response_bytes: FETCH_RESPONSE_BYTES,
        brokers: 1,
    }
    .memory_mib(u64::from(configuration.batches_in_flight));
    println!("its pod would have {allowed} MiB");
    assert!(peaks[3] < allowed as f64, "{peaks:?} of {allowed}");
}
