//! `cargo xtask bench ledger`: the same rows through the writer, through the same statements in a bare loop, and row by
//! row, each into a fresh database of a private server, one connection each.
//!
//! Rounds take turns, so that what else runs on the machine slows all three alike; the medians are compared.

#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{sync::Arc, time::Instant};

use ledger_events::{
    Envelope,
    traffic::{Mix, Traffic},
};
use ledger_writer::{merge::merge, statement};
use support::{Ledger, Server, deliver_all, delivery, in_seconds};
use worker_kit::kafka_event::Delivered;

/// Events in a round.
const EVENTS: usize = 6_000;

/// Events that go row by row in a round: it is so much slower that fewer tell as much.
const EVENTS_ROW_BY_ROW: usize = 1_500;

/// Records in a chunk, and in an invocation, as the stacks have them.
const CHUNK: usize = 30;
const INVOCATION: usize = 120;

const ROUNDS: u64 = 5;

fn traffic(seed: u64, count: usize) -> Vec<Envelope> {
    let mut traffic = Traffic::new(seed, Mix { deletes: 0.0 });
    let mut events = Vec::with_capacity(count + 6);
    for step in 0.. {
        if events.len() >= count {
            break;
        }
        events.extend(traffic.next(1_700_000_000_000 + step));
    }
    events
}

/// Events per second through the writer: from the records of an invocation to its answer, one chunk at a time.
async fn through_the_writer(ledger: &Ledger, events: &[Envelope]) -> f64 {
    let writer = ledger.writer(ledger.credentials());
    let records: Vec<Delivered> = deliver_all(events);
    let begun = Instant::now();
    for invocation in records.chunks(INVOCATION) {
        let response = writer.writer.handle(delivery(invocation), in_seconds(60.0)).await;
        assert!(response.batch_item_failures.is_empty());
    }
    events.len() as f64 / begun.elapsed().as_secs_f64()
}

/// Events per second through the same statements, `at_once` events each, in a loop that does nothing else.
async fn bare(ledger: &Ledger, events: &[Envelope], at_once: usize) -> f64 {
    let database = ledger.database(ledger.credentials());
    let mut session = database.session().await.unwrap();
    let chunks: Vec<_> = events
        .chunks(at_once)
        .map(|chunk| {
            let merged = merge(chunk);
            let text = statement::text(&statement::entities(&merged));
            (text, merged, chunk[0].change.id())
        })
        .collect();
    let begun = Instant::now();
    for (number, (text, merged, id)) in (0u128..).zip(&chunks) {
        let chunk = uuid::Uuid::from_u128(id.as_u128() ^ number);
        statement::query(text, merged, chunk).fetch_one(&mut *session).await.unwrap();
    }
    events.len() as f64 / begun.elapsed().as_secs_f64()
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[tokio::main]
async fn main() {
    let server = Arc::new(Server::start());
    let (mut writer, mut multi_row, mut row_by_row) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let events = traffic(round, EVENTS);
        writer.push(through_the_writer(&server.ledger(1).await, &events).await);
        multi_row.push(bare(&server.ledger(1).await, &events, CHUNK).await);
        row_by_row.push(bare(&server.ledger(1).await, &events[..EVENTS_ROW_BY_ROW], 1).await);
    }
    let (writer, multi_row, row_by_row) =
        (median(&mut writer), median(&mut multi_row), median(&mut row_by_row));
    println!(
        "{}",
        serde_json::json!({
            "rounds": ROUNDS,
            "events": EVENTS,
            "writer_events_per_second": writer.round(),
            "multi_row_events_per_second": multi_row.round(),
            "row_by_row_events_per_second": row_by_row.round(),
            "writer_to_multi_row": (100.0 * writer / multi_row).round() / 100.0,
            "writer_to_row_by_row": (10.0 * writer / row_by_row).round() / 10.0,
        })
    );
}
