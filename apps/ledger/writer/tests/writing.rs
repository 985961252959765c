//! The writer on a real PostgreSQL, with what can go wrong, by counting.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::future::join_all;
use ledger_events::{
    Change, Data, Entity, Envelope, Mode,
    traffic::{BROKEN, Chance, Disorder, Disturber, Mix, Traffic},
};
use ledger_writer::{merge::merge, statement};
use local_testing::eventually;
use sqlx::{Connection, Executor, Row};
use support::{Server, deliver_all, delivered, delivery, in_seconds, is_done};
use worker_kit::{
    kafka_event::Delivered,
    processing::{BatchHandler, HandleError},
};

const START_MS: i64 = 1_700_000_000_000;

fn traffic(seed: u64, count: usize) -> Vec<Envelope> {
    let mut traffic = Traffic::new(seed, Mix { deletes: 0.09 });
    let mut events = Vec::new();
    for step in 0.. {
        if events.len() >= count {
            break;
        }
        events.extend(traffic.next(START_MS + step));
    }
    events
}

/// Hands records to a writer until all are done, as an event source mapping does. Gives the invocations.
async fn until_done(writer: &support::TestWriter, records: Vec<Delivered>, seconds: f64) -> usize {
    let mut left = records;
    let mut invocations = 0;
    while !left.is_empty() {
        let batch: Vec<_> = left.iter().take(100).cloned().collect();
        let response = writer.writer.handle(delivery(&batch), in_seconds(seconds)).await;
        let done: BTreeSet<i64> = batch
            .iter()
            .filter(|record| is_done(&response, record))
            .map(|record| record.origin.offset)
            .collect();
        left.retain(|record| !done.contains(&record.origin.offset));
        invocations += 1;
    }
    invocations
}

