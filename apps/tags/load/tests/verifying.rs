//! The load with workers and a cache behind it: what is written is verified, and what is not there is seen.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime};

use local_testing::{Broker, Running, Valkey, settings};
use tag_load::{
    expectations::{Acknowledged, Tally},
    run::{id, run},
    traffic::{RunId, Traffic},
    verification::{Written, settle},
};
use tag_store::{
    connection::{Endpoint, Store},
    reader::Reader,
    writer::Writer,
};
use tag_worker::{
    message::{Bounds, read},
    worker::{TagWriter, machine_time_ms},
};
use tokio_util::sync::CancellationToken;
use worker_contract::{
    CacheAuthentication, CacheConfiguration,
    tags::{LoadConfiguration, LoadShape},
};
use worker_kit::batch::{Origin, Record};

const BOUNDS: Bounds = Bounds { message_bytes_max: 10_000, expiry_seconds: 600 };

fn shape(channels: u32, objects_per_channel: u32) -> LoadShape {
    LoadShape { channels, objects_per_channel, message_bytes: 300, delete_share: 0.2, lifetime_seconds: 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_was_written_is_in_the_cache_and_came_in_order() {
    let valkey = Valkey::start(2);
    let broker = Broker::start().await;
    broker.topic("tag-data", 6).await;
    broker.topic("tag-data-dlq", 1).await;
    let writer = TagWriter::new(Writer::new(store(&valkey).await), BOUNDS, machine_time_ms);
    let worker = Running::start(settings(&broker, "tag-data", "workers", 4), "tag-data-dlq", writer);
    let configuration = LoadConfiguration {
        kafka: broker.kafka(),
        topic: "tag-data".to_owned(),
        cache: Some(CacheConfiguration {
            endpoint: format!("{}:{}", valkey.host(), valkey.port()),
            authentication: CacheAuthentication::None,
        }),
        updates_per_second: 400.0,
        period_seconds: 3,
        shape: shape(30, 4),
        generator_seed: Some(3),
        verify: true,
        number: 0,
    };
    let stop = CancellationToken::new();
    // The second run goes on with the channels that the first has left.
    for _ in 0..2 {
        let report = run(&configuration, id(&configuration, SystemTime::now(), 0), &stop).await.unwrap();
        assert!(report.is_well() && report.deletions > 0, "{report:?}");
        let verification = report.verification.unwrap();
        assert_eq!((verification.tally.right, verification.tally.objects), (120, 120), "{verification:?}");
        assert!(verification.settled_seconds.is_some());
        assert_eq!(verification.following.channels, 16);
        assert!(verification.following.deltas > 100, "{verification:?}");
        let ages = verification.ages.unwrap();
        assert!(ages.count > 50 && ages.p50_seconds <= ages.p95_seconds, "{ages:?}");
    }
    worker.stop().await;
}

async fn store(valkey: &Valkey) -> Store {
    let endpoint = Endpoint { host: valkey.host(), port: valkey.port(), tls: false };
    Store::connect(endpoint, None).await.unwrap()
}

/// Writes updates to the cache as a worker would, but for those that `leaves_out` names.
async fn write(
    valkey: &Valkey,
    traffic: &mut Traffic,
    acknowledged: &Acknowledged,
    count: i64,
    leaves_out: impl Fn(i64) -> bool,
) {
    let writer = Writer::new(store(valkey).await);
    for offset in 0..count {
        let change = traffic.change(machine_time_ms()).unwrap();
        acknowledged.note(change.object, change.sent);
        if leaves_out(offset) {
            continue;
        }
        let origin = Origin { partition: 0, offset, timestamp_ms: None };
        let record = Record { origin, key: None, payload: Some(change.payload.as_slice()) };
        let taken = read(record, &BOUNDS, machine_time_ms()).unwrap();
        writer.write(&taken.channel, &[taken.update], machine_time_ms()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_leaves_out_is_lost_or_stale_and_told() {
    let valkey = Valkey::start(2);
    let reader = Reader::new(store(&valkey).await);
    let stop = CancellationToken::new();
    let settled = async |traffic: &Traffic, acknowledged: &Acknowledged| {
        let written = Written { names: traffic.names(), sent: traffic.sent(), acknowledged };
        settle(&reader, written, Duration::ZERO, &stop).await
    };
    let with = |seed| {
        let id = RunId { seed, run: 1000, number: 0 };
        (Traffic::new(id, shape(5, 4)), Acknowledged::of(20))
    };

    let (mut traffic, acknowledged) = with(1);
    write(&valkey, &mut traffic, &acknowledged, 300, |_| false).await;
    let (tally, unread, seconds) = settled(&traffic, &acknowledged).await;
    assert_eq!(tally, Tally { objects: 20, right: 20, ..Tally::default() });
    assert_eq!((unread, seconds.is_some()), (0, true));

    // The last updates do not arrive: each object that had one of them is behind.
    let (mut traffic, acknowledged) = with(2);
    write(&valkey, &mut traffic, &acknowledged, 280, |_| false).await;
    let before = traffic.sent().to_vec();
    write(&valkey, &mut traffic, &acknowledged, 20, |_| true).await;
    let behind = traffic.sent().iter().zip(&before).filter(|(now, before)| now != before).count() as u64;
    let (tally, _, seconds) = settled(&traffic, &acknowledged).await;
    assert!(behind > 5 && !tally.is_well() && seconds.is_none(), "{tally:?}");
    // Where the object was deleted and is to be deleted, its absence is right.
    assert!((1..=behind).contains(&(tally.lost + tally.stale)), "{behind} are behind: {tally:?}");
    assert_eq!(tally.right + tally.lost + tally.stale, 20, "{tally:?}");

    // Nothing arrives: all that is not deleted is lost.
    let (mut traffic, acknowledged) = with(3);
    write(&valkey, &mut traffic, &acknowledged, 300, |_| true).await;
    let live = traffic.sent().iter().filter(|sent| !sent.deleted).count() as u64;
    let (tally, ..) = settled(&traffic, &acknowledged).await;
    assert_eq!((tally.lost, tally.right), (live, 20 - live));
}
