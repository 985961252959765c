use proptest::prelude::*;

use super::*;

fn asks_for(total: u64, target: u64) -> Option<Metric> {
    Some(Metric { total_thousandths: total * 1000, target_thousandths: target * 1000 })
}

fn autoscaler(max: u32, change: impl FnOnce(&mut Behavior)) -> Autoscaler {
    let mut behavior = Behavior::default();
    change(&mut behavior);
    Autoscaler::new(1, max, behavior).unwrap()
}

fn policy(kind: PolicyType, value: u32, period_seconds: u32) -> Policy {
    Policy { kind, value, period_seconds }
}

#[test]
fn the_metric_is_divided_by_its_target_outside_the_tolerance() {
    // GetExternalPerPodMetricReplicas: ceil(usage / target) unless the ratio is within the tolerance.
    let desired = |total, current| {
        let mut scaler = autoscaler(100, |behavior| behavior.scale_down.stabilization_window_seconds = 0);
        let sync = scaler.sync(0, current, asks_for(total, 10));
        (sync.replicas, sync.because)
    };
    assert_eq!(desired(100, 10), (10, Because::WithinTolerance));
    assert_eq!(desired(110, 10), (10, Because::WithinTolerance), "the tolerance includes its bound");
    assert_eq!(desired(111, 10), (12, Because::Metric));
    assert_eq!(desired(90, 10), (10, Because::WithinTolerance));
    assert_eq!(desired(89, 10), (9, Because::Metric));
    assert_eq!(desired(0, 10), (1, Because::Minimum));
}

#[test]
fn tolerances_can_differ_by_direction() {
    // KEP-4951: configurable tolerance.
    let mut scaler = autoscaler(100, |behavior| {
        behavior.scale_up.tolerance = 0.0;
        behavior.scale_down.tolerance = 0.5;
    });
    assert_eq!(scaler.sync(0, 10, asks_for(101, 10)).replicas, 11);
    assert_eq!(scaler.sync(0, 10, asks_for(51, 10)).because, Because::WithinTolerance);
}

#[test]
fn the_default_doubles_or_adds_four_every_fifteen_seconds() {
    // Kubernetes' documentation, default behaviour; an event of just 15 s ago is no longer in the period.
    let mut scaler = autoscaler(100, |_| ());
    let mut replicas = 1;
    let mut seen = Vec::new();
    for sync in 0..6 {
        replicas = scaler.sync(sync * SYNC_PERIOD, replicas, asks_for(1000, 10)).replicas;
        seen.push(replicas);
    }
    assert_eq!(seen, [5, 10, 20, 40, 80, 100]);
}

#[test]
fn the_least_of_the_published_policies_bounds_the_growth() {
    // The published system: Min of 10 pods and 500% per 60 s, window 60 s.
    let mut scaler = autoscaler(100, |behavior| {
        behavior.scale_up.select_policy = SelectPolicy::Min;
        behavior.scale_up.policies =
            vec![policy(PolicyType::Pods, 10, 60), policy(PolicyType::Percent, 500, 60)];
    });
    let mut replicas = 1;
    let mut seen = Vec::new();
    for sync in 0..9 {
        replicas = scaler.sync(sync * SYNC_PERIOD, replicas, asks_for(1000, 10)).replicas;
        seen.push(replicas);
    }
    assert_eq!(seen, [6, 6, 6, 6, 16, 16, 16, 16, 26]);
}

#[test]
fn the_window_takes_the_lowest_upwards_and_the_highest_downwards() {
    // stabilizeRecommendationWithBehaviors.
    let mut scaler = autoscaler(100, |behavior| {
        behavior.scale_up.stabilization_window_seconds = 60;
        behavior.scale_down.stabilization_window_seconds = 60;
        behavior.scale_up.policies = vec![policy(PolicyType::Pods, 100, 15)];
    });
    assert_eq!(scaler.sync(0, 5, asks_for(50, 10)).replicas, 5);
    let held = scaler.sync(15_000, 5, asks_for(200, 10));
    assert_eq!((held.replicas, held.recommended, held.because), (5, 20, Because::StabilizedUp));
    assert_eq!(scaler.sync(59_000, 5, asks_for(90, 10)).replicas, 5, "the 5 of the start counts for 60 s");
    assert_eq!(scaler.sync(60_000, 5, asks_for(90, 10)).replicas, 9, "the lowest of 20, 9 and 9");
    let kept = scaler.sync(75_000, 9, asks_for(10, 10));
    assert_eq!((kept.replicas, kept.because), (9, Because::StabilizedDown));
    assert_eq!(scaler.sync(134_000, 9, asks_for(10, 10)).replicas, 1, "the 9 of 60 s and 59 s ago are over");
}

