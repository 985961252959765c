use proptest::prelude::*;

use super::*;

/// The published workload: a second for a batch of a hundred.
const WORKLOAD: Workload = Workload {
    partitions: 24,
    batch_size: 100,
    batch_timeout_seconds: 0.1,
    batch_processing_seconds: 1.0,
    batches_in_flight: 1,
    batches_waiting: 8,
    peak_messages_per_second: 1000.0,
    safety_factor: 1.1,
    consumers_min: 1,
};

fn constant(rate: f64, seconds: u32) -> Scenario {
    Scenario::parse(&format!("description = \"x\"\n[[load]]\nseconds = {seconds}\nrate = {rate:?}\n"))
        .unwrap()
}

fn fixed(replicas: u32) -> Scaling {
    let mut scaling = by_lag(&WORKLOAD, 1_000_000, replicas, 0, 300);
    scaling.object.max_replica_count = replicas;
    scaling
}

#[test]
fn nothing_is_lost_and_nothing_counted_twice() {
    for (name, _) in BUILT_IN {
        let scenario = Scenario::built_in(name).unwrap();
        for scaling in [published(), ours(&WORKLOAD, 10, 1, 300).unwrap()] {
            let outcome = simulate(&WORKLOAD, &scenario, &scaling).unwrap();
            let expected: f64 = (0..scenario.seconds() * 10)
                .map(|step| scenario.rate_at(step as f64 / 10.0, 1000.0) / 10.0)
                .sum();
            assert!((outcome.sent as f64 - expected).abs() <= 2.0, "{name}: {} {expected}", outcome.sent);
            assert_eq!(outcome.ages.count(), outcome.sent, "{name}: done or still waiting");
            assert!(outcome.processed <= outcome.sent);
            assert!(outcome.samples.windows(2).all(|pair| pair[0].at_seconds < pair[1].at_seconds));
        }
    }
}

#[test]
fn below_its_rate_a_consumer_is_as_fast_as_its_batch() {
    // 10 messages/s in one lane: a batch waits up to the one before it, 1.002 s, and takes as long itself.
    let outcome = simulate(&WORKLOAD, &constant(10.0, 600), &fixed(1)).unwrap();
    let (median, most) = (outcome.ages.percentile(50.0), outcome.ages.percentile(100.0));
    assert!((1.3..1.7).contains(&median) && most < 2.3, "{median} {most}");
}

#[test]
fn above_its_rate_the_lag_grows_by_the_difference() {
    // 2 x 99.8 of 300 messages/s.
    let outcome = simulate(&WORKLOAD, &constant(300.0, 600), &fixed(2)).unwrap();
    let expected = (300.0 - 2.0 * WORKLOAD.messages_per_second_per_replica()) * 600.0;
    assert!((outcome.max_lag as f64 / expected - 1.0).abs() < 0.02, "{} {expected}", outcome.max_lag);
}

#[test]
fn a_threshold_of_lag_holds_a_standing_backlog() {
    // threshold / rate of a replica: 10000 / 99.8 = 100 s, within the tolerance of a tenth.
    let outcome = simulate(&WORKLOAD, &constant(450.0, 6 * 3600), &published()).unwrap();
    let late = &outcome.samples[outcome.samples.len() / 2..];
    // By Little's law: how long a message waits on average. Of a lane's partitions the last wait for longer.
    let mean = late.iter().map(|sample| sample.lag as f64 / 450.0).sum::<f64>() / late.len() as f64;
    assert!((60.0..130.0).contains(&mean), "{mean}");
    let ours =
        simulate(&WORKLOAD, &constant(450.0, 6 * 3600), &ours(&WORKLOAD, 10, 1, 300).unwrap()).unwrap();
    assert!(ours.ages.percentile(95.0) < 3.0, "{}", ours.ages.percentile(95.0));
}

#[test]
fn the_spike_is_over_sooner_by_rate() {
    let scenario = Scenario::built_in("spike").unwrap();
    let theirs = simulate(&WORKLOAD, &scenario, &published()).unwrap();
    let ours = simulate(&WORKLOAD, &scenario, &ours(&WORKLOAD, 10, 1, 300).unwrap()).unwrap();
    assert!(ours.ages.percentile(95.0) * 3.0 < theirs.ages.percentile(95.0));
    assert!(ours.max_lag < theirs.max_lag);
    assert!(ours.changes.iter().all(|change| !change.reason.is_empty()));
}

#[test]
fn a_lost_zone_is_made_good() {
    let scenario = Scenario::built_in("lost-zone").unwrap();
    let outcome = simulate(&WORKLOAD, &scenario, &ours(&WORKLOAD, 10, 12, 300).unwrap()).unwrap();
    let before = outcome.samples.iter().filter(|sample| sample.at_seconds < 900);
    let after = outcome.samples.iter().filter(|sample| sample.at_seconds > 900);
    let oldest = |samples: &mut dyn Iterator<Item = &Sample>| {
        samples.map(|sample| sample.oldest_seconds).fold(0.0, f64::max)
    };
    assert!(oldest(&mut before.skip(5)) < 3.0);
    assert!(oldest(&mut after.clone()) > 10.0, "the session's timeout");
    assert!(outcome.samples.last().unwrap().oldest_seconds < 3.0, "caught up");
}

