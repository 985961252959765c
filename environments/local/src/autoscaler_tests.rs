use proptest::prelude::*;

use super::*;

/// As the local environment's manifest has it.
const OBJECT: &str = r#"
spec:
  scaleTargetRef: {name: consumer}
  pollingInterval: 1
  cooldownPeriod: 20
  minReplicaCount: 0
  maxReplicaCount: 12
  fallback: {failureThreshold: 3, replicas: 2, behavior: currentReplicasIfHigher}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp:
          stabilizationWindowSeconds: 0
          policies: [{type: Pods, value: 12, periodSeconds: 15}]
        scaleDown:
          stabilizationWindowSeconds: 30
    scalingModifiers: {formula: arrival_rate + lag / 5, target: "84", metricType: AverageValue}
  triggers:
    - type: kafka
      name: lag
      metadata: {bootstrapServers: "b:1", topic: t, consumerGroup: g, offsetResetPolicy: earliest, allowIdleConsumers: "true"}
    - type: prometheus
      name: arrival_rate
      metadata: {query: "sum(rate(x[10s]))"}
"#;

fn scaling() -> Scaling {
    serde_yaml_ng::from_str::<ScaledObjectManifest>(OBJECT).unwrap().scaling().unwrap()
}

fn scaler(memory: Memory, now: Milliseconds) -> Scaler {
    Scaler::new(scaling(), 10, memory, now).unwrap()
}

fn offsets(latest: u64, committed: u64) -> [PartitionOffsets; 2] {
    let partition = |partition: u32| PartitionOffsets {
        partition,
        committed: Some((committed + u64::from(partition)) / 2),
        latest: Some((latest + u64::from(partition)) / 2),
    };
    [partition(0), partition(1)]
}

/// A group on a topic in virtual time: what arrives, and what consumers of 100 records per second make of it.
struct Course {
    scaler: Scaler,
    now: Milliseconds,
    latest: u64,
    committed: u64,
    replicas: u32,
}

impl Course {
    fn new() -> Self {
        Self { scaler: scaler(Memory::default(), 0), now: 0, latest: 0, committed: 0, replicas: 0 }
    }

    fn second(&mut self, rate: u64, broker_answers: bool) {
        let offsets = offsets(self.latest, self.committed);
        let offsets = if broker_answers { Ok(&offsets[..]) } else { Err("the broker does not answer") };
        let (now, replicas) = (self.now, self.replicas);
        self.replicas =
            self.scaler.step(&Seen { now, asked_at: now + 20, offsets, replicas, ready: replicas });
        self.now += 1000;
        self.latest += rate;
        self.committed = self.latest.min(self.committed + u64::from(replicas) * 100);
    }

    fn told(&self) -> String {
        let line = |decision: &Decision| {
            let Decision { at_ms, lag_records, arrival_per_second, current, desired, reason, times, .. } =
                decision;
            let lag = lag_records.map_or_else(|| "unknown".to_owned(), |lag| lag.to_string());
            format!(
                "{:>4} s  lag {lag:>7}  {arrival_per_second:>6.1}/s  {current:>2} -> {desired:<2} x{times}  {reason}\n",
                at_ms / 1000
            )
        };
        self.scaler.status.decisions.iter().map(line).collect()
    }
}

#[test]
fn a_spike_is_followed_from_none_to_none() {
    let mut course = Course::new();
    for second in 0..220 {
        let rate = match second {
            0..10 | 180.. => 0,
            50..120 => 1000,
            _ => 10,
        };
        course.second(rate, true);
    }
    insta::assert_snapshot!(course.told());
    assert_eq!(course.replicas, 0);
}

#[test]
fn while_the_broker_is_away_nobody_is_taken_away() {
    let mut course = Course::new();
    (0..60).for_each(|_| course.second(1000, true));
    let before = course.replicas;
    assert_eq!(before, 12);
    (0..120).for_each(|_| course.second(0, false));
    assert_eq!(course.replicas, before, "{}", course.told());
    assert_eq!(course.scaler.status().error.as_deref(), Some("the broker does not answer"));
    assert_eq!(course.scaler.status().lag_records, None);
    insta::assert_snapshot!(course.told());
    (0..120).for_each(|_| course.second(0, true));
    assert_eq!((course.replicas, course.scaler.status().error), (0, None), "{}", course.told());
}

