//! The engine against a bare librdkafka loop, on one broker and one topic, in turn: `cargo xtask bench
//! consumer`. Goal: the engine reads at 80% or more of what the bare loop reads.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use rdkafka::{
    config::FromClientConfig,
    consumer::{BaseConsumer, Consumer},
};
use support::{Broker, Running, settings};
use trade_consumer::TradeWriter;

const ROUNDS: usize = 5;

fn main() {
    let messages: usize =
        std::env::var("MESSAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(messages));
}

async fn run(messages: usize) {
    let broker = Broker::start().await;
    broker.topic("throughput", 6).await;
    let trade = |number: usize| {
        format!(
            r#"{{"account_id":"ACC{}","trade_id":"TRD{}","symbol":"AAPL","trade_type":"BUY","quantity":10,"price":123.45,"timestamp":"2026-01-01T00:00:00.000000Z"}}"#,
            1000 + number % 9000,
            100_000 + number % 900_000
        )
    };
    for chunk in 0..messages.div_ceil(50_000) {
        let range = chunk * 50_000..((chunk + 1) * 50_000).min(messages);
        let records =
            range.map(|number| (format!("ACC{}", 1000 + number % 9000), Some(trade(number).into_bytes())));
        broker.send("throughput", records).await;
    }
    println!(
        "{messages} trades of {} bytes in 6 partitions; {ROUNDS} rounds of each, in turn",
        trade(0).len()
    );
    let mut ratios = Vec::new();
    for round in 0..=ROUNDS {
        let bare = bare(&broker, round, messages);
        let engine = engine(&broker, round, messages).await;
        // The first round warms the broker's page cache.
        if round == 0 {
            continue;
        }
        println!(
            "bare librdkafka loop {bare:>10.0}/s   engine {engine:>10.0}/s   ratio {:.2}",
            engine / bare
        );
        ratios.push(engine / bare);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2} (goal 0.80)", ratios[ROUNDS / 2]);
}

/// Messages per second of a loop that reads and counts.
fn bare(broker: &Broker, round: usize, messages: usize) -> f64 {
    let config = settings(broker, "throughput", &format!("bare-{round}"), 2).client_config();
    let consumer = BaseConsumer::from_config(&config).unwrap();
    consumer.subscribe(&["throughput"]).unwrap();
    let mut begun = None;
    let mut count = 0;
    while count < messages {
        if let Some(Ok(_)) = consumer.poll(Duration::from_millis(100)) {
            begun.get_or_insert_with(Instant::now);
            count += 1;
        }
    }
    messages as f64 / begun.unwrap().elapsed().as_secs_f64()
}

/// Messages per second of the engine with the trades' writer, whose write takes no time.
async fn engine(broker: &Broker, round: usize, messages: usize) -> f64 {
    let mut settings = settings(broker, "throughput", &format!("engine-{round}"), 2);
    settings.limits.records = 100;
    settings.limits.timeout = Duration::from_millis(100);
    let writer = TradeWriter { processing_time: Duration::ZERO, message_bytes_max: 64 << 10 };
    let running = Running::start(settings, "throughput", writer);
    let mut begun = None;
    loop {
        let done = running.metrics.done_total();
        if done > 0 {
            begun.get_or_insert_with(Instant::now);
        }
        if done >= messages as u64 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rate = messages as f64 / begun.unwrap().elapsed().as_secs_f64();
    running.stop().await;
    rate
}
