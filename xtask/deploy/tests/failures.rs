//! What goes wrong, on the real local parts: the engine killed at every step, two at once, a failure in the middle of
//! a wave.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    time::Duration,
};

use aws_config::{BehaviorVersion, Region};
use cfn::{Json, assembly::Manifest};
use deploy_engine::{
    cloudformation::CloudFormation,
    operation::{Operations, Sources},
    report::{Format, Reporter},
    stacks::Stacks,
};
use platform::System;
use serde_json::json;
use support::{House, read_until, told, workspace};

/// CloudFormation as the engine sees it.
async fn cloud(house: &House) -> Stacks {
    let credentials = aws_sdk_cloudformation::config::Credentials::new("test", "test", None, None, "test");
    let config = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(credentials)
        .endpoint_url(house.endpoint_url().unwrap())
        .load()
        .await;
    Stacks::new(aws_sdk_cloudformation::Client::new(&config), Duration::from_millis(50))
}

/// Deletes all stacks and leaves the parts running.
async fn sweep(house: &House) {
    let stacks = cloud(house).await;
    let reporter = Reporter::new(Format::Json);
    let operations = Operations { cloud: &stacks, reporter: &reporter };
    for entry in Manifest::read(&house.assembly()).unwrap().stacks.iter().rev() {
        operations.at_rest(&entry.name).await.unwrap();
        operations.delete(&entry.name, &Json::Null, &Sources::new(), None).await.unwrap();
    }
}

#[tokio::test]
async fn a_deployment_killed_at_any_step_is_gone_on_with() {
    // One system with functions and one without: each kill is followed by a whole deployment.
    let house = House::with_systems(&[System::Trades, System::Lessons]);
    house.local(&["up"]);
    let stacks = Manifest::read(&house.assembly()).unwrap().stacks;
    // A line a resource is more steps than there is time for; every nineteenth, beginning anywhere, meets all kinds.
    let (mut kills, mut line) = (0, 1);
    loop {
        let mut child = house
            .engine(&["deploy", "--stacks-only"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(line).count();
        let ended = lines < line;
        if !ended {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
        let again = house.succeeds(&["deploy", "--stacks-only"]);
        let plan = house.succeeds(&["deploy", "--plan"]);
        let all = format!("local: {} as they should be", stacks.len());
        assert!(plan.contains(&all), "killed after line {line}:\n{again}\n{plan}");
        let there: Vec<String> =
            cloud(&house).await.list().await.unwrap().into_iter().map(|one| one.name).collect();
        for entry in &stacks {
            let times = there.iter().filter(|name| **name == entry.name).count();
            assert_eq!(times, 1, "killed after line {line}: {}", entry.name);
        }
        if ended {
            break;
        }
        sweep(&house).await;
        line += 19;
    }
    assert!(kills > 5, "only {kills} kills");
}

#[test]
fn two_deployments_at_once_are_one() {
    let house = House::new();
    house.local(&["up"]);
    // Another checkout: its own files, the same environment.
    let other = house.directory.path().join("other");
    let rendered = platform::render(&platform::Environment::load(&workspace(), "local").unwrap()).unwrap();
    rendered.write(&other).unwrap();
    let second = |arguments: &[&str]| told(house.engine_of(&other, arguments).output().unwrap());

    let mut first = house
        .engine(&["deploy", "--stacks-only"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    read_until(&mut first, "creating");
    let (success, text) = second(&["deploy", "--stacks-only"]);
    assert!(!success, "{text}");
    let pid = format!("process {}", first.id());
    for part in [
        "another deploy or teardown of local is under way: a deploy by",
        &pid,
        "cargo xtask unlock --env local",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Killed, it gives nothing back; on the same machine that is seen at once.
    first.kill().unwrap();
    first.wait().unwrap();
    let (success, text) = second(&["deploy", "--stacks-only"]);
    assert!(success && text.contains("is taken over") && text.contains(&pid), "{text}");
    let (success, text) = second(&["unlock"]);
    assert!(success && text.contains("was free already"), "{text}");
}

#[test]
fn a_failure_in_a_wave_lets_the_others_finish_and_begins_nothing() {
    let house = House::new();
    house.local(&["up"]);
    house.edit("kafka.template.json", |template| {
        let resources = template["Resources"].as_object_mut().unwrap();
        let (id, topic) =
            resources.iter().find(|(_, resource)| resource["Type"] == "AWS::MSK::Topic").unwrap();
        let (id, mut impossible) = (id.clone(), topic.clone());
        impossible["Properties"]["TopicName"] = json!("no/such name");
        resources.insert(id, impossible);
    });
    let (success, text) = house.run(&["deploy", "--stacks-only"]);
    assert!(!success, "{text}");
    // The template's metadata and the assembly's provenance say where it is.
    assert!(
        text.contains("floodgate-local-kafka failed at kafka/") && text.contains("declared at stacks/"),
        "{text}"
    );
    let status: Json = serde_json::from_str(&house.succeeds(&["status", "--json"])).unwrap();
    let is = |id: &str| {
        let name = format!("floodgate-local-{id}");
        let stacks = status["stacks"].as_array().unwrap();
        stacks.iter().find(|stack| stack["name"] == name.as_str()).unwrap()["status"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(is("cluster"), "CREATE_COMPLETE", "it was of the same wave");
    assert_eq!(is("kafka"), "ROLLBACK_COMPLETE");
    assert_eq!(is("trades"), "ABSENT", "it comes after");
    house.render();
    house.succeeds(&["deploy", "--stacks-only"]);

    // What destroys wants a yes where that is asked for, and without a terminal nobody gives it.
    house.edit("kafka.template.json", |template| {
        let resources = template["Resources"].as_object_mut().unwrap();
        let id =
            resources.iter().find(|(_, resource)| resource["Type"] == "AWS::MSK::Topic").unwrap().0.clone();
        resources.remove(&id);
        let outputs = template["Outputs"].as_object_mut().unwrap();
        outputs.retain(|_, output| !output.to_string().contains(&format!("\"{id}\"")));
    });
    let refused = house
        .engine(&["deploy", "--stacks-only", "--require-approval", "broadening"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(4));
    let (_, text) = told(refused);
    assert!(text.contains("1 removed") && text.contains("want to be approved"), "{text}");
    let plan = house.succeeds(&["deploy", "--plan"]);
    assert!(plan.contains("its template has changed"), "nothing was executed: {plan}");
    house.succeeds(&["deploy", "--stacks-only", "--require-approval", "never"]);
    assert!(fs::read_dir(house.assembly()).is_ok());
}
