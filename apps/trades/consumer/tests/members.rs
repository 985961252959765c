//! Members of a group that are killed, stopped and started again: nothing is lost, order per key is kept, and
//! with an idempotent sink each trade has its effect exactly once. On a real broker, by counting.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use local_testing::{Broker, PATIENCE, Running, eventually, settings};
use nix::sys::signal::Signal;
use rand::{Rng, SeedableRng, rngs::StdRng};
use support::{
    Recorder, Seen,
    load::Load,
    recorders::{BATCH, Journal, LANES, RecorderProcess},
};
use worker_kit::{
    batch::Record,
    consumer::Membership,
    dead_letters::Rejection,
    processing::{BatchHandler, HandleError},
};

/// Rebalances that the members are killed and started over.
const REBALANCES: usize = 50;

/// What a member may have done and not committed: a batch in flight a lane, and what the time between two commits
/// (100 ms, and as long again for one under way) covers at 30 ms a batch.
const UNCOMMITTED_MAX: usize = LANES * BATCH * (1 + 7);

/// The seed: another each time, told for a repetition (`SEED=… cargo test`).
fn seed() -> u64 {
    std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random)
}

/// Members are killed (`kill -9`) and others started, amid their batches and amid rebalances, until the group has
/// changed fifty times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_are_killed_over_fifty_rebalances_lose_nothing() {
    let seed = seed();
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let broker = Broker::start().await;
    broker.topic("members", 8).await;
    let (journal, watcher) = (Journal::new(), broker.watcher());
    let load = Load::start(&broker, "members", 40, 300.0);
    let mut members = vec![RecorderProcess::start(&broker, "members", &journal)];
    let (mut kills, mut rebalances) = (0, 0);
    while rebalances < REBALANCES {
        // A random moment: after some more records.
        let mark = journal.progress() + random.random_range(0..1500u64);
        eventually("they work", || async { journal.progress() > mark }).await;
        if members.len() == 1 || (members.len() < 4 && random.random_bool(0.5)) {
            members.push(RecorderProcess::start(&broker, "members", &journal));
        } else {
            members.swap_remove(random.random_range(0..members.len())).kill();
            kills += 1;
        }
        // Some changes hit the group while it still rebalances.
        if random.random_bool(0.2) && members.len() < 4 {
            continue;
        }
        let alive = members.len();
        eventually("the group settles", || async { broker.settled_members(&watcher, "g") == Some(alive) })
            .await;
        rebalances += 1;
    }
    let sent = load.stop().await;
    let total: usize = sent.values().sum();
    eventually("all has its effect", || async { journal.effect_count(8) >= total }).await;
    for member in members {
        member.kill();
    }
    let repeated = journal.exactly_once(&broker, "members", &sent);
    println!(
        "{rebalances} settled rebalances, {kills} of them by kill -9: of {total} trades 0 lost, {repeated} handed over again, effects exactly once and in order"
    );
    assert!(kills >= REBALANCES / 4);
    assert!(repeated <= kills * UNCOMMITTED_MAX, "{repeated} after {kills} kills");
}

/// A member that stops amid its work for longer than its session (a suspended machine, a long garbage collection, a
/// debugger) is replaced, and when it comes back it neither overwrites nor loses anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_sleeps_through_its_session_does_no_harm_when_it_wakes() {
    let broker = Broker::start().await;
    broker.topic("sleepers", 4).await;
    let (journal, watcher) = (Journal::new(), broker.watcher());
    let load = Load::start(&broker, "sleepers", 20, 600.0);
    let members = [0, 1].map(|_| RecorderProcess::start(&broker, "sleepers", &journal));
    let settled = |count: usize| {
        let (broker, watcher) = (&broker, &watcher);
        async move {
            eventually("the group settles", || async { broker.settled_members(watcher, "g") == Some(count) })
                .await;
        }
    };
    for sleeper in [&members[0], &members[1], &members[0]] {
        settled(2).await;
        let mark = journal.progress() + 3000;
        eventually("both work", || async { journal.progress() > mark }).await;
        sleeper.signal(Signal::SIGSTOP);
        settled(1).await;
        let mark = journal.progress() + 3000;
        eventually("the other goes on", || async { journal.progress() > mark }).await;
        sleeper.signal(Signal::SIGCONT);
    }
    settled(2).await;
    let sent = load.stop().await;
    let total: usize = sent.values().sum();
    eventually("all has its effect", || async { journal.effect_count(4) >= total }).await;
    members.into_iter().for_each(RecorderProcess::kill);
    let repeated = journal.exactly_once(&broker, "sleepers", &sent);
    let refused = journal.told("commit failed");
    let lost = journal.told("partitions lost");
    println!(
        "3 members slept through their session ({lost} lost their partitions, {refused} commits were refused): of {total} trades 0 lost, {repeated} handed over again"
    );
    assert!(lost >= 3, "somebody else had the partitions of each");
    assert!(repeated <= 3 * UNCOMMITTED_MAX, "{repeated}");
}

