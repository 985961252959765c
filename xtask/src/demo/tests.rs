use serde_json::json;

use super::*;

fn decision(at_ms: u64, current: u64, desired: u64, times: u64) -> Json {
    json!({"at_ms": at_ms, "current": current, "desired": desired, "times": times, "reason": "r",
           "lag_records": 5, "arrival_per_second": 1.5})
}

#[test]
fn decisions_are_kept_although_only_the_last_are_told() {
    let mut known = Vec::new();
    note_decisions(&mut known, vec![decision(5, 3, 3, 1), decision(10, 0, 1, 1), decision(20, 1, 1, 1)], 8);
    note_decisions(&mut known, vec![decision(10, 0, 1, 1), decision(35, 1, 1, 2), decision(50, 1, 12, 1)], 8);
    note_decisions(&mut known, vec![decision(50, 1, 12, 1), decision(65, 12, 12, 1)], 8);
    let times: Vec<u64> = known.iter().map(|one| one["at_ms"].as_u64().unwrap()).collect();
    assert_eq!(times, [10, 35, 50, 65]);
}

#[test]
fn what_the_simulator_cannot_know_is_measured() {
    let sample = |at_seconds, ready| Sample { at_seconds, ready, ..Sample::default() };
    let handover = |at_ms, takes| Handover { at_ms, takes, partitions: vec![7] };
    let walked = Walked {
        begun_ms: 1000,
        decisions: vec![decision(6000, 0, 1, 1), decision(61_000, 1, 12, 1)],
        samples: vec![sample(55.0, 9), sample(61.0, 2), sample(62.5, 7), sample(63.0, 12)],
        handovers: vec![handover(5000, false), handover(8000, true)],
        ..Walked::default()
    };
    let told = calibration(&walked);
    assert_eq!(told, Calibration { startup_seconds: Some(2.5), rebalance_seconds: Some(3.0), moves: 1 });
    assert_eq!(calibration(&Walked::default()), Calibration::default());
}

#[test]
fn a_report_is_written_and_read_again() {
    let scenario = Scenario::built_in("demo").unwrap();
    let environment = Environment::load(&crate::workspace::root(), "local").unwrap();
    let workload = simulate::workload(&environment, &platform::sizes(&environment).unwrap());
    let scaling = simulate::rendered_scaling(&environment).unwrap();
    let outcome = simulation::simulate_sampled(&workload, &scenario, &scaling, 1000).unwrap();
    let moments = Moments::of(&scenario, 1000.0, workload.messages_per_second_per_replica());
    assert_eq!(moments.enough, 10);
    let predicted = Figures::predicted(&outcome, &moments);
    assert!(predicted.seconds_to_enough.is_some() && predicted.seconds_to_zero.is_some(), "{predicted:?}");
    let report = Report {
        environment: "local".to_owned(),
        scenario: "demo".to_owned(),
        target: simulate::setting(&scaling),
        begun_ms: 1000,
        counted: Counted::new(
            10,
            journal::Count { processed: 11, distinct: 9, duplicates: 2, ..Default::default() },
        ),
        measured: predicted,
        predicted,
        calibration: Calibration::default(),
        decisions: vec![decision(6000, 0, 1, 1)],
        samples: vec![Sample::default(), Sample { at_seconds: 1.0, lag: 3.0, ..Sample::default() }],
    };
    let directory = tempfile::tempdir().unwrap();
    report::write(directory.path(), &report, &scenario, &workload, &outcome).unwrap();
    let text = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    let read: Report = serde_json::from_str(&text(page::JSON_FILE)).unwrap();
    assert_eq!((read.counted.lost, read.measured.peak_lag, read.samples.len()), (1, predicted.peak_lag, 2));
    let page = text("report.html");
    for words in ["<svg", "0 → 1", "produced and never processed", "+0%", "predicted", "0:05"] {
        assert!(page.contains(words), "{words}");
    }
    assert!(text("course.svg").contains(">1000/s<"));
}
