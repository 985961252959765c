//! What programs that make traffic get from their stacks, and what is looked at to see how a system does.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use cfn::{
    Assembly,
    assembly::{LoadEntry, Source},
};
use platform::{Environment, environment::System, render};
use worker_contract::{lessons, tags};

fn assembly(name: &str) -> Assembly {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut environment = Environment::load(&root, name).unwrap();
    for system in [System::Lessons, System::Tags] {
        if !environment.has(system) {
            environment.systems.push(system);
        }
    }
    render(&environment).unwrap()
}

/// A variable; what is known only when it is deployed is a place on this machine.
fn variable(load: &LoadEntry, name: &str) -> Option<String> {
    let found = load.variables.iter().find(|variable| variable.name == name)?;
    Some(match &found.source {
        Source::Literal(text) => text.clone(),
        _ => "127.0.0.1:7000".to_owned(),
    })
}

#[test]
fn the_programs_can_read_their_variables_and_can_verify() {
    let assembly = assembly("local");
    let of = |system: &str| &assembly.manifest.loads[system];
    let read = lessons::LoadConfiguration::from_environment(|name| variable(of("lessons"), name)).unwrap();
    assert!(read.streams.is_some(), "what came out is read from both streams");
    let read = tags::LoadConfiguration::from_environment(|name| variable(of("tags"), name)).unwrap();
    assert!(read.verify && read.cache.is_some());
    assert_eq!((read.topic.as_str(), read.shape.channels), ("tag-data", 100));
    for system in ["lessons", "tags"] {
        assert!(of(system).trial.contains(&"--verify".to_owned()), "{system}");
    }
    assert!(!of("ledger").trial.is_empty(), "its writers tell what is written");
}

/// Somebody who pays for it makes load on purpose, by other ways.
#[test]
fn no_load_is_made_from_here_on_aws() {
    assert!(assembly("prod").manifest.loads.is_empty());
}

#[test]
fn what_is_looked_at_is_in_the_stacks() {
    for name in ["local", "prod"] {
        let assembly = assembly(name);
        let lessons = &assembly.manifest.streams["lessons"];
        let template = assembly.template(&lessons.stack).unwrap();
        for (id, kind) in [
            (&lessons.stream, "AWS::Kinesis::Stream"),
            (&lessons.function, "AWS::Lambda::Function"),
            (&lessons.event_source, "AWS::Lambda::EventSourceMapping"),
            (&lessons.dead_letters, "AWS::SQS::Queue"),
        ] {
            assert_eq!(template["Resources"][id]["Type"], kind, "{name} {id}");
        }
        let tags = &assembly.manifest.caches["tags"];
        let template = assembly.template(&tags.stack).unwrap();
        let of = |kind: &str, key: &str, value: &str| {
            let mut all = template["Resources"].as_object().unwrap().values();
            all.any(|resource| resource["Type"] == kind && resource["Properties"][key] == value)
        };
        assert!(of("AWS::MemoryDB::Cluster", "ClusterName", &tags.cache), "{name}");
        for topic in [&tags.topic, &tags.dead_letter_topic] {
            assert!(of("AWS::MSK::Topic", "TopicName", topic), "{name} {topic}");
        }
        assert!(assembly.manifest.workloads.iter().any(|workload| workload.name == tags.worker));
    }
}