/// When a partition's batches end, and in whose hands.
type Ends = Arc<Mutex<BTreeMap<i32, Vec<(usize, Instant)>>>>;

/// Notes when batches end.
struct Clock {
    member: usize,
    ends: Ends,
}

impl BatchHandler for Clock {
    type Item = i32;

    fn decode(&self, record: Record<'_>) -> Result<i32, Rejection> {
        Ok(record.origin.partition)
    }

    async fn handle(&self, partitions: &[i32]) -> Result<(), HandleError> {
        let now = Instant::now();
        let mut ends = self.ends.lock().unwrap();
        for partition in partitions {
            let of = ends.entry(*partition).or_default();
            if of.last().is_none_or(|last| *last != (self.member, now)) {
                of.push((self.member, now));
            }
        }
        Ok(())
    }
}

/// Members come and go; the partitions that stay where they are go on meanwhile. By how much longer their longest
/// pause is than a batch takes to fill, is printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_stay_are_not_held_up_by_a_rebalance() {
    let broker = Broker::start().await;
    broker.topic("cooperative", 8).await;
    let ends = Ends::default();
    let watcher = broker.watcher();
    let load = Load::start(&broker, "cooperative", 80, 800.0);
    let start = |member: usize| {
        let handler = Clock { member, ends: ends.clone() };
        Running::start(settings(&broker, "cooperative", "g", 2), "cooperative", handler)
    };
    let settled = async |count: usize| {
        eventually("the group settles", || async { broker.settled_members(&watcher, "g") == Some(count) })
            .await;
    };
    let everywhere = || {
        let since = Instant::now();
        let ends = ends.clone();
        async move {
            eventually("all partitions go on", || async {
                let ends = ends.lock().unwrap();
                ends.len() == 8 && ends.values().all(|of| of.last().is_some_and(|(_, at)| *at > since))
            })
            .await;
        }
    };
    let (first, second) = (start(1), start(2));
    settled(2).await;
    everywhere().await;
    let begun = Instant::now();
    let third = start(3);
    settled(3).await;
    everywhere().await;
    let start_seconds = third.metrics.start_seconds();
    third.stop().await;
    settled(2).await;
    everywhere().await;
    load.stop().await;
    let (mut stayed, mut moved) = (Vec::new(), Vec::new());
    for of in ends.lock().unwrap().values() {
        let mut of: Vec<_> = of.iter().filter(|(_, at)| *at >= begun).collect();
        of.sort_by_key(|(_, at)| *at);
        let pause = of.windows(2).map(|pair| pair[1].1 - pair[0].1).max().unwrap_or_default();
        let hands = if of.iter().all(|(member, _)| *member == of[0].0) { &mut stayed } else { &mut moved };
        hands.push(pause);
    }
    first.stop().await;
    second.stop().await;
    stayed.sort();
    moved.sort();
    println!(
        "longest pause of a partition over a member's coming and going: stayed {stayed:?}, moved {moved:?}"
    );
    let (connected, joined) = start_seconds.unwrap();
    println!("the third was connected after {connected:.3} s and had partitions after {joined:.3} s");
    assert!(connected < joined, "it joins when it is connected, not before");
    assert!(!moved.is_empty(), "nothing moved, nothing was shown");
    assert!(stayed.len() >= 4, "{stayed:?}: two members of four partitions each keep most of theirs");
    assert!(*stayed.last().unwrap() < Duration::from_secs(1), "{stayed:?}");
}

