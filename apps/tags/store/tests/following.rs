//! Snapshots and deltas in a real cluster of three shards.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use local_testing::{PATIENCE, Valkey};
use tag_store::{
    Channel, Position, StoreError, Update,
    connection::{Credentials, Endpoint, Store},
    reader::{Following, Reader, Snapshot},
    writer::{DELTAS_KEPT, Writer},
};

const NOW_MS: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 3_600_000;

struct Cache {
    valkey: Valkey,
    store: Store,
}

fn endpoint(valkey: &Valkey) -> Endpoint {
    Endpoint { host: valkey.host(), port: valkey.port(), tls: false }
}

impl Cache {
    async fn start() -> Self {
        let valkey = Valkey::start(3);
        let store = Store::connect(endpoint(&valkey), None).await.unwrap();
        Self { valkey, store }
    }

    fn writer(&self) -> Writer {
        Writer::new(self.store.clone())
    }

    fn reader(&self) -> Reader {
        Reader::new(self.store.clone())
    }
}

fn channel(tag: &str) -> Channel {
    Channel { app_id: "app".to_owned(), tag: tag.to_owned(), scope: "application".to_owned() }
}

fn update(name: &str, data: Option<&str>, partition: i32, offset: i64) -> Update {
    Update {
        name: name.to_owned(),
        data: data.map(str::to_owned),
        expires_at_ms: NOW_MS + HOUR_MS,
        position: Position { partition, offset },
    }
}

fn values(snapshot: &Snapshot) -> BTreeMap<&str, &str> {
    snapshot.objects.iter().map(|(name, object)| (name.as_str(), object.data.as_str())).collect()
}