#[test]
fn a_pause_holds_until_it_is_lifted_and_a_restart_remembers() {
    let mut course = Course::new();
    (0..20).for_each(|_| course.second(1000, true));
    course.scaler.pause(3);
    (0..40).for_each(|_| course.second(1000, true));
    assert_eq!(course.replicas, 3);
    let memory = course.scaler.memory(course.replicas);
    let stored: Memory = serde_json::from_str(&serde_json::to_string(&memory).unwrap()).unwrap();
    assert_eq!((stored.replicas, stored.paused, stored.last_active_ms), (Some(3), Some(3), Some(59_000)));
    course.scaler = scaler(stored, course.now);
    course.second(1000, true);
    assert_eq!(course.replicas, 3, "a restart is no reason to go on");
    course.scaler.resume(course.now).unwrap();
    course.second(1000, true);
    assert_eq!(course.replicas, 12);
    assert_eq!(course.scaler.status().paused, None);
    assert!(!course.scaler.status().decisions.is_empty());
}

#[test]
fn the_cooldown_does_not_begin_anew_with_the_supervisor() {
    let remembered = Memory { last_active_ms: Some(100_000), ..Memory::default() };
    let step = |now| {
        let offsets = offsets(50, 50);
        let seen = Seen { now, asked_at: now, offsets: Ok(&offsets), replicas: 1, ready: 1 };
        scaler(remembered.clone(), now).step(&seen)
    };
    assert_eq!([step(110_000), step(121_000)], [1, 0], "20 s after the last activity");
}

#[test]
fn the_rate_is_that_of_the_window_and_a_new_topic_begins_again() {
    let mut arrivals = Arrivals::new(10);
    let rate = |arrivals: &mut Arrivals, at, total| {
        arrivals.note(at, total);
        arrivals.thousandths()
    };
    assert_eq!(rate(&mut arrivals, 0, 7), 0, "what was there before does not arrive");
    assert_eq!(rate(&mut arrivals, 1000, 107), 10_000, "100 over a window of 10 s");
    assert_eq!(rate(&mut arrivals, 10_000, 1007), 100_000);
    assert_eq!(rate(&mut arrivals, 30_000, 1007), 0, "long ago: {arrivals:?}");
    assert_eq!(rate(&mut arrivals, 31_000, 40), 0, "the topic was made anew");
    assert_eq!(rate(&mut arrivals, 32_000, 140), 10_000);
}

proptest! {
    /// Whatever arrives and whoever is away, the bounds hold, the decisions stay few, and without a broker nobody goes.
    #[test]
    fn the_bounds_hold(course in proptest::collection::vec((0u64..3000, proptest::bool::weighted(0.8)), 1..200)) {
        let mut run = Course::new();
        for (rate, answers) in course {
            let before = run.replicas;
            run.second(rate, answers);
            prop_assert!(run.replicas <= 12);
            prop_assert!(answers || run.replicas >= before);
            prop_assert!(run.scaler.status.decisions.len() <= DECISIONS);
            let leaves = |pair: &[Decision]| pair.iter().all(|one| one.current == one.desired);
            prop_assert!(!run.scaler.status.decisions.windows(2).any(|pair| leaves(pair) && pair[0].desired == pair[1].desired));
        }
    }

    /// Under a load that does not change the replicas settle and stay.
    #[test]
    fn a_steady_load_does_not_flap(rate in 1u64..1000) {
        let mut run = Course::new();
        (0..120).for_each(|_| run.second(rate, true));
        let settled = run.replicas;
        prop_assert!(u64::from(settled) * 100 >= rate);
        for _ in 0..120 {
            run.second(rate, true);
            prop_assert_eq!(run.replicas, settled);
        }
    }
}
