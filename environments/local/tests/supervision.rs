//! Workloads as processes, and what becomes of everything when something is killed.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use local_environment::control::WorkloadStatus;
use support::{Environment, is_running, kill_at_once, wait_for, workload};

fn greeter(environment: &Environment) -> WorkloadStatus {
    environment.status().workloads.into_iter().find(|workload| workload.name == "greeter").unwrap()
}

#[test]
fn workloads_run_scale_change_crash_and_end() {
    let environment = Environment::new();
    let state = environment.up();
    let apply = |replicas: u32, mode: &str| {
        let (manifests, binaries) = workload::write(&environment, replicas, mode);
        environment.ask(&["apply", "--manifests", &manifests, "--binaries", &binaries])
    };

    let applied = apply(1, "first");
    assert_eq!(applied["workloads"][0]["replicas"]["ready"], 1, "apply waits for readiness: {applied}");
    let first = greeter(&environment);
    let given = workload::environment_of(&first.metrics_endpoints[0]);
    assert_eq!(given["MODE"], "first");
    assert_eq!(given["AWS_ENDPOINT_URL"], state.aws.endpoint_url);
    assert!(given["POD_NAME"].starts_with("greeter-"), "{given:?}");
    assert!(given["METRICS_ADDRESS"].starts_with("127.0.0.1:"), "loopback, not what the cluster gets");
    assert!(!given.contains_key(local_testing::A_SECRET_OF_THE_USER), "the user's variables are the user's");

    assert_eq!(applied["changed"], serde_json::json!(["greeter"]), "it is new");
    assert_eq!(apply(1, "first")["changed"], serde_json::json!([]), "it says that nothing changed");
    assert_eq!(greeter(&environment).pids, first.pids, "the same manifest changes nothing");

    let _ = environment.ask(&["scale", "greeter", "2"]);
    let two = greeter(&environment);
    assert_eq!((two.replicas.desired, two.replicas.ready), (2, 2));
    assert!(two.pids.contains(&first.pids[0]), "scaling leaves what runs alone");

    kill_at_once(first.pids[0]);
    wait_for("a crashed replica to be replaced", || {
        let now = greeter(&environment);
        now.replicas.ready == 2 && !now.pids.contains(&first.pids[0])
    });
    let crashed = greeter(&environment);
    assert_eq!(crashed.restarts, 1);
    assert!(crashed.pids.contains(&two.pids[1]), "the other one goes on");

    assert_eq!(apply(1, "second")["changed"], serde_json::json!(["greeter"]));
    let second = greeter(&environment);
    assert_eq!(second.pids.len(), 1);
    assert!(!crashed.pids.contains(&second.pids[0]), "another environment is another process");
    assert_eq!(workload::environment_of(&second.metrics_endpoints[0])["MODE"], "second");
    let log = environment.run(&["logs", "greeter"]);
    assert!(String::from_utf8_lossy(&log.stdout).contains("serving"));

    let unknown = environment.refusal(&["scale", "greter", "1"]);
    assert!(unknown.contains("greter") && unknown.contains("greeter"), "{unknown}");

    assert!(environment.run(&["down"]).status.success());
    assert_eq!(environment.processes(), BTreeMap::new(), "down leaves no process");
    assert!(!environment.root().join("state.json").exists());
}

#[test]
fn what_a_killed_supervisor_left_is_cleaned_up_by_the_next_start() {
    let environment = Environment::new();
    let starts = [environment.start_up(), environment.start_up()];
    let started: BTreeSet<i32> =
        starts.into_iter().map(|up| support::state_printed_by(up).supervisor.pid).collect();
    let before = environment.up();
    assert_eq!(started, BTreeSet::from([before.supervisor.pid]), "two at a time start one supervisor");
    let (manifests, binaries) = workload::write(&environment, 1, "first");
    let _ = environment.ask(&["apply", "--manifests", &manifests, "--binaries", &binaries]);
    let again = environment.up();
    assert_eq!(again.supervisor, before.supervisor, "what runs is found, not started again");

    let pids = || -> BTreeSet<i32> {
        let status = environment.status();
        let parts = status.parts.iter().filter_map(|part| part.pid);
        parts.chain(status.workloads.iter().flat_map(|workload| workload.pids.clone())).collect()
    };
    let left: BTreeSet<i32> = environment.processes().into_keys().chain(pids()).collect();
    assert!(left.len() > pids().len(), "the supervisor, its parts and the workload: {left:?}");
    kill_at_once(before.supervisor.pid);
    wait_for("the supervisor to be gone", || !is_running(before.supervisor.pid));
    let message = environment.refusal(&["status"]);
    assert!(message.contains("deploy --env local"), "the way out is named: {message}");

    let after = environment.up();
    assert_ne!(after.supervisor, before.supervisor);
    for pid in &left {
        assert!(!is_running(*pid), "{pid} was left behind");
    }
    assert_eq!((&after.aws, &after.kafka), (&before.aws, &before.kafka), "endpoints stay");
    assert_eq!(environment.status().workloads, [], "workloads wait to be applied again");
    let known = pids();
    let strays: Vec<i32> = environment
        .processes()
        .into_keys()
        .filter(|pid| *pid != after.supervisor.pid && !known.contains(pid))
        .collect();
    assert_eq!(strays, Vec::<i32>::new());

    assert!(environment.run(&["down"]).status.success());
    assert_eq!(environment.processes(), BTreeMap::new());
    assert!(environment.run(&["down"]).status.success(), "nothing to stop is no error");
}
