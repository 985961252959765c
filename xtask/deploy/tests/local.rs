//! The whole path on the real local parts: deploy, look, change, fail, recover, interrupt, take down.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    process::Stdio,
    time::{Duration, Instant},
};

use cfn::{Json, assembly::Manifest};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use support::{House, read_until};

#[test]
fn an_environment_is_deployed_changed_and_taken_down() {
    let house = House::new();
    let refused = house.run(&["deploy"]);
    assert!(!refused.0, "nothing runs yet");
    house.environment.up();

    let first = house.succeeds(&["deploy"]);
    assert!(first.contains("messages/s flow through trade-tx (24 partitions)"), "{first}");
    let stacks = Manifest::read(&house.assembly()).unwrap().stacks.len();
    assert!(first.contains(&format!("{stacks} stacks changed")), "{first}");
    let plan = house.succeeds(&["deploy", "--plan"]);
    assert!(plan.contains(&format!("local: {stacks} as they should be")), "{plan}");

    let again = house.succeeds(&["deploy"]);
    assert!(again.contains("all stacks are as they should be"), "{again}");
    assert!(again.contains("nothing changed: local is as recorded as #1: sources"), "{again}");
    let records: Json = serde_json::from_str(&house.succeeds(&["releases", "history", "--json"])).unwrap();
    assert_eq!(records.as_array().unwrap().len(), 1, "{records}");

    for tried in ["ledger: tried with ", "lessons: tried with ", "tags: tried with "] {
        assert!(first.contains(tried) && again.contains(tried), "{first}{again}");
    }
    systems_are_looked_at(&house);

    let status: Json = serde_json::from_str(&house.succeeds(&["status", "--json"])).unwrap();
    assert!(status["stacks"].as_array().unwrap().iter().all(|stack| stack["status"] == "CREATE_COMPLETE"));
    assert_eq!(status["systems"]["trades"]["partitions"], 24);
    assert_eq!(status["systems"]["trades"]["error"], Json::Null);

    // A change of one stack leaves the others alone.
    let mut name = String::new();
    house.edit("kafka.template.json", |template| {
        let resources = template["Resources"].as_object_mut().unwrap();
        let (id, resource) = resources
            .iter_mut()
            .find(|(_, resource)| resource["Properties"]["TopicName"] == "trade-tx")
            .unwrap();
        name.clone_from(id);
        resource["Properties"]["PartitionCount"] = json!(30);
    });
    let changed = house.succeeds(&["deploy"]);
    assert!(changed.contains("1 stacks changed") && changed.contains(&name), "{changed}");
    assert!(changed.contains("(30 partitions)"), "the broker has them: {changed}");
    assert!(changed.contains("recorded as #2 of local"), "{changed}");

    // The emulator is killed: the supervisor brings it back with what it knew.
    house.environment.kill("aws");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !house.run(&["outputs"]).0 {
        assert!(Instant::now() < deadline, "the emulator does not come back");
    }
    let after = house.succeeds(&["deploy"]);
    assert!(after.contains("all stacks are as they should be"), "{after}");

    house.succeeds(&["teardown"]);
    assert_eq!(house.environment.processes(), BTreeMap::new());
    house.succeeds(&["teardown"]);
}