/// A member with a name that is back within its session gets its partitions back, and the others notice nothing; one
/// without costs the others rebalances.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_member_comes_back_without_a_rebalance() {
    let broker = Broker::start().await;
    broker.topic("named", 6).await;
    let watcher = broker.watcher();
    let mut rebalances = Vec::new();
    for named in [true, false] {
        let group = format!("named-{named}");
        let seen = Seen::default();
        let start = |number: usize| {
            let instance_id = named.then(|| format!("consumer-{number}"));
            let membership = Membership { instance_id, ..Membership::default() };
            let handler = Recorder { seen: seen.clone(), takes: Duration::from_millis(5) };
            Running::start_as(settings(&broker, "named", &group, 2), membership, "named", handler)
        };
        let load = Load::start(&broker, "named", 30, 300.0);
        let (watching, restarted) = (start(0), start(1));
        let settled = async || {
            eventually("both have partitions", || async {
                let members = broker.settled_members(&watcher, &group);
                members == Some(2) && watching.metrics.rebalances_total() > 0
            })
            .await;
        };
        settled().await;
        eventually("the second has some", || async { restarted.metrics.done_total() > 100 }).await;
        let before = watching.metrics.rebalances_total();
        restarted.stop().await;
        let restarted = start(1);
        eventually("it works again", || async { restarted.metrics.done_total() > 100 }).await;
        settled().await;
        rebalances.push(watching.metrics.rebalances_total() - before);
        load.stop().await;
        let total: i64 = broker.ends("named").values().sum();
        eventually("all is seen", || async {
            watching.metrics.done_total() + restarted.metrics.done_total() > 0
                && seen.lock().unwrap().len() as i64 >= total
        })
        .await;
        watching.stop().await;
        restarted.stop().await;
        assert_eq!(seen.lock().unwrap().len() as i64, total, "each once: it drains before it goes");
    }
    println!(
        "rebalances that another's restart cost: {} with a name, {} without",
        rebalances[0], rebalances[1]
    );
    assert_eq!(rebalances[0], 0);
    assert!(rebalances[1] > 0);
}

/// Another takes a member's name: the broker refuses the first one's commits from then on. It ends, the other goes on,
/// and what the first had done and could not commit is done again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_commits_are_refused_ends_and_nothing_is_lost() {
    let broker = Broker::start().await;
    broker.topic("fenced", 6).await;
    let journal = Journal::new();
    let load = Load::start(&broker, "fenced", 30, 300.0);
    let mut refused = 0;
    let mut member = RecorderProcess::start_as(&broker, "fenced", &journal, Some("consumer"));
    for _ in 0..3 {
        let mark = journal.progress() + 1000;
        eventually("it works", || async { journal.progress() > mark }).await;
        let other = RecorderProcess::start_as(&broker, "fenced", &journal, Some("consumer"));
        let mut first = std::mem::replace(&mut member, other);
        let begun = Instant::now();
        while !first.has_ended() {
            assert!(begun.elapsed() < PATIENCE, "the first goes on though its commits are refused");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        refused += 1;
    }
    let mark = journal.progress() + 1000;
    eventually("the last works", || async { journal.progress() > mark }).await;
    let sent = load.stop().await;
    let total: usize = sent.values().sum();
    eventually("all is handed over", || async { journal.attempts().len() >= total }).await;
    eventually("nothing waits", || async {
        broker.committed("fenced", "g") == broker.ends("fenced").values().sum::<i64>()
    })
    .await;
    let repeated = journal.at_least_once(&broker, "fenced");
    println!("{refused} members lost their name: 0 of {total} lost, {repeated} handed over again");
    assert!(repeated <= refused * UNCOMMITTED_MAX, "{repeated} repeated");
}