#[test]
fn shrinking_is_bounded_by_the_largest_change_of_the_policies() {
    // calculateScaleDownLimitWithBehaviors: 50% per 120 s of the replicas at the period's start.
    let mut scaler = autoscaler(100, |behavior| {
        behavior.scale_down.stabilization_window_seconds = 0;
        behavior.scale_down.policies = vec![policy(PolicyType::Percent, 50, 120)];
    });
    let first = scaler.sync(0, 20, asks_for(0, 10));
    assert_eq!((first.replicas, first.because), (10, Because::ScaleDownLimit));
    assert_eq!(scaler.sync(60_000, 10, asks_for(0, 10)).replicas, 10);
    assert_eq!(scaler.sync(120_000, 10, asks_for(0, 10)).replicas, 5);
    let mut disabled = autoscaler(100, |behavior| {
        behavior.scale_down.stabilization_window_seconds = 0;
        behavior.scale_down.select_policy = SelectPolicy::Disabled;
    });
    assert_eq!(disabled.sync(0, 20, asks_for(0, 10)).replicas, 20);
}

#[test]
fn the_documentations_example_of_two_policies() {
    // kubernetes.io, Horizontal Pod Autoscaling, configurable scaling behavior: 4 pods or 10% a minute, from 80
    // to 10: 8 go at first, 8 of 72 (7.2 rounded up), and 4 at a time below 40.
    let mut scaler = autoscaler(100, |behavior| {
        behavior.scale_down.stabilization_window_seconds = 0;
        behavior.scale_down.policies =
            vec![policy(PolicyType::Pods, 4, 60), policy(PolicyType::Percent, 10, 60)];
    });
    let mut replicas = 80;
    let mut seen = Vec::new();
    for minute in 0..14 {
        replicas = scaler.sync(minute * 60_000, replicas, asks_for(100, 10)).replicas;
        seen.push(replicas);
    }
    assert_eq!(seen, [72, 64, 57, 51, 45, 40, 36, 32, 28, 24, 20, 16, 12, 10]);
}

#[test]
fn without_replicas_or_metric_nothing_is_changed() {
    let mut scaler = autoscaler(10, |_| ());
    assert_eq!(scaler.sync(0, 0, asks_for(1000, 10)).because, Because::AtZero);
    assert_eq!(scaler.sync(0, 3, None).because, Because::NoMetric);
    assert_eq!(
        scaler.sync(0, 30, None),
        Sync { replicas: 10, recommended: 10, because: Because::OutOfBounds }
    );
}

#[test]
fn what_the_api_server_refuses_is_refused() {
    assert!(
        Autoscaler::new(0, 5, Behavior::default()).is_err()
            && Autoscaler::new(3, 2, Behavior::default()).is_err()
    );
    let refused = |change: fn(&mut Rules)| {
        let mut behavior = Behavior::default();
        change(&mut behavior.scale_down);
        Autoscaler::new(1, 5, behavior).unwrap_err().message
    };
    assert!(refused(|rules| rules.stabilization_window_seconds = 3601).contains("3600"));
    assert!(refused(|rules| rules.policies.clear()).contains("no policy"));
    assert!(refused(|rules| rules.policies[0].period_seconds = 0).contains("periodSeconds"));
    assert!(refused(|rules| rules.tolerance = -0.1).contains("tolerance"));
}