/// While others write, a reader takes the snapshot and follows: nothing is missing in between, nothing comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_follows_a_snapshot_without_a_gap_while_it_is_written_to() {
    const WRITERS: i32 = 4;
    const UPDATES: i64 = 200;
    let cache = Cache::start().await;
    let room = channel("room {1}");
    let begun = std::sync::Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|partition| {
            let (writer, room, begun) = (cache.writer(), room.clone(), begun.clone());
            tokio::spawn(async move {
                for offset in 0..UPDATES {
                    let name = format!("{partition}-{}", offset % 5);
                    let data = (offset % 7 != 3).then(|| format!("{offset}"));
                    let update = update(&name, data.as_deref(), partition, offset);
                    let written = writer.write(&room, &[update], NOW_MS).await.unwrap();
                    assert_eq!((written.applied, written.known), (1, 0));
                    begun.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while begun.load(Ordering::Relaxed) < 50 {
        assert!(Instant::now() < deadline, "nothing is written");
        tokio::task::yield_now().await;
    }
    let reader = cache.reader();
    let mut followed = reader.snapshot(&room, NOW_MS).await.unwrap();
    let (first, mut deltas) = (followed.sequence, 0);
    let total = u64::try_from(WRITERS).unwrap() * u64::try_from(UPDATES).unwrap();
    // The numbers begin at the channel's first millisecond.
    while followed.sequence < NOW_MS * 1000 + total {
        assert!(Instant::now() < deadline, "{} of {total} were told", followed.sequence - NOW_MS * 1000);
        let Following::Deltas(more) = reader.after(&room, followed.sequence).await.unwrap() else {
            panic!("a gap after {}", followed.sequence)
        };
        for delta in more {
            assert_eq!(delta.sequence, followed.sequence + 1);
            followed.apply(&delta);
            deltas += 1;
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(first < followed.sequence, "the snapshot was taken while they wrote");
    assert_eq!(deltas, followed.sequence - first);
    assert_eq!(followed, reader.snapshot(&room, NOW_MS).await.unwrap());
    assert_eq!(reader.after(&room, followed.sequence).await.unwrap(), Following::Deltas(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_or_late_changes_nothing_and_brings_nothing_back() {
    let cache = Cache::start().await;
    let (writer, reader, room) = (cache.writer(), cache.reader(), channel("room"));
    let first =
        [update("a", Some("1|2"), 0, 10), update("b", Some("1"), 1, 5), update("a", Some("2"), 0, 11)];
    let written = writer.write(&room, &first, NOW_MS).await.unwrap();
    assert_eq!((written.applied, written.known), (3, 0));
    let deletion = [update("a", None, 0, 12)];
    let deleted = writer.write(&room, &deletion, NOW_MS).await.unwrap();
    assert_eq!(deleted.sequence, written.sequence + 1);
    for again in [&first[..], &deletion[..]] {
        let known = writer.write(&room, again, NOW_MS).await.unwrap();
        assert_eq!((known.applied, known.known, known.sequence), (0, again.len() as u64, deleted.sequence));
    }
    let snapshot = reader.snapshot(&room, NOW_MS).await.unwrap();
    assert_eq!(values(&snapshot), BTreeMap::from([("b", "1")]));
    assert_eq!(snapshot.sequence, deleted.sequence);
    // A later one does.
    writer.write(&room, &[update("a", Some("3"), 0, 13)], NOW_MS).await.unwrap();
    let snapshot = reader.snapshot(&room, NOW_MS).await.unwrap();
    assert_eq!(values(&snapshot), BTreeMap::from([("a", "3"), ("b", "1")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_end_and_a_reader_that_is_too_far_behind_is_told() {
    let cache = Cache::start().await;
    let (writer, reader, room) = (cache.writer(), cache.reader(), channel("room"));
    let short = Update { expires_at_ms: NOW_MS + 1000, ..update("short", Some("1"), 0, 0) };
    let begun = writer.write(&room, &[short, update("long", Some("1"), 0, 1)], NOW_MS).await.unwrap();
    let at = |now_ms| {
        let (reader, room) = (reader.clone(), room.clone());
        async move { reader.snapshot(&room, now_ms).await.unwrap() }
    };
    assert_eq!(at(NOW_MS).await.objects.len(), 2);
    assert_eq!(values(&at(NOW_MS + 1000).await), BTreeMap::from([("long", "1")]));
    // With the next change it leaves the cache, and not only the reader's view.
    writer.write(&room, &[update("long", Some("2"), 0, 2)], NOW_MS + 1000).await.unwrap();
    assert_eq!(values(&at(NOW_MS).await), BTreeMap::from([("long", "2")]));

    let many: Vec<Update> = (0..500).map(|offset| update("long", Some("x"), 0, 10 + offset)).collect();
    for round in 0..4 {
        let shifted: Vec<Update> = many
            .iter()
            .map(|update| {
                let position = Position { offset: update.position.offset + round * 500, ..update.position };
                Update { position, ..update.clone() }
            })
            .collect();
        assert_eq!(writer.write(&room, &shifted, NOW_MS).await.unwrap().applied, 500);
    }
    assert!(u64::from(DELTAS_KEPT) < 2000);
    assert_eq!(reader.after(&room, begun.sequence).await.unwrap(), Following::Gap);
    // A number of another life of the channel is a gap, too.
    assert_eq!(reader.after(&room, u64::MAX - 1).await.unwrap(), Following::Gap);
    assert_eq!(reader.after(&channel("nothing"), 0).await.unwrap(), Following::Deltas(Vec::new()));
    assert_eq!(reader.after(&channel("nothing"), 7).await.unwrap(), Following::Gap);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_lie_on_all_shards_and_a_renewed_connection_goes_on() {
    let cache = Cache::start().await;
    let (writer, reader) = (cache.writer(), cache.reader());
    for number in 0..60 {
        if number == 30 {
            cache.store.renew(None).await.unwrap();
        }
        let room = channel(&format!("room-{number}"));
        let text = number.to_string();
        writer.write(&room, &[update("x", Some(&text), 0, number)], NOW_MS).await.unwrap();
    }
    for number in 0..60 {
        let snapshot = reader.snapshot(&channel(&format!("room-{number}")), NOW_MS).await.unwrap();
        assert_eq!(snapshot.objects["x"].data, number.to_string());
    }
    // A channel that ended and began anew goes on above its former numbers.
    let later = writer.write(&channel("room-x"), &[update("x", Some("1"), 0, 1)], NOW_MS + 1).await.unwrap();
    assert_eq!(later.sequence, (NOW_MS + 1) * 1000 + 1);
}

/// The access list that the stack gives the worker lets it do its work, and nothing that administers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_workers_access_is_enough_and_no_more() {
    let cache = Cache::start().await;
    let ports = cache.valkey.ports();
    for port in &ports {
        let node = redis::Client::open(("127.0.0.1", *port)).unwrap();
        let mut connection = node.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg("worker").arg("on").arg(">the-password");
        for rule in worker_contract::cache::CACHE_ACCESS.split(' ') {
            command.arg(rule);
        }
        let () = command.query_async(&mut connection).await.unwrap();
    }
    let credentials =
        |password: &str| Some(Credentials { user: "worker".to_owned(), password: password.to_owned() });
    let store = Store::connect(endpoint(&cache.valkey), credentials("the-password")).await.unwrap();
    let (writer, reader) = (Writer::new(store.clone()), Reader::new(store));
    for number in 0..30 {
        let room = channel(&format!("room-{number}"));
        let written = writer.write(&room, &[update("x", Some("1"), 0, number)], NOW_MS).await.unwrap();
        let snapshot = reader.snapshot(&room, NOW_MS).await.unwrap();
        assert_eq!(snapshot.sequence, written.sequence);
        assert_eq!(reader.after(&room, 0).await.unwrap(), Following::Gap);
        let Following::Deltas(deltas) = reader.after(&room, written.sequence - 1).await.unwrap() else {
            panic!("a gap")
        };
        assert_eq!(deltas.len(), 1);
    }
    let node = redis::Client::open(format!("redis://worker:the-password@127.0.0.1:{}", ports[0])).unwrap();
    let mut connection = node.get_multiplexed_async_connection().await.unwrap();
    for forbidden in [&["FLUSHALL"][..], &["CONFIG", "GET", "*"], &["ACL", "LIST"], &["CLUSTER", "RESET"]] {
        let mut command = redis::cmd(forbidden[0]);
        command.arg(&forbidden[1..]);
        let refused = command.query_async::<redis::Value>(&mut connection).await.unwrap_err();
        assert_eq!(refused.code(), Some("NOPERM"), "{forbidden:?}");
    }
    let wrong = Store::connect(endpoint(&cache.valkey), credentials("another")).await;
    assert!(matches!(wrong, Err(StoreError::Refused(_) | StoreError::Busy(_))));
}