/// Defect 6: all columns but the version were overwritten by a late event. Here: 10% of the events come twice, 10% late, in batches
/// of writers at work together, and each counts once, and no row goes back.
#[tokio::test(flavor = "multi_thread")]
async fn the_newer_version_wins_whatever_the_transport_does() {
    let ledger = Server::common().ledger(8).await;
    let events = traffic(1, 3000);
    let disorder = Disorder { duplicates: 0.1, out_of_order: 0.1, malformed: 0.0 };
    let mut disturber = Disturber::new(2, disorder);
    let mut arriving: Vec<Envelope> =
        events.iter().cloned().flat_map(|event| disturber.push(event)).collect();
    arriving.extend(disturber.finish());
    assert!(arriving.len() > events.len() + 200);
    // A key's events come through one partition, and so to one writer.
    let mut partitions: BTreeMap<u8, Vec<Envelope>> = BTreeMap::new();
    for event in arriving {
        partitions.entry(event.key().as_bytes()[15] % 4).or_default().push(event);
    }
    join_all(partitions.into_values().map(|events| {
        let writer = ledger.writer(ledger.credentials());
        async move { until_done(&writer, deliver_all(&events), 30.0).await }
    }))
    .await;
    ledger.assert_holds(&events).await;

    // The content is the newest one's, too.
    let merged = merge(&events);
    let mut administrator = ledger.administrator().await;
    let rows = sqlx::query("SELECT id, total_cents FROM orders_ops WHERE NOT deleted")
        .fetch_all(&mut administrator)
        .await
        .unwrap();
    let newest: BTreeMap<_, _> = merged
        .rows
        .iter()
        .filter_map(|row| match &row.change {
            Change::Upsert(Data::Order(order)) => Some((order.id, order.total_cents)),
            _ => None,
        })
        .collect();
    let found: BTreeMap<uuid::Uuid, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(found, newest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_comes_first_stays_and_one_that_comes_later_keeps_the_content() {
    let ledger = Server::common().ledger(2).await;
    let tables = ledger.tables();
    let first = traffic(3, 20).into_iter().find(|event| event.change.entity() == Entity::Order).unwrap();
    let id = first.change.id();
    let delete = |version| {
        let change = Change::Delete { entity: first.change.entity(), id, parent: None };
        Envelope::new(version, START_MS + version, change)
    };
    let number = |sql: String| {
        let ledger = ledger.clone();
        async move { ledger.number(&sql).await }
    };
    let table = first.change.entity().as_str();
    tables.handle(&[delete(2)]).await.unwrap();
    tables.handle(std::slice::from_ref(&first)).await.unwrap();
    assert_eq!(number(format!("SELECT count(*) FROM {table} WHERE deleted AND version = 2")).await, 1);
    let tally = tables.take_tally();
    assert_eq!((tally.rows, tally.regressions_refused, tally.duplicates), (1, 1, 0));
    let again = Envelope::new(3, START_MS, first.change.clone());
    tables.handle(std::slice::from_ref(&again)).await.unwrap();
    tables.handle(&[delete(4), again]).await.unwrap();
    let kept = format!("SELECT count(*) FROM {table} WHERE deleted AND version = 4 AND status IS NOT NULL");
    assert_eq!(number(kept).await, 1);
    assert_eq!(tables.take_tally().duplicates, 1);
}

/// Defect 5a: a row that failed was counted and forgotten. Here it is a dead letter, with its payload, and nobody else is.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_or_violates_a_constraint_is_a_dead_letter_and_nothing_else_is() {
    let ledger = Server::common().ledger(2).await;
    let mut events = traffic(4, 1000);
    // Two invoices with one number: only the database knows.
    let number = events
        .iter()
        .find_map(|event| match &event.change {
            Change::Upsert(Data::Invoice(invoice)) => Some(invoice.number.clone()),
            _ => None,
        })
        .unwrap();
    let mut twin = traffic(5, 200)
        .into_iter()
        .find_map(|event| match event.change {
            Change::Upsert(Data::Invoice(invoice)) => Some(invoice),
            _ => None,
        })
        .unwrap();
    twin.number = number.clone();
    let poison = Envelope::new(1, START_MS, Change::Upsert(Data::Invoice(twin)));
    // The other ones keep their number from its first version on.
    events.retain(|event| match &event.change {
        Change::Upsert(Data::Invoice(invoice)) => invoice.number == number || event.version == 1,
        _ => true,
    });
    let mut records = deliver_all(&events);
    let mut broken = Vec::new();
    for (position, record) in (0i64..).step_by(100).zip(records.iter_mut().step_by(100)) {
        let payload = BROKEN[usize::try_from(position / 100).unwrap() % BROKEN.len()];
        record.payload = Some(payload.to_vec());
        broken.push((record.origin.offset, payload.to_vec()));
    }
    let last = i64::try_from(records.len()).unwrap();
    records.push(delivered(last, poison.key().as_bytes(), &poison.to_bytes()));
    broken.push((last, poison.to_bytes()));

    let writer = ledger.writer(ledger.credentials());
    until_done(&writer, records, 30.0).await;
    let mut letters: Vec<_> = writer.letters.0.lock().unwrap().clone();
    letters.sort();
    assert_eq!(letters.last().unwrap().1, "rejected");
    let letters: Vec<_> = letters.into_iter().map(|(offset, _, payload)| (offset, payload)).collect();
    assert_eq!(letters, broken);
    let offsets: BTreeSet<i64> = broken.iter().map(|(offset, _)| *offset).collect();
    let written: Vec<Envelope> =
        (0..).zip(events).filter(|(offset, _)| !offsets.contains(offset)).map(|(_, event)| event).collect();
    ledger.assert_holds(&written).await;
}

/// Defect 5c: with the time gone before the first chunk, nothing was queued, and nothing left counted as all done.
#[tokio::test(flavor = "multi_thread")]
async fn no_time_left_is_no_success() {
    let ledger = Server::common().ledger(2).await;
    let writer = ledger.writer(ledger.credentials());
    let records = deliver_all(&traffic(6, 80));
    let response = writer.writer.handle(delivery(&records), Instant::now()).await;
    assert!(records.iter().all(|record| !is_done(&response, record)), "{response:?}");
    assert_eq!(ledger.number("SELECT count(*) FROM applied_events").await, 0);

    // Time for some: those that are told as done are.
    let mut blocker = ledger.administrator().await;
    let mut transaction = blocker.begin().await.unwrap();
    transaction.execute("LOCK TABLE applied_events IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let begun = Instant::now();
    let response = writer.writer.handle(delivery(&records), in_seconds(1.0)).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "it ends in time, whatever its statements do");
    assert!(records.iter().all(|record| !is_done(&response, record)), "{response:?}");
    transaction.rollback().await.unwrap();
    until_done(&writer, records, 30.0).await;
    ledger.assert_holds(&traffic(6, 80)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_and_comes_back_loses_nothing() {
    let server = Arc::new(Server::start());
    let ledger = server.ledger(4).await;
    let events = traffic(7, 6000);
    let writer = ledger.writer(ledger.credentials());
    let records = deliver_all(&events);
    let run = tokio::spawn(async move { until_done(&writer, records, 1.0).await });
    let some = |least: i64| {
        let ledger = ledger.clone();
        move || {
            let ledger = ledger.clone();
            async move { ledger.number("SELECT count(*) FROM applied_events").await >= least }
        }
    };
    eventually("the first are written", some(200)).await;
    server.kill();
    assert!(!run.is_finished(), "it is killed amid the writing");
    tokio::task::spawn_blocking({
        let server = server.clone();
        move || server.start_again()
    })
    .await
    .unwrap();
    run.await.unwrap();
    ledger.assert_holds(&events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_rotates_amid_a_batch_is_read_again() {
    let ledger = Server::common().ledger(2).await;
    let credentials = ledger.credentials();
    let writer = ledger.writer(credentials.clone());
    let events = traffic(8, 300);
    let records = deliver_all(&events);
    until_done(&writer, records[..150].to_vec(), 10.0).await;
    let reads = credentials.reads.load(Ordering::Relaxed);
    // The new password is in the database first; what is connected is thrown out.
    let mut administrator = ledger.administrator().await;
    let user = ledger.user.clone();
    for statement in [
        format!("ALTER ROLE {user} PASSWORD 'second'"),
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'"),
    ] {
        administrator.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(statement))).await.unwrap();
    }
    let response = writer.writer.handle(delivery(&records[150..250]), in_seconds(1.0)).await;
    assert!(records[150..250].iter().all(|record| !is_done(&response, record)), "refused is not done");
    *credentials.password.lock().unwrap() = "second".to_owned();
    until_done(&writer, records[150..].to_vec(), 10.0).await;
    assert!(credentials.reads.load(Ordering::Relaxed) > reads, "the secret was read again");
    ledger.assert_holds(&events).await;
}

/// Chunks that share rows, in whatever order, and somebody who locks the same rows the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_of_deadlocks_ends_with_everything_written_once() {
    let server = Arc::new(Server::start());
    let ledger = server.ledger(8).await;
    let first: Vec<Envelope> = traffic(9, 400)
        .into_iter()
        .filter(|event| event.change.entity() == Entity::Order && event.version == 1)
        .take(40)
        .collect();
    assert_eq!(first.len(), 40);
    let tables = Arc::new(ledger.tables());
    tables.handle(&first).await.unwrap();
    let ids: Vec<uuid::Uuid> = merge(&first).rows.iter().map(|row| row.change.id()).collect();
    let storm = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let hostile = tokio::spawn({
        let (ledger, ids, storm) = (ledger.clone(), ids.clone(), storm.clone());
        async move {
            let mut connection = ledger.administrator().await;
            connection.execute("SET deadlock_timeout = '20ms'").await.unwrap();
            let mut deadlocks = 0u32;
            while storm.load(Ordering::Relaxed) {
                let mut transaction = connection.begin().await.unwrap();
                // From the last to the first: against the writers' order.
                for id in ids.iter().rev() {
                    let touched = sqlx::query("UPDATE orders_ops SET written_at = now() WHERE id = $1")
                        .bind(id)
                        .execute(&mut *transaction)
                        .await;
                    if touched.is_err() {
                        deadlocks += 1;
                        break;
                    }
                }
                transaction.rollback().await.unwrap();
            }
            deadlocks
        }
    });
    let mut events = first.clone();
    let mut tasks = Vec::new();
    for worker in 0..4i64 {
        let mut chance = Chance::new(u64::try_from(worker).unwrap());
        let mut mine: Vec<Envelope> = Vec::new();
        for round in 0..15 {
            for event in &first {
                mine.push(Envelope::new(2 + round * 4 + worker, START_MS + round, event.change.clone()));
            }
        }
        events.extend(mine.iter().cloned());
        let tables = tables.clone();
        tasks.push(tokio::spawn(async move {
            let mut retries = 0u32;
            for chunk in mine.chunks_mut(40) {
                for position in (1..chunk.len()).rev() {
                    chunk.swap(position, chance.below(position + 1));
                }
                loop {
                    match tables.handle(chunk).await {
                        Ok(()) => break,
                        Err(HandleError::Retriable(_)) => retries += 1,
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
            retries
        }));
    }
    let mut retries = 0;
    for task in tasks {
        retries += task.await.unwrap();
    }
    storm.store(false, Ordering::Relaxed);
    let deadlocks = hostile.await.unwrap();
    assert!(deadlocks + retries > 0, "there was no storm");
    ledger.assert_holds(&events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_has_no_more_connections_than_it_was_given_and_names_no_statement() {
    let ledger = Server::common().ledger(2).await;
    let writer = ledger.writer(ledger.credentials());
    let events = traffic(10, 500);
    let most = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let watching = tokio::spawn({
        let (ledger, most) = (ledger.clone(), most.clone());
        async move {
            let mut administrator = ledger.administrator().await;
            loop {
                let now: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE usename = $1")
                    .bind(&ledger.user)
                    .fetch_one(&mut administrator)
                    .await
                    .unwrap();
                most.fetch_max(now, Ordering::Relaxed);
            }
        }
    });
    until_done(&writer, deliver_all(&events), 30.0).await;
    watching.abort();
    assert_eq!(most.load(Ordering::Relaxed), 2);
    ledger.assert_holds(&events).await;
    drop(writer);

    let ledger = Server::common().ledger(1).await;
    let database = ledger.database(ledger.credentials());
    let mut session = database.session().await.unwrap();
    let merged = merge(&events);
    let text = statement::text(&statement::entities(&merged));
    statement::query(&text, &merged, events[0].change.id()).fetch_one(&mut *session).await.unwrap();
    let named: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
        .persistent(false)
        .fetch_one(&mut *session)
        .await
        .unwrap();
    assert_eq!(named, 0);
    // The role can do what a writer does and no more.
    for forbidden in ["DELETE FROM orders_ops", "TRUNCATE applied_events", "DROP TABLE orders_ops"] {
        let error = session.execute(forbidden).await.unwrap_err().to_string();
        assert!(error.contains("permission denied") || error.contains("must be owner"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ceiling_follows_the_mode_from_the_first_chunk_on() {
    let ledger = Server::common().ledger(2).await;
    let writer = ledger.writer(ledger.credentials());
    writer.mode.set(Mode::Red, 10);
    let records = deliver_all(&traffic(11, 200));
    writer.writer.handle(delivery(&records[..100]), in_seconds(10.0)).await;
    assert_eq!(writer.writer.limit(), 1);
    // An older record changes nothing; a newer one does, in an environment that is warm.
    writer.mode.set(Mode::Green, 9);
    until_done(&writer, records[..100].to_vec(), 10.0).await;
    assert_eq!(writer.writer.limit(), 1);
    writer.mode.set(Mode::Green, 11);
    let begun = Instant::now();
    eventually("the limit grows", || async {
        writer.writer.handle(delivery(&records), in_seconds(10.0)).await;
        writer.writer.limit() == 2
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_again_changes_nothing_and_forgetting_forgets_what_is_old() {
    use ledger_migrate::schema::{WriterSignIn, forget_events, migrate, writer_role};
    let ledger = Server::common().ledger(3).await;
    let tables = ledger.tables();
    let events = traffic(12, 100);
    tables.handle(&events).await.unwrap();
    let mut administrator = ledger.administrator().await;
    migrate(&mut administrator).await.unwrap();
    let sign_in = WriterSignIn::Password("first".to_owned());
    writer_role(&mut administrator, &ledger.user, 2, &sign_in).await.unwrap();
    ledger.assert_holds(&events).await;
    let limit = format!("SELECT rolconnlimit::bigint FROM pg_roles WHERE rolname = '{}'", ledger.user);
    assert_eq!(ledger.number(&limit).await, 2);
    assert_eq!(forget_events(&mut administrator, 14).await.unwrap(), 0);
    let aged = "UPDATE applied_events SET applied_at = now() - interval '15 days' WHERE event_id IN (SELECT event_id FROM applied_events LIMIT 40)";
    administrator.execute(aged).await.unwrap();
    assert_eq!(forget_events(&mut administrator, 14).await.unwrap(), 40);
    assert_eq!(
        usize::try_from(ledger.number("SELECT count(*) FROM applied_events").await).unwrap(),
        events.len() - 40
    );
}