/// What `observe` sees of lessons and tags, a moment after something was sent through both.
fn systems_are_looked_at(house: &House) {
    let look = |system: &str, known: &dyn Fn(&Json) -> bool| {
        let mut child = house.engine(&["observe", system]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let deadline = Instant::now() + Duration::from_secs(30);
        // What metrics tell comes a moment later.
        let seen = loop {
            let seen: Json = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            if known(&seen) {
                break seen;
            }
            assert!(Instant::now() < deadline, "{seen}");
        };
        child.kill().unwrap();
        child.wait().unwrap();
        seen
    };
    let lessons = look("lessons", &|seen| seen["iterator_age_seconds"].is_f64() && seen["dead_letters"] == 0);
    assert!(lessons["shards"].as_u64() >= Some(1), "{lessons}");
    assert_eq!(lessons["event_source"]["state"], "Running", "{lessons}");
    assert!(lessons["alarms"]["quiet"].as_u64() > Some(5), "{lessons}");
    let tags = look("tags", &|seen| seen["lag_records"] == 0);
    // A snapshot and deltas of each of the channels that the trial has written to.
    assert!(tags["keys"].as_u64() >= Some(8) && tags["written_total"].as_u64() >= Some(2), "{tags}");
    assert_eq!(tags["replicas"], json!({ "desired": 1, "ready": 1 }), "{tags}");

    let status: Json = serde_json::from_str(&house.succeeds(&["status", "--json"])).unwrap();
    let (lessons, tags) = (&status["systems"]["lessons"], &status["systems"]["tags"]);
    assert!(lessons["processed_per_second"].as_f64() > Some(0.0), "{lessons}");
    assert_eq!(lessons["dead_letters_total"], 0, "{lessons}");
    assert!(tags["processed_total"].as_u64() > Some(0), "{tags}");
    assert_eq!((&tags["partitions"], &tags["dead_letters_total"]), (&json!(24), &json!(0)), "{tags}");
    let text = house.succeeds(&["status"]);
    assert!(text.contains("system lessons\n  stream ") && text.contains("1 of 1 ready"), "{text}");
}

#[test]
fn a_failure_names_its_construct_and_the_next_deployment_goes_on() {
    let house = House::new();
    house.environment.up();
    // A name that the broker refuses.
    let spoil = |template: &mut Json| {
        let resources = template["Resources"].as_object_mut().unwrap();
        let (_, topic) =
            resources.iter_mut().find(|(_, resource)| resource["Type"] == "AWS::MSK::Topic").unwrap();
        let mut impossible = topic.clone();
        impossible["Properties"]["TopicName"] = json!("no/such name");
        impossible["Metadata"] = json!({ "floodgate:path": "kafka/Impossible" });
        resources.insert("Impossible".to_owned(), impossible);
    };
    house.edit("kafka.template.json", spoil);
    let (success, text) = house.run(&["deploy"]);
    assert!(!success, "{text}");
    assert!(
        text.contains("failed at kafka/Impossible (Impossible, AWS::MSK::Topic, CREATE_FAILED)"),
        "{text}"
    );
    // The same failure again: the stack is in ROLLBACK_COMPLETE and made anew.
    let (success, text) = house.run(&["deploy"]);
    assert!(!success && text.contains("ROLLBACK_COMPLETE, which takes no update"), "{text}");

    house.render();
    let repaired = house.succeeds(&["deploy"]);
    assert!(repaired.contains("ROLLBACK_COMPLETE"), "{repaired}");
    assert!(repaired.contains("messages/s flow"), "{repaired}");

    // An update that fails goes back, and is no success.
    house.edit("kafka.template.json", spoil);
    let (success, text) = house.run(&["deploy"]);
    assert!(!success && text.contains("failed at kafka/Impossible"), "{text}");

    // What CloudFormation refuses is told in its words.
    house.edit("cluster.template.json", |template| {
        template["Resources"]["Impossible"] = json!({ "Type": "AWS::Nowhere::Thing" });
    });
    house.edit("kafka.template.json", |template| {
        template["Resources"].as_object_mut().unwrap().remove("Impossible");
    });
    let (success, text) = house.run(&["deploy"]);
    assert!(!success && text.contains("[AWS::Nowhere::Thing] (ValidationError)"), "{text}");
    assert!(text.lines().last().unwrap().len() < 300, "{text}");
    house.render();
    house.succeeds(&["deploy"]);
}

#[test]
fn an_interrupted_deployment_says_what_it_leaves_and_can_be_run_again() {
    let house = House::new();
    house.environment.up();
    let mut child = house.engine(&["deploy"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let seen = read_until(&mut child, "creating");
    // Another one meanwhile is refused.
    let (success, text) = house.run(&["deploy"]);
    assert!(!success && text.contains("another deploy or teardown"), "{text}");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(status.code(), Some(130), "{seen}{text}");
    assert!(text.contains("interrupted") && text.contains("Deploy again"), "{text}");

    let again = house.succeeds(&["deploy"]);
    assert!(again.contains("messages/s flow"), "{again}");
    // The lock was given back: one that was not is taken over on the same machine.
    assert!(!again.contains("taken over"), "{again}");

    // Also a teardown that is killed before the workloads, in the middle of the stacks, and at the end.
    for place in ["workloads", "deleting", "deleted", "floodgate-local-network", "parts"] {
        let mut child = house.engine(&["teardown"]).stdout(Stdio::piped()).spawn().unwrap();
        read_until(&mut child, place);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    house.succeeds(&["teardown"]);
    assert_eq!(house.environment.processes(), BTreeMap::new());
}