fn rules() -> impl Strategy<Value = Rules> {
    let kind = prop_oneof![Just(PolicyType::Pods), Just(PolicyType::Percent)];
    let policy = (kind, 1u32..200, 1u32..300).prop_map(|(kind, value, period_seconds)| Policy {
        kind,
        value,
        period_seconds,
    });
    let select = prop_oneof![Just(SelectPolicy::Max), Just(SelectPolicy::Min), Just(SelectPolicy::Disabled)];
    (0u32..600, select, proptest::collection::vec(policy, 1..4), 0.0f64..0.5).prop_map(
        |(stabilization_window_seconds, select_policy, policies, tolerance)| Rules {
            stabilization_window_seconds,
            select_policy,
            policies,
            tolerance,
        },
    )
}

proptest! {
    #[test]
    fn the_bounds_hold_whatever_the_load(
        up in rules(), down in rules(), min in 1u32..10, more in 0u32..90, loads in proptest::collection::vec(0u64..5000, 1..60)
    ) {
        let max = min + more;
        let mut scaler = Autoscaler::new(min, max, Behavior { scale_up: up, scale_down: down }).unwrap();
        let mut replicas = min;
        for (sync, load) in (0..).zip(loads) {
            replicas = scaler.sync(sync * SYNC_PERIOD, replicas, asks_for(load, 10)).replicas;
            prop_assert!((min..=max).contains(&replicas));
        }
    }

    #[test]
    fn more_lag_never_asks_for_fewer(
        up in rules(), down in rules(), current in 1u32..100, load in 0u64..5000, more in 0u64..5000
    ) {
        let behavior = Behavior { scale_up: up, scale_down: down };
        let desired = |load| {
            Autoscaler::new(1, 100, behavior.clone()).unwrap().sync(0, current, asks_for(load, 10)).replicas
        };
        prop_assert!(desired(load + more) >= desired(load));
    }

    #[test]
    fn a_constant_load_does_not_flap(load in 0u64..5000, start in 1u32..100) {
        let mut scaler = autoscaler(100, |_| ());
        let mut replicas = start;
        let mut seen = Vec::new();
        for sync in 0..100 {
            replicas = scaler.sync(sync * SYNC_PERIOD, replicas, asks_for(load, 10)).replicas;
            seen.push(replicas);
        }
        prop_assert!(seen.is_sorted() || seen.iter().rev().is_sorted(), "it moves in one direction: {seen:?}");
        prop_assert_eq!(seen[99], seen[50], "and comes to rest");
    }

    #[test]
    fn shrinking_is_no_faster_than_its_policies(
        value in 1u32..100, period in 15u32..300, loads in proptest::collection::vec(0u64..2000, 10..80)
    ) {
        let mut scaler = autoscaler(100, |behavior| {
            behavior.scale_down.stabilization_window_seconds = 0;
            behavior.scale_down.policies = vec![policy(PolicyType::Pods, value, period)];
        });
        let mut history = vec![(0u64, 100u32)];
        for (sync, load) in (0..).zip(loads) {
            let now = sync * SYNC_PERIOD;
            let current = history.last().unwrap().1;
            let replicas = scaler.sync(now, current, asks_for(load, 10)).replicas;
            history.push((now, replicas));
            let changes = |change: fn(u32, u32) -> u32| -> u32 {
                let within = history.windows(2).filter(|pair| pair[1].0 + seconds(period) > now);
                within.map(|pair| change(pair[0].1, pair[1].1)).sum()
            };
            let removed = changes(|before, after| before.saturating_sub(after));
            let added = changes(|before, after| after.saturating_sub(before));
            // Replicas that came within the period may go again: the policy counts from its start.
            prop_assert!(replicas >= current || removed <= value + added, "{history:?}");
        }
    }
}

#[test]
fn what_there_is_when_it_begins_holds_the_window() {
    // recordInitialRecommendation: a controller that was started again has seen nothing yet.
    let mut scaler = autoscaler(100, |_| ());
    assert_eq!(scaler.sync(0, 12, asks_for(0, 10)).because, Because::StabilizedDown);
    assert_eq!(scaler.sync(285_000, 12, asks_for(0, 10)).replicas, 12);
    assert_eq!(scaler.sync(300_000, 12, asks_for(0, 10)).replicas, 1);
}