#[test]
fn poison_becomes_dead_letters_and_takes_its_time() {
    let scenario = Scenario::built_in("poison-storm").unwrap();
    let scaling = fixed(6);
    let storm = simulate(&WORKLOAD, &scenario, &scaling).unwrap();
    let calm = simulate(&WORKLOAD, &Scenario { poison: Vec::new(), ..scenario }, &scaling).unwrap();
    assert_eq!((storm.dead_letters, calm.dead_letters), (90, 0), "0.001 x 300/s x 300 s");
    assert!(storm.ages.percentile(99.0) > calm.ages.percentile(99.0) * 2.0);
}

#[test]
fn a_hot_key_is_bound_to_its_partition() {
    let spread = constant(300.0, 600);
    let hot = Scenario { hot_key_share: 0.5, ..spread.clone() };
    let lag = |scenario| simulate(&WORKLOAD, scenario, &fixed(12)).unwrap().max_lag;
    assert!(lag(&spread) < 1000 && lag(&hot) > 20_000, "150/s into one lane of 100/s");
}

#[test]
fn the_recommended_setting_keeps_the_goal_or_says_that_none_does() {
    let scenario = Scenario { repeat: 1, ..Scenario::built_in("sawtooth").unwrap() };
    let found =
        recommend(&WORKLOAD, &scenario, &Goal { within_seconds: 5.0, percent: 95.0 }, 2, &|_, _| true)
            .unwrap()
            .unwrap();
    assert!(found.by_rate.is_met && found.by_rate.outcome.ages.percent_within(5.0) >= 95.0);
    let never =
        recommend(&WORKLOAD, &scenario, &Goal { within_seconds: 0.5, percent: 95.0 }, 2, &|_, _| true)
            .unwrap()
            .unwrap();
    assert!(!never.by_lag.is_met && !never.by_rate.is_met, "a batch takes a second");
    let alone =
        recommend(&WORKLOAD, &scenario, &Goal { within_seconds: 5.0, percent: 95.0 }, 1, &|_, _| true)
            .unwrap()
            .unwrap();
    assert_eq!(alone, found, "whatever the number of threads");
}

#[test]
fn what_cannot_be_run_is_refused_with_its_key() {
    let told = |text: &str| Scenario::parse(text).unwrap_err().message;
    assert!(told("description = \"x\"\nload = []\n").contains("load"));
    assert!(told("description = \"x\"\nload = []\nspeed = 3\n").contains("speed"));
    let phase = "description = \"x\"\n[[load]]\nseconds = 10\nrate = ";
    assert!(told(&format!("{phase}-1")).contains("-1"));
    assert!(told(&format!("{phase}nan")).contains("NaN"));
    assert!(
        told(&format!("{phase}1\n[lost_zone]\nat_seconds = 1\nzones = 1\nnode_seconds = 0"))
            .contains("zones")
    );
    assert!(told(&format!("{phase}1\n[[poison]]\nat_seconds = 1\nseconds = 1\nshare = 2")).contains("share"));
    assert!(Scenario::built_in("nothing").unwrap_err().message.contains("spike, sawtooth"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_message_has_one_age(
        rate in 0.0f64..3000.0, partitions in 1u32..40, lanes in 1u32..4, write in 0.0f64..2.0, hot in 0.0f64..1.0, eager: bool
    ) {
        let workload = Workload {
            partitions, batches_in_flight: lanes, batch_processing_seconds: write, ..WORKLOAD
        };
        let mut scenario = constant(rate, 120);
        scenario.hot_key_share = hot;
        scenario.rebalance = if eager { Rebalance::Eager } else { Rebalance::Cooperative };
        scenario.lost_zone = Some(LostZone { at_seconds: 60, zones: 2, node_seconds: 5 });
        let outcome = simulate(&workload, &scenario, &ours(&workload, 10, 1, 120).unwrap()).unwrap();
        prop_assert_eq!(outcome.ages.count(), outcome.sent);
        prop_assert!(outcome.max_replicas <= workload.replicas_max());
    }
}

#[test]
fn a_search_tells_how_far_it_is_and_can_be_stopped() {
    let goal = Goal { within_seconds: 5.0, percent: 95.0 };
    let told = std::sync::Mutex::new(Vec::new());
    let stopped = recommend(&WORKLOAD, &constant(100.0, 60), &goal, 2, &|begun, all| {
        told.lock().unwrap().push((begun, all));
        begun < 4
    });
    assert_eq!(stopped, Ok(None));
    let told = told.into_inner().unwrap();
    assert!((5..=6).contains(&told.len()) && told.iter().all(|(_, all)| *all == told[0].1), "{told:?}");
}

#[test]
fn the_moments_that_matter_are_found() {
    let outcome = simulate_sampled(
        &WORKLOAD,
        &Scenario::built_in("demo").unwrap(),
        &ours(&WORKLOAD, 10, 1, 300).unwrap(),
        1000,
    )
    .unwrap();
    assert_eq!(outcome.samples.len(), 240, "a sample a second");
    assert!(outcome.samples.windows(2).all(|pair| pair[1].at_seconds == pair[0].at_seconds + 1));
    let enough = outcome.ready_at_least(10, 50_000).unwrap();
    let sample = |at: u64| outcome.samples.iter().find(|sample| sample.at_seconds == at).unwrap().ready;
    assert!(sample(enough / 1000) < 10 || enough.is_multiple_of(1000));
    assert!(sample(enough / 1000 + 1) >= 10);
    assert_eq!(outcome.ready_at_least(1, 50_000), Some(50_000), "there is one already");
    assert_eq!(outcome.ready_at_least(99, 0), None);
}
